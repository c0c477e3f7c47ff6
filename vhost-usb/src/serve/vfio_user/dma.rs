//! What a client maps: the guest's memory, as one function reaches it.

use std::ops::Range;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use vhost_runtime::memory::{self, MemoryError, RegionSpec};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

use super::wire::{Map, Unmap};
use crate::controller::Memory;
use crate::serve::guest::Guest;

/// DMA_MAP's flags.
const READ: u32 = 1 << 0;
const WRITE: u32 = 1 << 1;
/// DMA_UNMAP's.
const DIRTY_PAGES: u32 = 1 << 0;
const ALL: u32 = 1 << 1;

/// The mappings.
pub(super) struct Dma {
    memory: memory::Memory,
    /// What is not to be written.
    read_only: Vec<Range<u64>>,
}

impl Default for Dma {
    fn default() -> Self {
        Self { memory: memory::Memory::empty(Default::default()), read_only: Vec::new() }
    }
}

impl Dma {
    /// Maps what has a descriptor. The rest is reached by messages only, which controllers don't send:
    /// nothing answers there.
    pub(super) fn map(&mut self, map: Map, fd: Option<OwnedFd>) -> Result<(), Errno> {
        let Map { flags, offset, address: guest, size } = map;
        let end = guest.checked_add(size).ok_or(Errno::INVAL)?;
        let Some(fd) = fd.filter(|_| flags & READ != 0) else { return Ok(()) };
        let spec = RegionSpec { guest, size, user: guest, offset, file: fd.into() };
        self.memory = self.memory.with(spec).map_err(|error| {
            log::error!("memory is not mapped: {error}");
            match error {
                MemoryError::TooMany => Errno::NOSPC,
                MemoryError::Overlap { .. } => Errno::EXIST,
                _ => Errno::INVAL,
            }
        })?;
        if flags & WRITE == 0 {
            self.read_only.push(guest..end);
        }
        Ok(())
    }

    /// Forgets it: it is not touched from when this returns.
    pub(super) fn unmap(&mut self, unmap: Unmap) -> Result<(), Errno> {
        let Unmap { flags, address, size, .. } = unmap;
        if flags & DIRTY_PAGES != 0 {
            return Err(Errno::NOTSUP);
        }
        if flags & ALL != 0 {
            *self = Self::default();
            return Ok(());
        }
        let end = address.checked_add(size).ok_or(Errno::INVAL)?;
        match self.memory.without(address, size, address) {
            Ok(memory) => self.memory = memory,
            // Part of a mapping can't be taken away. What was never mapped is not there.
            Err(_) if self.overlaps(&(address..end)) => return Err(Errno::INVAL),
            Err(_) => {}
        }
        self.read_only.retain(|range| *range != (address..end));
        Ok(())
    }

    fn overlaps(&self, range: &Range<u64>) -> bool {
        self.memory.space().iter().any(|region| {
            let start = region.start_addr().raw_value();
            start < range.end && range.start < start.saturating_add(region.len())
        })
    }

    fn check_writable(&self, address: u32, length: usize) -> Option<()> {
        let start = u64::from(address);
        let end = start.saturating_add(u64::try_from(length).ok()?);
        let locked = self.read_only.iter().any(|range| start < range.end && range.start < end);
        (!locked).then_some(())
    }
}

impl Memory for Dma {
    fn load(&self, address: u32) -> Option<u32> {
        Guest(&self.memory).load(address)
    }

    fn store(&self, address: u32, value: u32) -> Option<()> {
        self.check_writable(address, size_of_val(&value))?;
        Guest(&self.memory).store(address, value)
    }

    fn read(&self, address: u32, to: &mut [u8]) -> Option<()> {
        Guest(&self.memory).read(address, to)
    }

    fn write(&self, address: u32, from: &[u8]) -> Option<()> {
        self.check_writable(address, from.len())?;
        Guest(&self.memory).write(address, from)
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    fn memfd(size: u64) -> OwnedFd {
        let fd = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, size).unwrap();
        fd
    }

    fn map(dma: &mut Dma, flags: u32, address: u64, size: u64) -> Result<(), Errno> {
        let map = Map { flags, offset: 0, address, size };
        dma.map(map, Some(memfd(0x2000)))
    }

    fn unmap(dma: &mut Dma, flags: u32, address: u64, size: u64) -> Result<(), Errno> {
        dma.unmap(Unmap { argsz: 0, flags, address, size })
    }

    #[test]
    fn what_is_mapped_is_reached_until_it_is_unmapped() {
        let mut dma = Dma::default();
        assert_eq!(dma.load(0x1000), None);
        map(&mut dma, READ | WRITE, 0x1000, 0x2000).unwrap();
        dma.store(0x1ffc, 5).unwrap();
        assert_eq!(dma.load(0x1ffc), Some(5));
        assert_eq!(dma.load(0x3000), None);
        assert_eq!(unmap(&mut dma, 0, 0x1000, 0x1000), Err(Errno::INVAL));
        assert_eq!(dma.load(0x1ffc), Some(5));
        unmap(&mut dma, 0, 0x1000, 0x2000).unwrap();
        assert_eq!(dma.load(0x1ffc), None);
        unmap(&mut dma, 0, 0x1000, 0x2000).unwrap();
    }

    #[test]
    fn what_is_to_be_read_only_is() {
        let mut dma = Dma::default();
        map(&mut dma, READ, 0x1000, 0x1000).unwrap();
        map(&mut dma, READ | WRITE, 0x2000, 0x1000).unwrap();
        assert_eq!(dma.store(0x1ffc, 5), None);
        assert_eq!(dma.write(0xffe, &[0; 4]), None);
        assert_eq!(dma.load(0x1ffc), Some(0));
        assert_eq!(dma.store(0x2000, 5), Some(()));
        unmap(&mut dma, ALL, 0, 0).unwrap();
        assert_eq!(dma.load(0x2000), None);
    }

    #[test]
    fn what_can_not_be_is_refused() {
        let mut dma = Dma::default();
        map(&mut dma, READ | WRITE, 0x1000, 0x2000).unwrap();
        assert_eq!(map(&mut dma, READ | WRITE, 0x2000, 0x1000), Err(Errno::EXIST));
        for (address, size) in [(0x8000, 0), (0x8000, 0x3000), (0x8000, u64::MAX), (u64::MAX, 2)] {
            assert_eq!(map(&mut dma, READ | WRITE, address, size), Err(Errno::INVAL));
        }
        let odd = Map { flags: READ | WRITE, offset: 5, address: 0x8000, size: 0x1000 };
        assert_eq!(dma.map(odd, Some(memfd(0x2000))), Err(Errno::INVAL));
        let beyond = Map { offset: u64::MAX - 4095, ..odd };
        assert_eq!(dma.map(beyond, Some(memfd(0x2000))), Err(Errno::INVAL));
        assert_eq!(unmap(&mut dma, DIRTY_PAGES, 0x1000, 0x2000), Err(Errno::NOTSUP));
        assert_eq!(unmap(&mut dma, 0, u64::MAX, 2), Err(Errno::INVAL));
        assert_eq!(dma.load(0x1000), Some(0));
    }

    #[test]
    fn what_has_no_descriptor_is_not_reached() {
        let mut dma = Dma::default();
        dma.map(Map { flags: READ, offset: 0, address: 0, size: 0x1000 }, None).unwrap();
        assert_eq!(dma.load(0), None);
        unmap(&mut dma, 0, 0, 0x1000).unwrap();
    }
}
