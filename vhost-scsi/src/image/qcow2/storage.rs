//! A host file of a qcow2 image, as imago reads and writes it. Not imago's own: that one keeps every
//! transfer waiting while a flush is under way, and remembers the file's size from when it was
//! opened, while another process may have made it larger since.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use imago::Storage;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::drivers::CommonStorageHelper;

use crate::image::engine::Operation;
use crate::image::raw::{self, CacheMode, fallocate, is_unsupported};

/// An open file.
#[derive(Debug)]
pub(super) struct HostFile {
    /// For messages.
    path: PathBuf,
    file: File,
    cache: CacheMode,
    alignment: usize,
    helper: CommonStorageHelper,
}

impl HostFile {
    pub(super) fn new(file: File, path: PathBuf, cache: CacheMode) -> io::Result<Self> {
        let alignment = raw::alignment(&file, cache)?;
        Ok(Self { path, file, cache, alignment, helper: CommonStorageHelper::default() })
    }

    /// Repeats what a signal interrupted.
    ///
    /// # Safety
    /// The memory of `iovecs` is mapped, and may be written to where this reads.
    unsafe fn transfer(
        &self,
        operation: Operation,
        iovecs: &[libc::iovec],
        offset: u64,
    ) -> io::Result<u64> {
        loop {
            // SAFETY: as our caller promised.
            match unsafe { raw::vectored(operation, self.file.as_fd(), iovecs, offset) } {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map(|count| count as u64),
            }
        }
    }
}

impl fmt::Display for HostFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(formatter)
    }
}

impl Storage for HostFile {
    fn mem_align(&self) -> usize {
        self.alignment
    }

    fn req_align(&self) -> usize {
        self.alignment
    }

    fn size(&self) -> io::Result<u64> {
        raw::size(&self.file)
    }

    unsafe fn pure_readv(&self, mut bufv: IoVectorMut<'_>, mut offset: u64) -> io::Result<()> {
        while !bufv.is_empty() {
            // SAFETY: the vector borrows its memory for writing.
            let count = unsafe { self.transfer(Operation::Read, bufv.as_iovec(), offset) }?;
            let short = count < bufv.len();
            bufv = bufv.split_tail_at(count);
            offset = offset.saturating_add(count);
            // Nothing follows the end; O_DIRECT would not begin there.
            if count == 0 || (short && offset >= self.size()?) {
                bufv.fill(0);
                break;
            }
        }
        Ok(())
    }

    unsafe fn pure_writev(&self, mut bufv: IoVector<'_>, mut offset: u64) -> io::Result<()> {
        while !bufv.is_empty() {
            let write = Operation::Write { fua: false };
            // SAFETY: the vector borrows its memory, which is only read.
            let count = unsafe { self.transfer(write, bufv.as_iovec(), offset) }?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bufv = bufv.split_tail_at(count);
            offset = offset.saturating_add(count);
        }
        Ok(())
    }

    unsafe fn pure_write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        match fallocate(&self.file, libc::FALLOC_FL_ZERO_RANGE, offset, length) {
            // imago writes zeroes then.
            Err(error) if is_unsupported(&error) => Err(io::ErrorKind::Unsupported.into()),
            result => result,
        }
    }

    unsafe fn pure_write_allocated_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        // SAFETY: the caller promised the same.
        unsafe { self.pure_write_zeroes(offset, length) }
    }

    unsafe fn pure_discard(&self, offset: u64, length: u64) -> io::Result<()> {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        match fallocate(&self.file, mode, offset, length) {
            Err(error) if is_unsupported(&error) => Ok(()),
            result => result,
        }
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        match self.cache {
            CacheMode::Unsafe => Ok(()),
            CacheMode::Writeback | CacheMode::None => self.file.sync_data(),
        }
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.helper
    }
}
