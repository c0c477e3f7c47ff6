//! The log of guest pages that the device wrote: one bit a page of 4 KiB, in a bitmap shared with
//! the frontend (SET_LOG_BASE), while VHOST_F_LOG_ALL is acknowledged.
//!
//! While it is off a write costs one relaxed load.

use std::fmt;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use vm_memory::bitmap::{Bitmap, BitmapSlice, WithBitmapSlice};

/// Bytes of guest memory that one bit stands for.
const PAGE: u64 = 4096;

/// What can be wrong with SET_LOG_BASE.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Size or offset that no mapping can have, or that the file does not hold.
    #[error("log of {size:#x} bytes at offset {offset:#x} lies outside its file")]
    Range {
        /// Bytes.
        size: u64,
        /// Bytes into the file.
        offset: u64,
    },
    /// Could not be mapped.
    #[error("log cannot be mapped")]
    Map(#[source] std::io::Error),
}

/// The shared bitmap, mapped.
struct LogMap {
    base: NonNull<u8>,
    /// Whole mapping, from a page boundary of the file.
    mapped: usize,
    /// Where in the mapping the bitmap begins.
    start: usize,
    size: usize,
}

// SAFETY: the mapping is owned, and all accesses to it are atomic.
unsafe impl Send for LogMap {}
// SAFETY: as above.
unsafe impl Sync for LogMap {}

impl LogMap {
    fn new(file: &File, size: u64, offset: u64) -> Result<Self, LogError> {
        let range = || LogError::Range { size, offset };
        let end = offset.checked_add(size).ok_or_else(range)?;
        let length = file.metadata().map_err(LogError::Map)?.len();
        if size == 0 || end > length {
            return Err(range());
        }
        let start = usize::try_from(offset % PAGE).map_err(|_| range())?;
        let page_offset = offset.saturating_sub(offset % PAGE);
        let mapped = usize::try_from(end.saturating_sub(page_offset)).map_err(|_| range())?;
        let file_offset = libc::off_t::try_from(page_offset).map_err(|_| range())?;
        // SAFETY: a fresh shared mapping of a file; no address is forced.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                file_offset,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(LogError::Map(std::io::Error::last_os_error()));
        }
        let base = NonNull::new(base.cast()).ok_or_else(range)?;
        Ok(Self { base, mapped, start, size: usize::try_from(size).map_err(|_| range())? })
    }

    fn set(&self, page: u64) {
        let Ok(byte) = usize::try_from(page / 8) else { return };
        if byte >= self.size {
            return; // memory that the frontend did not make room for is not migrated
        }
        // SAFETY: start + byte < start + size <= mapped, checked above and in `new`; the frontend
        // accesses the same byte atomically.
        let byte = unsafe {
            AtomicU8::from_ptr(self.base.as_ptr().wrapping_add(self.start).wrapping_add(byte))
        };
        let bit = 1 << (page % 8);
        if byte.load(Ordering::Relaxed) & bit == 0 {
            byte.fetch_or(bit, Ordering::Release);
        }
    }
}

impl Drop for LogMap {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, which nothing refers to any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.mapped) };
    }
}

/// The dirty log of a session.
#[derive(Default)]
pub struct DirtyLog {
    on: AtomicBool,
    map: RwLock<Option<LogMap>>,
}

impl fmt::Debug for DirtyLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirtyLog").field("on", &self.on).finish_non_exhaustive()
    }
}

impl DirtyLog {
    /// Takes the bitmap of a SET_LOG_BASE; it takes effect once [`enable`](Self::enable)d.
    ///
    /// # Errors
    /// See [`LogError`]; the old bitmap stays.
    pub fn set_base(&self, file: &File, size: u64, offset: u64) -> Result<(), LogError> {
        let map = LogMap::new(file, size, offset)?;
        *self.map.write().unwrap_or_else(PoisonError::into_inner) = Some(map);
        Ok(())
    }

    /// Starts or stops logging (VHOST_F_LOG_ALL).
    pub fn enable(&self, on: bool) {
        self.on.store(on, Ordering::SeqCst);
    }

    /// Stops logging and forgets the bitmap: the connection has ended.
    pub fn clear(&self) {
        self.enable(false);
        *self.map.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The device wrote `length` bytes at guest address `address`.
    #[inline]
    pub fn mark(&self, address: u64, length: u64) {
        if self.on.load(Ordering::Relaxed) {
            self.mark_slow(address, length);
        }
    }

    #[cold]
    fn mark_slow(&self, address: u64, length: u64) {
        let Some(last) = length.checked_sub(1) else { return };
        let last = address.saturating_add(last);
        if let Some(map) = &*self.map.read().unwrap_or_else(PoisonError::into_inner) {
            for page in address / PAGE..=last / PAGE {
                map.set(page);
            }
        }
    }
}

/// A region's view of the log, for `vm-memory`.
#[derive(Clone, Debug)]
pub struct DirtyBitmap {
    log: Arc<DirtyLog>,
    base: u64,
}

impl DirtyBitmap {
    /// The bitmap of a region at guest address `base`.
    #[must_use]
    pub fn new(log: Arc<DirtyLog>, base: u64) -> Self {
        Self { log, base }
    }
}

/// Part of a region's view of the log.
#[derive(Clone, Copy, Debug)]
pub struct DirtySlice<'a> {
    log: &'a DirtyLog,
    base: u64,
}

impl<'a> WithBitmapSlice<'a> for DirtyBitmap {
    type S = DirtySlice<'a>;
}

impl Bitmap for DirtyBitmap {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.log.mark(self.base.saturating_add(offset as u64), len as u64);
    }

    fn dirty_at(&self, _offset: usize) -> bool {
        false // the frontend reads the log, not the device
    }

    fn slice_at(&self, offset: usize) -> DirtySlice<'_> {
        DirtySlice { log: &self.log, base: self.base.saturating_add(offset as u64) }
    }
}

impl<'a> WithBitmapSlice<'a> for DirtySlice<'_> {
    type S = Self;
}

impl BitmapSlice for DirtySlice<'_> {}

impl Bitmap for DirtySlice<'_> {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.log.mark(self.base.saturating_add(offset as u64), len as u64);
    }

    fn dirty_at(&self, _offset: usize) -> bool {
        false
    }

    fn slice_at(&self, offset: usize) -> Self {
        Self { log: self.log, base: self.base.saturating_add(offset as u64) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::memfd;
    use std::os::unix::fs::FileExt;

    fn bytes(file: &File, offset: u64) -> [u8; 4] {
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }

    #[test]
    fn writes_set_the_bits_of_their_pages_only_while_on() {
        let file = memfd(0x3000);
        let log = DirtyLog::default();
        log.set_base(&file, 2, 0x1804).unwrap();
        log.mark(0, 4096);
        assert_eq!(bytes(&file, 0x1804), [0; 4]);
        log.enable(true);
        log.mark(4095, 2);
        log.mark(9 * 4096, 1);
        log.mark(5 * 4096, 0);
        assert_eq!(bytes(&file, 0x1804), [0b11, 0b10, 0, 0]);
    }

    #[test]
    fn pages_past_the_bitmap_are_ignored() {
        let file = memfd(0x1000);
        let log = DirtyLog::default();
        log.set_base(&file, 1, 0).unwrap();
        log.enable(true);
        log.mark(u64::MAX - 1, 1);
        log.mark(8 * 4096, 4096);
        assert_eq!(bytes(&file, 0), [0; 4]);
    }

    #[test]
    fn a_log_outside_its_file_is_refused() {
        let file = memfd(0x1000);
        let log = DirtyLog::default();
        assert!(log.set_base(&file, 0x1001, 0).is_err());
        assert!(log.set_base(&file, u64::MAX, 2).is_err());
        assert!(log.set_base(&file, 0, 0).is_err());
    }
}
