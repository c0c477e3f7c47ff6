//! What the guest is told of its address space (E820; ACPI 6.5, 15).

use crate::machine::layout;

/// What a range is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Memory.
    Usable = 1,
    /// Something else than memory.
    Reserved = 2,
}

/// A range of the guest's address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Where it starts.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// What it is.
    pub kind: Kind,
}

/// The address space, in order, of a machine with this much memory below the hole, and above 4 GiB.
#[must_use]
pub fn memory_map(below: u64, above: u64) -> Vec<Range> {
    let usable = |start, size| Range { start, size, kind: Kind::Usable };
    let reserved = |start, size| Range { start, size, kind: Kind::Reserved };
    let mut ranges = vec![
        usable(0, layout::LOW_END),
        reserved(layout::LOW_END, layout::HIGH - layout::LOW_END),
        usable(layout::HIGH, below.saturating_sub(layout::HIGH)),
        // Linux uses the ECAM only if it is reserved here or by the board's device.
        reserved(layout::ECAM, layout::ECAM_SIZE),
        reserved(layout::KVM_PAGES, layout::KVM_PAGES_SIZE),
    ];
    if above > 0 {
        ranges.push(usable(layout::ABOVE, above));
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_in_order_and_apart() {
        let map = memory_map(layout::HOLE, 1 << 30);
        assert!(map.is_sorted_by(|one, next| one.start + one.size <= next.start));
        let usable = map.iter().filter(|range| range.kind == Kind::Usable);
        let lost = layout::HIGH - layout::LOW_END;
        assert_eq!(usable.map(|range| range.size).sum::<u64>(), (4 << 30) - lost);
    }
}
