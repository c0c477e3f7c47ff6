//! A packed ring (virtio 1.2, 2.8).

use std::collections::VecDeque;
use std::sync::atomic::{Ordering, fence};

use virtio_bindings::bindings::virtio_ring::{
    VRING_DESC_F_WRITE, VRING_PACKED_EVENT_FLAG_DESC, VRING_PACKED_EVENT_FLAG_DISABLE,
    VRING_PACKED_EVENT_FLAG_ENABLE,
};
use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::descriptors::{DESCRIPTOR, Descriptors};
use super::{Base, Position, QueueError, RingSetup, Spare};
use crate::chain::{Chain, ChainError, Place};
use crate::inflight::{PackedRecord, Taken};
use crate::memory::Memory;

const WRITE: u16 = VRING_DESC_F_WRITE as u16;
const ENABLE: u32 = VRING_PACKED_EVENT_FLAG_ENABLE;
const DISABLE: u32 = VRING_PACKED_EVENT_FLAG_DISABLE;
const ONE: u32 = VRING_PACKED_EVENT_FLAG_DESC;

/// Descriptors that a ring may have (2.8).
const MOST: u16 = 1 << 15;
/// Bytes of an event suppression structure.
const EVENT: u64 = 4;

/// The device's side of it.
#[derive(Debug)]
pub(super) struct Packed {
    size: u16,
    /// Where the descriptors are, and what the driver and the device want to be told.
    ring: u64,
    driver: u64,
    device: u64,
    event_index: bool,
    indirect: bool,
    record: Option<PackedRecord>,
    /// Requests of a former process, to be done again before new ones.
    again: VecDeque<Taken>,
    /// The next descriptor to be taken, and the next to be written.
    available: Position,
    used: Position,
    /// Descriptors that the driver does not have back yet.
    taken: u16,
    /// Descriptors from `available` on that were there at the last look for new requests.
    seen: u16,
    /// The buffer IDs of chains that are not completed.
    ids: Vec<bool>,
    unpublished: Batch,
    /// Descriptors that the driver got back since it was last decided whether to notify it.
    unnotified: u16,
    /// What the driver is told of kicks, as last written.
    kicks: u32,
}

/// Completed chains. The driver looks at the first one's used descriptor for all of them (2.8.2), so
/// that is written last.
#[derive(Debug, Default)]
struct Batch {
    first: Option<(Position, u64)>,
    /// Their descriptors.
    descriptors: u16,
    /// Their entries in the record.
    entries: Vec<u16>,
}

impl Packed {
    /// Goes on where the frontend says, or where a former process's record says.
    pub(super) fn start(
        index: usize,
        setup: &RingSetup,
        memory: &Memory,
        record: Option<PackedRecord>,
    ) -> Result<Self, QueueError> {
        let invalid = || QueueError::Invalid(index);
        let RingSetup { size, descriptors, available: driver, used: device, .. } = *setup;
        let is_place = |address: u64, length: u64, align| {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            address.is_multiple_of(align)
                && memory.space().check_range(GuestAddress(address), length)
        };
        let bytes = u64::from(size).saturating_mul(DESCRIPTOR);
        let is_valid = (1..=MOST).contains(&size)
            && is_place(descriptors, bytes, DESCRIPTOR)
            && is_place(driver, EVENT, EVENT)
            && is_place(device, EVENT, EVENT);
        let Base::Packed { available, used } = setup.base else { return Err(invalid()) };
        let taken = available.since(used, size).ok_or_else(invalid)?;
        if !is_valid {
            return Err(invalid());
        }
        let mut packed = Self {
            size,
            ring: descriptors,
            driver,
            device,
            event_index: setup.event_index,
            indirect: setup.indirect,
            record,
            again: VecDeque::new(),
            available,
            used,
            taken,
            seen: 0,
            ids: vec![false; usize::from(size)],
            unpublished: Batch::default(),
            unnotified: 0,
            kicks: u32::MAX, // not known
        };
        packed.recover(memory)?;
        Ok(packed)
    }

    fn recover(&mut self, memory: &Memory) -> Result<(), QueueError> {
        let Some(mut record) = self.record.take() else { return Ok(()) };
        let ring = self.descriptors(memory);
        let recovered = record.recover(|position| ring.flags(position.index).ok());
        if let Some(recovered) = recovered {
            // The frontend can't know how far the former process was.
            self.used = recovered.used;
            self.available = recovered.used;
            self.taken = 0;
            if self.is_untouched(&ring, &record, &recovered.under_way) {
                // As if nobody had taken them, so that they can even be given back. If this process
                // is killed meanwhile, those that are left are still the ring's first.
                recovered.under_way.iter().rev().for_each(|taken| record.undo(taken.entry));
            } else {
                let descriptors = recovered.under_way.iter().map(|taken| taken.descriptors);
                self.taken = descriptors.fold(0, u16::saturating_add);
                self.available = self.used.after(self.taken, self.size);
                self.again = recovered.under_way.into();
                self.take_back_used(memory)?;
            }
        } else {
            record.begin_at(self.used);
        }
        self.record = Some(record);
        Ok(())
    }

    /// These chains are still in the ring, one after the other.
    fn is_untouched(&self, ring: &Descriptors, record: &PackedRecord, chains: &[Taken]) -> bool {
        let mut at = self.used;
        for recorded in chains.iter().flat_map(|&taken| record.chain(taken)) {
            let same = ring.read(at.index).is_ok_and(|there| {
                (there.addr(), there.len(), there.id(), there.flags())
                    == (recorded.addr(), recorded.len(), recorded.id(), recorded.flags())
            });
            if !same || Position::owner(recorded.flags()) != at.available() {
                return false;
            }
            at = at.after(1, self.size);
        }
        true
    }

    /// A batch of which the driver did not see the first used descriptor never was: neither must it see
    /// the others, when it gets that far.
    fn take_back_used(&self, memory: &Memory) -> Result<(), QueueError> {
        let ring = self.descriptors(memory);
        let mut at = self.used;
        for _ in 0..self.taken {
            let flags = ring.flags(at.index).map_err(|_| QueueError::Available)?;
            if Position::owner(flags) == at.used() {
                let flags = flags & !Position::owner(flags) | at.available();
                let place = self.place(at.index, 14);
                let stored = memory.store(flags.to_le(), place, Ordering::Relaxed);
                stored.ok_or(QueueError::Used)?;
            }
            at = at.after(1, self.size);
        }
        Ok(())
    }

    fn descriptors<'a>(&self, memory: &'a Memory) -> Descriptors<'a> {
        Descriptors::new(memory, self.ring, self.size)
    }

    fn place(&self, index: u16, field: u64) -> u64 {
        let offset = u64::from(index).saturating_mul(DESCRIPTOR).saturating_add(field);
        self.ring.saturating_add(offset)
    }

    pub(super) fn base(&self) -> Base {
        Base::Packed { available: self.available, used: self.used }
    }

    pub(super) fn clear_record(&mut self) {
        if let Some(record) = &mut self.record {
            record.clear();
        }
    }

    pub(super) fn next(
        &mut self,
        memory: &std::sync::Arc<Memory>,
        spare: &mut Spare,
    ) -> Result<Option<Chain>, QueueError> {
        if let Some(taken) = self.again.pop_front() {
            return self.take_again(taken, spare.get(memory)).map(Some);
        }
        let ring = self.descriptors(memory);
        let first = self.available;
        let flags = ring.flags(first.index).map_err(|_| QueueError::Available)?;
        if Position::owner(flags) != first.available() {
            return Ok(None);
        }
        let room = self.size.saturating_sub(self.taken);
        if room == 0 {
            return Err(QueueError::Available);
        }
        let mut chain = spare.get(memory);
        let Self { size, indirect, record, .. } = self;
        let mut at = first;
        let parsed = chain.parse_packed(room, *indirect, || {
            let descriptor = ring.read(at.index)?;
            at = at.after(1, *size);
            if let Some(record) = record {
                record.store(descriptor);
            }
            Ok(descriptor)
        });
        let malformed = |error| QueueError::Chain { head: first.index, error };
        let descriptors = parsed.map_err(malformed)?;
        self.claim(chain.head()).map_err(malformed)?;
        let entry = self.record.as_mut().map_or(0, PackedRecord::begin);
        chain.set_place(Place { descriptors, entry, again: false });
        self.available = at;
        self.taken = self.taken.saturating_add(descriptors);
        self.seen = self.seen.saturating_sub(descriptors);
        Ok(Some(chain))
    }

    /// A chain as it was when a former process took it: used descriptors may be in its place.
    fn take_again(&mut self, taken: Taken, mut chain: Chain) -> Result<Chain, QueueError> {
        let Taken { entry, descriptors } = taken;
        let missing = ChainError::Endless(descriptors);
        let mut copies = self.record.iter().flat_map(|record| record.chain(taken));
        let parsed =
            chain.parse_packed(descriptors, self.indirect, || copies.next().ok_or(missing));
        let malformed = |error| QueueError::Chain { head: entry, error };
        parsed.map_err(malformed)?;
        drop(copies);
        self.claim(chain.head()).map_err(malformed)?;
        chain.set_place(Place { descriptors, entry, again: true });
        Ok(chain)
    }

    fn claim(&mut self, id: u16) -> Result<(), ChainError> {
        match self.ids.get_mut(usize::from(id)) {
            Some(used) if !*used => *used = true,
            _ => return Err(ChainError::Id(id)),
        }
        Ok(())
    }

    fn release(&mut self, id: u16) {
        if let Some(used) = self.ids.get_mut(usize::from(id)) {
            *used = false;
        }
    }

    pub(super) fn give_back(&mut self, chain: &Chain) {
        let Place { descriptors, entry, again } = chain.place();
        self.release(chain.head());
        if again {
            self.again.push_front(Taken { entry, descriptors });
            return;
        }
        if let Some(record) = &mut self.record {
            record.undo(entry);
        }
        self.available = self.available.before(descriptors, self.size);
        self.taken = self.taken.saturating_sub(descriptors);
        self.seen = self.seen.saturating_add(descriptors);
    }

    pub(super) fn complete(
        &mut self,
        memory: &Memory,
        chain: &Chain,
        written: u32,
    ) -> Result<(), QueueError> {
        let Place { descriptors, entry, .. } = chain.place();
        let at = self.used;
        // The length counts only with WRITE (2.8.4).
        let flags = at.used() | if written > 0 { WRITE } else { 0 };
        let element = u64::from(written)
            | u64::from(chain.head()).wrapping_shl(32)
            | u64::from(flags).wrapping_shl(48);
        match self.unpublished.first {
            None => self.unpublished.first = Some((at, element)),
            Some(_) => self.write_used(memory, at, element, Ordering::Relaxed)?,
        }
        self.used = at.after(descriptors, self.size);
        self.release(chain.head());
        self.unpublished.descriptors = self.unpublished.descriptors.saturating_add(descriptors);
        self.unpublished.entries.push(entry);
        Ok(())
    }

    /// `len`, `id` and `flags`, which the driver sees together.
    fn write_used(
        &self,
        memory: &Memory,
        at: Position,
        element: u64,
        order: Ordering,
    ) -> Result<(), QueueError> {
        let place = self.place(at.index, 8);
        memory.store(element.to_le(), place, order).ok_or(QueueError::Used)
    }

    /// `true` if there was something.
    pub(super) fn publish(&mut self, memory: &Memory) -> Result<bool, QueueError> {
        let Some((at, element)) = self.unpublished.first.take() else { return Ok(false) };
        if let Some(record) = &mut self.record {
            record.finishing(&self.unpublished.entries, self.used);
        }
        let written = self.write_used(memory, at, element, Ordering::Release);
        if written.is_ok()
            && let Some(record) = &mut self.record
        {
            record.finished(&self.unpublished.entries);
        }
        let count = std::mem::take(&mut self.unpublished.descriptors);
        self.unpublished.entries.clear();
        self.taken = self.taken.saturating_sub(count);
        self.unnotified = self.unnotified.saturating_add(count);
        written.map(|()| true)
    }

    pub(super) fn driver_wants_notification(
        &mut self,
        memory: &Memory,
    ) -> Result<bool, QueueError> {
        // What was published comes before what the driver is found to want (2.8.22).
        fence(Ordering::SeqCst);
        let count = std::mem::take(&mut self.unnotified);
        let wanted = memory.load(self.driver, Ordering::Relaxed);
        let wanted = wanted.map(u32::from_le).ok_or(QueueError::Available)?;
        let (position, flags) = (wanted & 0xffff, wanted >> 16 & 3);
        if flags == DISABLE {
            return Ok(false);
        }
        if flags != ONE || !self.event_index || count >= self.size {
            return Ok(true);
        }
        // Whether the descriptor at the position is one of those that were used since.
        let wanted = Position::of(u16::try_from(position).unwrap_or(0));
        let last = self.used.since(wanted, self.size);
        Ok(last.is_some_and(|distance| (1..=count).contains(&distance)))
    }

    /// Whether there are requests that were not there at the last look.
    pub(super) fn has_news(&mut self, memory: &Memory) -> Result<bool, QueueError> {
        let ring = self.descriptors(memory);
        let before = self.seen;
        let most = self.size.saturating_sub(self.taken);
        let mut at = self.available.after(self.seen, self.size);
        while self.seen < most {
            let flags = ring.flags(at.index).map_err(|_| QueueError::Available)?;
            if Position::owner(flags) != at.available() {
                break;
            }
            self.seen = self.seen.saturating_add(1);
            at = at.after(1, self.size);
        }
        Ok(self.seen != before)
    }

    /// With the event index the driver kicks when it makes the descriptor available that is told here
    /// (2.8.10): the next one, since what was left in the ring on purpose has been passed already.
    pub(super) fn enable_kicks(&mut self, memory: &Memory) -> Result<bool, QueueError> {
        let mut news = self.has_news(memory)?;
        let wanted = if self.event_index {
            let next = self.available.after(self.seen, self.size);
            u32::from(next.value()) | ONE.wrapping_shl(16)
        } else {
            ENABLE.wrapping_shl(16)
        };
        self.want_kicks(memory, wanted)?;
        fence(Ordering::SeqCst);
        news |= self.has_news(memory)?;
        Ok(news || !self.again.is_empty())
    }

    /// With the event index the driver has passed the descriptor that it was told.
    pub(super) fn disable_kicks(&mut self, memory: &Memory) -> Result<(), QueueError> {
        if self.event_index {
            return Ok(());
        }
        self.want_kicks(memory, DISABLE.wrapping_shl(16))
    }

    fn want_kicks(&mut self, memory: &Memory, wanted: u32) -> Result<(), QueueError> {
        if std::mem::replace(&mut self.kicks, wanted) == wanted {
            return Ok(());
        }
        let stored = memory.store(wanted.to_le(), self.device, Ordering::Relaxed);
        stored.ok_or(QueueError::Used)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.again.is_empty() && self.available == self.used
    }
}
