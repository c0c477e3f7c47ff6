//! Guest memory that device processes can map: each region is a memfd of its own.

use std::fs::File;
use std::io;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use vhost::VhostUserMemoryRegionInfo;
use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{
    Address, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap,
};

/// The guest's address space.
pub type AddressSpace = GuestMemoryMmap<()>;

/// Why guest memory can't be had.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host refused.
    #[error("{size:#x} bytes of guest memory cannot be made")]
    Host {
        /// Bytes.
        size: u64,
        /// What the host said.
        source: io::Error,
    },
    /// Empty, over another region, or not a region that is there.
    #[error("a region of {size:#x} bytes at guest address {guest:#x} is not possible: {reason}")]
    Region {
        /// Guest physical address.
        guest: u64,
        /// Bytes.
        size: u64,
        /// Why.
        reason: String,
    },
}

/// The guest's memory. A clone is the same memory.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    space: AddressSpace,
}

impl Memory {
    /// Memory of these regions: guest physical address and bytes of each.
    ///
    /// # Errors
    /// See [`MemoryError`].
    pub fn new(regions: &[(u64, u64)]) -> Result<Self, MemoryError> {
        let mut memory = Self::default();
        for &(guest, size) in regions {
            memory.add(guest, size)?;
        }
        Ok(memory)
    }

    /// Adds a region of zeroes.
    ///
    /// # Errors
    /// See [`MemoryError`].
    pub fn add(&mut self, guest: u64, size: u64) -> Result<(), MemoryError> {
        self.insert(guest, size, Pages::Normal, shared_file(size))
    }

    /// Adds a region of zeroes, made of such pages of the host, whose size nobody can change.
    ///
    /// # Errors
    /// See [`MemoryError`].
    pub fn add_sealed(&mut self, guest: u64, size: u64, pages: Pages) -> Result<(), MemoryError> {
        self.insert(guest, size, pages, sealed_file(size, pages))
    }

    fn insert(
        &mut self,
        guest: u64,
        size: u64,
        pages: Pages,
        file: io::Result<File>,
    ) -> Result<(), MemoryError> {
        let wrong = |reason: String| MemoryError::Region { guest, size, reason };
        let bytes = usize::try_from(size).map_err(|error| wrong(error.to_string()))?;
        let file = file.map_err(|source| MemoryError::Host { size, source })?;
        // There are only so many huge pages: who touches one that is not there dies of it.
        let reserve = if pages == Pages::Normal { libc::MAP_NORESERVE } else { 0 };
        let mapping = MmapRegionBuilder::new(bytes)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_SHARED | reserve)
            .with_file_offset(FileOffset::new(file, 0))
            .build()
            .map_err(|error| match error {
                MmapRegionError::Mmap(source) => MemoryError::Host { size, source },
                error => wrong(error.to_string()),
            })?;
        let region = GuestRegionMmap::new(mapping, GuestAddress(guest))
            .ok_or_else(|| wrong(String::from("it ends beyond 2^64")))?;
        self.space =
            self.space.insert_region(region.into()).map_err(|error| wrong(error.to_string()))?;
        Ok(())
    }

    /// Takes a region away. Rings and others that use it keep it mapped here.
    ///
    /// # Errors
    /// There is no such region.
    pub fn remove(&mut self, guest: u64, size: u64) -> Result<(), MemoryError> {
        let (space, _) = self
            .space
            .remove_region(GuestAddress(guest), size)
            .map_err(|error| MemoryError::Region { guest, size, reason: error.to_string() })?;
        self.space = space;
        Ok(())
    }

    /// To read and write it.
    #[must_use]
    pub fn space(&self) -> &AddressSpace {
        &self.space
    }

    /// The address of a guest's byte in this process, by which vhost-user names rings.
    #[must_use]
    pub fn user_address(&self, guest: u64) -> Option<u64> {
        self.space.get_host_address(GuestAddress(guest)).ok().map(|address| address as u64)
    }

    /// The first guest physical address above all regions.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.space.iter().last().map_or(0, |region| region.last_addr().raw_value() + 1)
    }

    /// The regions as the protocol describes them.
    pub(super) fn table(&self) -> Vec<VhostUserMemoryRegionInfo> {
        self.space
            .iter()
            .filter_map(|region| VhostUserMemoryRegionInfo::from_guest_region(region).ok())
            .collect()
    }
}

/// The host's pages that memory is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pages {
    /// 4 KiB.
    #[default]
    Normal,
    /// 2 MiB, of those that the host has set aside (hugetlbfs).
    Huge2M,
    /// 1 GiB, likewise.
    Huge1G,
}

impl Pages {
    /// Bytes of one.
    #[must_use]
    pub fn size(self) -> u64 {
        match self {
            Self::Normal => 4 << 10,
            Self::Huge2M => 2 << 20,
            Self::Huge1G => 1 << 30,
        }
    }
}

/// A file in memory that keeps its size, whoever has it: nobody can make a reader's memory go away.
fn sealed_file(size: u64, pages: Pages) -> io::Result<File> {
    let kind = match pages {
        Pages::Normal => MemfdFlags::empty(),
        Pages::Huge2M => MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
        Pages::Huge1G => MemfdFlags::HUGETLB | MemfdFlags::HUGE_1GB,
    };
    let file =
        File::from(memfd_create(c"guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | kind)?);
    file.set_len(size)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

/// A file in memory, of so many zero bytes.
pub(super) fn shared_file(size: u64) -> io::Result<File> {
    let file = File::from(memfd_create(c"guest", MemfdFlags::CLOEXEC)?);
    file.set_len(size)?;
    Ok(file)
}

/// Gives out a range of guest memory piece by piece, and takes nothing back.
#[derive(Clone, Debug)]
pub struct Allocator {
    next: u64,
    end: u64,
}

impl Allocator {
    /// Of `size` bytes at guest address `start`.
    #[must_use]
    pub fn new(start: u64, size: u64) -> Self {
        Self { next: start, end: start.saturating_add(size) }
    }

    /// The guest address of `size` bytes at a multiple of `align`, a power of two. `None`: no room.
    pub fn take(&mut self, size: u64, align: u64) -> Option<u64> {
        let start = self.next.checked_next_multiple_of(align)?;
        let end = start.checked_add(size).filter(|&end| end <= self.end)?;
        self.next = end;
        Some(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn regions_come_and_go() {
        let mut memory = Memory::new(&[(0, 0x2000), (0x10_0000, 0x1000)]).unwrap();
        assert_eq!(memory.end(), 0x10_1000);
        memory.space().write_slice(b"abc", GuestAddress(0x10_0ffd)).unwrap();
        assert!(memory.add(0x1000, 0x1000).is_err(), "over another");
        assert!(memory.remove(0, 0x1000).is_err(), "half of one");
        memory.remove(0x10_0000, 0x1000).unwrap();
        assert_eq!(memory.user_address(0x10_0000), None);
        assert_eq!(memory.table().len(), 1);
    }

    #[test]
    fn an_allocator_ends() {
        let mut allocator = Allocator::new(0x1001, 0x1fff);
        assert_eq!(allocator.take(1, 0x1000), Some(0x2000));
        assert_eq!(allocator.take(0x1000, 1), None);
        assert_eq!(allocator.take(0xfff, 1), Some(0x2001));
    }
}
