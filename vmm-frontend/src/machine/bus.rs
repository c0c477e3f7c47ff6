//! Who answers at which address: one bus for ports, one for memory-mapped registers.

use crate::lock::lock;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;

/// What answers in a range of a bus. Virtual processors call it at the same time.
///
/// A guest chooses each access: any offset inside the range, of 1 to 8 bytes that end inside it.
pub trait Registers: Send + Sync {
    /// Reads at `offset` from the start of the range. All bytes are 0xff before.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Writes at `offset` from the start of the range.
    fn write(&self, offset: u64, data: &[u8]);
}

/// A range that is occupied already, empty, or beyond the end of the address space.
#[derive(Debug, thiserror::Error)]
#[error("{size:#x} bytes at {start:#x} are not free")]
pub struct Occupied {
    start: u64,
    size: u64,
}

#[derive(Clone)]
struct Range {
    size: u64,
    registers: Arc<dyn Registers>,
}

type Ranges = BTreeMap<u64, Range>;

/// A bus. Accesses take no lock; ranges change while others are used.
#[derive(Default)]
pub struct Bus {
    ranges: ArcSwap<Ranges>,
    /// Held while ranges change.
    changes: Mutex<()>,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = self.ranges.load();
        f.debug_list().entries(ranges.iter().map(|(start, range)| (start, range.size))).finish()
    }
}

impl Bus {
    /// Adds a range.
    ///
    /// # Errors
    /// It is not free.
    pub fn add(
        &self,
        start: u64,
        size: u64,
        registers: Arc<dyn Registers>,
    ) -> Result<(), Occupied> {
        let occupied = Occupied { start, size };
        let Some(last) = size.checked_sub(1).and_then(|more| start.checked_add(more)) else {
            return Err(occupied);
        };
        let _changes = lock(&self.changes);
        let mut ranges = Ranges::clone(&self.ranges.load());
        let before = ranges.range(..=last).next_back();
        if before.is_some_and(|(other, range)| other.saturating_add(range.size - 1) >= start) {
            return Err(occupied);
        }
        ranges.insert(start, Range { size, registers });
        self.ranges.store(Arc::new(ranges));
        Ok(())
    }

    /// Takes the range away that begins there.
    pub fn remove(&self, start: u64) {
        let _changes = lock(&self.changes);
        let mut ranges = Ranges::clone(&self.ranges.load());
        ranges.remove(&start);
        self.ranges.store(Arc::new(ranges));
    }

    /// Takes all ranges away.
    pub fn clear(&self) {
        let _changes = lock(&self.changes);
        self.ranges.store(Arc::default());
    }

    /// A guest's read. Where nobody answers, all bits are ones.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        let ranges = self.ranges.load();
        if let Some((registers, offset)) = find(&ranges, address, data.len()) {
            registers.read(offset, data);
        }
    }

    /// A guest's write. Where nobody answers, it is lost.
    pub fn write(&self, address: u64, data: &[u8]) {
        let ranges = self.ranges.load();
        if let Some((registers, offset)) = find(&ranges, address, data.len()) {
            registers.write(offset, data);
        }
    }
}

fn find(ranges: &Ranges, address: u64, length: usize) -> Option<(&dyn Registers, u64)> {
    let (start, range) = ranges.range(..=address).next_back()?;
    let offset = address.checked_sub(*start)?;
    let fits = offset.checked_add(length as u64)? <= range.size;
    fits.then_some((&*range.registers, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers with its number and the offset.
    struct Numbered(u8);

    impl Registers for Numbered {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.copy_from_slice(&[self.0, u8::try_from(offset).unwrap()][..data.len()]);
        }

        fn write(&self, _offset: u64, _data: &[u8]) {}
    }

    fn read(bus: &Bus, address: u64) -> [u8; 2] {
        let mut data = [0; 2];
        bus.read(address, &mut data);
        data
    }

    #[test]
    fn each_address_is_answered_by_its_range_alone() {
        let bus = Bus::default();
        bus.add(0x100, 8, Arc::new(Numbered(1))).unwrap();
        bus.add(0x108, 8, Arc::new(Numbered(2))).unwrap();
        assert_eq!(read(&bus, 0x106), [1, 6]);
        assert_eq!(read(&bus, 0x107), [0xff; 2], "over the end");
        assert_eq!(read(&bus, 0x10e), [2, 6]);
        assert_eq!(read(&bus, 0xff), [0xff; 2], "before");
        bus.remove(0x100);
        assert_eq!(read(&bus, 0x106), [0xff; 2], "gone");
        assert_eq!(read(&bus, 0x108), [2, 0]);
    }

    #[test]
    fn a_cleared_bus_lets_go_of_who_was_there() {
        let (bus, there) = (Bus::default(), Arc::new(Numbered(1)));
        let known = Arc::downgrade(&there);
        bus.add(0x100, 8, there).unwrap();
        bus.clear();
        assert_eq!(read(&bus, 0x106), [0xff; 2]);
        assert!(known.upgrade().is_none());
    }

    #[test]
    fn no_range_lies_over_another() {
        let bus = Bus::default();
        bus.add(0x100, 8, Arc::new(Numbered(1))).unwrap();
        for (start, size) in [(0x100, 8), (0xff, 2), (0x107, 1), (0xf0, 0x100), (0x200, 0)] {
            assert!(bus.add(start, size, Arc::new(Numbered(2))).is_err(), "{start:#x}, {size:#x}");
        }
        bus.add(u64::MAX, 1, Arc::new(Numbered(3))).unwrap();
        assert!(bus.add(u64::MAX, 2, Arc::new(Numbered(4))).is_err());
    }
}
