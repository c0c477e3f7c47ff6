//! The registers of a 16550A (National Semiconductor PC16550D), without a host.
//!
//! `vm_superio::Serial` will not do: it says that the transmitter is empty whatever becomes of the
//! output, so a full host could only lose it or stop the processor; reading IIR drops a pending
//! receive interrupt; two pending interrupts read as a third (6, a line status error); FCR is not
//! there, and neither is a break condition.

/// Bytes that each FIFO has.
pub(super) const FIFO: usize = 16;

/// Offsets of registers. Those of the divisor latch are in front while DLAB is set.
mod offset {
    /// RBR and THR.
    pub(super) const DATA: u64 = 0;
    pub(super) const IER: u64 = 1;
    /// IIR and FCR.
    pub(super) const IIR: u64 = 2;
    pub(super) const LCR: u64 = 3;
    pub(super) const MCR: u64 = 4;
    pub(super) const LSR: u64 = 5;
    pub(super) const MSR: u64 = 6;
    pub(super) const SCR: u64 = 7;
}

/// Interrupt enable.
mod ier {
    pub(super) const RECEIVED: u8 = 1 << 0;
    pub(super) const THR_EMPTY: u8 = 1 << 1;
    pub(super) const LINE_STATUS: u8 = 1 << 2;
    pub(super) const MODEM_STATUS: u8 = 1 << 3;
    pub(super) const ALL: u8 = RECEIVED | THR_EMPTY | LINE_STATUS | MODEM_STATUS;
}

/// Interrupt identification, the first that applies.
mod iir {
    pub(super) const LINE_STATUS: u8 = 0x06;
    pub(super) const RECEIVED: u8 = 0x04;
    pub(super) const TIMEOUT: u8 = 0x0c;
    pub(super) const THR_EMPTY: u8 = 0x02;
    pub(super) const MODEM_STATUS: u8 = 0x00;
    pub(super) const NONE: u8 = 0x01;
    pub(super) const FIFOS: u8 = 0xc0;
}

/// FIFO control.
mod fcr {
    pub(super) const ENABLE: u8 = 1 << 0;
    pub(super) const CLEAR_RECEIVER: u8 = 1 << 1;
    pub(super) const TRIGGER_SHIFT: u8 = 6;
}

/// Line control: the divisor latch is in front.
const DLAB: u8 = 1 << 7;

/// Modem control. Interrupts come whatever OUT2 is, as in other virtual machines.
mod mcr {
    pub(super) const DTR: u8 = 1 << 0;
    pub(super) const RTS: u8 = 1 << 1;
    pub(super) const OUT1: u8 = 1 << 2;
    pub(super) const OUT2: u8 = 1 << 3;
    pub(super) const LOOP: u8 = 1 << 4;
    pub(super) const ALL: u8 = 0x1f;
}

/// Line status.
mod lsr {
    pub(super) const DATA_READY: u8 = 1 << 0;
    pub(super) const OVERRUN: u8 = 1 << 1;
    pub(super) const BREAK: u8 = 1 << 4;
    pub(super) const THR_EMPTY: u8 = 1 << 5;
    pub(super) const TRANSMITTER_EMPTY: u8 = 1 << 6;
    pub(super) const ERROR_IN_FIFO: u8 = 1 << 7;
    /// What an interrupt tells, and reading clears.
    pub(super) const ERRORS: u8 = OVERRUN | BREAK;
}

/// Modem status; the low half says which of the high half have changed.
mod msr {
    pub(super) const CTS: u8 = 1 << 4;
    pub(super) const DSR: u8 = 1 << 5;
    pub(super) const RI: u8 = 1 << 6;
    pub(super) const DCD: u8 = 1 << 7;
    pub(super) const DELTA_SHIFT: u8 = 4;
}

/// What came from the line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Received {
    #[default]
    Break,
    Byte(u8),
}

/// What there is room for in a FIFO.
#[derive(Debug)]
struct Fifo<T> {
    slots: [T; FIFO],
    first: usize,
    count: usize,
}

impl<T: Copy + Default> Fifo<T> {
    fn new() -> Self {
        Self { slots: [T::default(); FIFO], first: 0, count: 0 }
    }

    /// `false`: it is full.
    fn push(&mut self, value: T, depth: usize) -> bool {
        let free = self.count < depth.min(FIFO);
        if free && let Some(slot) = self.slots.get_mut((self.first + self.count) % FIFO) {
            *slot = value;
            self.count += 1;
        }
        free
    }

    fn peek(&self) -> Option<T> {
        self.slots.get(self.first).copied().filter(|_| self.count > 0)
    }

    fn pop(&mut self) -> Option<T> {
        let value = self.peek()?;
        self.first = (self.first + 1) % FIFO;
        self.count -= 1;
        Some(value)
    }

    fn iter(&self) -> impl Iterator<Item = T> {
        self.slots.iter().copied().cycle().skip(self.first).take(self.count)
    }
}

/// The registers.
#[derive(Debug)]
pub(super) struct Uart {
    /// The divisor latch, low and high.
    dll: u8,
    dlm: u8,
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    scr: u8,
    /// Errors that were not read yet.
    errors: u8,
    /// What of the modem's lines has changed.
    deltas: u8,
    received: Fifo<Received>,
    /// What the host has no room for.
    waiting: Fifo<u8>,
    /// The transmitter has become empty, and IIR has not told.
    emptied: bool,
}

impl Default for Uart {
    /// As it is after a reset, at 9600 baud with 8 bits.
    fn default() -> Self {
        Self {
            dll: 12,
            dlm: 0,
            ier: 0,
            fcr: 0,
            lcr: 0b11,
            mcr: mcr::OUT2,
            scr: 0,
            errors: 0,
            deltas: 0,
            received: Fifo::new(),
            waiting: Fifo::new(),
            emptied: false,
        }
    }
}

impl Uart {
    /// What waits for the host is sent all the same.
    pub(super) fn reset(&mut self) {
        let waiting = std::mem::replace(&mut self.waiting, Fifo::new());
        *self = Self { waiting, ..Self::default() };
    }

    pub(super) fn read(&mut self, offset: u64) -> u8 {
        match offset {
            offset::DATA if self.is_latched() => self.dll,
            offset::IER if self.is_latched() => self.dlm,
            offset::DATA => {
                let received = self.received.pop();
                self.look_at_next();
                match received {
                    Some(Received::Byte(byte)) => byte,
                    // A break reads as zero.
                    Some(Received::Break) | None => 0,
                }
            }
            offset::IER => self.ier,
            offset::IIR => {
                let pending = self.pending();
                if pending == iir::THR_EMPTY {
                    self.emptied = false;
                }
                pending | if self.has_fifos() { iir::FIFOS } else { 0 }
            }
            offset::LCR => self.lcr,
            offset::MCR => self.mcr,
            offset::LSR => {
                let status = self.line_status();
                self.errors = 0;
                status
            }
            offset::MSR => self.modem_lines() | std::mem::take(&mut self.deltas),
            offset::SCR => self.scr,
            _ => 0xff,
        }
    }

    /// `send` takes a byte to the host; `false`: there is no room.
    pub(super) fn write(&mut self, offset: u64, value: u8, send: impl FnMut(u8) -> bool) {
        match offset {
            offset::DATA if self.is_latched() => self.dll = value,
            offset::IER if self.is_latched() => self.dlm = value,
            offset::DATA => self.transmit(value, send),
            offset::IER => {
                let value = value & ier::ALL;
                // Who enables it is told of an empty transmitter at once.
                if value & !self.ier & ier::THR_EMPTY != 0 && self.is_empty() {
                    self.emptied = true;
                }
                self.ier = value;
            }
            offset::IIR => self.control_fifos(value),
            offset::LCR => self.lcr = value,
            offset::MCR => {
                let before = self.modem_lines();
                self.mcr = value & mcr::ALL;
                let changed = before ^ self.modem_lines();
                // Of a ring only the end is told.
                let told = changed & (before | !msr::RI);
                self.deltas |= told >> msr::DELTA_SHIFT;
            }
            offset::SCR => self.scr = value,
            _ => {}
        }
    }

    /// How many bytes of input can be taken. In loopback nothing comes from the line.
    pub(super) fn room(&self) -> usize {
        if self.loops() { 0 } else { self.depth().saturating_sub(self.received.count) }
    }

    /// Something has come from the line.
    pub(super) fn receive(&mut self, what: Received) {
        if !self.received.push(what, self.depth()) {
            self.errors |= lsr::OVERRUN;
        } else if self.received.count == 1 {
            self.look_at_next();
        }
    }

    /// Sends what waits, now that there is room.
    pub(super) fn send_waiting(&mut self, mut send: impl FnMut(u8) -> bool) {
        while let Some(byte) = self.waiting.peek() {
            if !send(byte) {
                return;
            }
            self.waiting.pop();
            self.emptied |= self.is_empty();
        }
    }

    /// Whether the interrupt line is high.
    pub(super) fn is_high(&self) -> bool {
        self.pending() != iir::NONE
    }

    fn is_latched(&self) -> bool {
        self.lcr & DLAB != 0
    }

    fn has_fifos(&self) -> bool {
        self.fcr & fcr::ENABLE != 0
    }

    fn loops(&self) -> bool {
        self.mcr & mcr::LOOP != 0
    }

    fn depth(&self) -> usize {
        if self.has_fifos() { FIFO } else { 1 }
    }

    fn is_empty(&self) -> bool {
        self.waiting.count == 0
    }

    /// As a real one: what is written to a full transmitter is lost; its status said so.
    fn transmit(&mut self, byte: u8, mut send: impl FnMut(u8) -> bool) {
        self.emptied = false;
        if self.loops() {
            self.receive(Received::Byte(byte));
        } else if !self.is_empty() || !send(byte) {
            self.waiting.push(byte, self.depth());
        }
        self.emptied = self.is_empty();
    }

    /// The transmitter's FIFO is never cleared: what waits there a real one would have sent by now.
    fn control_fifos(&mut self, value: u8) {
        let changes = (value ^ self.fcr) & fcr::ENABLE != 0;
        self.fcr = value;
        if changes || value & fcr::CLEAR_RECEIVER != 0 {
            self.received = Fifo::new();
        }
    }

    /// An error is told when what it is about is the next to be read.
    fn look_at_next(&mut self) {
        if self.received.peek() == Some(Received::Break) {
            self.errors |= lsr::BREAK;
        }
    }

    fn line_status(&self) -> u8 {
        let when = |condition, bits| if condition { bits } else { 0 };
        let broken = self.received.iter().any(|received| received == Received::Break);
        self.errors
            | when(self.received.count > 0, lsr::DATA_READY)
            | when(self.is_empty(), lsr::THR_EMPTY | lsr::TRANSMITTER_EMPTY)
            | when(self.has_fifos() && broken, lsr::ERROR_IN_FIFO)
    }

    /// Somebody is always there; in loopback the inputs are the outputs.
    fn modem_lines(&self) -> u8 {
        if !self.loops() {
            return msr::CTS | msr::DSR | msr::DCD;
        }
        [(mcr::RTS, msr::CTS), (mcr::DTR, msr::DSR), (mcr::OUT1, msr::RI), (mcr::OUT2, msr::DCD)]
            .into_iter()
            .filter(|(output, _)| self.mcr & output != 0)
            .fold(0, |lines, (_, input)| lines | input)
    }

    /// What IIR says, without the FIFOs' bits.
    fn pending(&self) -> u8 {
        let enabled = |bit| self.ier & bit != 0;
        let trigger = match self.fcr >> fcr::TRIGGER_SHIFT {
            _ if !self.has_fifos() => 1,
            0 => 1,
            1 => 4,
            2 => 8,
            _ => 14,
        };
        if enabled(ier::LINE_STATUS) && self.errors & lsr::ERRORS != 0 {
            iir::LINE_STATUS
        } else if enabled(ier::RECEIVED) && self.received.count >= trigger {
            iir::RECEIVED
        } else if enabled(ier::RECEIVED) && self.received.count > 0 {
            // Nobody waits for the time of four characters here.
            iir::TIMEOUT
        } else if enabled(ier::THR_EMPTY) && self.emptied {
            iir::THR_EMPTY
        } else if enabled(ier::MODEM_STATUS) && self.deltas != 0 {
            iir::MODEM_STATUS
        } else {
            iir::NONE
        }
    }
}

#[cfg(test)]
#[path = "uart_tests.rs"]
mod tests;
