//! What the fuzz targets share: media in memory, files without a name.
//!
//! A target reads its input as a programme: what to set up, then one step after the other until the
//! bytes are used up. It has found something when it panics.

use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vhost_scsi::image::{Direct, Extent, Image, Limits};

/// A file of `size` bytes that has no name.
///
/// # Panics
/// The host has no more of them.
#[must_use]
pub fn memfd(size: u64) -> File {
    // SAFETY: the name is a C string; the result is checked below.
    let fd = unsafe { libc::memfd_create(c"fuzz".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: a fresh descriptor that nobody else owns.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(size).expect("a memfd has any size");
    file
}

/// A medium in memory.
#[derive(Debug)]
pub struct Ram {
    bytes: Mutex<Vec<u8>>,
    note: Mutex<Option<Vec<u8>>>,
    read_only: bool,
}

impl Ram {
    /// `size` zeroes.
    #[must_use]
    pub fn new(size: usize, read_only: bool) -> Self {
        Self { bytes: Mutex::new(vec![0; size]), note: Mutex::default(), read_only }
    }

    /// All of it.
    pub fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, offset: u64, length: usize, then: impl FnOnce(&mut [u8])) -> io::Result<()> {
        let mut bytes = self.bytes();
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(length).ok_or(io::ErrorKind::UnexpectedEof)?;
        then(bytes.get_mut(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl Image for Ram {
    fn len(&self) -> u64 {
        self.bytes().len() as u64
    }

    fn refresh(&self) -> io::Result<u64> {
        Ok(self.len())
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn limits(&self) -> Limits {
        Limits { discard: !self.read_only, discard_granularity: 512, physical_block: 512 }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(offset, buffer.len(), |bytes| buffer.copy_from_slice(bytes))
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        assert!(!self.read_only, "a read-only medium is written to");
        self.with(offset, buffer.len(), |bytes| bytes.copy_from_slice(buffer))
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.write_zeroes(offset, length, true)
    }

    fn write_zeroes(&self, offset: u64, length: u64, _unmap: bool) -> io::Result<()> {
        assert!(!self.read_only, "a read-only medium is written to");
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        self.with(offset, length, |bytes| bytes.fill(0))
    }

    fn extent(&self, offset: u64) -> io::Result<Extent> {
        let bytes = self.bytes();
        let rest = usize::try_from(offset).ok().and_then(|start| bytes.get(start..));
        let rest = rest.unwrap_or_default();
        let mapped = rest.first().is_some_and(|&byte| byte != 0);
        let length = rest.iter().take_while(|&&byte| (byte != 0) == mapped).count();
        Ok(Extent { mapped, length: length as u64 })
    }

    fn direct(&self) -> Option<Direct<'_>> {
        None
    }

    fn durable(&self) -> bool {
        true
    }

    fn note(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.note.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn set_note(&self, note: Option<&[u8]>) -> io::Result<()> {
        assert!(!self.read_only, "a read-only medium is written to");
        *self.note.lock().unwrap_or_else(PoisonError::into_inner) = note.map(<[u8]>::to_vec);
        Ok(())
    }

    fn acquire(&self) -> io::Result<()> {
        Ok(())
    }

    fn release(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A medium of any size, which reads as zeroes and forgets what is written.
#[derive(Clone, Copy, Debug)]
pub struct Blank(
    /// Bytes.
    pub u64,
);

impl Image for Blank {
    fn len(&self) -> u64 {
        self.0
    }

    fn refresh(&self) -> io::Result<u64> {
        Ok(self.0)
    }

    fn read_only(&self) -> bool {
        false
    }

    fn limits(&self) -> Limits {
        Limits { discard: true, discard_granularity: 4096, physical_block: 4096 }
    }

    fn read_at(&self, buffer: &mut [u8], _offset: u64) -> io::Result<()> {
        buffer.fill(0);
        Ok(())
    }

    fn write_at(&self, _buffer: &[u8], _offset: u64) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&self, _offset: u64, _length: u64) -> io::Result<()> {
        Ok(())
    }

    fn write_zeroes(&self, _offset: u64, _length: u64, _unmap: bool) -> io::Result<()> {
        Ok(())
    }

    fn extent(&self, offset: u64) -> io::Result<Extent> {
        Ok(Extent { mapped: false, length: self.0.saturating_sub(offset) })
    }

    fn direct(&self) -> Option<Direct<'_>> {
        None
    }

    fn durable(&self) -> bool {
        true
    }

    fn note(&self) -> io::Result<Option<Vec<u8>>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set_note(&self, _note: Option<&[u8]>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn acquire(&self) -> io::Result<()> {
        Ok(())
    }

    fn release(&self) -> io::Result<()> {
        Ok(())
    }
}
