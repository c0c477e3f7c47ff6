//! What firmware is told of the machine: numbered items and named files (QEMU's
//! docs/specs/fw_cfg.rst), at ports that every firmware for QEMU knows.
//!
//! - [`contents`]: what there is to read;
//! - [`dma`]: transfers straight into memory, without a port access for each byte.

mod contents;
mod dma;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use super::bus::{Bus, Occupied, Registers};
use super::layout;
use crate::frontend::memory::AddressSpace;
use crate::lock::lock;
pub use contents::{Contents, key};

/// Ports, from the first.
mod port {
    /// Which item: 16 bits, little-endian.
    pub(super) const SELECTOR: u64 = 0;
    /// The selected item's next byte.
    pub(super) const DATA: u64 = 1;
    /// A DMA descriptor's address, big-endian: the high half, then the low one, which starts it.
    pub(super) const DMA: u64 = 4;
    pub(super) const DMA_LOW: u64 = 8;
    pub(super) const COUNT: u64 = 12;
}

/// What is read where the descriptor's address is written.
const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";

/// The ports, and what can be read there.
pub struct FwCfg {
    state: Mutex<State>,
    memory: AddressSpace,
}

#[derive(Default)]
struct State {
    contents: Contents,
    cursor: Cursor,
    dma_high: u32,
}

/// Which byte of which item is next.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    key: u16,
    offset: usize,
}

impl Cursor {
    /// Selects an item. One bit of old interfaces chooses to write, which nobody can.
    fn select(&mut self, key: u16) {
        const WRITE: u16 = 1 << 14;
        *self = Self { key: key & !WRITE, offset: 0 };
    }

    /// The selected item from here on, at most `most` bytes, which count as read then. It is empty
    /// if there is no such item, or no more of it.
    fn take<'a>(&mut self, contents: &'a Contents, most: usize) -> &'a [u8] {
        let rest = contents.item(self.key).get(self.offset..).unwrap_or_default();
        let taken = rest.get(..most).unwrap_or(rest);
        self.offset = self.offset.saturating_add(taken.len());
        taken
    }
}

impl FwCfg {
    /// Ports where those contents are read, with that memory for DMA.
    #[must_use]
    pub fn new(contents: Contents, memory: AddressSpace) -> Arc<Self> {
        let state = Mutex::new(State { contents, ..State::default() });
        Arc::new(Self { state, memory })
    }

    /// Puts it where a PC has it.
    ///
    /// # Errors
    /// The ports are not free.
    pub fn add_to(self: &Arc<Self>, ports: &Bus) -> Result<(), Occupied> {
        ports.add(layout::FW_CFG.into(), port::COUNT, Arc::clone(self) as Arc<dyn Registers>)
    }

    /// Sets a file, in place of one of that name, before firmware looks for it.
    pub fn set_file(&self, name: &'static str, content: Vec<u8>) {
        self.state().contents.set_file(name, content);
    }

    /// The machine is reset.
    pub fn reset(&self) {
        let mut state = self.state();
        (state.cursor, state.dma_high) = (Cursor::default(), 0);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Registers for FwCfg {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match (offset, data) {
            (port::DATA, [byte]) => {
                let State { contents, cursor, .. } = &mut *self.state();
                *byte = cursor.take(contents, 1).first().copied().unwrap_or(0);
            }
            (port::DMA.., data) => {
                let place = usize::try_from(offset - port::DMA).unwrap_or(usize::MAX);
                for (byte, letter) in data.iter_mut().zip(DMA_SIGNATURE.iter().skip(place)) {
                    *byte = *letter;
                }
            }
            _ => {}
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (port::SELECTOR, &[low, high]) => {
                self.state().cursor.select(u16::from_le_bytes([low, high]));
            }
            (port::DMA, &[b0, b1, b2, b3]) => {
                self.state().dma_high = u32::from_be_bytes([b0, b1, b2, b3]);
            }
            (port::DMA_LOW, &[b0, b1, b2, b3]) => {
                let State { contents, cursor, dma_high } = &mut *self.state();
                let low = u32::from_be_bytes([b0, b1, b2, b3]);
                let address = u64::from(std::mem::take(dma_high)) << 32 | u64::from(low);
                dma::transfer(&self.memory, address, contents, cursor);
            }
            _ => {}
        }
    }
}

impl fmt::Debug for FwCfg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FwCfg").field(&self.state().contents).finish()
    }
}

#[cfg(test)]
mod tests;
