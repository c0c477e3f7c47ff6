//! A transfer's data in the host's memory, page by page (EHCI 1.0, 3.3.3, 3.4.5 and 3.5.4).

use std::cell::Cell;

use crate::controller::Memory;
use crate::usb::data::{Sink, Source};

/// Bytes that lie in pages, of which `place` knows where one is that is so many bytes ahead, and how many
/// follow it in its page.
pub(super) struct Pages<'a, P> {
    memory: &'a dyn Memory,
    place: P,
    /// Bytes, all within the pages.
    length: u32,
    /// Bytes that were put there.
    filled: u32,
    /// Some of it is no memory.
    failed: Cell<bool>,
}

impl<'a, P: Fn(u32) -> Option<(u32, u32)>> Pages<'a, P> {
    pub(super) fn new(memory: &'a dyn Memory, length: u32, place: P) -> Self {
        Self { memory, place, length, filled: 0, failed: Cell::new(false) }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.get()
    }

    /// Moves bytes piece by piece, each within a page; returns how many.
    fn each(&self, from: u32, most: usize, mut piece: impl FnMut(u32, usize, usize)) -> usize {
        let left = usize::try_from(self.length.saturating_sub(from)).unwrap_or(0);
        let count = left.min(most);
        let mut done = 0;
        while done < count {
            let ahead = u32::try_from(done).unwrap_or(u32::MAX).saturating_add(from);
            let Some((address, rest)) = (self.place)(ahead) else { break };
            let rest = usize::try_from(rest).unwrap_or(0);
            let length = rest.min(count.saturating_sub(done));
            piece(address, done, length);
            done = done.saturating_add(length);
        }
        done
    }
}

impl<P: Fn(u32) -> Option<(u32, u32)>> Source for Pages<'_, P> {
    fn len(&self) -> usize {
        usize::try_from(self.length).unwrap_or(0)
    }

    fn read(&self, offset: usize, to: &mut [u8]) -> usize {
        let Ok(from) = u32::try_from(offset) else { return 0 };
        self.each(from, to.len(), |address, at, length| {
            let piece = to.get_mut(at..).and_then(|rest| rest.get_mut(..length));
            if piece.and_then(|piece| self.memory.read(address, piece)).is_none() {
                self.failed.set(true);
            }
        })
    }
}

impl<P: Fn(u32) -> Option<(u32, u32)>> Sink for Pages<'_, P> {
    fn room(&self) -> usize {
        usize::try_from(self.length.saturating_sub(self.filled)).unwrap_or(0)
    }

    fn write(&mut self, data: &[u8]) -> usize {
        let count = self.each(self.filled, data.len(), |address, at, length| {
            let piece = data.get(at..).and_then(|rest| rest.get(..length));
            if piece.and_then(|piece| self.memory.write(address, piece)).is_none() {
                self.failed.set(true);
            }
        });
        self.filled = self.filled.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        count
    }
}
