//! Who has the real device, and what is said to it and by it.

use std::os::fd::RawFd;

use crate::usb::descriptor::Transfer as Kind;
use crate::usb::setup::Setup;
use crate::usb::{Endpoint, Speed};

/// Names a transfer that is under way: no other one has the same.
pub type Id = u32;

/// An endpoint of the device as it is configured now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pipe {
    /// Whose it is.
    pub interface: u8,
    /// How it moves data.
    pub kind: Kind,
    /// Bytes of its packets, at most; of all transactions in a microframe, if there may be several. 0 if
    /// that is not known.
    pub max_packet: usize,
    /// bInterval, in the speed's own units.
    pub interval: u8,
    /// It is a bulk endpoint that can be read before the guest asks: what it sends does not depend on how much
    /// that asks for.
    pub ahead: bool,
}

/// A transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// A request, with all its data if they go to the device.
    Control {
        /// What is asked for.
        setup: Setup,
        /// wLength bytes, or none.
        data: Vec<u8>,
    },
    /// SET_CONFIGURATION.
    SetConfiguration(u8),
    /// SET_INTERFACE.
    SetInterface {
        /// Which one.
        interface: u8,
        /// Its setting.
        alternate: u8,
    },
    /// CLEAR_FEATURE(ENDPOINT_HALT): the endpoint's data toggle is reset too, here and there.
    ClearHalt(Endpoint),
    /// So many bytes are wanted from a bulk endpoint, or fewer if a packet is short.
    In {
        /// Which one.
        endpoint: Endpoint,
        /// How many, at most [`MOST`].
        length: usize,
    },
    /// Bytes for a bulk or interrupt endpoint.
    Out {
        /// Which one.
        endpoint: Endpoint,
        /// At most [`MOST`].
        data: Vec<u8>,
    },
}

/// Bytes of a transfer, at most: a multiple of all packets' sizes, that 16 bits can say.
pub const MOST: usize = 32 << 10;

/// How a transfer has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// All has moved that was to, or until a short packet.
    Done,
    /// The endpoint is halted, or the request is not supported.
    Stall,
    /// The device has sent more than was wanted.
    Babble,
    /// It was cancelled, or something is broken.
    Failed,
}

/// What there is to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A transfer has ended.
    Ended {
        /// Which one.
        id: Id,
        /// How.
        status: Status,
        /// What the device has sent.
        data: Vec<u8>,
        /// How many bytes the device has taken.
        taken: usize,
    },
    /// A packet has come from an endpoint that was [started](Backend::start).
    Packet {
        /// Which one.
        endpoint: Endpoint,
        /// How.
        status: Status,
        /// What is in it.
        data: Vec<u8>,
    },
    /// An endpoint that was started has stopped by itself.
    Stopped {
        /// Which one.
        endpoint: Endpoint,
        /// Why.
        status: Status,
    },
}

/// Who has the real device. Nothing here blocks, or fails: a transfer that can't be made ends with an
/// [`Event`] that says so.
pub trait Backend: Send {
    /// How fast it signals, where it is plugged in really.
    fn speed(&self) -> Speed;

    /// It was plugged out: there is nothing more to be had of it.
    fn is_gone(&self) -> bool;

    /// An endpoint other than 0, as the device is configured now.
    fn pipe(&self, endpoint: Endpoint) -> Option<Pipe>;

    /// For how many milliseconds isochronous packets are gathered before the first is handed on: as much
    /// as their way may delay them.
    fn jitter(&self) -> u32;

    /// Resets it. All transfers have been cancelled, and all endpoints stopped.
    fn reset(&mut self);

    /// Begins a transfer.
    fn submit(&mut self, id: Id, transfer: Transfer);

    /// Ends a transfer before its time. Whoever asks does not want to know what becomes of it.
    fn cancel(&mut self, id: Id);

    /// Has packets received from an interrupt or isochronous endpoint, or one that is read
    /// [ahead](Pipe::ahead), at its own pace, or an isochronous one [sent to](Self::send).
    fn start(&mut self, endpoint: Endpoint);

    /// Ends that. Packets that are on their way may still come.
    fn stop(&mut self, endpoint: Endpoint);

    /// A packet for an isochronous endpoint that was started.
    fn send(&mut self, endpoint: Endpoint, packet: Vec<u8>);

    /// What has happened since, one thing at a time. Asked after one of the [`events`](Self::events), but
    /// also otherwise.
    fn take(&mut self) -> Option<Event>;

    /// Descriptors that become readable when something has happened. Always the same.
    fn events(&self) -> Vec<RawFd>;
}
