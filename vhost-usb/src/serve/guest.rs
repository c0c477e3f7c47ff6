//! The guest's memory, as the VMM shares it.

use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress};

use crate::controller::Memory;

/// The guest's memory at one moment.
pub(super) struct Guest<'a>(pub(super) &'a vhost_runtime::memory::Memory);

impl Memory for Guest<'_> {
    fn load(&self, address: u32) -> Option<u32> {
        let word: u32 =
            self.0.space().load(GuestAddress(address.into()), Ordering::Acquire).ok()?;
        Some(u32::from_le(word))
    }

    fn store(&self, address: u32, value: u32) -> Option<()> {
        let address = GuestAddress(address.into());
        self.0.space().store(value.to_le(), address, Ordering::Release).ok()
    }

    fn read(&self, address: u32, to: &mut [u8]) -> Option<()> {
        self.0.space().read_slice(to, GuestAddress(address.into())).ok()
    }

    fn write(&self, address: u32, from: &[u8]) -> Option<()> {
        self.0.space().write_slice(from, GuestAddress(address.into())).ok()
    }
}
