//! The books of a packed ring (virtio 1.2, 2.8).

use std::sync::atomic::{Ordering, fence};

use vhost_runtime::queue::{Base, Position};
use virtio_bindings::bindings::virtio_ring::{
    VRING_PACKED_EVENT_FLAG_DESC, VRING_PACKED_EVENT_FLAG_DISABLE, VRING_PACKED_EVENT_FLAG_ENABLE,
};

use super::shared::{DESCRIPTOR, PackedShared};
use super::{
    Buffer, Descriptor, INDIRECT, Layout, NEXT, RingError, RingFeatures, Used, WRITE, buffers,
};
use crate::frontend::memory::Memory;

const ENABLE: u16 = VRING_PACKED_EVENT_FLAG_ENABLE as u16;
const DISABLE: u16 = VRING_PACKED_EVENT_FLAG_DISABLE as u16;
const ONE: u16 = VRING_PACKED_EVENT_FLAG_DESC as u16;

/// What is known of the chain that has a buffer ID.
#[derive(Clone, Debug, Default)]
struct Chain {
    token: u64,
    /// Bytes that the device may write.
    room: u32,
    /// Its descriptors as they were, since the device writes over them.
    descriptors: Vec<Descriptor>,
    /// When it was added: chains that are offered again keep their order.
    number: u64,
    under_way: bool,
}

impl Chain {
    /// Descriptors of the ring, which never has more than 2^15.
    fn length(&self) -> u16 {
        u16::try_from(self.descriptors.len()).unwrap_or(u16::MAX)
    }
}

/// The driver's side of it.
#[derive(Debug)]
pub(super) struct Packed {
    shared: PackedShared,
    layout: Layout,
    features: RingFeatures,
    /// By their buffer IDs.
    chains: Vec<Chain>,
    free: Vec<u16>,
    /// Descriptors that the device does not have.
    free_count: u16,
    under_way: u16,
    /// Chains added so far.
    count: u64,
    /// The next descriptor to be made available, and the next that the device is to use.
    available: Position,
    used: Position,
    /// Where the first descriptor is that the device can't see yet, and the flags by which it sees it
    /// and all that come after it.
    hidden: Option<(u16, u16)>,
    /// How many it can't see yet.
    unpublished: u16,
    /// Of a driver that breaks the rules.
    raw: Vec<(u16, Descriptor)>,
}

impl Packed {
    pub(super) fn new(
        memory: &Memory,
        layout: Layout,
        features: RingFeatures,
    ) -> Result<Self, RingError> {
        if !(1..=Layout::MOST).contains(&layout.size) {
            return Err(RingError::Size(layout.size));
        }
        let mut ring = Self {
            shared: PackedShared::new(memory, &layout)?,
            layout,
            features,
            chains: Vec::new(),
            free: Vec::new(),
            free_count: 0,
            under_way: 0,
            count: 0,
            available: Position::START,
            used: Position::START,
            hidden: None,
            unpublished: 0,
            raw: Vec::new(),
        };
        ring.clear();
        Ok(ring)
    }

    pub(super) fn under_way(&self) -> u16 {
        self.under_way
    }

    pub(super) fn clear(&mut self) {
        let size = self.layout.size;
        self.chains = vec![Chain::default(); usize::from(size)];
        self.free = (0..size).rev().collect();
        (self.under_way, self.count) = (0, 0);
        self.rewind();
    }

    fn rewind(&mut self) {
        (self.available, self.used) = (Position::START, Position::START);
        self.free_count = self.layout.size;
        (self.hidden, self.unpublished) = (None, 0);
        self.raw.clear();
        for index in 0..self.layout.size {
            self.shared.put(index, Descriptor::default());
        }
        self.disable_calls();
    }

    pub(super) fn offer_again(&mut self) {
        let mut ids: Vec<(u64, u16)> = (0..self.layout.size)
            .zip(&self.chains)
            .filter_map(|(id, chain)| chain.under_way.then_some((chain.number, id)))
            .collect();
        ids.sort_unstable();
        self.rewind();
        for (_, id) in ids {
            self.write(id);
        }
        self.show();
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
        let Some(id) = self.free.pop() else { return Ok(false) };
        let Some(chain) = self.chains.get_mut(usize::from(id)) else { return Ok(false) };
        chain.descriptors.clear();
        if indirect {
            for (entry, (buffer, flags)) in (0..count).zip(buffers(readable, writable)) {
                let Buffer { address, length } = *buffer;
                self.shared.set_indirect(id, entry, Descriptor { address, length, flags, next: 0 });
            }
            let table = u64::from(id) * Layout::TABLE * DESCRIPTOR;
            chain.descriptors.push(Descriptor {
                address: self.layout.tables + table,
                length: u32::from(count) * DESCRIPTOR as u32,
                flags: INDIRECT,
                next: id,
            });
        } else {
            for (number, (buffer, flags)) in (1..=count).zip(buffers(readable, writable)) {
                let more = if number < count { NEXT } else { 0 };
                let Buffer { address, length } = *buffer;
                chain.descriptors.push(Descriptor {
                    address,
                    length,
                    flags: flags | more,
                    next: id,
                });
            }
        }
        (chain.token, chain.room) = (token, super::room(writable));
        (chain.number, chain.under_way) = (self.count, true);
        self.count += 1;
        self.under_way += 1;
        self.write(id);
        Ok(true)
    }

    /// Puts a chain into the ring.
    fn write(&mut self, id: u16) {
        let Self { shared, chains, available, layout, hidden, .. } = self;
        let Some(chain) = chains.get(usize::from(id)) else { return };
        for &descriptor in &chain.descriptors {
            let flags = descriptor.flags | available.available();
            if hidden.is_none() {
                *hidden = Some((available.index, flags));
                shared.put_hidden(available.index, descriptor);
            } else {
                shared.put(available.index, Descriptor { flags, ..descriptor });
            }
            *available = available.after(1, layout.size);
        }
        self.free_count -= chain.length();
        self.unpublished += chain.length();
    }

    pub(super) fn take(&mut self) -> Result<Option<Used>, RingError> {
        let Some((id, written)) = self.used_at(self.used) else { return Ok(None) };
        let unknown = RingError::UsedId(id.into());
        let Some(chain) = self.chains.get_mut(usize::from(id)) else { return Err(unknown) };
        if !chain.under_way {
            return Err(unknown);
        }
        if written > chain.room {
            return Err(RingError::UsedLength { head: id, written, room: chain.room });
        }
        chain.under_way = false;
        let used = Used { token: chain.token, written };
        let length = chain.length();
        self.under_way -= 1;
        self.used = self.used.after(length, self.layout.size);
        self.free_count += length;
        self.free.push(id);
        Ok(Some(used))
    }

    /// What the device says there that it has used: a buffer ID, and bytes that it wrote.
    fn used_at(&self, position: Position) -> Option<(u16, u32)> {
        let flags = self.shared.flags(position.index);
        if Position::owner(flags) != position.used() {
            return None;
        }
        let (id, length) = self.shared.used(position.index);
        // The length counts only with WRITE (2.8.4).
        Some((id, if flags & WRITE != 0 { length } else { 0 }))
    }

    pub(super) fn base(&self) -> Base {
        let mut position = self.used;
        for _ in 0..self.under_way {
            let Some((id, _)) = self.used_at(position) else { break };
            let Some(chain) = self.chains.get(usize::from(id)) else { break };
            position = position.after(chain.length(), self.layout.size);
        }
        Base::Packed { available: position, used: position }
    }

    /// Shows the device what was added. `true`: it wants to be kicked.
    pub(super) fn show(&mut self) -> bool {
        while let Some((index, descriptor)) = self.raw.pop() {
            let place = self.available.after(index, self.layout.size);
            let flags = descriptor.flags ^ place.available();
            self.shared.put(place.index, Descriptor { flags, ..descriptor });
        }
        let Some((index, flags)) = self.hidden.take() else { return false };
        self.shared.set_flags(index, flags);
        let count = std::mem::take(&mut self.unpublished);
        fence(Ordering::SeqCst);
        let (position, flags) = self.shared.wanted();
        match flags & 3 {
            DISABLE => false,
            ONE if self.features.event_index && count < self.layout.size => {
                // Whether the descriptor there is one of those that were added.
                let distance = self.available.since(Position::of(position), self.layout.size);
                distance.is_some_and(|distance| (1..=count).contains(&distance))
            }
            _ => true,
        }
    }

    pub(super) fn disable_calls(&mut self) {
        self.shared.want(0, DISABLE);
    }

    /// `true`: there is a completion already.
    pub(super) fn enable_calls(&mut self) -> bool {
        if self.features.event_index {
            self.shared.want(self.used.value(), ONE);
        } else {
            self.shared.want(0, ENABLE);
        }
        fence(Ordering::SeqCst);
        self.used_at(self.used).is_some()
    }

    /// Any descriptor at any place, which is available unless its own flags take that back.
    pub(super) fn set_raw(&mut self, index: u16, descriptor: Descriptor) {
        if index < self.layout.size {
            self.raw.push((index, descriptor));
        }
    }

    pub(super) fn take_raw(&mut self) -> Option<(u32, u32)> {
        let (id, written) = self.used_at(self.used)?;
        self.used = self.used.after(1, self.layout.size);
        Some((id.into(), written))
    }
}
