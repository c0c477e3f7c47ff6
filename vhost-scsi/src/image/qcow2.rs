//! A qcow2 image with its backing files, by way of imago.
//!
//! imago keeps metadata in memory. It is written back before a write that changed it is answered:
//! the guest outlives this process, so what was acknowledged must not. Flushes make it durable.
//!
//! This process may be killed at any time, and what the file says then must hold: each cluster that
//! is in use is counted, and has one user. So a cluster is counted before it is referred to, and
//! not used again before the old reference is gone from the file. imago sees to both for clusters
//! with data, as long as nothing interferes (see `commits`). For tables it does not: [`refcounts`]
//! counts them, and what frees clusters with data runs alone, and is written back before a table
//! could take their place.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use imago::{FormatAccess, Mapping, ShallowMapping, StorageExt};

use self::chain::Chain;
use self::storage::HostFile;
use super::raw::CacheMode;
use super::{Direct, Extent, Image, Limits, LockedFile, note, pieces};

mod chain;
mod header;
mod refcounts;
mod storage;

/// What others wait for while it is zeroed or discarded at most, in bytes.
const ZEROED_AT_ONCE: u64 = 256 << 20;

/// Zeroes written at once where the image can't just note them, in bytes.
const ZEROES: usize = 256 << 10;

/// Mappings that are looked at for one extent.
const MAPPINGS: usize = 256;

/// A qcow2 image.
pub(super) struct Qcow2 {
    chain: Chain,
    /// Where clusters with data are: the image itself, or its external data file.
    data: HostFile,
    size: AtomicU64,
    read_only: bool,
    cache: CacheMode,
    limits: Limits,
    /// Version 3 can note that a cluster is zero.
    has_zero_clusters: bool,
    /// What is zeroed or discarded before it is written back, in bytes: what one L2 table describes,
    /// at most. A new L2 table for what follows would take the place of clusters that were freed.
    zeroed_at_once: u64,
    /// Held exclusively while metadata is written back, and shared while an L2 table is changed.
    /// imago writes the refcount blocks before the L2 tables; one that changed in between would
    /// refer to clusters that are not counted.
    commits: RwLock<()>,
    /// The image while it is locked. Held exclusively where imago might free or zero clusters that
    /// a transfer has just found.
    active: RwLock<Option<FormatAccess<HostFile>>>,
}

impl Qcow2 {
    /// Takes an opened file (with O_DIRECT if the cache mode says so), and opens what it stands on;
    /// names in its header are relative to the folder of `path`.
    ///
    /// # Errors
    /// It is not a qcow2 image, one that needs what is not supported, or a file is missing.
    pub(super) fn new(
        file: File,
        path: &Path,
        read_only: bool,
        cache: CacheMode,
        discard: bool,
    ) -> io::Result<Self> {
        let chain = Chain::open(file, path, read_only, cache)?;
        let header = chain.header()?;
        let data = chain.data()?;
        let has_zero_clusters = header.version >= 3;
        let limits = Limits {
            discard: discard && !read_only && has_zero_clusters,
            discard_granularity: 1 << header.tables.cluster_bits,
            physical_block: 512,
        };
        // An L2 table fills a cluster with entries of 8 bytes.
        let l2_bits = header.tables.cluster_bits.saturating_mul(2).saturating_sub(3);
        Ok(Self {
            chain,
            data,
            size: AtomicU64::new(header.size),
            read_only,
            cache,
            limits,
            has_zero_clusters,
            zeroed_at_once: ZEROED_AT_ONCE.min(1 << l2_bits),
            commits: RwLock::new(()),
            active: RwLock::new(None),
        })
    }

    /// Does what may run beside others.
    fn shared<T>(
        &self,
        work: impl FnOnce(&FormatAccess<HostFile>) -> io::Result<T>,
    ) -> io::Result<T> {
        let active = self.active.read().unwrap_or_else(PoisonError::into_inner);
        work(active.as_ref().ok_or_else(not_in_use)?)
    }

    /// Does what nothing may run beside, and writes back what it changed.
    fn alone<T>(
        &self,
        work: impl FnOnce(&mut FormatAccess<HostFile>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut active = self.active.write().unwrap_or_else(PoisonError::into_inner);
        let image = active.as_mut().ok_or_else(not_in_use)?;
        let done = work(image);
        image.flush().and(done)
    }

    /// Does to a stretch, part by part, what nothing may run beside.
    fn exclusive(
        &self,
        mut offset: u64,
        mut length: u64,
        work: impl Fn(&mut FormatAccess<HostFile>, u64, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        self.check_range(offset, length)?;
        while length > 0 {
            // Whole clusters, but for the first part and the last.
            let before = offset & self.zeroed_at_once.saturating_sub(1);
            let part = self.zeroed_at_once.saturating_sub(before).min(length);
            self.alone(|image| work(image, offset, part))?;
            offset = offset.saturating_add(part);
            length = length.saturating_sub(part);
        }
        Ok(())
    }

    fn check_range(&self, offset: u64, length: u64) -> io::Result<()> {
        match offset.checked_add(length) {
            Some(end) if end <= self.len() => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn write_plain_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        let zeroes = vec![0; ZEROES];
        pieces(offset, length, ZEROES)
            .try_for_each(|(at, count)| self.write_at(zeroes.get(..count).unwrap_or_default(), at))
    }

    /// Writes up to the end, or to a compressed cluster. Returns how much.
    fn write_beside_others(
        &self,
        image: &FormatAccess<HostFile>,
        buffer: &[u8],
        offset: u64,
    ) -> io::Result<usize> {
        let mut written = 0;
        let mut changed = false;
        while let Some(rest) = buffer.get(written..).filter(|rest| !rest.is_empty()) {
            let next = offset.saturating_add(written as u64);
            match self.write_mapping(image, rest, next, false)? {
                Written::Part { count, allocated } => {
                    written = written.saturating_add(count);
                    changed |= allocated;
                }
                Written::NothingYet => break,
            }
        }
        if changed {
            self.write_back(image)?;
        }
        Ok(written)
    }

    /// Writes what one mapping holds of the beginning of `buffer`.
    fn write_mapping(
        &self,
        image: &FormatAccess<HostFile>,
        buffer: &[u8],
        offset: u64,
        alone: bool,
    ) -> io::Result<Written> {
        let place = image.prepare_data_mapping(offset, buffer.len() as u64, true)?;
        let allocated = !place.is_nonblocking();
        if allocated && !alone && is_compressed(image, offset, place.length())? {
            return Ok(Written::NothingYet);
        }
        let count = usize::try_from(place.length()).unwrap_or(usize::MAX);
        let part = buffer.get(..count).ok_or(io::ErrorKind::InvalidData)?;
        place.storage().write(part, place.offset())?;
        let commits = || self.commits.read().unwrap_or_else(PoisonError::into_inner);
        let _committing = allocated.then(commits);
        image.commit_data_mapping(place)?;
        Ok(Written::Part { count, allocated })
    }

    /// Writes imago's metadata to the file, where another process finds it.
    fn write_back(&self, image: &FormatAccess<HostFile>) -> io::Result<()> {
        let _alone = self.commits.write().unwrap_or_else(PoisonError::into_inner);
        image.flush()
    }

    fn flush_image(&self, image: &FormatAccess<HostFile>) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.write_back(image)?;
        image.sync()
    }
}

fn not_in_use() -> io::Error {
    io::Error::other("the image is not in use")
}

impl Image for Qcow2 {
    fn len(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    fn refresh(&self) -> io::Result<u64> {
        let active = self.active.read().unwrap_or_else(PoisonError::into_inner);
        let size = match active.as_ref() {
            Some(image) => image.size(), // nobody else changes it meanwhile
            None => self.chain.header()?.size,
        };
        self.size.store(size, Ordering::Relaxed);
        Ok(size)
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.check_range(offset, buffer.len() as u64)?;
        self.shared(|image| image.read(buffer, offset))
    }

    fn write_at(&self, mut buffer: &[u8], mut offset: u64) -> io::Result<()> {
        self.check_range(offset, buffer.len() as u64)?;
        loop {
            let written = self.shared(|image| self.write_beside_others(image, buffer, offset))?;
            buffer = buffer.get(written..).ok_or(io::ErrorKind::InvalidData)?;
            offset = offset.saturating_add(written as u64);
            if buffer.is_empty() {
                return Ok(());
            }
            let part = self.alone(|image| self.write_mapping(image, buffer, offset, true))?;
            if let Written::Part { count, .. } = part {
                buffer = buffer.get(count..).ok_or(io::ErrorKind::InvalidData)?;
                offset = offset.saturating_add(count as u64);
            }
        }
    }

    fn flush(&self) -> io::Result<()> {
        self.shared(|image| self.flush_image(image))
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        if !self.has_zero_clusters {
            return self.write_plain_zeroes(offset, length);
        }
        self.exclusive(offset, length, |image, offset, length| {
            // imago leaves the space of freed clusters to the image; the host is to have it. Before
            // they are freed: afterwards the first and last cluster may be copied to one of them.
            for (host, count) in stretches(image, offset, length)? {
                self.data.discard(host, count)?;
            }
            image.discard_to_zero(offset, length)
        })
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        if unmap && self.limits.discard {
            return self.discard(offset, length);
        }
        if !self.has_zero_clusters {
            return self.write_plain_zeroes(offset, length);
        }
        self.exclusive(offset, length, |image, offset, length| image.write_zeroes(offset, length))
    }

    fn extent(&self, offset: u64) -> io::Result<Extent> {
        self.shared(|image| {
            let mut extent = Extent { mapped: false, length: 0 };
            for _ in 0..MAPPINGS {
                let next = offset.saturating_add(extent.length);
                let (mapping, count) = image.get_mapping(next, self.len().saturating_sub(next))?;
                let mapped = !matches!(mapping, Mapping::Zero { .. } | Mapping::Eof { .. });
                if count == 0 || (extent.length > 0 && mapped != extent.mapped) {
                    break;
                }
                extent = Extent { mapped, length: extent.length.saturating_add(count) };
            }
            Ok(extent)
        })
    }

    fn direct(&self) -> Option<Direct<'_>> {
        None
    }

    fn durable(&self) -> bool {
        self.cache != CacheMode::Unsafe
    }

    fn note(&self) -> io::Result<Option<Vec<u8>>> {
        note::read(self.chain.file()?)
    }

    fn set_note(&self, note: Option<&[u8]>) -> io::Result<()> {
        let file = self.chain.file()?;
        note::write(file, note)?;
        if self.durable() { file.sync_all() } else { Ok(()) }
    }

    fn locked_files(&self) -> Vec<LockedFile> {
        self.chain.locked_files()
    }

    fn acquire(&self) -> io::Result<()> {
        let mut active = self.active.write().unwrap_or_else(PoisonError::into_inner);
        if active.is_some() {
            return Ok(());
        }
        self.chain.lock()?;
        match self.chain.access() {
            Ok(image) => {
                self.size.store(image.size(), Ordering::Relaxed);
                *active = Some(image);
                Ok(())
            }
            Err(error) => self.chain.unlock().and(Err(error)),
        }
    }

    fn release(&self) -> io::Result<()> {
        let mut active = self.active.write().unwrap_or_else(PoisonError::into_inner);
        let Some(image) = active.take() else { return Ok(()) };
        let flushed = self.flush_image(&image);
        drop(image); // flushes again if that failed, so before the lock is given back
        self.chain.unlock()?;
        flushed
    }
}

/// What came of a write.
enum Written {
    Part {
        count: usize,
        allocated: bool,
    },
    /// It would free a compressed cluster, which is not to be done beside others.
    NothingYet,
}

/// Whether there is a compressed cluster in a stretch of the disk.
fn is_compressed(image: &FormatAccess<HostFile>, offset: u64, length: u64) -> io::Result<bool> {
    for mapping in mappings(image, offset, length) {
        if let (ShallowMapping::Special { .. }, _) = mapping? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Where a stretch of the disk is in the image's own data file, and how long each part is, in bytes.
/// Not what it shares with a snapshot.
fn stretches(
    image: &FormatAccess<HostFile>,
    offset: u64,
    length: u64,
) -> io::Result<Vec<(u64, u64)>> {
    let mut stretches = Vec::new();
    for mapping in mappings(image, offset, length) {
        if let (ShallowMapping::Raw { offset: host, writable: true, .. }, count @ 1..) = mapping? {
            stretches.push((host, count));
        }
    }
    Ok(stretches)
}

/// What the image itself has of a stretch of the disk: each mapping with its length, in bytes.
fn mappings(
    image: &FormatAccess<HostFile>,
    offset: u64,
    length: u64,
) -> impl Iterator<Item = io::Result<(ShallowMapping<'_, HostFile>, u64)>> {
    let end = offset.saturating_add(length);
    let mut next = offset;
    std::iter::from_fn(move || {
        let left = end.checked_sub(next).filter(|left| *left > 0)?;
        let mapping = image.get_shallow_mapping(next, left);
        // Nothing comes after an error, or where there is nothing.
        let count = mapping.as_ref().map_or(0, |(_, count)| *count);
        next = if count == 0 { end } else { next.saturating_add(count) };
        Some(mapping)
    })
}

#[cfg(test)]
mod tests;
