//! A descriptor chain, parsed and checked once (virtio 1.2, 2.7.5; in a packed ring 2.8.6, see
//! [`packed`]).
//!
//! Every descriptor is read exactly once; what comes out is a list of mapped segments that later
//! changes by the guest can no longer alter.

mod packed;

use std::sync::Arc;

use smallvec::SmallVec;
use virtio_bindings::bindings::virtio_ring::{
    VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, VolatileMemory, VolatileSlice};

use crate::memory::{GuestSlice, Memory};

/// Descriptors that one chain may have, whatever the queue's size: what QEMU and Linux keep to.
pub const MAX_DESCRIPTORS: usize = 1024;

/// What can be wrong with a chain. The guest's driver is broken then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// An index beyond the table.
    #[error("descriptor index {index} is beyond the table of {size}")]
    Index {
        /// Index into the table.
        index: u16,
        /// Descriptors in the table.
        size: u32,
    },
    /// A table or a buffer outside guest memory.
    #[error("{length} bytes at {address:#x} are not guest memory")]
    Unmapped {
        /// Guest physical address.
        address: u64,
        /// Bytes.
        length: u64,
    },
    /// A loop, or simply too many.
    #[error("a chain of more than {MAX_DESCRIPTORS} descriptors, or a loop")]
    TooLong,
    /// It does not end among the descriptors that a packed ring has left.
    #[error("a chain of more descriptors than the {0} that the ring has left")]
    Endless(u16),
    /// A packed ring's buffer ID that another chain has, or that no chain can have.
    #[error("buffer ID {0} is beyond the ring, or used by two chains at once")]
    Id(u16),
    /// Indirect within indirect, with NEXT, or no whole number of descriptors.
    #[error("a malformed indirect descriptor table")]
    Indirect,
    /// Device-readable after device-writable.
    #[error("a readable buffer after a writable one")]
    Order,
    /// 2^32 bytes or more in one direction.
    #[error("buffers of 4 GiB or more")]
    Size,
}

/// A mapped piece of a buffer.
#[derive(Clone, Copy, Debug)]
struct Segment {
    guest: u64,
    host: *mut u8,
    length: usize,
}

/// A chain of the guest's buffers: first those that the device reads, then those that it writes.
///
/// Its parts are on the heap, so that it moves about as a pointer; a queue uses them again.
#[derive(Debug)]
pub struct Chain(Box<Parts>);

#[derive(Debug)]
struct Parts {
    head: u16,
    place: Place,
    memory: Arc<Memory>,
    list: List,
}

/// The mapped pieces of all buffers, in their order.
#[derive(Debug, Default)]
struct List {
    segments: SmallVec<[Segment; 6]>,
    /// How many of `segments` are device-readable.
    readable: usize,
    readable_length: u64,
    writable_length: u64,
}

// SAFETY: the pointers lead into mappings that `memory` keeps alive; they are only accessed as
// volatile memory that the guest may change at any time anyway.
unsafe impl Send for Chain {}

/// What a queue knows of a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// Descriptors of a packed ring that it takes.
    pub(crate) descriptors: u16,
    /// Its first entry in a packed ring's record.
    pub(crate) entry: u16,
    /// A former process took it from the ring, where there may be something else by now.
    pub(crate) again: bool,
}

impl Chain {
    /// The place for a chain in `memory`.
    pub(crate) fn empty(memory: &Arc<Memory>) -> Self {
        let (place, list) = (Place::default(), List::default());
        Self(Box::new(Parts { head: 0, place, memory: Arc::clone(memory), list }))
    }

    /// Its place may be used for another chain in `memory`: it holds on to no other memory, and is no
    /// larger than most are.
    pub(crate) fn is_reusable(&self, memory: &Arc<Memory>) -> bool {
        Arc::ptr_eq(&self.0.memory, memory) && !self.0.list.segments.spilled()
    }

    /// Reads the chain that begins at descriptor `head` of the table of `size` descriptors at `table`,
    /// in the place of one that is done with.
    pub(crate) fn parse(
        &mut self,
        table: u64,
        size: u16,
        head: u16,
        indirect: bool,
    ) -> Result<(), ChainError> {
        let Parts { memory, list, .. } = self.0.as_mut();
        list.parse(memory, table, size, head, indirect)?;
        self.0.head = head;
        Ok(())
    }

    /// The chain's name towards the guest: the index of its first descriptor, in a packed ring its
    /// buffer ID.
    #[must_use]
    pub fn head(&self) -> u16 {
        self.0.head
    }

    pub(crate) fn place(&self) -> Place {
        self.0.place
    }

    pub(crate) fn set_place(&mut self, place: Place) {
        self.0.place = place;
    }

    /// What the device reads.
    #[must_use]
    pub fn readable(&self) -> Buffers<'_> {
        let Parts { memory, list, .. } = self.0.as_ref();
        let segments = list.segments.get(..list.readable).unwrap_or_default();
        Buffers { segments, skip: 0, length: list.readable_length, memory }
    }

    /// What the device writes.
    #[must_use]
    pub fn writable(&self) -> Buffers<'_> {
        let Parts { memory, list, .. } = self.0.as_ref();
        let segments = list.segments.get(list.readable..).unwrap_or_default();
        Buffers { segments, skip: 0, length: list.writable_length, memory }
    }
}

impl List {
    fn parse(
        &mut self,
        memory: &Memory,
        table: u64,
        size: u16,
        head: u16,
        indirect: bool,
    ) -> Result<(), ChainError> {
        self.clear();
        let mut table = Table::new(memory, table, u32::from(size));
        let mut inside = false;
        let mut index = head;
        for _ in 0..MAX_DESCRIPTORS {
            let descriptor = table.read(index)?;
            let flags = u32::from(descriptor.flags());
            if flags & VRING_DESC_F_INDIRECT != 0 {
                if inside || !indirect || flags & VRING_DESC_F_NEXT != 0 {
                    return Err(ChainError::Indirect);
                }
                table = Table::indirect(memory, &descriptor)?;
                inside = true;
                index = 0;
                continue;
            }
            let write = flags & VRING_DESC_F_WRITE != 0;
            self.add(memory, descriptor.addr().0, descriptor.len(), write)?;
            if flags & VRING_DESC_F_NEXT == 0 {
                return Ok(());
            }
            index = descriptor.next();
        }
        Err(ChainError::TooLong)
    }

    fn clear(&mut self) {
        self.segments.clear();
        (self.readable, self.readable_length, self.writable_length) = (0, 0, 0);
    }

    fn add(
        &mut self,
        memory: &Memory,
        mut address: u64,
        length: u32,
        write: bool,
    ) -> Result<(), ChainError> {
        let mut rest = u64::from(length);
        if !write && self.segments.len() > self.readable {
            return Err(ChainError::Order);
        }
        let total = if write { &mut self.writable_length } else { &mut self.readable_length };
        *total = total.saturating_add(rest);
        if *total > u64::from(u32::MAX) {
            return Err(ChainError::Size);
        }
        while rest > 0 {
            let unmapped = ChainError::Unmapped { address, length: rest };
            let slice = memory.slice(address, rest).ok_or(unmapped)?;
            let length = slice.len() as u64;
            let segment = Segment {
                guest: address,
                host: slice.ptr_guard_mut().as_ptr(),
                length: slice.len(),
            };
            if length == 0 {
                return Err(unmapped);
            }
            self.segments.push(segment);
            rest = rest.saturating_sub(length);
            address = address.checked_add(length).ok_or(unmapped)?;
        }
        if !write {
            self.readable = self.segments.len();
        }
        Ok(())
    }
}

/// A descriptor table.
struct Table<'a> {
    memory: &'a Memory,
    address: u64,
    size: u32,
    /// Where it is mapped; fewer bytes than it has if it goes on in another region.
    mapped: Option<GuestSlice<'a>>,
}

impl<'a> Table<'a> {
    const ENTRY: u64 = size_of::<Descriptor>() as u64;

    fn new(memory: &'a Memory, address: u64, size: u32) -> Self {
        let mapped = memory.slice(address, u64::from(size).saturating_mul(Self::ENTRY));
        Self { memory, address, size, mapped }
    }

    fn indirect(memory: &'a Memory, descriptor: &Descriptor) -> Result<Self, ChainError> {
        let length = descriptor.len();
        if length == 0 || !u64::from(length).is_multiple_of(Self::ENTRY) {
            return Err(ChainError::Indirect);
        }
        Ok(Self::new(memory, descriptor.addr().0, length >> Self::ENTRY.ilog2()))
    }

    fn read(&self, index: u16) -> Result<Descriptor, ChainError> {
        if u32::from(index) >= self.size {
            return Err(ChainError::Index { index, size: self.size });
        }
        let offset = usize::from(index).saturating_mul(size_of::<Descriptor>());
        if let Some(mapped) = &self.mapped
            && let Ok(descriptor) = mapped.get_ref::<Descriptor>(offset)
        {
            return Ok(descriptor.load());
        }
        let address = self.address.saturating_add(offset as u64);
        self.memory
            .space()
            .read_obj(GuestAddress(address))
            .map_err(|_| ChainError::Unmapped { address, length: Self::ENTRY })
    }
}

/// A scatter-gather view of guest buffers.
#[derive(Clone, Copy, Debug)]
pub struct Buffers<'a> {
    segments: &'a [Segment],
    /// Bytes of the first segment that are not part of the view.
    skip: usize,
    length: u64,
    memory: &'a Memory,
}

impl<'a> Buffers<'a> {
    /// Bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.length
    }

    /// No bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Cuts it in two: at most the first `count` bytes, and the rest.
    #[must_use]
    pub fn split_at(self, count: u64) -> (Self, Self) {
        let count = count.min(self.length);
        let first = Self { length: count, ..self };
        let mut rest = Self { length: self.length.saturating_sub(count), ..self };
        let mut left = count;
        while let Some((segment, others)) = rest.segments.split_first() {
            let here = (segment.length as u64).saturating_sub(rest.skip as u64);
            if left < here {
                rest.skip = rest.skip.saturating_add(usize::try_from(left).unwrap_or(usize::MAX));
                break;
            }
            left = left.saturating_sub(here);
            rest.segments = others;
            rest.skip = 0;
        }
        (first, rest)
    }

    fn pieces(&self) -> impl Iterator<Item = Segment> + use<'a> {
        let mut skip = self.skip;
        let mut rest = self.length;
        self.segments.iter().map_while(move |segment| {
            let offset = std::mem::take(&mut skip);
            let length = (segment.length.saturating_sub(offset) as u64).min(rest);
            rest = rest.saturating_sub(length);
            (length > 0).then(|| Segment {
                guest: segment.guest.saturating_add(offset as u64),
                host: segment.host.wrapping_add(offset),
                // lengths came from a usize
                length: usize::try_from(length).unwrap_or(0),
            })
        })
    }

    fn slices(&self) -> impl Iterator<Item = VolatileSlice<'a>> + use<'a> {
        // SAFETY: a piece lies within a mapping that `self.memory`, borrowed for 'a, keeps alive.
        self.pieces().map(|piece| unsafe { VolatileSlice::new(piece.host, piece.length) })
    }

    /// Copies from the guest into `target`; returns how many bytes there were.
    pub fn read(&self, target: &mut [u8]) -> usize {
        let mut done = 0;
        for slice in self.slices() {
            let Some(rest) = target.get_mut(done..) else { break };
            if rest.is_empty() {
                break;
            }
            done = done.saturating_add(slice.copy_to(rest));
        }
        done
    }

    /// Copies `source` to the guest; returns how many bytes there was room for.
    pub fn write(&self, source: &[u8]) -> usize {
        let mut done: usize = 0;
        for piece in self.pieces() {
            let Some(rest) = source.get(done..) else { break };
            let count = piece.length.min(rest.len());
            let Some(part) = rest.get(..count) else { break };
            // SAFETY: as in `slices`.
            unsafe { VolatileSlice::new(piece.host, piece.length) }.copy_from(part);
            self.memory.log().mark(piece.guest, count as u64);
            done = done.saturating_add(count);
        }
        done
    }

    /// Everything, as bytes of our own, which the guest can't change any more.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.length).unwrap_or(0)];
        let done = self.read(&mut bytes);
        bytes.truncate(done);
        bytes
    }

    /// Pointers and lengths, for I/O by the host's kernel. Whoever hands them on keeps the chain
    /// until the I/O is done, and [`mark_dirty`](Self::mark_dirty)s what it wrote.
    pub fn iovecs(&self) -> impl Iterator<Item = libc::iovec> + use<'a> {
        self.pieces()
            .map(|piece| libc::iovec { iov_base: piece.host.cast(), iov_len: piece.length })
    }

    /// The host's kernel wrote to all of it, past `vm-memory`.
    pub fn mark_dirty(&self) {
        for piece in self.pieces() {
            self.memory.log().mark(piece.guest, piece.length as u64);
        }
    }
}

#[cfg(test)]
mod tests;
