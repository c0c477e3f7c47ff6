//! A virtqueue's three areas in guest memory (virtio 1.2, 2.7 and 2.8), as the driver accesses them.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::{Layout, RingError};
use crate::frontend::memory::{AddressSpace, Memory};

/// Bytes of a descriptor.
pub(super) const DESCRIPTOR: u64 = 16;
/// Bytes of `flags` and `idx`, which begin the available and the used ring.
const HEAD: u64 = 4;
/// Bytes of an event suppression structure.
const EVENT: u64 = 4;

/// A descriptor, for the ring's own table or for an indirect one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest address of the buffer or table.
    pub address: u64,
    /// Bytes.
    pub length: u32,
    /// `VRING_DESC_F_…`.
    pub flags: u16,
    /// The next one's index, with VRING_DESC_F_NEXT. In a packed ring, the buffer ID.
    pub next: u16,
}

/// A mapped piece of guest memory, which a back end may write to at any time.
#[derive(Debug)]
struct Area {
    base: *mut u8,
    length: u64,
}

impl Area {
    fn map(space: &AddressSpace, guest: u64, length: u64, align: u64) -> Option<Self> {
        let bytes = usize::try_from(length).ok()?;
        let slice = space.get_slice(GuestAddress(guest), bytes).ok()?;
        guest.is_multiple_of(align).then(|| Self { base: slice.ptr_guard_mut().as_ptr(), length })
    }

    /// `offset` is a multiple of N; a place outside the area, which no caller asks for, is its start.
    fn at<const N: u64>(&self, offset: u64) -> *mut u8 {
        debug_assert!(offset.is_multiple_of(N) && offset.saturating_add(N) <= self.length);
        let inside = offset.saturating_add(N) <= self.length;
        self.base.wrapping_add(if inside { offset as usize } else { 0 })
    }

    // Why the three are safe: `at` stays within the area, which the ring's copy of the address space
    // keeps mapped; regions are page-aligned in this process and the area is aligned in its region,
    // so the place is aligned too. Everybody accesses it atomically.
    fn u16(&self, offset: u64) -> &AtomicU16 {
        // SAFETY: see above.
        unsafe { AtomicU16::from_ptr(self.at::<2>(offset).cast()) }
    }

    fn u32(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: see above.
        unsafe { AtomicU32::from_ptr(self.at::<4>(offset).cast()) }
    }

    fn u64(&self, offset: u64) -> &AtomicU64 {
        // SAFETY: see above.
        unsafe { AtomicU64::from_ptr(self.at::<8>(offset).cast()) }
    }

    /// Writes entry `index` of a descriptor table.
    fn put(&self, index: u64, descriptor: Descriptor) {
        let rest = u64::from(descriptor.length)
            | u64::from(descriptor.flags) << 32
            | u64::from(descriptor.next) << 48;
        self.put_words(index, (descriptor.address, rest));
    }

    /// The second word does not become visible before the first.
    fn put_words(&self, index: u64, (first, second): (u64, u64)) {
        let at = index.saturating_mul(DESCRIPTOR);
        self.u64(at).store(first.to_le(), Ordering::Relaxed);
        self.u64(at.saturating_add(8)).store(second.to_le(), Ordering::Release);
    }
}

/// The areas of one ring, and its indirect tables.
#[derive(Debug)]
pub(super) struct Shared {
    /// Keeps it all mapped.
    _space: AddressSpace,
    size: u16,
    descriptors: Area,
    available: Area,
    used: Area,
    tables: Area,
}

// SAFETY: the pointers lead into mappings that `_space` owns; all accesses are atomic.
unsafe impl Send for Shared {}

impl Shared {
    pub(super) fn new(memory: &Memory, layout: &Layout) -> Result<Self, RingError> {
        let size = u64::from(layout.size);
        let space = memory.space().clone();
        let area = |guest, length, align| {
            Area::map(&space, guest, length, align).ok_or(RingError::Unmapped { guest, length })
        };
        Ok(Self {
            size: layout.size,
            descriptors: area(layout.descriptors, size * DESCRIPTOR, 16)?,
            available: area(layout.available, HEAD + size * 2 + 2, 2)?,
            used: area(layout.used, HEAD + size * 8 + 2, 4)?,
            tables: area(layout.tables, layout.table_bytes(), 16)?,
            _space: space,
        })
    }

    fn slot(&self, index: u16) -> u64 {
        u64::from(index & (self.size - 1))
    }

    pub(super) fn set_descriptor(&self, index: u16, descriptor: Descriptor) {
        if index < self.size {
            self.descriptors.put(index.into(), descriptor);
        }
    }

    /// Writes entry `entry` of the indirect table of chain `head`.
    pub(super) fn set_indirect(&self, head: u16, entry: u16, descriptor: Descriptor) {
        let index = u64::from(head) * Layout::TABLE + u64::from(entry);
        self.tables.put(index, descriptor);
    }

    pub(super) fn set_available(&self, index: u16, head: u16) {
        self.available.u16(HEAD + self.slot(index) * 2).store(head.to_le(), Ordering::Relaxed);
    }

    pub(super) fn set_available_index(&self, index: u16) {
        self.available.u16(2).store(index.to_le(), Ordering::Release);
    }

    pub(super) fn set_available_flags(&self, flags: u16) {
        self.available.u16(0).store(flags.to_le(), Ordering::Relaxed);
    }

    /// `used_event`: the driver wants to be told when the used index passes it.
    pub(super) fn set_used_event(&self, index: u16) {
        let at = HEAD + u64::from(self.size) * 2;
        self.available.u16(at).store(index.to_le(), Ordering::Relaxed);
    }

    pub(super) fn used_index(&self) -> u16 {
        u16::from_le(self.used.u16(2).load(Ordering::Acquire))
    }

    pub(super) fn set_used_index(&self, index: u16) {
        self.used.u16(2).store(index.to_le(), Ordering::Release);
    }

    pub(super) fn used_flags(&self) -> u16 {
        u16::from_le(self.used.u16(0).load(Ordering::Relaxed))
    }

    /// `avail_event`: the device wants to be told when the available index passes it.
    pub(super) fn available_event(&self) -> u16 {
        let at = HEAD + u64::from(self.size) * 8;
        u16::from_le(self.used.u16(at).load(Ordering::Relaxed))
    }

    /// `id` and `len` of a used element.
    pub(super) fn used(&self, index: u16) -> (u32, u32) {
        let at = HEAD + self.slot(index) * 8;
        let read = |at| u32::from_le(self.used.u32(at).load(Ordering::Relaxed));
        (read(at), read(at + 4))
    }
}

/// The areas of a packed ring, and its indirect tables.
#[derive(Debug)]
pub(super) struct PackedShared {
    /// Keeps it all mapped.
    _space: AddressSpace,
    size: u16,
    descriptors: Area,
    driver: Area,
    device: Area,
    tables: Area,
}

// SAFETY: as above.
unsafe impl Send for PackedShared {}

impl PackedShared {
    pub(super) fn new(memory: &Memory, layout: &Layout) -> Result<Self, RingError> {
        let space = memory.space().clone();
        let area = |guest, length, align| {
            Area::map(&space, guest, length, align).ok_or(RingError::Unmapped { guest, length })
        };
        Ok(Self {
            size: layout.size,
            descriptors: area(layout.descriptors, u64::from(layout.size) * DESCRIPTOR, 16)?,
            driver: area(layout.available, EVENT, EVENT)?,
            device: area(layout.used, EVENT, EVENT)?,
            tables: area(layout.tables, layout.table_bytes(), 16)?,
            _space: space,
        })
    }

    /// `addr`, `len`, `id` and `flags`, which a packed ring has in another order.
    fn words(Descriptor { address, length, flags, next: id }: Descriptor) -> (u64, u64) {
        (address, u64::from(length) | u64::from(id) << 32 | u64::from(flags) << 48)
    }

    /// Writes a descriptor, flags and all.
    pub(super) fn put(&self, index: u16, descriptor: Descriptor) {
        if index < self.size {
            self.descriptors.put_words(index.into(), Self::words(descriptor));
        }
    }

    /// Writes a descriptor, and leaves its flags as they are.
    pub(super) fn put_hidden(
        &self,
        index: u16,
        Descriptor { address, length, next: id, .. }: Descriptor,
    ) {
        let at = u64::from(index) * DESCRIPTOR;
        self.descriptors.u64(at).store(address.to_le(), Ordering::Relaxed);
        self.descriptors.u32(at + 8).store(length.to_le(), Ordering::Relaxed);
        self.descriptors.u16(at + 12).store(id.to_le(), Ordering::Relaxed);
    }

    /// Writes entry `entry` of the indirect table of the chain `id`.
    pub(super) fn set_indirect(&self, id: u16, entry: u16, descriptor: Descriptor) {
        let index = u64::from(id) * Layout::TABLE + u64::from(entry);
        self.tables.put_words(index, Self::words(descriptor));
    }

    /// Shows the device a descriptor, and what was written before.
    pub(super) fn set_flags(&self, index: u16, flags: u16) {
        let at = u64::from(index) * DESCRIPTOR + 14;
        self.descriptors.u16(at).store(flags.to_le(), Ordering::Release);
    }

    pub(super) fn flags(&self, index: u16) -> u16 {
        let at = u64::from(index) * DESCRIPTOR + 14;
        u16::from_le(self.descriptors.u16(at).load(Ordering::Acquire))
    }

    /// `id` and `len` of a used descriptor.
    pub(super) fn used(&self, index: u16) -> (u16, u32) {
        let at = u64::from(index) * DESCRIPTOR;
        let length = u32::from_le(self.descriptors.u32(at + 8).load(Ordering::Relaxed));
        (u16::from_le(self.descriptors.u16(at + 12).load(Ordering::Relaxed)), length)
    }

    /// What the driver wants to be told of (2.8.10): a position, and flags.
    pub(super) fn want(&self, position: u16, flags: u16) {
        let value = u32::from(position) | u32::from(flags) << 16;
        self.driver.u32(0).store(value.to_le(), Ordering::Relaxed);
    }

    /// What the device wants to be told of.
    pub(super) fn wanted(&self) -> (u16, u16) {
        let value = u32::from_le(self.device.u32(0).load(Ordering::Relaxed));
        ((value & 0xffff) as u16, (value >> 16) as u16)
    }
}
