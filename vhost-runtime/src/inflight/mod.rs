//! The record of requests under way, in a region that the frontend keeps (vhost-user, "Inflight I/O
//! tracking"): a device process that was killed finds there what to do again.
//!
//! A region has room for the records of either format: it may be made before the driver has chosen
//! one, and be kept until another driver chooses the other.

mod packed;
mod split;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use rustix::fs::{SealFlags, fcntl_add_seals};

pub use packed::{PackedRecord, Recovered, Taken};
pub use split::QueueRecord;

/// Each queue's part begins at a multiple of this.
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
    fn records(self, stride: usize) -> Result<usize, InflightError> {
        let Self { queues, size, .. } = self;
        if queues == 0 || size == 0 {
            return Err(InflightError::Layout { queues, size });
        }
        let records = stride.saturating_mul(usize::from(queues));
        Ok(if self.words == 0 { records } else { records.next_multiple_of(PAGE) })
    }

    fn bytes(self, stride: usize) -> Result<usize, InflightError> {
        Ok(self.records(stride)?.saturating_add(self.words.saturating_mul(4)))
    }

    /// Bytes from one queue's part to the next. Who drives a device with registers has split rings.
    fn stride(self) -> usize {
        if self.words == 0 { packed::bytes(self.size) } else { split::bytes(self.size) }
    }

    /// That of a region of `size` bytes, which an earlier version may have made for split rings alone.
    fn stride_in(self, size: u64) -> usize {
        let split = split::bytes(self.size);
        match self.bytes(self.stride()) {
            Ok(needed) if size < needed as u64 => split,
            _ => self.stride(),
        }
    }
}

/// The mapped region of all queues.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    mapped: usize,
    start: usize,
    stride: usize,
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
        let bytes = shape.bytes(shape.stride())? as u64;
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
        let stride = shape.stride_in(size);
        let needed = shape.bytes(stride)?;
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
        Ok(Arc::new(Self { base, mapped, start, stride, shape }))
    }

    /// Rings have been served with it, by this process or by another.
    #[must_use]
    pub fn is_in_use(self: &Arc<Self>) -> bool {
        let mut parts = (0..self.shape.queues).filter_map(|index| self.part(index));
        parts.any(|part| part.version().load(Ordering::Acquire) == VERSION)
    }

    fn part(self: &Arc<Self>, index: u16) -> Option<Part> {
        if index >= self.shape.queues {
            return None;
        }
        let start = self.stride.checked_mul(usize::from(index))?.checked_add(self.start)?;
        Some(Part { region: Arc::clone(self), start, length: self.stride })
    }

    /// A split ring's record; `None` where the region has none, or one too small for the ring.
    #[must_use]
    pub fn queue(self: &Arc<Self>, index: u16, size: u16) -> Option<QueueRecord> {
        if size > self.shape.size {
            return None;
        }
        Some(QueueRecord::new(self.part(index)?, size))
    }

    /// A packed ring's record, likewise.
    #[must_use]
    pub fn packed_queue(self: &Arc<Self>, index: u16, size: u16) -> Option<PackedRecord> {
        if size > self.shape.size || packed::bytes(size) > self.stride {
            return None;
        }
        Some(PackedRecord::new(self.part(index)?, size))
    }

    /// The doublewords behind the queues' records.
    #[must_use]
    pub fn words(&self) -> &[AtomicU32] {
        let Ok(records) = self.shape.records(self.stride) else { return &[] };
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

/// One queue's part of a region, which begins with `features` and `version` in either format.
#[derive(Debug)]
struct Part {
    region: Arc<Region>,
    start: usize,
    length: usize,
}

impl Part {
    /// A field's place; one outside the part, which nobody asks for, is the part's first.
    fn at(&self, offset: usize, length: usize) -> *mut u8 {
        let inside = offset.checked_add(length).is_some_and(|end| end <= self.length);
        debug_assert!(inside && offset.is_multiple_of(length));
        let place = self.start.saturating_add(if inside { offset } else { 0 });
        self.region.base.as_ptr().wrapping_add(place)
    }

    // Why the four are safe: `at` stays within the part, hence in the mapping, which `region` keeps.
    // `offset` is a multiple of the field's length, and so is its address: the mapping is
    // page-aligned, `Region::start` a multiple of 16 and a stride of 64. All accesses are atomic, and
    // the frontend only ever copies the region.
    fn u8(&self, offset: usize) -> &AtomicU8 {
        // SAFETY: see above.
        unsafe { AtomicU8::from_ptr(self.at(offset, 1)) }
    }

    fn u16(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: see above.
        unsafe { AtomicU16::from_ptr(self.at(offset, 2).cast()) }
    }

    fn u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: see above.
        unsafe { AtomicU32::from_ptr(self.at(offset, 4).cast()) }
    }

    fn u64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: see above.
        unsafe { AtomicU64::from_ptr(self.at(offset, 8).cast()) }
    }

    /// Which format the record has, as this process keeps it: 0 or VIRTIO_F_RING_PACKED.
    fn features(&self) -> &AtomicU64 {
        self.u64(0)
    }

    fn version(&self) -> &AtomicU16 {
        self.u16(8)
    }

    /// Fills it with zeroes, but for the version.
    fn clear(&self) {
        for offset in (0..self.length).step_by(8).filter(|&offset| offset != 8) {
            self.u64(offset).store(0, Ordering::Relaxed);
        }
        for offset in [10, 12, 14] {
            self.u16(offset).store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
