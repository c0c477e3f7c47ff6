//! MSI-X (PCI 3.0, 6.8.2): a table of messages, each sent by events that KVM listens to.
//!
//! While a vector is masked, its events are not connected and keep count: that is its pending bit,
//! and KVM sends the message when they are connected again.

use std::collections::BTreeMap;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::config::Config;
use crate::machine::irq::{Interrupts, Message, Route};

/// The capability's id.
const ID: u8 = 0x11;
/// Message control, from the capability's start.
const CONTROL: usize = 2;
const ENABLE: u16 = 1 << 15;
const FUNCTION_MASK: u16 = 1 << 14;
/// Bytes of a table's entry.
const ENTRY: u64 = 16;
const MASKED: u32 = 1;

/// The most vectors of a function.
pub const VECTORS: u16 = 2048;

/// Where the table is: which BAR, and the offsets of entries and of pending bits.
#[derive(Clone, Copy, Debug)]
pub struct Location {
    /// The BAR.
    pub bar: u8,
    /// Offset of the table, a multiple of 8.
    pub table: u32,
    /// Offset of the pending bits, a multiple of 8.
    pub pending: u32,
}

/// A function's table.
#[derive(Debug)]
pub struct Msix {
    interrupts: Interrupts,
    /// Where its capability is.
    capability: usize,
    enabled: bool,
    function_masked: bool,
    vectors: Vec<Vector>,
    /// What sends messages, by a number that the function chose.
    sources: BTreeMap<u32, Source>,
}

#[derive(Debug)]
struct Vector {
    message: Message,
    masked: bool,
    /// While messages are sent.
    route: Option<Route>,
}

#[derive(Debug)]
struct Source {
    event: Arc<EventFd>,
    vector: u16,
    connected: bool,
}

impl Msix {
    /// A table of `vectors`, 1 to [`VECTORS`], and its capability in configuration space.
    ///
    /// `None`: the capability has no room.
    #[must_use]
    pub fn new(
        interrupts: Interrupts,
        config: &mut Config,
        vectors: u16,
        location: Location,
    ) -> Option<Self> {
        let count = vectors.clamp(1, VECTORS);
        let mut body = [0; 10];
        let (control, places) = body.split_at_mut(2);
        control.copy_from_slice(&(count - 1).to_le_bytes());
        let (table, pending) = places.split_at_mut(4);
        table.copy_from_slice(&(location.table | u32::from(location.bar)).to_le_bytes());
        pending.copy_from_slice(&(location.pending | u32::from(location.bar)).to_le_bytes());
        let capability =
            config.add_capability(ID, &body, &(ENABLE | FUNCTION_MASK).to_le_bytes())?;
        let vector = || Vector { message: Message::default(), masked: true, route: None };
        Some(Self {
            interrupts,
            capability,
            enabled: false,
            function_masked: false,
            vectors: std::iter::repeat_with(vector).take(count.into()).collect(),
            sources: BTreeMap::new(),
        })
    }

    /// Whether the guest has enabled it; interrupt pins are silent then.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// How many vectors there are.
    #[must_use]
    pub fn vectors(&self) -> u16 {
        u16::try_from(self.vectors.len()).unwrap_or(VECTORS)
    }

    /// Has writes to `event` send a vector's message, instead of what that source did before.
    pub fn bind(&mut self, source: u32, event: Arc<EventFd>, vector: u16) {
        self.unbind(source);
        self.sources.insert(source, Source { event, vector, connected: false });
        self.settle();
    }

    /// Has a source send nothing any more.
    pub fn unbind(&mut self, source: u32) {
        let Some(source) = self.sources.remove(&source) else { return };
        if source.connected
            && let Some(route) = self.route(source.vector)
        {
            route.disconnect(&source.event);
        }
        self.settle();
    }

    /// The guest wrote to configuration space: takes over what it says of MSI-X.
    pub fn config_written(&mut self, config: &Config) {
        let control = u16::from_le_bytes(config.get(self.capability.saturating_add(CONTROL)));
        let new = (control & ENABLE != 0, control & FUNCTION_MASK != 0);
        if new != (self.enabled, self.function_masked) {
            (self.enabled, self.function_masked) = new;
            self.settle();
        }
    }

    /// The guest reads from the table.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        let entry = usize::try_from(offset / ENTRY).ok().and_then(|index| self.vectors.get(index));
        let bytes = entry.map_or([0; ENTRY as usize], Vector::bytes);
        let inside = usize::try_from(offset % ENTRY).unwrap_or(0);
        data.fill(0);
        for (to, from) in data.iter_mut().zip(bytes.iter().skip(inside)) {
            *to = *from;
        }
    }

    /// The guest writes to the table.
    pub fn write_table(&mut self, offset: u64, data: &[u8]) {
        let index = usize::try_from(offset / ENTRY).unwrap_or(usize::MAX);
        let Some(vector) = self.vectors.get_mut(index) else { return };
        let inside = usize::try_from(offset % ENTRY).unwrap_or(0);
        let mut bytes = vector.bytes();
        for (to, from) in bytes.iter_mut().skip(inside).zip(data) {
            *to = *from;
        }
        vector.take(bytes);
        self.settle();
    }

    /// The guest reads pending bits.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let first = offset.saturating_mul(8);
        let sources = self.sources.values().filter(|source| !source.connected);
        for source in sources.filter(|source| is_pending(&source.event)) {
            let Some(bit) = u64::from(source.vector).checked_sub(first) else { continue };
            let byte = usize::try_from(bit / 8).unwrap_or(usize::MAX);
            if let Some(byte) = data.get_mut(byte) {
                *byte |= 1 << (bit % 8);
            }
        }
    }

    /// Is as at power-on; sources stay unbound.
    pub fn reset(&mut self) {
        (self.enabled, self.function_masked) = (false, false);
        self.settle();
        self.sources.clear();
        for vector in &mut self.vectors {
            (vector.message, vector.masked) = (Message::default(), true);
        }
    }

    fn route(&self, vector: u16) -> Option<&Route> {
        self.vectors.get(usize::from(vector))?.route.as_ref()
    }

    /// Connects the events of vectors that may send, and disconnects the others'.
    fn settle(&mut self) {
        let may_send = self.enabled && !self.function_masked;
        for (number, vector) in (0u16..).zip(&mut self.vectors) {
            let sources = self.sources.values_mut().filter(|source| source.vector == number);
            if let Err(error) = vector.settle(may_send, sources, &self.interrupts) {
                log::error!("MSI-X vector {number}: {error}");
            }
        }
    }
}

impl Vector {
    fn settle<'a>(
        &mut self,
        may_send: bool,
        sources: impl Iterator<Item = &'a mut Source>,
        interrupts: &Interrupts,
    ) -> Result<(), crate::machine::vm::VmError> {
        let mut sources = sources.peekable();
        if !may_send || self.masked || sources.peek().is_none() {
            if let Some(route) = self.route.take() {
                for source in sources.filter(|source| source.connected) {
                    route.disconnect(&source.event);
                    source.connected = false;
                }
            }
            return Ok(());
        }
        let route = match self.route.take() {
            Some(route) => {
                route.change(self.message)?;
                route
            }
            None => interrupts.route(self.message)?,
        };
        let route = self.route.insert(route);
        for source in sources.filter(|source| !source.connected) {
            route.connect(&source.event)?;
            source.connected = true;
        }
        Ok(())
    }

    fn bytes(&self) -> [u8; ENTRY as usize] {
        let mut bytes = [0; ENTRY as usize];
        let (address, rest) = bytes.split_at_mut(8);
        address.copy_from_slice(&self.message.address.to_le_bytes());
        let (data, control) = rest.split_at_mut(4);
        data.copy_from_slice(&self.message.data.to_le_bytes());
        control.copy_from_slice(&u32::from(self.masked).to_le_bytes());
        bytes
    }

    fn take(&mut self, bytes: [u8; ENTRY as usize]) {
        let [a0, a1, a2, a3, a4, a5, a6, a7, d0, d1, d2, d3, c0, c1, c2, c3] = bytes;
        let address = u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]);
        self.message = Message { address, data: u32::from_le_bytes([d0, d1, d2, d3]) };
        self.masked = u32::from_le_bytes([c0, c1, c2, c3]) & MASKED != 0;
    }
}

/// Whether it was written to: it can only be found out by reading, so that is put back.
fn is_pending(event: &EventFd) -> bool {
    match event.read() {
        Ok(count) => {
            // It was less than the most a moment ago.
            let _ = event.write(count);
            true
        }
        Err(_) => false,
    }
}
