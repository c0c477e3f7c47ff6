//! A host file of a qcow2 image, as imago reads and writes it. Not imago's own: that one keeps every
//! transfer waiting while a flush is under way, and remembers the file's size from when it was
//! opened, while another process may have made it larger since.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::PathBuf;

use imago::Storage;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::drivers::CommonStorageHelper;

use super::header::Tables;
use super::refcounts::Refcounts;
use crate::image::engine::Operation;
use crate::image::raw::{self, Aligned, CacheMode, fallocate, is_unsupported};

#[cfg(test)]
thread_local! {
    /// Looks at what the file is like where this thread could be killed.
    pub(super) static BEFORE_WRITE: std::cell::RefCell<Option<Box<dyn FnMut()>>> =
        const { std::cell::RefCell::new(None) };
}

/// An open file.
#[derive(Debug)]
pub(super) struct HostFile {
    /// For messages.
    path: PathBuf,
    file: File,
    cache: CacheMode,
    alignment: usize,
    /// Of an image that is written to.
    refcounts: Option<Refcounts>,
    helper: CommonStorageHelper,
}

impl HostFile {
    pub(super) fn new(file: File, path: PathBuf, cache: CacheMode) -> io::Result<Self> {
        let alignment = raw::alignment(&file, cache)?;
        let helper = CommonStorageHelper::default();
        Ok(Self { path, file, cache, alignment, refcounts: None, helper })
    }

    /// Counts the clusters that the tables of the image in it refer to before they do.
    pub(super) fn counting(self, tables: Tables) -> Self {
        Self { refcounts: Some(Refcounts::new(tables)), ..self }
    }

    /// A stretch of the file; what is behind its end is zero.
    pub(super) fn read_bytes(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let (buffer, _, place) = self.read_around(offset, length)?;
        let bytes = buffer.bytes().get(place).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(bytes.to_vec())
    }

    /// Writes to a stretch of the file that nothing else is written to meanwhile, nor to what is
    /// around it.
    pub(super) fn replace_bytes(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (mut buffer, start, place) = self.read_around(offset, bytes.len())?;
        let part = buffer.bytes_mut().get_mut(place).ok_or(io::ErrorKind::InvalidInput)?;
        part.copy_from_slice(bytes);
        self.write_bytes(buffer.bytes(), start)
    }

    /// Writes what is aligned as it must be.
    pub(super) fn write_bytes(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        // SAFETY: the vector borrows its memory.
        unsafe { self.write_vector(bytes.into(), offset) }
    }

    /// The stretch with what O_DIRECT demands around it, where that begins in the file, and where
    /// the stretch is in it.
    fn read_around(&self, offset: u64, length: usize) -> io::Result<(Aligned, u64, Range<usize>)> {
        let start = offset & !(self.alignment as u64).saturating_sub(1);
        let skipped = usize::try_from(offset.saturating_sub(start)).map_err(io::Error::other)?;
        let end = skipped.checked_add(length).ok_or(io::ErrorKind::InvalidInput)?;
        let whole = end.checked_next_multiple_of(self.alignment);
        let whole = whole.ok_or(io::ErrorKind::InvalidInput)?;
        let mut buffer = Aligned::new(whole, self.alignment);
        // SAFETY: the vector borrows its memory for writing.
        unsafe { self.pure_readv(buffer.bytes_mut().into(), start) }?;
        Ok((buffer, start, skipped..end))
    }

    /// # Safety
    /// The memory of `bufv` is mapped.
    unsafe fn write_vector(&self, mut bufv: IoVector<'_>, mut offset: u64) -> io::Result<()> {
        #[cfg(test)]
        BEFORE_WRITE.with_borrow_mut(|look| look.iter_mut().for_each(|look| look()));
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

    unsafe fn pure_writev(&self, bufv: IoVector<'_>, offset: u64) -> io::Result<()> {
        let Some(refcounts) = &self.refcounts else {
            // SAFETY: the caller promised the same.
            return unsafe { self.write_vector(bufv, offset) };
        };
        if let Some(_passed) = refcounts.pass(&(offset..offset.saturating_add(bufv.len()))) {
            // SAFETY: the caller promised the same.
            return unsafe { self.write_vector(bufv, offset) };
        }
        let length = usize::try_from(bufv.len()).map_err(io::Error::other)?;
        let mut copy = Aligned::new(length, self.alignment);
        bufv.copy_into_slice(copy.bytes_mut());
        refcounts.write(self, copy.bytes_mut(), offset)
    }

    unsafe fn pure_write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        let range = offset..offset.saturating_add(length);
        let _passed = self.refcounts.as_ref().and_then(|refcounts| refcounts.pass(&range));
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
