//! How far a ring is, as its frontend and the device process tell each other.

use virtio_bindings::bindings::virtio_ring::{VRING_PACKED_DESC_F_AVAIL, VRING_PACKED_DESC_F_USED};

/// In flags (virtio 1.2, 2.8.1).
const AVAILABLE: u16 = 1 << VRING_PACKED_DESC_F_AVAIL;
const USED: u16 = 1 << VRING_PACKED_DESC_F_USED;
/// The wrap counter, above an index of 15 bits.
const WRAP: u16 = 1 << 15;

/// A place in a packed ring: a descriptor, and the wrap counter of a side that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The descriptor's index.
    pub index: u16,
    /// The wrap counter.
    pub wrap: bool,
}

impl Position {
    /// Where both sides begin.
    pub const START: Self = Self { index: 0, wrap: true };

    /// So many descriptors, at most all of the `size`, further on.
    #[must_use]
    pub fn after(self, descriptors: u16, size: u16) -> Self {
        let index = u32::from(self.index).saturating_add(descriptors.into());
        match index.checked_sub(size.into()) {
            Some(rest) => Self { index: low(rest), wrap: !self.wrap },
            None => Self { index: low(index), wrap: self.wrap },
        }
    }

    /// So many descriptors, at most all of the `size`, before.
    #[must_use]
    pub fn before(self, descriptors: u16, size: u16) -> Self {
        match self.index.checked_sub(descriptors) {
            Some(index) => Self { index, wrap: self.wrap },
            None => {
                let index = u32::from(self.index).saturating_add(size.into());
                Self { index: low(index.saturating_sub(descriptors.into())), wrap: !self.wrap }
            }
        }
    }

    /// Descriptors from `earlier` to here, if it can be that much earlier in a ring of `size`.
    #[must_use]
    pub fn since(self, earlier: Self, size: u16) -> Option<u16> {
        if self.index >= size || earlier.index >= size {
            return None;
        }
        if self.wrap == earlier.wrap {
            return self.index.checked_sub(earlier.index);
        }
        if self.index > earlier.index {
            return None;
        }
        size.checked_sub(earlier.index)?.checked_add(self.index)
    }

    /// The flags by which the driver makes a descriptor here available.
    #[must_use]
    pub fn available(self) -> u16 {
        if self.wrap { AVAILABLE } else { USED }
    }

    /// The flags by which the device says that it has used a descriptor here.
    #[must_use]
    pub fn used(self) -> u16 {
        if self.wrap { AVAILABLE | USED } else { 0 }
    }

    /// A descriptor's flags that say whose it is.
    #[must_use]
    pub fn owner(flags: u16) -> u16 {
        flags & (AVAILABLE | USED)
    }

    /// As 16 bits (2.8.10).
    #[must_use]
    pub fn value(self) -> u16 {
        self.index & !WRAP | if self.wrap { WRAP } else { 0 }
    }

    /// Of these 16 bits.
    #[must_use]
    pub fn of(value: u16) -> Self {
        Self { index: value & !WRAP, wrap: value & WRAP != 0 }
    }
}

/// How far a ring is (vhost-user, "Vring state").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// The available index of a split ring, in which the used index is written.
    Split(u16),
    /// Both are known to the device alone in a packed ring.
    Packed {
        /// The next descriptor that it takes.
        available: Position,
        /// The next that it says it has used.
        used: Position,
    },
}

impl Base {
    /// That of a ring that nobody has used.
    #[must_use]
    pub fn start(packed: bool) -> Self {
        match packed {
            true => Self::Packed { available: Position::START, used: Position::START },
            false => Self::Split(0),
        }
    }

    /// It is that of a ring that nobody has used.
    #[must_use]
    pub fn is_first(self) -> bool {
        self == Self::start(matches!(self, Self::Packed { .. }))
    }

    /// What SET_VRING_BASE says, of a packed ring or of a split one. A frontend that says but the lower
    /// half of a packed one, as DPDK's does, means that all that was taken is used.
    #[must_use]
    pub fn parse(value: u32, packed: bool) -> Option<Self> {
        if !packed {
            return u16::try_from(value).ok().map(Self::Split);
        }
        let available = Position::of(low(value));
        let used = if value >> 16 == 0 { available } else { Position::of(low(value >> 16)) };
        Some(Self::Packed { available, used })
    }

    /// What GET_VRING_BASE answers.
    #[must_use]
    pub fn value(self) -> u32 {
        match self {
            Self::Split(index) => index.into(),
            Self::Packed { available, used } => {
                u32::from(available.value()) | u32::from(used.value()) << 16
            }
        }
    }
}

/// The lower half.
fn low(value: u32) -> u16 {
    u16::try_from(value & 0xffff).unwrap_or(0) // it fits
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_base_is_what_the_protocol_says() {
        assert_eq!(Base::start(true).value(), 0x8000_8000);
        assert_eq!(Base::start(false).value(), 0);
        let available = Position { index: 5, wrap: false };
        let used = Position { index: 3, wrap: true };
        assert_eq!(Base::Packed { available, used }.value(), 0x8003_0005);
        assert_eq!(Base::parse(0x8003_0005, true), Some(Base::Packed { available, used }));
        assert_eq!(Base::parse(0x8003_0005, false), None);
        assert_eq!(Base::parse(0x8000, true), Some(Base::start(true)), "the lower half");
        assert_eq!(Base::parse(0xffff, false), Some(Base::Split(0xffff)));
    }

    proptest! {
        #[test]
        fn positions_go_round(size in 1u16..=0x8000, start: u16, wrap: bool, step: u16) {
            let start = Position { index: start % size, wrap };
            let step = step % (size + 1);
            let there = start.after(step, size);
            prop_assert!(there.index < size);
            prop_assert_eq!(there.since(start, size), Some(step));
            prop_assert_eq!(there.before(step, size), start);
            prop_assert_eq!(Position::of(there.value()), there);
        }

        #[test]
        fn any_two_positions_are_compared(value: u32, size: u16) {
            let Some(Base::Packed { available, used }) = Base::parse(value, true) else { panic!() };
            prop_assert!(available.since(used, size).is_none_or(|count| count <= size));
        }
    }
}
