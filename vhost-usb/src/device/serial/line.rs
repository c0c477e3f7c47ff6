//! How the guest has set the line, and where the host's side connects, on any thread.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// How bytes are sent over a line (PSTN 1.2, table 17). The stream of the host's takes them as bytes,
/// whatever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coding {
    /// Bits per second.
    pub rate: u32,
    /// Stop bits: 0 for one, 1 for one and a half, 2 for two.
    pub stop_bits: u8,
    /// None, odd, even, mark, space, from 0 on.
    pub parity: u8,
    /// 5, 6, 7, 8 or 16.
    pub data_bits: u8,
}

impl Default for Coding {
    fn default() -> Self {
        Self { rate: 9600, stop_bits: 0, parity: 0, data_bits: 8 }
    }
}

impl Coding {
    /// From a request's data. `None`: it is no coding.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let [r0, r1, r2, r3, stop_bits, parity, data_bits] = *bytes else { return None };
        let valid = stop_bits <= 2 && parity <= 4 && matches!(data_bits, 5..=8 | 16);
        let rate = u32::from_le_bytes([r0, r1, r2, r3]);
        valid.then_some(Self { rate, stop_bits, parity, data_bits })
    }

    pub(super) fn bytes(self) -> [u8; 7] {
        let [r0, r1, r2, r3] = self.rate.to_le_bytes();
        [r0, r1, r2, r3, self.stop_bits, self.parity, self.data_bits]
    }
}

#[derive(Debug, Default)]
struct State {
    coding: Coding,
    is_ready: bool,
    wants_to_send: bool,
    last_break: Option<u16>,
    /// What the host's side is to be from now on.
    connection: Option<Option<File>>,
}

/// A line.
pub struct Line {
    state: Mutex<State>,
    wake: EventFd,
}

impl Line {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { state: Mutex::default(), wake: EventFd::new(EFD_NONBLOCK)? })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn event(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    /// The device has something to do.
    pub(super) fn wake(&self) {
        // A counter that is full is readable as well.
        let _ = self.wake.write(1);
    }

    pub(super) fn take_connection(&self) -> Option<Option<File>> {
        let _ = self.wake.read(); // however often it was written
        self.lock().connection.take()
    }

    pub(super) fn reset(&self) {
        let mut state = self.lock();
        *state = State { connection: state.connection.take(), ..State::default() };
    }

    pub(super) fn set_coding(&self, coding: Coding) {
        self.lock().coding = coding;
    }

    /// SET_CONTROL_LINE_STATE's wValue (PSTN 1.2, table 18).
    pub(super) fn set_control(&self, value: u16) {
        let mut state = self.lock();
        state.is_ready = value & 1 != 0;
        state.wants_to_send = value & 2 != 0;
    }

    pub(super) fn send_break(&self, milliseconds: u16) {
        self.lock().last_break = Some(milliseconds);
    }

    /// Connects the host's side: a pseudo-terminal's master, a socket, or another stream. What was
    /// connected before is closed. It is used without blocking, and so by all who share it.
    ///
    /// # Errors
    /// It can't be used without blocking.
    pub fn connect(&self, stream: OwnedFd) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&stream, true)?;
        self.lock().connection = Some(Some(File::from(stream)));
        self.wake();
        Ok(())
    }

    /// Takes the host's side away.
    pub fn disconnect(&self) {
        self.lock().connection = Some(None);
        self.wake();
    }

    /// How the guest wants bytes to be sent.
    pub fn coding(&self) -> Coding {
        self.lock().coding
    }

    /// Whether the guest has the port open (DTR).
    pub fn is_ready(&self) -> bool {
        self.lock().is_ready
    }

    /// Whether the guest wants to send (RTS).
    pub fn wants_to_send(&self) -> bool {
        self.lock().wants_to_send
    }

    /// The last break since this was asked: its milliseconds; 0xffff begins one, and 0 ends it.
    pub fn take_break(&self) -> Option<u16> {
        self.lock().last_break.take()
    }
}
