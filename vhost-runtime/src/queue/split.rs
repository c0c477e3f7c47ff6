//! A split ring (virtio 1.2, 2.7).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_bindings::bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue as Ring, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::{Base, QueueError, RingSetup, Spare};
use crate::chain::{Chain, Place};
use crate::inflight::QueueRecord;
use crate::memory::Memory;

/// Bytes of an entry of the available ring, and of one of the used ring.
const HEAD: u64 = 2;
const USED_ELEMENT: u64 = 8;

/// Where an entry of `width` bytes is, behind the ring's flags and index (virtio 1.2, 2.7.6 and
/// 2.7.8). Behind the last one is the event index.
fn entry(ring: u64, number: u16, width: u64) -> u64 {
    ring.saturating_add(u64::from(number).saturating_mul(width).saturating_add(4))
}

/// The device's side of it.
#[derive(Debug)]
pub(super) struct Split {
    ring: Ring,
    indirect: bool,
    record: Option<QueueRecord>,
    /// Requests that come before new ones: of a former process, or given back.
    again: VecDeque<u16>,
    /// How many of those, the first ones, a former process took, and are in the record.
    recorded: usize,
    /// The available index as last read.
    available: u16,
    /// The available index at the last look whether there are new requests.
    seen: u16,
    /// Heads that are in the used ring, past the index that the driver sees.
    unpublished: Vec<u16>,
    /// The used index when it was last decided whether to notify the driver.
    notified: u16,
}

impl Split {
    /// Goes on where the frontend says, or where a former process's record says.
    pub(super) fn start(
        index: usize,
        setup: &RingSetup,
        memory: &Memory,
        mut record: Option<QueueRecord>,
    ) -> Result<Self, QueueError> {
        let invalid = |_| QueueError::Invalid(index);
        let mut ring = Ring::new(setup.size).map_err(invalid)?;
        ring.try_set_desc_table_address(GuestAddress(setup.descriptors)).map_err(invalid)?;
        ring.try_set_avail_ring_address(GuestAddress(setup.available)).map_err(invalid)?;
        ring.try_set_used_ring_address(GuestAddress(setup.used)).map_err(invalid)?;
        ring.set_event_idx(setup.event_index);
        ring.set_ready(true);
        let Base::Split(mut base) = setup.base else { return Err(QueueError::Invalid(index)) };
        if !ring.is_valid(memory.space()) {
            return Err(QueueError::Invalid(index));
        }
        let used = ring
            .used_idx(memory.space(), Ordering::Acquire)
            .map_err(|_| QueueError::Invalid(index))?
            .0;
        let mut again = VecDeque::new();
        if let Some(record) = &mut record
            && let Some(under_way) = record.recover(used)
        {
            // What a former process took from the ring and did not complete lies between the used
            // index and the base. The frontend's own idea of the base may be where the driver is.
            base = used.wrapping_add(u16::try_from(under_way.len()).unwrap_or(0));
            let head = |index: u16| {
                let slot = index.checked_rem(setup.size).unwrap_or(0);
                memory.load(entry(setup.available, slot, HEAD), Ordering::Relaxed)
            };
            let mut heads = (0..=u16::MAX).map(|number| head(used.wrapping_add(number)));
            if under_way.iter().all(|it| heads.next() == Some(Some(it.to_le()))) {
                // The ring still has them: as if nobody had taken them, so that they can be given
                // back. If this process is killed meanwhile, those left are still the first ones.
                under_way.iter().rev().for_each(|&head| record.undo(head));
                base = used;
            } else {
                again = under_way.into();
            }
        }
        ring.set_next_avail(base);
        ring.set_next_used(used);
        Ok(Self {
            ring,
            indirect: setup.indirect,
            record,
            recorded: again.len(),
            again,
            available: base,
            seen: base,
            unpublished: Vec::new(),
            notified: used,
        })
    }

    pub(super) fn base(&self) -> Base {
        let back = self.again.len().saturating_sub(self.recorded);
        let back = u16::try_from(back).unwrap_or(u16::MAX);
        Base::Split(self.ring.next_avail().wrapping_sub(back))
    }

    pub(super) fn clear_record(&mut self) {
        if let Some(record) = &mut self.record {
            record.clear();
        }
    }

    pub(super) fn next(
        &mut self,
        memory: &Arc<Memory>,
        spare: &mut Spare,
    ) -> Result<Option<Chain>, QueueError> {
        let is_recorded = self.recorded > 0;
        self.recorded = self.recorded.saturating_sub(1);
        let head = match self.again.pop_front() {
            Some(head) => head,
            None => match self.next_head(memory)? {
                Some(head) => head,
                None => return Ok(None),
            },
        };
        let table = self.ring.desc_table();
        let mut chain = spare.get(memory);
        chain
            .parse(table, self.ring.size(), head, self.indirect)
            .map_err(|error| QueueError::Chain { head, error })?;
        chain.set_place(Place { again: is_recorded, ..Place::default() });
        // What is recorded keeps its place among the others that are.
        if !is_recorded && let Some(record) = &mut self.record {
            record.begin(head);
        }
        Ok(Some(chain))
    }

    fn next_head(&mut self, memory: &Memory) -> Result<Option<u16>, QueueError> {
        let next = self.ring.next_avail();
        if next == self.available {
            let available = self.newest(memory)?;
            // What is with the device, as the driver sees it, is no more than the ring holds: so a driver that
            // makes the same available again and again does not keep a worker for ever.
            let unseen = u16::try_from(self.unpublished.len()).unwrap_or(u16::MAX);
            let published = self.ring.next_used().wrapping_sub(unseen);
            let with_device = available.wrapping_sub(published);
            if available.wrapping_sub(next) > self.ring.size() || with_device > self.ring.size() {
                return Err(QueueError::Available);
            }
            if available == next {
                return Ok(None);
            }
            self.available = available;
            self.seen = available;
        }
        let address = entry(self.ring.avail_ring(), self.slot(next), HEAD);
        let head: u16 = memory.load(address, Ordering::Relaxed).ok_or(QueueError::Available)?;
        self.ring.set_next_avail(next.wrapping_add(1));
        Ok(Some(u16::from_le(head)))
    }

    pub(super) fn give_back(&mut self, chain: &Chain) {
        if chain.place().again {
            self.recorded = self.recorded.saturating_add(1);
        } else if let Some(record) = &mut self.record {
            record.undo(chain.head());
        }
        self.again.push_front(chain.head());
    }

    pub(super) fn complete(
        &mut self,
        memory: &Memory,
        chain: &Chain,
        written: u32,
    ) -> Result<(), QueueError> {
        let head = chain.head();
        let slot = self.slot(self.ring.next_used());
        let address = entry(self.ring.used_ring(), slot, USED_ELEMENT);
        // `struct virtq_used_elem`: le32 id, le32 len, which the ring need not have aligned as one.
        let (id, length) = (u32::from(head).to_le(), written.to_le());
        let stored = match memory.slice(address, USED_ELEMENT) {
            Some(place) if place.len() as u64 == USED_ELEMENT => {
                let id = place.store(id, 0, Ordering::Relaxed);
                id.and_then(|()| place.store(length, 4, Ordering::Relaxed)).ok()
            }
            // It goes on in another region.
            _ => memory
                .store(id, address, Ordering::Relaxed)
                .and_then(|()| memory.store(length, address.saturating_add(4), Ordering::Relaxed)),
        };
        stored.ok_or(QueueError::Used)?;
        self.ring.set_next_used(self.ring.next_used().wrapping_add(1));
        if let Some(record) = &mut self.record {
            record.finishing(head);
        }
        self.unpublished.push(head);
        Ok(())
    }

    /// `true` if there was something.
    pub(super) fn publish(&mut self, memory: &Memory) -> Result<bool, QueueError> {
        if self.unpublished.is_empty() {
            return Ok(false);
        }
        let used = self.ring.next_used();
        let address = self.ring.used_ring().saturating_add(2);
        if memory.store(used.to_le(), address, Ordering::Release).is_none() {
            self.unpublished.clear();
            return Err(QueueError::Used);
        }
        if let Some(record) = &mut self.record {
            record.finished(&self.unpublished, used);
        }
        self.unpublished.clear();
        Ok(true)
    }

    pub(super) fn driver_wants_notification(
        &mut self,
        memory: &Memory,
    ) -> Result<bool, QueueError> {
        // What was published comes before what the driver is found to want (virtio 1.2, 2.7.7.2).
        fence(Ordering::SeqCst);
        let used = self.ring.next_used();
        let notified = std::mem::replace(&mut self.notified, used);
        if self.ring.event_idx_enabled() {
            let address = entry(self.ring.avail_ring(), self.ring.size(), HEAD);
            let event: u16 =
                memory.load(address, Ordering::Relaxed).ok_or(QueueError::Available)?;
            let event = u16::from_le(event);
            // Whether the index passed the one after which the driver wants to be told.
            let passed = used.wrapping_sub(event).wrapping_sub(1);
            return Ok(passed < used.wrapping_sub(notified));
        }
        let flags: u16 =
            memory.load(self.ring.avail_ring(), Ordering::Relaxed).ok_or(QueueError::Available)?;
        Ok(u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0)
    }

    /// Whether there are requests that were not there at the last look.
    pub(super) fn has_news(&mut self, memory: &Memory) -> Result<bool, QueueError> {
        let available = self.newest(memory)?;
        Ok(self.is_news(available))
    }

    fn is_news(&mut self, available: u16) -> bool {
        available != std::mem::replace(&mut self.seen, available)
            && available != self.ring.next_avail()
    }

    /// With the event index the driver kicks when it passes the one told here (virtio 1.2, 2.7.10): the
    /// newest one, since what was left in the ring on purpose has been passed already.
    pub(super) fn enable_kicks(&mut self, memory: &Memory) -> Result<bool, QueueError> {
        if self.ring.event_idx_enabled() {
            let newest = self.newest(memory)?;
            let event = entry(self.ring.used_ring(), self.ring.size(), USED_ELEMENT);
            memory.store(newest.to_le(), event, Ordering::Relaxed).ok_or(QueueError::Used)?;
            fence(Ordering::SeqCst);
        } else {
            self.ring.enable_notification(memory.space()).map_err(|_| QueueError::Used)?;
        }
        let available = self.newest(memory)?;
        Ok(self.is_news(available) || !self.again.is_empty())
    }

    pub(super) fn disable_kicks(&mut self, memory: &Memory) -> Result<(), QueueError> {
        self.ring.disable_notification(memory.space()).map_err(|_| QueueError::Used)
    }

    /// The entry of a ring that an index of requests or completions stands for.
    fn slot(&self, index: u16) -> u16 {
        index.checked_rem(self.ring.size()).unwrap_or(0)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.again.is_empty() && self.ring.next_avail() == self.ring.next_used()
    }

    /// The available index as it is now.
    fn newest(&self, memory: &Memory) -> Result<u16, QueueError> {
        let address = self.ring.avail_ring().saturating_add(2);
        memory.load(address, Ordering::Acquire).map(u16::from_le).ok_or(QueueError::Available)
    }
}
