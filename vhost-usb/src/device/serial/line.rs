//! How the guest has set the line.

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

/// A line.
#[derive(Debug, Default)]
pub struct Line {
    coding: Coding,
    is_ready: bool,
    wants_to_send: bool,
    last_break: Option<u16>,
}

impl Line {
    pub(super) fn set_coding(&mut self, coding: Coding) {
        self.coding = coding;
    }

    /// SET_CONTROL_LINE_STATE's wValue (PSTN 1.2, table 18).
    pub(super) fn set_control(&mut self, value: u16) {
        self.is_ready = value & 1 != 0;
        self.wants_to_send = value & 2 != 0;
    }

    pub(super) fn send_break(&mut self, milliseconds: u16) {
        self.last_break = Some(milliseconds);
    }

    /// How the guest wants bytes to be sent.
    #[must_use]
    pub fn coding(&self) -> Coding {
        self.coding
    }

    /// Whether the guest has the port open (DTR).
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// Whether the guest wants to send (RTS).
    #[must_use]
    pub fn wants_to_send(&self) -> bool {
        self.wants_to_send
    }

    /// The last break since this was asked: its milliseconds; 0xffff begins one, and 0 ends it.
    pub fn take_break(&mut self) -> Option<u16> {
        self.last_break.take()
    }
}
