//! The driver's side of a split virtqueue: chains go in, used ones come out.
//!
//! What the driver must remember it keeps outside guest memory, where no device process can change
//! it. A request allocates nothing.
//!
//! Here are the books: [`Ring::add`], [`Ring::take`]. [`notify`] has who is told what when, [`raw`]
//! what drivers do that break the rules.

mod layout;
mod notify;
mod raw;
mod shared;
#[cfg(test)]
mod tests;

use std::io;

use virtio_bindings::bindings::virtio_ring::{
    VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
};

use super::memory::Memory;
pub use layout::Layout;
pub use notify::Events;
pub use shared::Descriptor;
use shared::{DESCRIPTOR, Shared};

const NEXT: u16 = VRING_DESC_F_NEXT as u16;
const WRITE: u16 = VRING_DESC_F_WRITE as u16;
const INDIRECT: u16 = VRING_DESC_F_INDIRECT as u16;

/// What can be wrong with a ring, or with what a device did to it.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// Not a power of two, or more than 2^15.
    #[error("a ring cannot have {0} descriptors")]
    Size(u16),
    /// An area does not lie in one region of guest memory, or is not aligned.
    #[error("{length:#x} bytes at {guest:#x} are not a place for a ring")]
    Unmapped {
        /// Guest physical address.
        guest: u64,
        /// Bytes.
        length: u64,
    },
    /// There is no room for its areas.
    #[error("no guest memory is left for a ring")]
    NoMemory,
    /// The chain has no buffers, or more descriptors than the ring.
    #[error("a chain cannot have {0} buffers")]
    Chain(usize),
    /// The host refused an event descriptor.
    #[error("events")]
    Event(#[from] io::Error),
    /// The device put more into the used ring than was under way.
    #[error(
        "the device's used index went from {from} to {to}, with {under_way} requests under way"
    )]
    UsedIndex {
        /// As the driver knew it.
        from: u16,
        /// As the device wrote it.
        to: u16,
        /// Chains that the device had.
        under_way: u16,
    },
    /// The device used a chain that it did not have.
    #[error("the device used chain {0}, which it did not have")]
    UsedId(u32),
    /// The device claims to have written more than there was room for.
    #[error("the device wrote {written} bytes into chain {head}, which has room for {room}")]
    UsedLength {
        /// The chain.
        head: u16,
        /// Bytes that the device says it wrote.
        written: u32,
        /// Bytes that it could write.
        room: u32,
    },
}

/// The ring features that were negotiated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingFeatures {
    /// VIRTIO_F_RING_EVENT_IDX.
    pub event_index: bool,
    /// VIRTIO_F_RING_INDIRECT_DESC.
    pub indirect: bool,
}

/// A buffer of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Guest address.
    pub address: u64,
    /// Bytes.
    pub length: u32,
}

/// A chain that the device is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// What [`Ring::add`] was given.
    pub token: u64,
    /// Bytes that the device wrote, at most as many as it could.
    pub written: u32,
}

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

/// A virtqueue, the driver's side.
#[derive(Debug)]
pub struct Ring {
    shared: Shared,
    layout: Layout,
    features: RingFeatures,
    events: Events,
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

impl Ring {
    /// An empty ring at `layout`; whatever was there before is overwritten.
    ///
    /// # Errors
    /// See [`RingError`].
    pub fn new(memory: &Memory, layout: Layout, features: RingFeatures) -> Result<Self, RingError> {
        if !layout.size.is_power_of_two() {
            return Err(RingError::Size(layout.size));
        }
        let mut ring = Self {
            shared: Shared::new(memory, &layout)?,
            layout,
            features,
            events: Events::new()?,
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

    /// Where it lies.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Its event descriptors.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Chains that the device has.
    #[must_use]
    pub fn under_way(&self) -> u16 {
        self.under_way
    }

    /// Empties it, while no device uses it: it is as new.
    pub fn clear(&mut self) {
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

    /// Offers every chain under way again, in an otherwise new ring, while no device uses it: for
    /// a device that died and kept no record. What is already used must be taken first. The device
    /// must go on from available index 0.
    pub fn offer_again(&mut self) {
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

    /// Adds a chain of these buffers, first those that the device reads, then those that it writes.
    /// The device sees it at the next [`publish`](Self::publish). `Ok(false)`: the ring is full.
    ///
    /// # Errors
    /// [`RingError::Chain`].
    pub fn add(
        &mut self,
        readable: &[Buffer],
        writable: &[Buffer],
        token: u64,
    ) -> Result<bool, RingError> {
        let count = readable.len().saturating_add(writable.len());
        let wrong = RingError::Chain(count);
        let indirect = self.features.indirect && count > 1 && count as u64 <= Layout::TABLE;
        let Ok(count) = u16::try_from(count) else { return Err(wrong) };
        let taken = if indirect { 1 } else { count };
        if count == 0 || taken > self.layout.size {
            return Err(wrong);
        }
        if taken > self.free_count {
            return Ok(false);
        }
        let head = self.free;
        let buffers = readable
            .iter()
            .map(|buffer| (buffer, 0))
            .chain(writable.iter().map(|buffer| (buffer, WRITE)));
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
        let room = writable.iter().fold(0u32, |sum, buffer| sum.saturating_add(buffer.length));
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

    /// A chain that the device is done with, if there is one.
    ///
    /// # Errors
    /// What the device wrote into the used ring is impossible; the ring is of no use any more.
    pub fn take(&mut self) -> Result<Option<Used>, RingError> {
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
}
