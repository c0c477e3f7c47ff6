//! The driver's side of a virtqueue: chains go in, used ones come out.
//!
//! What the driver must remember it keeps outside guest memory, where no device process can change
//! it. A request allocates nothing, once the ring has gone round.
//!
//! [`split`] and [`packed`] have the books of the two formats, [`shared`] what both sides access;
//! [`notify`] has who is told what when, [`raw`] what drivers do that break the rules.

mod layout;
#[cfg(test)]
mod model_tests;
mod notify;
mod packed;
mod raw;
mod shared;
mod split;
#[cfg(test)]
mod tests;

use std::io;

use virtio_bindings::bindings::virtio_ring::{
    VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
};

use super::memory::Memory;
pub use layout::Layout;
pub use notify::Events;
use packed::Packed;
pub use shared::Descriptor;
use split::Split;
use vhost_runtime::queue::Base;

const NEXT: u16 = VRING_DESC_F_NEXT as u16;
const WRITE: u16 = VRING_DESC_F_WRITE as u16;
const INDIRECT: u16 = VRING_DESC_F_INDIRECT as u16;

/// What can be wrong with a ring, or with what a device did to it.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// None, more than 2^15, or not a power of two in a split ring.
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
    /// VIRTIO_F_RING_PACKED.
    pub packed: bool,
}

impl RingFeatures {
    /// How many buffers there are, and whether a chain of them goes into an indirect table.
    fn count(
        self,
        readable: &[Buffer],
        writable: &[Buffer],
        size: u16,
    ) -> Result<(u16, bool), RingError> {
        let count = readable.len().saturating_add(writable.len());
        let wrong = RingError::Chain(count);
        let indirect = self.indirect && count > 1 && count as u64 <= Layout::TABLE;
        let Ok(count) = u16::try_from(count) else { return Err(wrong) };
        if count == 0 || !indirect && count > size {
            return Err(wrong);
        }
        Ok((count, indirect))
    }
}

/// Buffers of a chain in their order, with their flags.
fn buffers<'a>(
    readable: &'a [Buffer],
    writable: &'a [Buffer],
) -> impl Iterator<Item = (&'a Buffer, u16)> {
    let readable = readable.iter().map(|buffer| (buffer, 0));
    readable.chain(writable.iter().map(|buffer| (buffer, WRITE)))
}

/// Bytes that a device may write.
fn room(writable: &[Buffer]) -> u32 {
    writable.iter().fold(0, |sum, buffer| sum.saturating_add(buffer.length))
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

/// A virtqueue, the driver's side.
#[derive(Debug)]
pub struct Ring {
    format: Format,
    layout: Layout,
    features: RingFeatures,
    events: Events,
}

#[derive(Debug)]
enum Format {
    Split(Split),
    Packed(Packed),
}

/// Does the same in either format.
macro_rules! in_format {
    ($format:expr, $ring:ident => $does:expr) => {
        match $format {
            Format::Split($ring) => $does,
            Format::Packed($ring) => $does,
        }
    };
}
use in_format;

impl Ring {
    /// An empty ring at `layout`; whatever was there before is overwritten.
    ///
    /// # Errors
    /// See [`RingError`].
    pub fn new(memory: &Memory, layout: Layout, features: RingFeatures) -> Result<Self, RingError> {
        let format = match features.packed {
            true => Format::Packed(Packed::new(memory, layout, features)?),
            false => Format::Split(Split::new(memory, layout, features)?),
        };
        Ok(Self { format, layout, features, events: Events::new()? })
    }

    /// Where it lies.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// What was negotiated.
    #[must_use]
    pub fn features(&self) -> RingFeatures {
        self.features
    }

    /// Its event descriptors.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Chains that the device has.
    #[must_use]
    pub fn under_way(&self) -> u16 {
        in_format!(&self.format, ring => ring.under_way())
    }

    /// Where a device goes on that has used all that it took: behind what is used.
    #[must_use]
    pub fn base(&self) -> Base {
        match &self.format {
            Format::Split(ring) => Base::Split(ring.shared.used_index()),
            Format::Packed(ring) => ring.base(),
        }
    }

    /// Empties it, while no device uses it: it is as new.
    pub fn clear(&mut self) {
        in_format!(&mut self.format, ring => ring.clear());
    }

    /// Offers every chain under way again, in an otherwise new ring, while no device uses it: for
    /// a device that died and kept no record. What is already used must be taken first. The device
    /// must go on where a new ring begins.
    pub fn offer_again(&mut self) {
        in_format!(&mut self.format, ring => ring.offer_again());
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
        in_format!(&mut self.format, ring => ring.add(readable, writable, token))
    }

    /// A chain that the device is done with, if there is one.
    ///
    /// # Errors
    /// What the device wrote as used is impossible; the ring is of no use any more.
    pub fn take(&mut self) -> Result<Option<Used>, RingError> {
        in_format!(&mut self.format, ring => ring.take())
    }
}
