//! What a driver does that breaks the rules, to see what a device makes of it.

use super::{Descriptor, Format, Ring, in_format};

/// For drivers that break the rules: none of this keeps the books of [`add`](Ring::add) and
/// [`take`](Ring::take). [`clear`](Ring::clear) ends it.
impl Ring {
    /// Writes a descriptor; one beyond the ring is not written. In a packed ring it is counted from the
    /// next one on, is available, and seen by the device at the next [`show_raw`](Self::show_raw).
    pub fn set_raw(&mut self, index: u16, descriptor: Descriptor) {
        match &mut self.format {
            Format::Split(ring) => ring.shared.set_descriptor(index, descriptor),
            Format::Packed(ring) => ring.set_raw(index, descriptor),
        }
    }

    /// Puts any number into the available ring; a packed ring has none.
    pub fn offer_raw(&mut self, head: u16) {
        if let Format::Split(ring) = &mut self.format {
            ring.offer_raw(head);
        }
    }

    /// Shows the device what was offered, and in a split ring so many more that were not, without a
    /// kick.
    pub fn show_raw(&mut self, more: u16) {
        if let Format::Split(ring) = &mut self.format {
            ring.skip_raw(more);
        }
        self.show();
    }

    /// The next used element, unchecked: `id` and `len`.
    pub fn take_raw(&mut self) -> Option<(u32, u32)> {
        in_format!(&mut self.format, ring => ring.take_raw())
    }
}
