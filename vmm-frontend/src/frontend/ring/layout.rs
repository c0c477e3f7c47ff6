//! Where a ring lies in guest memory.

use super::RingError;
use super::shared::DESCRIPTOR;
use crate::frontend::memory::Allocator;

/// Where a ring's areas lie, as guest addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Descriptors: at most 2^15, a power of two in a split ring.
    pub size: u16,
    /// The descriptor table.
    pub descriptors: u64,
    /// The available ring, or a packed ring's driver event suppression structure.
    pub available: u64,
    /// The used ring, or a packed ring's device event suppression structure.
    pub used: u64,
    /// The indirect tables: one of [`Layout::TABLE`] descriptors for each descriptor.
    pub tables: u64,
}

impl Layout {
    /// Descriptors of an indirect table.
    pub const TABLE: u64 = 32;
    /// Descriptors of a ring, at most.
    pub(super) const MOST: u16 = 1 << 15;

    /// Finds room for a ring of `size` descriptors, in either format.
    ///
    /// # Errors
    /// [`RingError::Size`] or [`RingError::NoMemory`].
    pub fn allocate(allocator: &mut Allocator, size: u16) -> Result<Self, RingError> {
        if !(1..=Self::MOST).contains(&size) {
            return Err(RingError::Size(size));
        }
        let bytes = u64::from(size);
        let mut take = |length| allocator.take(length, 4096).ok_or(RingError::NoMemory);
        Ok(Self {
            size,
            descriptors: take(bytes * DESCRIPTOR)?,
            available: take(bytes * 2 + 6)?,
            used: take(bytes * 8 + 6)?,
            tables: take(bytes * DESCRIPTOR * Self::TABLE)?,
        })
    }

    pub(super) fn table_bytes(&self) -> u64 {
        u64::from(self.size) * DESCRIPTOR * Self::TABLE
    }
}
