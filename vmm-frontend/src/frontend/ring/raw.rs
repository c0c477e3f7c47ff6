//! What a driver does that breaks the rules, to see what a device makes of it.

use super::{Descriptor, Ring};

/// For drivers that break the rules: none of this keeps the books of [`add`](Ring::add) and
/// [`take`](Ring::take). [`clear`](Ring::clear) ends it.
impl Ring {
    /// Writes a descriptor; one beyond the table is not written.
    pub fn set_raw(&mut self, index: u16, descriptor: Descriptor) {
        self.shared.set_descriptor(index, descriptor);
    }

    /// Puts any number into the available ring.
    pub fn offer_raw(&mut self, head: u16) {
        self.shared.set_available(self.available, head);
        self.available = self.available.wrapping_add(1);
    }

    /// Shows the device what was offered, and so many more that were not, without a kick.
    pub fn show_raw(&mut self, more: u16) {
        self.available = self.available.wrapping_add(more);
        self.show();
    }

    /// The next used element, unchecked: `id` and `len`.
    pub fn take_raw(&mut self) -> Option<(u32, u32)> {
        if self.used == self.shared.used_index() {
            return None;
        }
        let element = self.shared.used(self.used);
        self.used = self.used.wrapping_add(1);
        Some(element)
    }
}
