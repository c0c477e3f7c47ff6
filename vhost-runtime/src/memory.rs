//! Guest memory as the frontend shares it, with the log of what was written to it.
//!
//! A [`Memory`] is an immutable snapshot of the memory table. Requests under way keep the snapshot
//! that they were parsed with, so a region that the frontend takes back stays mapped until the last
//! of them is done.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vm_memory::bitmap::BS;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    Address, AtomicAccess, Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap,
    GuestMemoryRegion, GuestRegionMmap, VolatileSlice,
};

use crate::dirty_log::{DirtyBitmap, DirtyLog};

/// The guest's address space, each write to it logged while a migration asks for that.
pub type AddressSpace = GuestMemoryMmap<DirtyBitmap>;

/// A piece of guest memory, mapped.
pub type GuestSlice<'a> = VolatileSlice<'a, BS<'a, DirtyBitmap>>;

/// What can be wrong with a memory table.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Could not be mapped.
    #[error("region of {size:#x} bytes at guest address {guest:#x} cannot be mapped: {reason}")]
    Map {
        /// Guest physical address.
        guest: u64,
        /// Bytes.
        size: u64,
        /// What the host said.
        reason: String,
    },
    /// Ends beyond 2^64, or has no bytes.
    #[error("region of {size:#x} bytes at guest address {guest:#x} is empty or ends beyond 2^64")]
    Range {
        /// Guest physical address.
        guest: u64,
        /// Bytes.
        size: u64,
    },
    /// Reaches beyond the end of its file, where an access would kill the process.
    #[error(
        "region of {size:#x} bytes at guest address {guest:#x} ends beyond its file's {length:#x} bytes"
    )]
    File {
        /// Guest physical address.
        guest: u64,
        /// Bytes.
        size: u64,
        /// Bytes of the file.
        length: u64,
    },
    /// Lies over another one.
    #[error("region of {size:#x} bytes at guest address {guest:#x} lies over another one")]
    Overlap {
        /// Guest physical address.
        guest: u64,
        /// Bytes.
        size: u64,
    },
    /// To be removed, but not there.
    #[error("no region of {size:#x} bytes at guest address {guest:#x}")]
    Missing {
        /// Guest physical address.
        guest: u64,
        /// Bytes.
        size: u64,
    },
    /// More than [`MAX_SLOTS`].
    #[error("more than {MAX_SLOTS} memory regions")]
    TooMany,
}

/// Memory slots that a frontend may fill (QEMU has up to 509 with KVM).
pub const MAX_SLOTS: usize = 509;

/// One region of a memory table, as the frontend describes it.
#[derive(Debug)]
pub struct RegionSpec {
    /// Guest physical address.
    pub guest: u64,
    /// Bytes.
    pub size: u64,
    /// Address in the frontend's own address space: ring addresses are given in it.
    pub user: u64,
    /// Where in `file` it begins, in bytes.
    pub offset: u64,
    /// The shared memory.
    pub file: File,
}

#[derive(Clone, Debug)]
struct Region {
    user: u64,
    mapping: Arc<GuestRegionMmap<DirtyBitmap>>,
}

impl Region {
    fn map(spec: RegionSpec, log: &Arc<DirtyLog>) -> Result<Self, MemoryError> {
        let RegionSpec { guest, size, user, offset, file } = spec;
        let range = || MemoryError::Range { guest, size };
        let bytes = usize::try_from(size).map_err(|_| range())?;
        if size == 0 || guest.checked_add(size).is_none() || user.checked_add(size).is_none() {
            return Err(range());
        }
        let failed = |reason: String| MemoryError::Map { guest, size, reason };
        // A device's memory (dax, say) has no length that could be asked for. A file that is cut short
        // later is the frontend's own loss: SIGBUS ends this process, and its supervisor starts another.
        let found = file.metadata().map_err(|error| failed(error.to_string()))?;
        let length = found.len();
        if found.is_file() && offset.checked_add(size).is_none_or(|end| end > length) {
            return Err(MemoryError::File { guest, size, length });
        }
        let bitmap = DirtyBitmap::new(Arc::clone(log), guest);
        let mapping = MmapRegionBuilder::new_with_bitmap(bytes, bitmap)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_SHARED | libc::MAP_NORESERVE)
            .with_file_offset(FileOffset::new(file, offset))
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let mapping = GuestRegionMmap::new(mapping, GuestAddress(guest)).ok_or_else(range)?;
        Ok(Self { user, mapping: Arc::new(mapping) })
    }

    fn guest(&self) -> u64 {
        self.mapping.start_addr().raw_value()
    }

    fn size(&self) -> u64 {
        self.mapping.len()
    }
}

/// A snapshot of the memory table.
#[derive(Clone, Debug)]
pub struct Memory {
    space: AddressSpace,
    regions: Vec<Region>,
    log: Arc<DirtyLog>,
}

impl Memory {
    /// No memory at all, as before the first memory table.
    #[must_use]
    pub fn empty(log: Arc<DirtyLog>) -> Self {
        Self { space: AddressSpace::default(), regions: Vec::new(), log }
    }

    /// Maps a whole table (SET_MEM_TABLE).
    ///
    /// # Errors
    /// See [`MemoryError`]; nothing stays mapped then.
    pub fn new(
        table: impl IntoIterator<Item = RegionSpec>,
        log: Arc<DirtyLog>,
    ) -> Result<Self, MemoryError> {
        let regions =
            table.into_iter().map(|spec| Region::map(spec, &log)).collect::<Result<Vec<_>, _>>()?;
        Self::from_regions(regions, log)
    }

    /// This table and one region more (ADD_MEM_REG).
    ///
    /// # Errors
    /// See [`MemoryError`].
    pub fn with(&self, spec: RegionSpec) -> Result<Self, MemoryError> {
        let mut regions = self.regions.clone();
        regions.push(Region::map(spec, &self.log)?);
        Self::from_regions(regions, Arc::clone(&self.log))
    }

    /// This table without one region (REM_MEM_REG).
    ///
    /// # Errors
    /// It is not there.
    pub fn without(&self, guest: u64, size: u64, user: u64) -> Result<Self, MemoryError> {
        let mut regions = self.regions.clone();
        let found = regions
            .iter()
            .position(|r| r.guest() == guest && r.size() == size && r.user == user)
            .ok_or(MemoryError::Missing { guest, size })?;
        regions.remove(found);
        Self::from_regions(regions, Arc::clone(&self.log))
    }

    fn from_regions(mut regions: Vec<Region>, log: Arc<DirtyLog>) -> Result<Self, MemoryError> {
        if regions.len() > MAX_SLOTS {
            return Err(MemoryError::TooMany);
        }
        if regions.is_empty() {
            return Ok(Self::empty(log));
        }
        regions.sort_by_key(Region::guest);
        for pair in regions.windows(2) {
            if let [low, high] = pair
                && high.guest().saturating_sub(low.guest()) < low.size()
            {
                return Err(MemoryError::Overlap { guest: high.guest(), size: high.size() });
            }
        }
        let mappings = regions.iter().map(|r| Arc::clone(&r.mapping)).collect();
        let space = AddressSpace::from_arc_regions(mappings).map_err(|error| MemoryError::Map {
            guest: 0,
            size: 0,
            reason: error.to_string(),
        })?;
        Ok(Self { space, regions, log })
    }

    /// The guest's address space.
    #[must_use]
    pub fn space(&self) -> &AddressSpace {
        &self.space
    }

    /// The log of writes.
    #[must_use]
    pub fn log(&self) -> &Arc<DirtyLog> {
        &self.log
    }

    /// Translates an address of the frontend's own address space into a guest address.
    #[must_use]
    pub fn guest_address(&self, user: u64) -> Option<u64> {
        self.regions.iter().find_map(|region| {
            let offset = user.checked_sub(region.user)?;
            if offset < region.size() { region.guest().checked_add(offset) } else { None }
        })
    }

    /// Reads what the guest may write to at the same time, without the detour of an access that may go
    /// on in another region. `None` where nothing is mapped, or nothing aligned.
    pub(crate) fn load<T: AtomicAccess>(&self, address: u64, order: Ordering) -> Option<T> {
        self.slice(address, size_of::<T>() as u64)?.load(0, order).ok()
    }

    /// Writes likewise.
    pub(crate) fn store<T: AtomicAccess>(
        &self,
        value: T,
        address: u64,
        order: Ordering,
    ) -> Option<()> {
        self.slice(address, size_of::<T>() as u64)?.store(value, 0, order).ok()
    }

    /// The mapped bytes from `address` on: at most `length`, fewer where the region ends before.
    /// `None` where nothing is mapped.
    pub(crate) fn slice(&self, address: u64, length: u64) -> Option<GuestSlice<'_>> {
        let region = self.space.find_region(GuestAddress(address))?;
        let offset = address.checked_sub(region.start_addr().raw_value())?;
        let rest = region.len().checked_sub(offset)?;
        let count = usize::try_from(rest.min(length)).ok()?;
        region.get_slice(vm_memory::MemoryRegionAddress(offset), count).ok()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn memfd(size: u64) -> File {
        use std::os::fd::FromRawFd;
        // SAFETY: the name is a C string; the result is checked below.
        let fd = unsafe { libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(fd >= 0);
        // SAFETY: a fresh descriptor that nobody else owns.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(size).unwrap();
        file
    }

    pub(crate) fn region(guest: u64, size: u64, user: u64) -> RegionSpec {
        RegionSpec { guest, size, user, offset: 0, file: memfd(size) }
    }

    #[test]
    fn addresses_of_the_frontend_become_guest_addresses() {
        let memory = Memory::new(
            [region(0x10_0000, 0x1000, 0x7000_0000), region(0, 0x2000, 0x6000_0000)],
            Arc::default(),
        )
        .unwrap();
        assert_eq!(memory.guest_address(0x6000_1fff), Some(0x1fff));
        assert_eq!(memory.guest_address(0x6000_2000), None);
        assert_eq!(memory.guest_address(0x7000_0010), Some(0x10_0010));
        assert_eq!(memory.guest_address(0), None);
    }

    #[test]
    fn a_region_over_another_is_refused() {
        let table = [region(0, 0x2000, 0), region(0x1000, 0x1000, 0x10000)];
        assert!(matches!(
            Memory::new(table, Arc::default()),
            Err(MemoryError::Overlap { guest: 0x1000, .. })
        ));
    }

    #[test]
    fn a_region_past_the_end_of_memory_or_file_is_refused() {
        let wrap = RegionSpec { guest: u64::MAX - 0xfff, ..region(0, 0x2000, 0) };
        assert!(matches!(Memory::new([wrap], Arc::default()), Err(MemoryError::Range { .. })));
        let long = RegionSpec { size: 0x2001, ..region(0, 0x2000, 0) };
        let late = RegionSpec { offset: 0x1000, ..region(0, 0x2000, 0) };
        for beyond in [long, late] {
            let refused = Memory::new([beyond], Arc::default());
            assert!(matches!(refused, Err(MemoryError::File { length: 0x2000, .. })));
        }
        let empty = RegionSpec { size: 0, ..region(0, 0x1000, 0) };
        assert!(matches!(Memory::new([empty], Arc::default()), Err(MemoryError::Range { .. })));
    }

    #[test]
    fn slots_come_and_go() {
        let memory = Memory::empty(Arc::default());
        assert!(memory.slice(0, 1).is_none());
        let one = memory.with(region(0, 0x1000, 0x1000)).unwrap();
        let two = one.with(region(0x1000, 0x1000, 0x2000)).unwrap();
        assert_eq!(two.slice(0x800, 0x1000).unwrap().len(), 0x800);
        let back = two.without(0, 0x1000, 0x1000).unwrap();
        assert!(back.slice(0, 1).is_none());
        assert!(back.without(0, 0x1000, 0x1000).is_err());
        assert!(back.without(0x1000, 0x1000, 0x2000).unwrap().slice(0x1000, 1).is_none());
    }
}
