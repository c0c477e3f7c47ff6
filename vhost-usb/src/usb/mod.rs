//! USB's own terms (Universal Serial Bus Specification 2.0).
//!
//! - [`setup`]: requests to a device's default control pipe;
//! - [`descriptor`]: what a device says that it is;
//! - [`microsoft`]: descriptors that only Windows asks for;
//! - [`data`]: where a transaction's data come from and go to.

pub mod data;
pub mod descriptor;
pub mod microsoft;
pub mod setup;

/// How fast a device signals (USB 2.0, 4.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Speed {
    /// 1.5 Mb/s.
    Low,
    /// 12 Mb/s.
    Full,
    /// 480 Mb/s.
    High,
}

/// Which way data go (USB 2.0, 8.3.1: IN and OUT tokens).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From the host to the device.
    Out,
    /// From the device to the host.
    In,
}

/// One of a device's endpoints: its number, 0 to 15, and which way its data go.
///
/// Endpoint 0 has both directions; a SETUP token goes [`Out`](Direction::Out).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    number: u8,
    direction: Direction,
}

impl Endpoint {
    /// The endpoint with the number's low 4 bits, which are all that a token has.
    #[must_use]
    pub const fn new(number: u8, direction: Direction) -> Self {
        Self { number: number & 0xf, direction }
    }

    /// From a bEndpointAddress (USB 2.0, 9.6.6), or from a request's wIndex (figure 9-2).
    #[must_use]
    pub const fn of_address(address: u8) -> Self {
        let direction = if address & 0x80 == 0 { Direction::Out } else { Direction::In };
        Self::new(address, direction)
    }

    /// As bEndpointAddress has it.
    #[must_use]
    pub const fn address(self) -> u8 {
        match self.direction {
            Direction::Out => self.number,
            Direction::In => self.number | 0x80,
        }
    }

    /// Its number, 0 to 15.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.number
    }

    /// Which way its data go.
    #[must_use]
    pub const fn direction(self) -> Direction {
        self.direction
    }
}

/// What a device answers to the host's tokens (USB 2.0, 8.4.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// So many bytes have moved, maybe in several packets. Fewer than the host wanted: the rest is
    /// still to come or to be taken, unless a packet was short.
    Moved {
        /// How many.
        bytes: usize,
        /// The last packet was shorter than the endpoint's packets can be: the transfer is over.
        short: bool,
    },
    /// Nothing can move now; whoever is asked says when it is worth while to try again.
    Nak,
    /// The endpoint is halted, or the request is not supported.
    Stall,
    /// The device has more to send than the host has room for.
    Babble,
    /// There is no answer: nobody has that address, or the device is broken.
    Silent,
}

impl Answer {
    /// All that was wanted has moved, none of it in a short packet.
    #[must_use]
    pub const fn moved(bytes: usize) -> Self {
        Self::Moved { bytes, short: false }
    }
}
