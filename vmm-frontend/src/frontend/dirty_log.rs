//! The log of guest pages that a device process wrote, as the frontend reads it.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU8, Ordering};

use vhost::VhostUserDirtyLogRegion;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

use super::memory::{Memory, shared_file};
use super::{FrontendError, host};

/// Bytes of guest memory that one bit stands for.
const PAGE: u64 = 4096;

/// A bitmap of all guest memory, one bit a page, shared with device processes.
#[derive(Debug)]
pub struct DirtyLog {
    map: MmapRegion,
    size: u64,
}

impl DirtyLog {
    /// A clean log for all of `memory`.
    ///
    /// # Errors
    /// The host refuses the memory.
    pub fn new(memory: &Memory) -> Result<Self, FrontendError> {
        let failed = host("the dirty log cannot be made");
        // Whole pages, which is what the other end maps.
        let size = memory.end().div_ceil(PAGE * 8).max(1).next_multiple_of(PAGE);
        let file = shared_file(size).map_err(&failed)?;
        let map = MmapRegionBuilder::new(usize::try_from(size).unwrap_or(usize::MAX))
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_SHARED | libc::MAP_NORESERVE)
            .with_file_offset(FileOffset::new(file, 0))
            .build()
            .map_err(|error| failed(std::io::Error::other(error)))?;
        Ok(Self { map, size })
    }

    /// The guest addresses of the pages that were written since the last call, in order.
    #[must_use]
    pub fn take(&self) -> Vec<u64> {
        let mut pages = Vec::new();
        for byte in 0..self.size {
            let place = usize::try_from(byte).unwrap_or(usize::MAX);
            let Ok(bits) = self.map.get_atomic_ref::<AtomicU8>(place) else { break };
            if bits.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let bits = bits.swap(0, Ordering::AcqRel);
            let dirty = (0..8).filter(|bit| bits >> bit & 1 != 0);
            pages.extend(dirty.map(|bit| (byte * 8 + bit) * PAGE));
        }
        pages
    }

    /// As the protocol describes it.
    #[must_use]
    pub fn region(&self) -> Option<VhostUserDirtyLogRegion> {
        let mmap_handle = self.map.file_offset()?.file().as_raw_fd();
        Some(VhostUserDirtyLogRegion { mmap_size: self.size, mmap_offset: 0, mmap_handle })
    }
}
