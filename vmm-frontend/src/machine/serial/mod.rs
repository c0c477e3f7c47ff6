//! A serial port: a 16550A on the I/O bus, connected to the host by an [`Endpoint`].
//!
//! Output that the host has no room for makes the guest wait as real hardware does: the transmitter
//! is not empty. A processor never waits, and nothing that the guest sent by the rules is lost.

mod uart;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::bus::{Bus, Occupied, Registers};
use super::line::Line;
use crate::console::{Client, Endpoint};
use crate::lock::lock;
use crate::reactor::Reactor;
use uart::{Received, Uart};

/// Ports that it has.
const PORTS: u64 = 8;

/// A serial port.
pub struct Serial {
    state: Mutex<State>,
    endpoint: Endpoint,
    line: Arc<dyn Line>,
}

#[derive(Default)]
struct State {
    uart: Uart,
    /// The endpoint was told that there is no room for input.
    full: bool,
    /// The line's level.
    high: bool,
}

impl Serial {
    /// One that is connected to an endpoint.
    ///
    /// # Errors
    /// The host refuses.
    pub fn new(
        reactor: &Reactor,
        line: Arc<dyn Line>,
        endpoint: Endpoint,
    ) -> io::Result<Arc<Self>> {
        let serial = Arc::new(Self { state: Mutex::default(), endpoint, line });
        let client: Arc<dyn Client> = Arc::clone(&serial) as Arc<dyn Client>;
        serial.endpoint.attach(reactor, Arc::downgrade(&client))?;
        Ok(serial)
    }

    /// Puts it at a port, such as [`SERIAL`](super::layout::SERIAL).
    ///
    /// # Errors
    /// The ports are not free.
    pub fn add_to(self: &Arc<Self>, ports: &Bus, port: u16) -> Result<(), Occupied> {
        ports.add(port.into(), PORTS, Arc::clone(self) as Arc<dyn Registers>)
    }

    /// The machine is reset. What the guest had sent before still goes out.
    pub fn reset(&self) {
        let mut state = self.state();
        state.uart.reset();
        self.update(&mut state);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn send(&self, byte: u8) -> bool {
        self.endpoint.write(&[byte]) == 1
    }

    /// Sets the line, and lets input go on when there is room.
    fn update(&self, state: &mut State) {
        let high = state.uart.is_high();
        if std::mem::replace(&mut state.high, high) != high {
            self.line.set(high);
        }
        if state.full && state.uart.room() > 0 {
            state.full = false;
            self.endpoint.resume();
        }
    }
}

impl Registers for Serial {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut state = self.state();
        for (offset, byte) in (offset..).zip(data) {
            *byte = state.uart.read(offset);
            self.update(&mut state);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut state = self.state();
        for (offset, byte) in (offset..).zip(data) {
            state.uart.write(offset, *byte, |byte| self.send(byte));
            self.update(&mut state);
        }
    }
}

impl Client for Serial {
    fn room(&self) -> usize {
        let mut state = self.state();
        let room = state.uart.room();
        state.full = room == 0;
        room
    }

    fn input(&self, data: &[u8]) {
        let mut state = self.state();
        for byte in data {
            state.uart.receive(Received::Byte(*byte));
        }
        self.update(&mut state);
    }

    fn writable(&self) {
        let mut state = self.state();
        state.uart.send_waiting(|byte| self.send(byte));
        self.update(&mut state);
    }

    fn line_break(&self) {
        let mut state = self.state();
        state.uart.receive(Received::Break);
        self.update(&mut state);
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Serial").field(&self.state().uart).field(&self.endpoint).finish()
    }
}

#[cfg(test)]
mod tests;
