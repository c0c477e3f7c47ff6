//! Chains of a packed ring (virtio 1.2, 2.8.6 and 2.8.7).

use virtio_bindings::bindings::virtio_ring::{
    VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
};
use virtio_queue::desc::packed::Descriptor;
use vm_memory::{Bytes, GuestAddress, VolatileMemory};

use super::{Chain, ChainError, List, MAX_DESCRIPTORS, Parts};
use crate::memory::Memory;

/// Bytes of a descriptor.
const ENTRY: u64 = size_of::<Descriptor>() as u64;

impl Chain {
    /// Reads a chain whose descriptors are what `read` returns, one call for each, at most `room`; and
    /// tells how many it took.
    pub(crate) fn parse_packed(
        &mut self,
        room: u16,
        indirect: bool,
        mut read: impl FnMut() -> Result<Descriptor, ChainError>,
    ) -> Result<u16, ChainError> {
        let Parts { memory, list, head, .. } = self.0.as_mut();
        list.clear();
        let most = room.min(MAX_DESCRIPTORS as u16);
        for count in 1..=most {
            let descriptor = read()?;
            let flags = u32::from(descriptor.flags());
            let last = flags & VRING_DESC_F_NEXT == 0;
            if flags & VRING_DESC_F_INDIRECT != 0 {
                // A list has descriptors of one kind (2.8.5).
                if !indirect || !last || count > 1 {
                    return Err(ChainError::Indirect);
                }
                list.parse_table(memory, &descriptor)?;
            } else {
                let write = flags & VRING_DESC_F_WRITE != 0;
                list.add(memory, descriptor.addr().0, descriptor.len(), write)?;
            }
            if last {
                *head = descriptor.id(); // the last one has it (2.8.6)
                return Ok(count);
            }
        }
        Err(if usize::from(room) > MAX_DESCRIPTORS {
            ChainError::TooLong
        } else {
            ChainError::Endless(room)
        })
    }
}

impl List {
    /// An indirect table, of which every entry counts, and of its flags only WRITE (2.8.7).
    fn parse_table(&mut self, memory: &Memory, table: &Descriptor) -> Result<(), ChainError> {
        let (address, length) = (table.addr().0, u64::from(table.len()));
        if length == 0 || !length.is_multiple_of(ENTRY) {
            return Err(ChainError::Indirect);
        }
        if length > (MAX_DESCRIPTORS as u64).saturating_mul(ENTRY) {
            return Err(ChainError::TooLong);
        }
        let mapped = memory.slice(address, length);
        for offset in (0..length).step_by(size_of::<Descriptor>()) {
            let place = mapped.as_ref().zip(usize::try_from(offset).ok());
            let place = place.and_then(|(mapped, at)| mapped.get_ref::<Descriptor>(at).ok());
            let entry = match place {
                Some(place) => place.load(),
                // It goes on in another region.
                None => {
                    let address = address.saturating_add(offset);
                    let unmapped = ChainError::Unmapped { address, length: ENTRY };
                    memory.space().read_obj(GuestAddress(address)).map_err(|_| unmapped)?
                }
            };
            let write = u32::from(entry.flags()) & VRING_DESC_F_WRITE != 0;
            self.add(memory, entry.addr().0, entry.len(), write)?;
        }
        Ok(())
    }
}
