//! The books of a split ring.

use std::sync::atomic::{Ordering, fence};

use virtio_bindings::bindings::virtio_ring::{VRING_AVAIL_F_NO_INTERRUPT, VRING_USED_F_NO_NOTIFY};

use super::shared::{DESCRIPTOR, Shared};
use super::{Buffer, Descriptor, INDIRECT, Layout, NEXT, RingError, RingFeatures, Used, buffers};
use crate::frontend::memory::Memory;

/// What is known of the chain that begins at a descriptor.
#[derive(Clone, Copy, Debug, Default)]
struct Chain {
    token: u64,
    /// Bytes that the device may write.
    room: u32,
    /// Its last descriptor, which links the free list.
    last: u16,
    /// Descriptors of the ring that it takes.
    descriptors: u16,
    /// When it was added: chains that are offered again keep their order.
    number: u64,
    under_way: bool,
}

/// The driver's side of it.
#[derive(Debug)]
pub(super) struct Split {
    pub(super) shared: Shared,
    layout: Layout,
    features: RingFeatures,
    /// For each descriptor, the next in its chain or in the free list.
    next: Vec<u16>,
    chains: Vec<Chain>,
    free: u16,
    free_count: u16,
    under_way: u16,
    /// Chains added so far.
    count: u64,
    /// The available index, and what of it the device can see.
    available: u16,
    published: u16,
    used: u16,
}

impl Split {
    pub(super) fn new(
        memory: &Memory,
        layout: Layout,
        features: RingFeatures,
    ) -> Result<Self, RingError> {
        if !layout.size.is_power_of_two() {
            return Err(RingError::Size(layout.size));
        }
        let mut ring = Self {
            shared: Shared::new(memory, &layout)?,
            layout,
            features,
            next: Vec::new(),
            chains: Vec::new(),
            free: 0,
            free_count: 0,
            under_way: 0,
            count: 0,
            available: 0,
            published: 0,
            used: 0,
        };
        ring.clear();
        Ok(ring)
    }

    pub(super) fn under_way(&self) -> u16 {
        self.under_way
    }

    pub(super) fn clear(&mut self) {
        let size = self.layout.size;
        self.next = (1..=size).collect();
        self.chains = vec![Chain::default(); usize::from(size)];
        (self.free, self.free_count) = (0, size);
        (self.under_way, self.count) = (0, 0);
        self.rewind();
    }

    fn rewind(&mut self) {
        (self.available, self.published, self.used) = (0, 0, 0);
        self.shared.set_available_index(0);
        self.shared.set_used_index(0);
        self.disable_calls();
    }

    pub(super) fn offer_again(&mut self) {
        let mut heads: Vec<(u64, u16)> = (0..self.layout.size)
            .zip(&self.chains)
            .filter_map(|(head, chain)| chain.under_way.then_some((chain.number, head)))
            .collect();
        heads.sort_unstable();
        self.rewind();
        for (_, head) in heads {
            self.shared.set_available(self.available, head);
            self.available = self.available.wrapping_add(1);
        }
        self.published = self.available;
        self.shared.set_available_index(self.available);
    }

    pub(super) fn add(
        &mut self,
        readable: &[Buffer],
        writable: &[Buffer],
        token: u64,
    ) -> Result<bool, RingError> {
        let (count, indirect) = self.features.count(readable, writable, self.layout.size)?;
        let taken = if indirect { 1 } else { count };
        if taken > self.free_count {
            return Ok(false);
        }
        let head = self.free;
        let buffers = buffers(readable, writable);
        let mut last = head;
        if indirect {
            for (entry, (buffer, flags)) in (0..count).zip(buffers) {
                let next = entry + 1;
                let more = if next < count { NEXT } else { 0 };
                let Buffer { address, length } = *buffer;
                let descriptor = Descriptor { address, length, flags: flags | more, next };
                self.shared.set_indirect(head, entry, descriptor);
            }
            let table = u64::from(head) * Layout::TABLE * DESCRIPTOR;
            let descriptor = Descriptor {
                address: self.layout.tables + table,
                length: u32::from(count) * DESCRIPTOR as u32,
                flags: INDIRECT,
                next: 0,
            };
            self.shared.set_descriptor(head, descriptor);
        } else {
            let mut index = head;
            for (number, (buffer, flags)) in (1..=count).zip(buffers) {
                let next = self.next_of(index);
                let more = if number < count { NEXT } else { 0 };
                let Buffer { address, length } = *buffer;
                let descriptor = Descriptor { address, length, flags: flags | more, next };
                self.shared.set_descriptor(index, descriptor);
                last = index;
                index = next;
            }
        }
        let room = super::room(writable);
        self.free = self.next_of(last);
        self.free_count -= taken;
        self.begin(head, Chain { token, room, last, descriptors: taken, ..Chain::default() });
        Ok(true)
    }

    fn next_of(&self, index: u16) -> u16 {
        self.next.get(usize::from(index)).copied().unwrap_or(0)
    }

    fn begin(&mut self, head: u16, chain: Chain) {
        let number = self.count;
        self.count += 1;
        if let Some(place) = self.chains.get_mut(usize::from(head)) {
            *place = Chain { number, under_way: true, ..chain };
            self.under_way += 1;
        }
        self.shared.set_available(self.available, head);
        self.available = self.available.wrapping_add(1);
    }

    pub(super) fn take(&mut self) -> Result<Option<Used>, RingError> {
        let (from, to) = (self.used, self.shared.used_index());
        if from == to {
            return Ok(None);
        }
        if to.wrapping_sub(from) > self.under_way {
            return Err(RingError::UsedIndex { from, to, under_way: self.under_way });
        }
        let (id, written) = self.shared.used(from);
        let unknown = RingError::UsedId(id);
        let Ok(head) = u16::try_from(id) else { return Err(unknown) };
        let Some(place) = self.chains.get_mut(usize::from(head)) else { return Err(unknown) };
        let chain = *place;
        if !chain.under_way {
            return Err(unknown);
        }
        if written > chain.room {
            return Err(RingError::UsedLength { head, written, room: chain.room });
        }
        place.under_way = false;
        self.under_way -= 1;
        self.used = from.wrapping_add(1);
        if chain.descriptors > 0 {
            if let Some(next) = self.next.get_mut(usize::from(chain.last)) {
                *next = self.free;
            }
            self.free = head;
            self.free_count += chain.descriptors;
        }
        Ok(Some(Used { token: chain.token, written }))
    }

    /// Shows the device what was added. `true`: it wants to be kicked.
    pub(super) fn show(&mut self) -> bool {
        let (old, new) = (self.published, self.available);
        if old == new {
            return false;
        }
        self.shared.set_available_index(new);
        self.published = new;
        fence(Ordering::SeqCst);
        if self.features.event_index {
            // virtio 1.2, 2.7.7.2: the index passed the event's.
            let event = self.shared.available_event();
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            u32::from(self.shared.used_flags()) & VRING_USED_F_NO_NOTIFY == 0
        }
    }

    pub(super) fn disable_calls(&mut self) {
        if self.features.event_index {
            // An index that the used index has just passed.
            self.shared.set_used_event(self.used.wrapping_sub(1));
        } else {
            self.shared.set_available_flags(VRING_AVAIL_F_NO_INTERRUPT as u16);
        }
    }

    /// `true`: there is a completion already.
    pub(super) fn enable_calls(&mut self) -> bool {
        if self.features.event_index {
            self.shared.set_used_event(self.used);
        } else {
            self.shared.set_available_flags(0);
        }
        fence(Ordering::SeqCst);
        self.shared.used_index() != self.used
    }

    /// Puts any number into the available ring.
    pub(super) fn offer_raw(&mut self, head: u16) {
        self.shared.set_available(self.available, head);
        self.available = self.available.wrapping_add(1);
    }

    /// So many more heads than there are.
    pub(super) fn skip_raw(&mut self, more: u16) {
        self.available = self.available.wrapping_add(more);
    }

    pub(super) fn take_raw(&mut self) -> Option<(u32, u32)> {
        if self.used == self.shared.used_index() {
            return None;
        }
        let element = self.shared.used(self.used);
        self.used = self.used.wrapping_add(1);
        Some(element)
    }
}
