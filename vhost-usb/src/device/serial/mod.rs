//! A serial port (CDC 1.2 and its PSTN subclass 1.2: abstract control model), between a guest and a stream
//! of the host's.
//!
//! - [`Serial`]: the class's requests and endpoints;
//! - [`line`]: how the guest has set the line;
//! - [`peer`]: who is at the host's side, and how they come there;
//! - [`stream`]: the bytes that wait for them, or for the guest.

pub mod line;
pub mod peer;
mod stream;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::emulated::Function;
use crate::usb::data::{Sink, Source};
use crate::usb::descriptor::{
    Configuration, Descriptors, EndpointInfo, Interface, Synchronization, Transfer,
};
use crate::usb::setup::{Kind, Recipient, Setup};
use crate::usb::{Answer, Direction, Endpoint, Speed};
use line::{Coding, Line};
use peer::Peer;
use stream::Stream;

/// The interfaces: one for control, one for data.
const CONTROL: u8 = 0;
const DATA: u8 = 1;
/// The endpoints' numbers: of data, in both directions, and of notifications.
const BULK: u8 = 1;
const NOTIFICATIONS: u8 = 2;
const BULK_PACKET: [u16; 2] = [64, 512];
/// A notification fits.
const NOTIFICATION_PACKET: u16 = 16;
/// bInterval at full speed, in milliseconds, and at high speed, as a power of two.
const INTERVALS: [u8; 2] = [32, 9];

/// Requests (PSTN 1.2, 6.3).
const SET_LINE_CODING: u8 = 0x20;
const GET_LINE_CODING: u8 = 0x21;
const SET_CONTROL_LINE_STATE: u8 = 0x22;
const SEND_BREAK: u8 = 0x23;
/// The notification of the line's state (6.5.4), and its bits: the host's side is there.
const SERIAL_STATE: u8 = 0x20;
const CARRIER: u16 = 1;
const TRANSMIT_CARRIER: u16 = 1 << 1;

/// A serial port.
pub struct Serial {
    descriptors: Descriptors,
    line: Line,
    stream: Stream,
    /// Readable when the carrier has changed while the guest asked for something else.
    wake: EventFd,
    speed: Speed,
    /// The line's state, as the guest was told.
    told: Option<u16>,
    /// The last packet was full and there is no more: the guest does not know yet.
    owes_end: bool,
}

impl Serial {
    /// One that can be so fast, for whoever is at the host's side.
    ///
    /// # Errors
    /// No descriptor can be had.
    pub fn new(fastest: Speed, peer: Peer) -> io::Result<Self> {
        Ok(Self {
            descriptors: descriptors(fastest),
            line: Line::default(),
            stream: Stream::new(peer)?,
            wake: EventFd::new(EFD_NONBLOCK)?,
            speed: fastest,
            told: None,
            owes_end: false,
        })
    }

    /// How the guest has set the line.
    pub fn line(&mut self) -> &mut Line {
        &mut self.line
    }

    /// Does something by which the carrier may change, and has the guest told.
    fn with_stream<T>(&mut self, act: impl FnOnce(&mut Stream) -> T) -> T {
        let had_carrier = self.stream.has_carrier();
        let result = act(&mut self.stream);
        if had_carrier != self.stream.has_carrier() {
            // A counter that is full is readable as well.
            let _ = self.wake.write(1);
        }
        result
    }

    fn set_control(&mut self, value: u16) {
        self.line.set_control(value);
        let is_ready = self.line.is_ready();
        self.with_stream(|stream| stream.set_wanted(is_ready));
    }

    fn packet(&self) -> usize {
        let [full, high] = BULK_PACKET;
        usize::from(if self.speed == Speed::High { high } else { full })
    }

    fn state(&self) -> u16 {
        if self.stream.has_carrier() { CARRIER | TRANSMIT_CARRIER } else { 0 }
    }

    fn notify(&mut self, to: &mut dyn Sink) -> Answer {
        let state = self.state();
        if self.told == Some(state) {
            return Answer::Nak;
        }
        let mut bytes = vec![0xa1, SERIAL_STATE, 0, 0, CONTROL, 0, 2, 0];
        bytes.extend(state.to_le_bytes());
        if to.room() < bytes.len() {
            return Answer::Babble;
        }
        self.told = Some(state);
        Answer::Moved { bytes: to.write(&bytes), short: true }
    }

    fn send(&mut self, to: &mut dyn Sink) -> Answer {
        let bytes = self.with_stream(|stream| stream.send(to));
        if bytes == 0 {
            if to.room() == 0 {
                return Answer::moved(0);
            }
            // A driver that waits for more than it has got sees only by a short packet that this was all.
            return match std::mem::take(&mut self.owes_end) {
                true => Answer::Moved { bytes: 0, short: true },
                false => Answer::Nak,
            };
        }
        let short = to.room() > 0;
        let is_full = bytes.checked_rem(self.packet()) == Some(0);
        self.owes_end = !short && is_full && !self.stream.has_input();
        Answer::Moved { bytes, short }
    }
}

fn is_for_control(setup: Setup) -> bool {
    (setup.kind(), setup.recipient()) == (Kind::Class, Recipient::Interface)
        && setup.index == u16::from(CONTROL)
}

impl Function for Serial {
    fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    fn reset(&mut self) {
        // What waits at the host's side, or for it, is not the guest's alone: it stays.
        self.line = Line::default();
        self.set_control(0);
    }

    fn speed_set(&mut self, speed: Speed) {
        self.speed = speed;
    }

    fn configured(&mut self, _configured: bool) {
        self.told = None;
        self.owes_end = false;
    }

    fn request_in(&mut self, setup: Setup) -> Option<Vec<u8>> {
        let asked = is_for_control(setup) && setup.request == GET_LINE_CODING;
        asked.then(|| self.line.coding().bytes().to_vec())
    }

    fn request_out(&mut self, setup: Setup, data: &[u8]) -> Option<()> {
        match setup.request {
            _ if !is_for_control(setup) => None,
            SET_LINE_CODING => {
                self.line.set_coding(Coding::parse(data)?);
                Some(())
            }
            SET_CONTROL_LINE_STATE => {
                self.set_control(setup.value);
                Some(())
            }
            SEND_BREAK => {
                self.line.send_break(setup.value);
                Some(())
            }
            _ => None,
        }
    }

    fn data_in(&mut self, endpoint: u8, to: &mut dyn Sink) -> Answer {
        if endpoint == NOTIFICATIONS { self.notify(to) } else { self.send(to) }
    }

    fn data_out(&mut self, _endpoint: u8, from: &dyn Source) -> Answer {
        let packet = self.packet();
        let bytes = self.with_stream(|stream| stream.take(from, packet));
        if bytes == 0 && !from.is_empty() { Answer::Nak } else { Answer::moved(bytes) }
    }

    fn events(&self) -> Vec<RawFd> {
        vec![self.wake.as_raw_fd(), self.stream.event()]
    }

    fn turn(&mut self) {
        let _ = self.wake.read(); // however often it was written
        self.stream.turn();
    }

    fn wants_to_wake(&self) -> bool {
        self.stream.has_input() || self.told.is_some_and(|told| told != self.state())
    }
}

/// Functional descriptors (CDC 1.2, 5.2.3; PSTN 1.2, 5.3).
#[rustfmt::skip]
const FUNCTIONAL: [u8; 19] = [
    5, 0x24, 0x00, 0x20, 0x01, // header: CDC 1.20
    5, 0x24, 0x01, 0x00, DATA, // call management: none
    4, 0x24, 0x02, 0x06, // abstract control model: the line's requests and state, and breaks
    5, 0x24, 0x06, CONTROL, DATA, // union
];

fn descriptors(fastest: Speed) -> Descriptors {
    let configuration = |packet, interval| {
        let endpoint = |number, direction, transfer, max_packet, interval| EndpointInfo {
            endpoint: Endpoint::new(number, direction),
            transfer,
            synchronization: Synchronization::None,
            max_packet,
            interval,
            class_descriptors: Vec::new(),
        };
        let control = Interface {
            number: CONTROL,
            // Communications, abstract control model, commands of V.250 (which drivers look for).
            class: [0x02, 0x02, 0x01],
            class_descriptors: FUNCTIONAL.to_vec(),
            endpoints: vec![endpoint(
                NOTIFICATIONS,
                Direction::In,
                Transfer::Interrupt,
                NOTIFICATION_PACKET,
                interval,
            )],
            ..Interface::default()
        };
        let both = [Direction::In, Direction::Out];
        let data = Interface {
            number: DATA,
            class: [0x0a, 0, 0],
            endpoints: both.map(|way| endpoint(BULK, way, Transfer::Bulk, packet, 0)).to_vec(),
            ..Interface::default()
        };
        Configuration {
            remote_wakeup: true,
            milliamperes: 100,
            interfaces: vec![control, data],
            ..Configuration::default()
        }
    };
    let ([full, high], [full_interval, high_interval]) = (BULK_PACKET, INTERVALS);
    Descriptors {
        usb: 0x0200,
        class: [0x02, 0, 0],
        max_packet_0: 64,
        // pid.codes' numbers for tests: it is no vendor's product.
        id: (0x1209, 0x0006),
        release: 0x0100,
        manufacturer: String::from("vhost-usb"),
        product: String::from("Serial port"),
        full_speed: Some(configuration(full, full_interval)),
        high_speed: (fastest == Speed::High).then(|| configuration(high, high_interval)),
        ..Descriptors::default()
    }
}
