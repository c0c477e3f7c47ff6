//! Targets and the units behind them: addresses, REPORT LUNS, and what is answered where no unit is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::bytes::{Fields, ascii, put, truncated};
use super::{Action, Cdb, DataLengths, LogicalUnit, Reply, Sense, UnitAttention};

/// Logical unit numbers of one target in flat space addressing (SAM-5 4.7.5.3).
pub const LUNS: u16 = 16_384;

/// Operation code of REPORT LUNS.
const REPORT_LUNS: u8 = 0xa0;
/// REPORT LUNS as a well-known logical unit (SAM-5 4.7.6, virtio 1.2 5.6.6.1).
const REPORT_LUNS_WELL_KNOWN: [u8; 8] = [0xc1, 0x01, 0, 0, 0, 0, 0, 0];

/// The address of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Target.
    pub target: u8,
    /// Logical unit number, below [`LUNS`].
    pub lun: u16,
}

impl Address {
    /// From virtio-scsi's 8 bytes (virtio 1.2, 5.6.6.1): 1, target, and a single-level LUN. `None`
    /// for what addresses no unit that could be there.
    #[must_use]
    pub fn parse(bytes: [u8; 8]) -> Option<Self> {
        match bytes {
            // Peripheral device addressing with bus 0, or flat space addressing.
            [1, target, high, low, 0, 0, 0, 0] if high == 0 || high >> 6 == 1 => {
                Some(Self { target, lun: u16::from_be_bytes([high & 0x3f, low]) })
            }
            _ => None,
        }
    }

    /// As virtio-scsi has it, with the LUN as REPORT LUNS has it: the driver compares them.
    #[must_use]
    pub fn bytes(self) -> [u8; 8] {
        let [high, low, ..] = self.report();
        [1, self.target, high, low, 0, 0, 0, 0]
    }

    /// As REPORT LUNS has it: peripheral device addressing below 256.
    fn report(self) -> [u8; 8] {
        let [high, low] = self.lun.to_be_bytes();
        let high = if self.lun < 256 { 0 } else { 0x40 | high };
        [high, low, 0, 0, 0, 0, 0, 0]
    }
}

type Units = BTreeMap<Address, Arc<dyn LogicalUnit>>;

/// All units of a controller. Commands take a snapshot; units come and go meanwhile.
#[derive(Default)]
pub struct Bus {
    units: RwLock<Arc<Units>>,
    generation: AtomicU64,
}

impl Bus {
    /// The units as they are now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(Arc::clone(&self.units.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Changes whenever a unit comes or goes: who keeps a snapshot looks here.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Units) -> T) -> T {
        let mut units = self.units.write().unwrap_or_else(PoisonError::into_inner);
        let result = change(Arc::make_mut(&mut units));
        self.generation.fetch_add(1, Ordering::Release);
        result
    }

    /// Adds a unit, unless there is one; the others of its target tell the initiator.
    pub fn insert(&self, address: Address, unit: Arc<dyn LogicalUnit>) -> bool {
        let added = self.place(address, unit);
        if added {
            self.tell_of_change(address);
        }
        added
    }

    /// Adds a unit, unless there is one, before there is an initiator to be told.
    pub fn place(&self, address: Address, unit: Arc<dyn LogicalUnit>) -> bool {
        self.change(|units| match units.entry(address) {
            std::collections::btree_map::Entry::Occupied(_) => false,
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(unit);
                true
            }
        })
    }

    /// Takes a unit away; the others of its target tell the initiator.
    pub fn remove(&self, address: Address) -> Option<Arc<dyn LogicalUnit>> {
        let removed = self.change(|units| units.remove(&address));
        if removed.is_some() {
            self.tell_of_change(address);
        }
        removed
    }

    fn tell_of_change(&self, changed: Address) {
        for (address, unit) in self.snapshot().target(changed.target) {
            if address != changed {
                unit.attention(UnitAttention::LunsChanged);
            }
        }
    }
}

/// A command that was started.
pub struct Started<'a> {
    /// The unit that has to go on with it, unless it is complete.
    pub unit: Option<&'a Arc<dyn LogicalUnit>>,
    /// What is to be done.
    pub action: Action,
}

/// The units at one moment.
#[derive(Clone)]
pub struct Snapshot(Arc<Units>);

impl Snapshot {
    /// The unit at an address.
    #[must_use]
    pub fn unit(&self, address: Address) -> Option<&Arc<dyn LogicalUnit>> {
        self.0.get(&address)
    }

    /// The units of one target.
    pub fn target(&self, target: u8) -> impl Iterator<Item = (Address, &Arc<dyn LogicalUnit>)> {
        let all = Address { target, lun: 0 }..=Address { target, lun: u16::MAX };
        self.0.range(all).map(|(&address, unit)| (address, unit))
    }

    /// All units.
    pub fn iter(&self) -> impl Iterator<Item = (Address, &Arc<dyn LogicalUnit>)> {
        self.0.iter().map(|(&address, unit)| (address, unit))
    }

    /// Starts a command. `None`: the target has no units at all, and the transport says that there is
    /// no such target.
    #[must_use]
    pub fn start(&self, address: Address, cdb: &Cdb, data: DataLengths) -> Option<Started<'_>> {
        let unit = self.unit(address);
        if unit.is_none() && self.target(address.target).next().is_none() {
            return None;
        }
        let complete = |reply| Action::Complete(reply);
        let (unit, action) = match unit {
            _ if cdb.u8(0) == REPORT_LUNS => {
                (None, complete(self.report_luns(address.target, cdb)))
            }
            Some(unit) => (Some(unit), unit.start(cdb, data)),
            None => (None, complete(missing(cdb))),
        };
        Some(Started { unit, action })
    }

    /// REPORT LUNS (SPC-5 6.33).
    fn report_luns(&self, target: u8, cdb: &Cdb) -> Reply {
        let allocation = usize::try_from(cdb.u32(6)).unwrap_or(usize::MAX);
        let units = self.target(target).map(|(address, _)| address.report());
        let luns: Vec<[u8; 8]> = match cdb.u8(2) {
            0x00 => units.collect(),
            0x01 => vec![REPORT_LUNS_WELL_KNOWN],
            0x02 => [REPORT_LUNS_WELL_KNOWN].into_iter().chain(units).collect(),
            0x10 => Vec::new(), // administrative units: none
            _ => return Sense::INVALID_FIELD_IN_CDB.reply(false),
        };
        let mut data = vec![0; 8];
        data.extend(luns.iter().flatten());
        let length = u32::try_from(luns.as_flattened().len()).unwrap_or(u32::MAX);
        put(&mut data, 0, &length.to_be_bytes());
        Reply::with(truncated(data, allocation))
    }
}

/// SPC-5 6.7.1 and 5.11: an incorrect logical unit answers INQUIRY and REQUEST SENSE only.
fn missing(cdb: &Cdb) -> Reply {
    let sense = Sense::LOGICAL_UNIT_NOT_SUPPORTED;
    match cdb.u8(0) {
        0x12 => {
            let mut data = vec![0; 36];
            put(&mut data, 0, &[0x7f, 0, 0x06, 0x12, 31]);
            put(&mut data, 8, &ascii("", 28));
            Reply::with(truncated(data, cdb.u16(3).into()))
        }
        0x03 => {
            let data = sense.bytes(cdb.bit(1, 0));
            Reply::with(truncated(data, cdb.u8(4).into()))
        }
        _ => sense.reply(false),
    }
}

#[cfg(test)]
mod tests;
