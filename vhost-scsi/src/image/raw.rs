//! A raw file or a block device.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::sync::atomic::{AtomicU64, Ordering};

use super::engine::{IoVecs, Operation};
use super::lock::{ImageLock, LockedFile};
use super::{Direct, Extent, Image, Limits, note, pieces};

/// Linux `_IO(0x12, n)` and friends, which `libc` lacks.
const BLKSSZGET: libc::c_ulong = 0x1268;
const BLKPBSZGET: libc::c_ulong = 0x127b;
const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;

/// When written data is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum CacheMode {
    /// The host's page cache, made durable when the guest asks.
    #[default]
    Writeback,
    /// No page cache (O_DIRECT), made durable when the guest asks.
    None,
    /// The host's page cache, and never durable: for guests that may be lost.
    Unsafe,
}

/// A raw medium.
#[derive(Debug)]
pub struct Raw {
    file: File,
    lock: ImageLock,
    size: AtomicU64,
    block_device: bool,
    read_only: bool,
    cache: CacheMode,
    /// Of buffers, offsets and lengths, in bytes.
    alignment: usize,
    limits: Limits,
}

/// Buffer of what is copied through our own memory, in bytes.
const BOUNCE: usize = 256 << 10;

impl Raw {
    /// Takes an opened file (with O_DIRECT if the cache mode says so).
    ///
    /// # Errors
    /// It is neither a file nor a block device, or the host does not tell its size.
    pub fn new(file: File, read_only: bool, cache: CacheMode, discard: bool) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let block_device = metadata.file_type().is_block_device();
        if !block_device && !metadata.is_file() {
            return Err(io::Error::other("it is neither a file nor a block device"));
        }
        let physical = if block_device { ioctl_u32(&file, BLKPBSZGET)? } else { 512 };
        let alignment = alignment(&file, cache)?;
        let granularity = if block_device { physical.into() } else { 4096 };
        let limits = Limits {
            discard: discard && !read_only,
            discard_granularity: granularity,
            physical_block: physical.max(512),
        };
        let lock = ImageLock::new(file.try_clone()?, read_only)?;
        let size = AtomicU64::new(0);
        let raw = Self { file, lock, size, block_device, read_only, cache, alignment, limits };
        raw.refresh()?;
        Ok(raw)
    }

    /// Offsets and lengths must be multiples of this with `cache=none`, in bytes.
    #[must_use]
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// Where the host can't write zeroes by itself.
    fn write_plain_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        let zeroes = Aligned::new(BOUNCE, self.alignment);
        pieces(offset, length, BOUNCE).try_for_each(|(at, count)| {
            self.file.write_all_at(zeroes.bytes().get(..count).unwrap_or_default(), at)
        })
    }

    fn seek(&self, offset: u64, whence: libc::c_int) -> io::Result<Option<u64>> {
        let start = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: plain integers; nothing else uses the file's position.
        let found = unsafe { libc::lseek(self.file.as_raw_fd(), start, whence) };
        match u64::try_from(found) {
            Ok(found) => Ok(Some(found)),
            Err(_) => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
                error => Err(error),
            },
        }
    }
}

/// Changes what a stretch of `file` takes on the host, in bytes.
pub(super) fn fallocate(
    file: &File,
    mode: libc::c_int,
    offset: u64,
    length: u64,
) -> io::Result<()> {
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    let length = libc::off_t::try_from(length).map_err(io::Error::other)?;
    loop {
        // SAFETY: plain integers and an open descriptor.
        if unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, length) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// The size of a file or block device in bytes.
pub(super) fn size(file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    if !metadata.file_type().is_block_device() {
        return Ok(metadata.len());
    }
    let mut size: u64 = 0;
    // SAFETY: BLKGETSIZE64 writes one u64.
    match unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64, &raw mut size) } {
        0 => Ok(size),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What offsets, lengths and buffers must be multiples of with `cache`, in bytes.
pub(super) fn alignment(file: &File, cache: CacheMode) -> io::Result<usize> {
    if cache != CacheMode::None {
        return Ok(1);
    }
    if let Some(alignment) = direct_alignment(file) {
        return Ok(alignment as usize);
    }
    let block_device = file.metadata()?.file_type().is_block_device();
    let logical = if block_device { ioctl_u32(file, BLKSSZGET)? } else { 512 };
    Ok(logical.max(512) as usize)
}

/// Refused as such by the file system or device: there is another way.
pub(super) fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL))
}

fn ioctl_u32(file: &File, request: libc::c_ulong) -> io::Result<u32> {
    let mut value: libc::c_uint = 0;
    // SAFETY: both requests write one unsigned int.
    match unsafe { libc::ioctl(file.as_raw_fd(), request, &raw mut value) } {
        0 => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What O_DIRECT demands of this file, by statx (Linux 6.1).
fn direct_alignment(file: &File) -> Option<u32> {
    // SAFETY: all zeroes is a valid statx.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    let flags = libc::AT_EMPTY_PATH;
    // SAFETY: an empty path stands for the descriptor itself; `stat` outlives the call.
    let result = unsafe {
        let path = c"".as_ptr();
        libc::statx(file.as_raw_fd(), path, flags, libc::STATX_DIOALIGN, &raw mut stat)
    };
    let known = result == 0 && stat.stx_mask & libc::STATX_DIOALIGN != 0;
    let alignment = stat.stx_dio_mem_align.max(stat.stx_dio_offset_align);
    (known && alignment.is_power_of_two()).then_some(alignment)
}

impl Image for Raw {
    fn len(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    fn refresh(&self) -> io::Result<u64> {
        let size = size(&self.file)?;
        self.size.store(size, Ordering::Relaxed);
        Ok(size)
    }

    fn resize(&self, size: u64) -> io::Result<()> {
        if self.block_device || self.read_only {
            return Err(io::ErrorKind::Unsupported.into());
        }
        if i64::try_from(size).is_err() {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        self.file.set_len(size)?;
        self.refresh().map(drop)
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if self.alignment == 1 {
            return self.file.read_exact_at(buffer, offset);
        }
        let iovec = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let iovecs = IoVecs::from_slice(&[iovec]);
        // SAFETY: `buffer` outlives the call.
        unsafe { blocking(Operation::Read, self.file.as_fd(), iovecs, offset, self.alignment) }
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        if self.alignment == 1 {
            return self.file.write_all_at(buffer, offset);
        }
        let base = buffer.as_ptr().cast_mut().cast();
        let iovecs = IoVecs::from_slice(&[libc::iovec { iov_base: base, iov_len: buffer.len() }]);
        let write = Operation::Write { fua: false };
        // SAFETY: `buffer` outlives the call, which only reads it.
        unsafe { blocking(write, self.file.as_fd(), iovecs, offset, self.alignment) }
    }

    fn flush(&self) -> io::Result<()> {
        if self.read_only || self.cache == CacheMode::Unsafe {
            return Ok(());
        }
        self.file.sync_data()
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        match fallocate(&self.file, mode, offset, length) {
            Err(error) if is_unsupported(&error) => self.write_zeroes(offset, length, false),
            result => result,
        }
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        if unmap && self.limits.discard {
            return self.discard(offset, length);
        }
        match fallocate(&self.file, libc::FALLOC_FL_ZERO_RANGE, offset, length) {
            Err(error) if is_unsupported(&error) => self.write_plain_zeroes(offset, length),
            result => result,
        }
    }

    fn extent(&self, offset: u64) -> io::Result<Extent> {
        let rest = self.len().saturating_sub(offset);
        if self.block_device {
            return Ok(Extent { mapped: true, length: rest }); // the host does not tell
        }
        let data = match self.seek(offset, libc::SEEK_DATA)? {
            None => return Ok(Extent { mapped: false, length: rest }),
            Some(data) => data,
        };
        let hole = data.saturating_sub(offset);
        if hole > 0 {
            return Ok(Extent { mapped: false, length: hole.min(rest) });
        }
        let end = self.seek(offset, libc::SEEK_HOLE)?.unwrap_or(u64::MAX);
        Ok(Extent { mapped: true, length: end.saturating_sub(offset).min(rest) })
    }

    fn direct(&self) -> Option<Direct<'_>> {
        Some(Direct { fd: self.file.as_fd(), alignment: self.alignment })
    }

    fn durable(&self) -> bool {
        self.cache != CacheMode::Unsafe
    }

    fn note(&self) -> io::Result<Option<Vec<u8>>> {
        note::read(&self.file)
    }

    fn set_note(&self, note: Option<&[u8]>) -> io::Result<()> {
        note::write(&self.file, note)?;
        if self.durable() { self.file.sync_all() } else { Ok(()) }
    }

    fn locked_files(&self) -> Vec<LockedFile> {
        vec![self.lock.locked()]
    }

    fn acquire(&self) -> io::Result<()> {
        self.lock.take()?;
        self.refresh().map(drop)
    }

    fn release(&self) -> io::Result<()> {
        let flushed = self.flush();
        self.lock.give_back()?;
        flushed
    }
}

/// Zeroed memory at an alignment that O_DIRECT takes.
pub(super) struct Aligned {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    pub(super) fn new(length: usize, alignment: usize) -> Self {
        let memory = vec![0; length.saturating_add(alignment)];
        let start = memory.as_ptr().align_offset(alignment.max(1));
        Self { memory, start, length }
    }

    fn range(&self) -> Range<usize> {
        self.start..self.start.saturating_add(self.length)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.memory.get(self.range()).unwrap_or_default()
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        let range = self.range();
        self.memory.get_mut(range).unwrap_or_default()
    }
}

/// Does an operation on the calling thread, through an aligned buffer of our own where `alignment`
/// is not 1.
///
/// # Safety
/// The memory of `iovecs` is mapped.
pub(super) unsafe fn blocking(
    operation: Operation,
    fd: BorrowedFd<'_>,
    mut iovecs: IoVecs,
    mut offset: u64,
    alignment: usize,
) -> io::Result<()> {
    if operation == Operation::Flush {
        // SAFETY: the descriptor is open.
        return check(unsafe { libc::fdatasync(fd.as_raw_fd()) } as isize).map(drop);
    }
    let total: usize = iovecs.iter().map(|iovec| iovec.iov_len).sum();
    let mut bounce = (alignment > 1).then(|| Aligned::new(BOUNCE.min(total), alignment));
    while !iovecs.is_empty() {
        let moved = match &mut bounce {
            // SAFETY: as our caller promised.
            Some(bounce) => unsafe { bounced(operation, fd, &iovecs, offset, bounce.bytes_mut()) },
            // SAFETY: as our caller promised.
            None => unsafe { vectored(operation, fd, &iovecs, offset) },
        };
        match moved {
            Ok(0) if operation == Operation::Read => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                super::uring::consume(&mut iovecs, count);
                offset = offset.saturating_add(count as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// # Safety
/// The memory of `iovecs` is mapped.
pub(super) unsafe fn vectored(
    operation: Operation,
    fd: BorrowedFd<'_>,
    iovecs: &[libc::iovec],
    offset: u64,
) -> io::Result<usize> {
    let count = libc::c_int::try_from(iovecs.len().min(1024)).map_err(io::Error::other)?;
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    let fua = operation == Operation::Write { fua: true };
    let flags = if fua { libc::RWF_DSYNC } else { 0 };
    // SAFETY: as our caller promised; `count` is not more than there are.
    check(unsafe {
        match operation {
            Operation::Read => libc::preadv(fd.as_raw_fd(), iovecs.as_ptr(), count, offset),
            _ => libc::pwritev2(fd.as_raw_fd(), iovecs.as_ptr(), count, offset, flags),
        }
    })
}

/// One piece through `bounce`.
///
/// # Safety
/// The memory of `iovecs` is mapped.
unsafe fn bounced(
    operation: Operation,
    fd: BorrowedFd<'_>,
    iovecs: &[libc::iovec],
    offset: u64,
    bounce: &mut [u8],
) -> io::Result<usize> {
    let total: usize = iovecs.iter().map(|iovec| iovec.iov_len).sum();
    let count = total.min(bounce.len());
    let buffer = libc::iovec { iov_base: bounce.as_mut_ptr().cast(), iov_len: count };
    if operation == Operation::Read {
        // SAFETY: `bounce` outlives the call.
        let count = unsafe { vectored(operation, fd, &[buffer], offset) }?;
        let mut rest = bounce.get(..count).unwrap_or_default();
        for iovec in iovecs {
            let (part, others) = rest.split_at(iovec.iov_len.min(rest.len()));
            // SAFETY: as our caller promised; `part` is not longer than the piece of memory.
            unsafe { std::ptr::copy(part.as_ptr(), iovec.iov_base.cast(), part.len()) };
            rest = others;
        }
        return Ok(count);
    }
    let mut rest = &mut *bounce;
    for iovec in iovecs {
        let length = iovec.iov_len.min(rest.len());
        let (part, others) = rest.split_at_mut(length);
        // SAFETY: as above.
        unsafe { std::ptr::copy(iovec.iov_base.cast(), part.as_mut_ptr(), part.len()) };
        rest = others;
    }
    // SAFETY: `bounce` outlives the call.
    unsafe { vectored(operation, fd, &[buffer], offset) }
}

#[cfg(test)]
mod tests;
