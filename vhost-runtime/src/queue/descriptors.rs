//! A packed ring's descriptors in guest memory (virtio 1.2, 2.8.13).

use std::sync::atomic::Ordering;

use virtio_queue::desc::packed::Descriptor;
use vm_memory::{AtomicAccess, Bytes};

use crate::chain::ChainError;
use crate::memory::{GuestSlice, Memory};

/// Bytes of a descriptor.
pub(super) const DESCRIPTOR: u64 = size_of::<Descriptor>() as u64;

/// The ring's descriptors, found in memory once for several accesses.
pub(super) struct Descriptors<'a> {
    memory: &'a Memory,
    ring: u64,
    /// `None` if they go on in another region.
    mapped: Option<GuestSlice<'a>>,
}

impl<'a> Descriptors<'a> {
    /// `size` descriptors at guest address `ring`.
    pub(super) fn new(memory: &'a Memory, ring: u64, size: u16) -> Self {
        let mapped = memory.slice(ring, u64::from(size).saturating_mul(DESCRIPTOR));
        Self { memory, ring, mapped }
    }

    fn load<T: AtomicAccess>(
        &self,
        index: u16,
        field: u64,
        order: Ordering,
    ) -> Result<T, ChainError> {
        let offset = u64::from(index).saturating_mul(DESCRIPTOR).saturating_add(field);
        let place = self.mapped.as_ref().zip(usize::try_from(offset).ok());
        if let Some(value) = place.and_then(|(mapped, at)| mapped.load(at, order).ok()) {
            return Ok(value);
        }
        let address = self.ring.saturating_add(offset);
        let unmapped = ChainError::Unmapped { address, length: DESCRIPTOR };
        self.memory.load(address, order).ok_or(unmapped)
    }

    /// Flags, after which what they are about can be read.
    pub(super) fn flags(&self, index: u16) -> Result<u16, ChainError> {
        Ok(u16::from_le(self.load(index, 14, Ordering::Acquire)?))
    }

    /// A descriptor, read once.
    pub(super) fn read(&self, index: u16) -> Result<Descriptor, ChainError> {
        let address = u64::from_le(self.load(index, 0, Ordering::Relaxed)?);
        let rest = u64::from_le(self.load(index, 8, Ordering::Relaxed)?).to_le_bytes();
        let [a, b, c, d, id, id_high, flags, flags_high] = rest;
        let length = u32::from_le_bytes([a, b, c, d]);
        let (id, flags) = ([id, id_high], [flags, flags_high]);
        Ok(Descriptor::new(address, length, u16::from_le_bytes(id), u16::from_le_bytes(flags)))
    }
}
