//! The record of requests under way, in a region that the frontend keeps (vhost-user, "Inflight I/O
//! tracking", split virtqueue): a device process that was killed finds there what to do again.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use rustix::fs::{SealFlags, fcntl_add_seals};

/// `struct QueueRegionSplit` without its descriptors.
const HEADER: usize = 16;
/// `struct DescStateSplit`.
const ENTRY: usize = 16;
/// Each queue's region begins at a multiple of this.
const ALIGN: usize = 64;
const PAGE: usize = 4096;
const VERSION: u16 = 1;

/// What can be wrong with a region from the frontend.
#[derive(Debug, thiserror::Error)]
pub enum InflightError {
    /// Queues or descriptors that no region can have.
    #[error("in-flight region for {queues} queues of {size} descriptors")]
    Layout {
        /// Virtqueues.
        queues: u16,
        /// Descriptors of each.
        size: u16,
    },
    /// The file does not hold it.
    #[error("in-flight region of {size:#x} bytes at {offset:#x} is too small or outside its file")]
    Range {
        /// Bytes.
        size: u64,
        /// Bytes into the file.
        offset: u64,
    },
    /// The host refused.
    #[error("in-flight region cannot be made or mapped")]
    Host(#[from] io::Error),
}

/// What a region holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Virtqueues.
    pub queues: u16,
    /// Descriptors of each, at most.
    pub size: u16,
    /// Doublewords behind the queues' records, from the next page on, where a device keeps its
    /// [registers](crate::registers).
    pub words: usize,
}

impl Shape {
    /// Records of queues alone.
    #[must_use]
    pub fn of_queues(queues: u16, size: u16) -> Self {
        Self { queues, size, words: 0 }
    }

    /// Bytes before the doublewords.
    fn records(self) -> Result<usize, InflightError> {
        let Self { queues, size, .. } = self;
        if queues == 0 || size == 0 {
            return Err(InflightError::Layout { queues, size });
        }
        let records = stride(size).saturating_mul(usize::from(queues));
        Ok(if self.words == 0 { records } else { records.next_multiple_of(PAGE) })
    }

    fn bytes(self) -> Result<usize, InflightError> {
        Ok(self.records()?.saturating_add(self.words.saturating_mul(4)))
    }
}

fn stride(size: u16) -> usize {
    usize::from(size).saturating_mul(ENTRY).saturating_add(HEADER).next_multiple_of(ALIGN)
}

/// The mapped region of all queues.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    mapped: usize,
    start: usize,
    shape: Shape,
}

// SAFETY: the mapping is owned, and all accesses to it are atomic.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Makes the file for a new region (GET_INFLIGHT_FD), and tells its size in bytes.
    ///
    /// # Errors
    /// See [`InflightError`].
    pub fn create(shape: Shape) -> Result<(File, u64), InflightError> {
        let bytes = shape.bytes()? as u64;
        // SAFETY: the name is a C string; the result is checked.
        let fd = unsafe {
            let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
            libc::memfd_create(c"inflight".as_ptr(), flags)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error().into());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(bytes)?;
        // Who maps it is not to lose it.
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(io::Error::from)?;
        Ok((file, bytes))
    }

    /// Maps a region that the frontend hands over (SET_INFLIGHT_FD).
    ///
    /// # Errors
    /// See [`InflightError`].
    pub fn map(
        file: &File,
        shape: Shape,
        size: u64,
        offset: u64,
    ) -> Result<Arc<Self>, InflightError> {
        let range = || InflightError::Range { size, offset };
        let needed = shape.bytes()?;
        let end = offset.checked_add(size).ok_or_else(range)?;
        if size < needed as u64 || end > file.metadata()?.len() || !offset.is_multiple_of(16) {
            return Err(range());
        }
        let page_offset = offset & !4095;
        let start = usize::try_from(offset & 4095).map_err(|_| range())?;
        let mapped = start.checked_add(needed).ok_or_else(range)?;
        // SAFETY: a fresh shared mapping of a file; no address is forced.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                libc::off_t::try_from(page_offset).map_err(|_| range())?,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error().into());
        }
        let base = NonNull::new(base.cast()).ok_or_else(range)?;
        Ok(Arc::new(Self { base, mapped, start, shape }))
    }

    /// Rings have been served with it, by this process or by another.
    #[must_use]
    pub fn is_in_use(self: &Arc<Self>) -> bool {
        let Shape { queues, size, .. } = self.shape;
        let mut records = (0..queues).filter_map(|index| self.queue(index, size));
        records.any(|record| record.version().load(Ordering::Acquire) == VERSION)
    }

    /// One queue's record; `None` where the region has none, or one too small for the ring.
    #[must_use]
    pub fn queue(self: &Arc<Self>, index: u16, size: u16) -> Option<QueueRecord> {
        if index >= self.shape.queues || size > self.shape.size {
            return None;
        }
        let start =
            stride(self.shape.size).checked_mul(usize::from(index))?.checked_add(self.start)?;
        let record =
            QueueRecord { region: Arc::clone(self), start, size, last_head: None, counter: 0 };
        Some(record)
    }

    /// The doublewords behind the queues' records.
    #[must_use]
    pub fn words(&self) -> &[AtomicU32] {
        let Ok(records) = self.shape.records() else { return &[] };
        let first = self.base.as_ptr().wrapping_add(self.start).wrapping_add(records);
        // SAFETY: `map` has mapped as much, for as long as `self` is there; the place is aligned, as
        // `start` is a multiple of 16 and a stride one of 64; and everybody's accesses are atomic.
        unsafe { std::slice::from_raw_parts(first.cast(), self.shape.words) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`, which nothing refers to any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.mapped) };
    }
}

/// One queue's record.
#[derive(Debug)]
pub struct QueueRecord {
    region: Arc<Region>,
    start: usize,
    size: u16,
    /// The request that was put into the used ring last, since the used index was last stored.
    last_head: Option<u16>,
    counter: u64,
}

impl QueueRecord {
    // SAFETY of the accessors: `start` + the field's offset lies within the queue's own stride,
    // hence in the mapping, and is aligned: the mapping is page-aligned, `Region::start` a multiple
    // of 16 and a stride of 64. The frontend only ever copies the region.
    fn at(&self, offset: usize) -> *mut u8 {
        self.region.base.as_ptr().wrapping_add(self.start).wrapping_add(offset)
    }

    fn version(&self) -> &AtomicU16 {
        // SAFETY: see above; offset of `version`.
        unsafe { AtomicU16::from_ptr(self.at(8).cast()) }
    }

    fn descriptors(&self) -> &AtomicU16 {
        // SAFETY: see above; offset of `desc_num`.
        unsafe { AtomicU16::from_ptr(self.at(10).cast()) }
    }

    fn last_batch_head(&self) -> &AtomicU16 {
        // SAFETY: see above; offset of `last_batch_head`.
        unsafe { AtomicU16::from_ptr(self.at(12).cast()) }
    }

    fn used_index(&self) -> &AtomicU16 {
        // SAFETY: see above; offset of `used_idx`.
        unsafe { AtomicU16::from_ptr(self.at(14).cast()) }
    }

    fn entry(&self, head: u16) -> Option<Entry<'_>> {
        if head >= self.size {
            return None;
        }
        let offset = usize::from(head).checked_mul(ENTRY)?.checked_add(HEADER)?;
        // SAFETY: see above; `head` < `size` <= the region's, so the entry is inside the stride.
        unsafe {
            let base = self.at(offset);
            Some(Entry {
                inflight: AtomicU8::from_ptr(base),
                next: AtomicU16::from_ptr(base.wrapping_add(6).cast()),
                counter: AtomicU64::from_ptr(base.wrapping_add(8).cast()),
            })
        }
    }

    /// Reads what a former process left, given the ring's used index, and returns the heads of the
    /// requests that were under way, oldest first. A fresh record is initialised,
    /// whatever is in it: `None`.
    pub fn recover(&mut self, used: u16) -> Option<Vec<u16>> {
        if self.version().load(Ordering::Acquire) != VERSION {
            for entry in (0..self.size).filter_map(|head| self.entry(head)) {
                entry.inflight.store(0, Ordering::Relaxed);
            }
            self.descriptors().store(self.size, Ordering::Relaxed);
            self.used_index().store(used, Ordering::Relaxed);
            self.version().store(VERSION, Ordering::Release);
            return None;
        }
        let recorded = self.used_index().load(Ordering::Acquire);
        if recorded != used {
            // The requests completed last were told to the guest, and then the process died.
            let mut head = self.last_batch_head().load(Ordering::Relaxed);
            for _ in 0..used.wrapping_sub(recorded).min(self.size) {
                let Some(entry) = self.entry(head) else { break };
                entry.inflight.store(0, Ordering::Relaxed);
                head = entry.next.load(Ordering::Relaxed);
            }
            self.used_index().store(used, Ordering::Release);
        }
        let mut under_way: Vec<(u64, u16)> = (0..self.size)
            .filter_map(|head| {
                let entry = self.entry(head)?;
                let counter = entry.counter.load(Ordering::Relaxed);
                (entry.inflight.load(Ordering::Relaxed) != 0).then_some((counter, head))
            })
            .collect();
        under_way.sort_unstable();
        self.counter = under_way.last().map_or(0, |(counter, _)| counter.wrapping_add(1));
        Some(under_way.into_iter().map(|(_, head)| head).collect())
    }

    /// A request is taken from the ring.
    pub fn begin(&mut self, head: u16) {
        let counter = self.counter;
        self.counter = counter.wrapping_add(1);
        if let Some(entry) = self.entry(head) {
            entry.counter.store(counter, Ordering::Relaxed);
            entry.inflight.store(1, Ordering::Release);
        }
    }

    /// A request that was taken is as if it had not been.
    pub fn undo(&mut self, head: u16) {
        if let Some(entry) = self.entry(head) {
            entry.inflight.store(0, Ordering::Release);
        }
    }

    /// A request is put into the used ring, whose index does not count it yet.
    pub fn finishing(&mut self, head: u16) {
        if let Some(entry) = self.entry(head) {
            // The list of a batch goes from the last to the first.
            entry.next.store(self.last_head.unwrap_or(head), Ordering::Relaxed);
        }
        self.last_batch_head().store(head, Ordering::Release);
        self.last_head = Some(head);
    }

    /// The used index is now `used`, and counts the requests that were put there since it last was.
    pub fn finished(&mut self, heads: &[u16], used: u16) {
        for &head in heads {
            if let Some(entry) = self.entry(head) {
                entry.inflight.store(0, Ordering::Release);
            }
        }
        self.used_index().store(used, Ordering::Release);
        self.last_head = None;
    }

    /// Nothing is under way any more: what was taken and never completed belonged to a broken ring.
    pub fn clear(&mut self) {
        for entry in (0..self.size).filter_map(|head| self.entry(head)) {
            entry.inflight.store(0, Ordering::Relaxed);
        }
    }
}

/// One descriptor's entry.
struct Entry<'a> {
    inflight: &'a AtomicU8,
    next: &'a AtomicU16,
    counter: &'a AtomicU64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn region(queues: u16, size: u16) -> (File, Arc<Region>) {
        let (file, bytes) = Region::create(Shape::of_queues(queues, size)).unwrap();
        let region = Region::map(&file, Shape::of_queues(queues, size), bytes, 0).unwrap();
        (file, region)
    }

    #[test]
    fn requests_under_way_are_found_again_in_their_order() {
        let (file, first) = region(2, 8);
        let mut record = first.queue(1, 8).unwrap();
        assert!(!first.is_in_use());
        assert_eq!(record.recover(0), None);
        assert!(first.is_in_use());
        for head in [5, 2, 7] {
            record.begin(head);
        }
        record.finishing(2);
        record.finished(&[2], 1);
        drop((record, first));
        let again =
            Region::map(&file, Shape::of_queues(2, 8), file.metadata().unwrap().len(), 0).unwrap();
        assert_eq!(again.queue(1, 8).unwrap().recover(1).unwrap(), [5, 7]);
        assert_eq!(again.queue(0, 8).unwrap().recover(0), None);
    }

    #[test]
    fn a_request_told_to_the_guest_just_before_death_is_not_repeated() {
        let (_file, region) = region(1, 8);
        let mut record = region.queue(0, 8).unwrap();
        record.recover(0);
        record.begin(3);
        record.begin(4);
        record.finishing(3);
        // the used index was stored, then the process was killed
        assert_eq!(region.queue(0, 8).unwrap().recover(1).unwrap(), [4]);
        // …or it was killed before the used index was stored
        record.begin(3);
        record.finishing(3);
        assert_eq!(region.queue(0, 8).unwrap().recover(1).unwrap(), [4, 3]);
    }

    #[test]
    fn requests_told_to_the_guest_together_just_before_death_are_not_repeated() {
        let (_file, region) = region(1, 8);
        let mut record = region.queue(0, 8).unwrap();
        record.recover(0);
        for head in [6, 1, 3, 4] {
            record.begin(head);
        }
        record.finishing(6);
        record.finished(&[6], 1);
        record.begin(6);
        record.finishing(3);
        record.finishing(1);
        // the used index was stored for both, then the process was killed
        assert_eq!(region.queue(0, 8).unwrap().recover(3).unwrap(), [4, 6]);
    }

    #[test]
    fn a_record_of_another_version_leaves_nothing_behind() {
        let (_file, region) = region(1, 8);
        let mut record = region.queue(0, 8).unwrap();
        record.begin(3);
        record.version().store(VERSION + 1, Ordering::Relaxed);
        assert_eq!(record.recover(0), None);
        assert_eq!(region.queue(0, 8).unwrap().recover(0), Some(vec![]), "not after a kill either");
    }

    #[test]
    fn a_region_that_does_not_fit_is_refused() {
        let (file, bytes) = Region::create(Shape::of_queues(1, 8)).unwrap();
        assert!(Region::map(&file, Shape::of_queues(1, 1024), bytes, 0).is_err());
        assert!(Region::map(&file, Shape::of_queues(2, 8), bytes, 0).is_err());
        assert!(Region::map(&file, Shape::of_queues(1, 8), bytes, 64).is_err());
        assert!(Region::map(&file, Shape::of_queues(1, 8), bytes, u64::MAX).is_err());
        assert!(Region::map(&file, Shape::of_queues(0, 8), bytes, 0).is_err());
        let region = Region::map(&file, Shape::of_queues(1, 8), bytes, 0).unwrap();
        assert!(region.queue(1, 8).is_none());
        assert!(region.queue(0, 16).is_none());
    }

    #[test]
    fn a_region_cannot_be_taken_away_from_who_maps_it() {
        let (file, bytes) = Region::create(Shape::of_queues(1, 8)).unwrap();
        assert!(file.set_len(0).is_err() && file.set_len(bytes * 2).is_err());
    }

    #[test]
    fn doublewords_behind_the_records_are_everybodys() {
        let shape = Shape { queues: 3, size: 8, words: 100 };
        let (file, bytes) = Region::create(shape).unwrap();
        let (one, other) =
            (Region::map(&file, shape, bytes, 0), Region::map(&file, shape, bytes, 0));
        let (one, other) = (one.unwrap(), other.unwrap());
        assert_eq!((one.words().len(), bytes), (100, 4096 + 400));
        let mut record = one.queue(2, 8).unwrap();
        record.recover(0);
        record.begin(7);
        assert!(one.words().iter().all(|word| word.load(Ordering::Relaxed) == 0));
        one.words()[99].store(7, Ordering::Relaxed);
        assert_eq!(other.words()[99].load(Ordering::Relaxed), 7);
        assert!(Region::map(&file, Shape { words: 101, ..shape }, bytes, 0).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_give_distinct_heads_of_the_ring(
            bytes in proptest::collection::vec(any::<u8>(), 192), used: u16,
        ) {
            use std::os::unix::fs::FileExt;
            let (file, region) = region(1, 8);
            file.write_all_at(&bytes, 0).unwrap();
            let mut heads = region.queue(0, 8).unwrap().recover(used).unwrap_or_default();
            prop_assert!(heads.iter().all(|&head| head < 8));
            heads.sort_unstable();
            heads.dedup();
            prop_assert!(heads.len() <= 8);
        }
    }
}
