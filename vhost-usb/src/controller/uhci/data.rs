//! A packet's data in the host's memory (UHCI 1.1, 3.2.4).

use std::cell::Cell;

use crate::controller::Memory;
use crate::usb::data::{Sink, Source};

/// A packet's bytes, one after the other.
pub(super) struct Packet<'a> {
    memory: &'a dyn Memory,
    address: u32,
    length: usize,
    /// Bytes that have moved.
    moved: usize,
    /// Some of it is no memory.
    failed: Cell<bool>,
}

impl<'a> Packet<'a> {
    pub(super) fn new(memory: &'a dyn Memory, address: u32, length: u32) -> Self {
        let length = usize::try_from(length).unwrap_or(0);
        Self { memory, address, length, moved: 0, failed: Cell::new(false) }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.get()
    }

    /// A device has taken so many bytes: what is left begins behind them.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.moved = self.moved.saturating_add(bytes).min(self.length);
    }

    /// Bytes that have moved.
    pub(super) fn moved(&self) -> u32 {
        u32::try_from(self.moved).unwrap_or(u32::MAX)
    }

    /// Where the byte is that is so many behind those that have moved.
    fn place(&self, offset: usize) -> Option<u32> {
        let ahead = u32::try_from(self.moved.checked_add(offset)?).ok()?;
        self.address.checked_add(ahead)
    }
}

impl Source for Packet<'_> {
    fn len(&self) -> usize {
        self.length.saturating_sub(self.moved)
    }

    fn read(&self, offset: usize, to: &mut [u8]) -> usize {
        let count = self.len().saturating_sub(offset).min(to.len());
        let Some(to) = to.get_mut(..count).filter(|to| !to.is_empty()) else { return 0 };
        if self.place(offset).and_then(|address| self.memory.read(address, to)).is_none() {
            to.fill(0);
            self.failed.set(true);
        }
        count
    }
}

impl Sink for Packet<'_> {
    fn room(&self) -> usize {
        self.length.saturating_sub(self.moved)
    }

    fn write(&mut self, data: &[u8]) -> usize {
        let count = self.room().min(data.len());
        let Some(data) = data.get(..count).filter(|data| !data.is_empty()) else { return 0 };
        if self.place(0).and_then(|address| self.memory.write(address, data)).is_none() {
            self.failed.set(true);
        }
        self.advance(count);
        count
    }
}
