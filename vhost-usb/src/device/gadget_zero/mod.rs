//! Linux's gadget zero, as its driver `usbtest` and the program `testusb` know it: it is there to try a
//! controller with.
//!
//! - [`GadgetZero`]: a source and sink of data in a pattern, in bulk and, in alternate settings 1
//!   and 2, isochronously or by interrupts too; requests that write a buffer and read it back;
//! - [`loopback`]: or what is sent to it comes back.

mod loopback;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::RawFd;

use super::emulated::Function;
use crate::usb::data::{Sink, Source};
use crate::usb::descriptor::{
    Configuration, Descriptors, EndpointInfo, Interface, Synchronization, Transfer,
};
use crate::usb::setup::{Kind, Recipient, Setup};
use crate::usb::{Answer, Direction, Endpoint, Speed};
use loopback::Loopback;

/// Numbers of the endpoints, in both directions.
const BULK: u8 = 1;
const ISOCHRONOUS: u8 = 2;
const INTERRUPT: u8 = 3;
/// wMaxPacketSize at full and high speed.
const BULK_PACKET: [u16; 2] = [64, 512];
const ISOCHRONOUS_PACKET: [u16; 2] = [1023, 1024];
const INTERRUPT_PACKET: [u16; 2] = [64, 1024];
/// bInterval: 8 frames of isochronous packets, 4 of interrupt ones, or 8 microframes.
const INTERVAL: u8 = 4;

/// Requests of usbtest's tests 14 and 21: one writes a buffer, the other reads it back.
const WRITE: u8 = 0x5b;
const READ: u8 = 0x5c;
/// Bytes of that buffer, as many as Linux's has.
const CONTROL: usize = 4096;
/// Bytes that are checked at once.
const PIECE: usize = 4096;

/// What the data look like; usbtest's option `pattern` is to be the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// 0: nothing but zeroes.
    Zeroes,
    /// 1: each byte is its place in its packet, modulo 63.
    Mod63,
}

impl Pattern {
    fn byte(self, place: usize) -> u8 {
        match self {
            Self::Zeroes => 0,
            Self::Mod63 => u8::try_from(place.checked_rem(63).unwrap_or(0)).unwrap_or(0),
        }
    }

    fn packet(self, length: usize) -> Vec<u8> {
        (0..length).map(|place| self.byte(place)).collect()
    }
}

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Sends data in a pattern, and checks that it gets them so.
    SourceSink(Pattern),
    /// Sends what it gets.
    Loopback,
}

/// A gadget zero.
pub struct GadgetZero {
    descriptors: Descriptors,
    mode: Mode,
    speed: Speed,
    loopback: Loopback,
    control: Vec<u8>,
}

impl GadgetZero {
    /// One that can be so fast.
    ///
    /// # Errors
    /// No descriptor can be had.
    pub fn new(fastest: Speed, mode: Mode) -> io::Result<Self> {
        Ok(Self {
            descriptors: descriptors(fastest, mode),
            mode,
            speed: fastest,
            loopback: Loopback::new()?,
            control: vec![0; CONTROL],
        })
    }

    fn packet(&self, [full, high]: [u16; 2]) -> usize {
        usize::from(if self.speed == Speed::High { high } else { full })
    }

    /// Bytes of a packet of a source's or sink's.
    fn packets(&self, endpoint: u8) -> usize {
        self.packet(match endpoint {
            ISOCHRONOUS => ISOCHRONOUS_PACKET,
            INTERRUPT => INTERRUPT_PACKET,
            _ => BULK_PACKET,
        })
    }

    /// Whether the data are as they have to be. They begin with a packet.
    fn fits(&self, pattern: Pattern, packet: usize, from: &dyn Source) -> bool {
        let expected = pattern.packet(packet);
        let mut piece = vec![0; PIECE];
        let mut offset = 0;
        while offset < from.len() {
            let count = from.read(offset, &mut piece);
            if count == 0 {
                return true; // no more is there, whatever was said
            }
            // A piece is a multiple of packets.
            let found = piece.iter().take(count);
            if !found.zip(expected.iter().cycle()).all(|(found, expected)| found == expected) {
                return false;
            }
            offset = offset.saturating_add(count);
        }
        true
    }

    /// Fills all room there is.
    fn source(&self, pattern: Pattern, packet: usize, to: &mut dyn Sink) -> Answer {
        let packet = pattern.packet(packet);
        let mut bytes: usize = 0;
        loop {
            let count = to.write(&packet);
            bytes = bytes.saturating_add(count);
            if count == 0 || to.room() == 0 {
                return Answer::moved(bytes);
            }
        }
    }
}

impl Function for GadgetZero {
    fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    fn reset(&mut self) {
        self.loopback.clear();
        self.control.fill(0);
    }

    fn speed_set(&mut self, speed: Speed) {
        self.speed = speed;
    }

    fn configured(&mut self, _configured: bool) {
        self.loopback.clear();
    }

    fn interface_set(&mut self, _interface: u8, _alternate: u8) {
        self.loopback.clear();
    }

    fn request_in(&mut self, setup: Setup) -> Option<Vec<u8>> {
        if !is_control_test(setup, READ) {
            return None;
        }
        self.control.get(..usize::from(setup.length)).map(<[u8]>::to_vec)
    }

    fn request_out(&mut self, setup: Setup, data: &[u8]) -> Option<()> {
        if !is_control_test(setup, WRITE) {
            return None;
        }
        for (to, from) in self.control.get_mut(..data.len())?.iter_mut().zip(data) {
            *to = *from;
        }
        Some(())
    }

    fn data_in(&mut self, endpoint: u8, to: &mut dyn Sink) -> Answer {
        match (self.mode, endpoint) {
            (Mode::Loopback, _) => self.loopback.send(to, self.packet(BULK_PACKET)),
            (Mode::SourceSink(pattern), _) => self.source(pattern, self.packets(endpoint), to),
        }
    }

    fn data_out(&mut self, endpoint: u8, from: &dyn Source) -> Answer {
        match (self.mode, endpoint) {
            (Mode::Loopback, _) => self.loopback.take(from, self.packet(BULK_PACKET)),
            // They have no handshake that could tell of a mismatch.
            (Mode::SourceSink(_), ISOCHRONOUS) => Answer::moved(from.len()),
            (Mode::SourceSink(pattern), _) => {
                match self.fits(pattern, self.packets(endpoint), from) {
                    true => Answer::moved(from.len()),
                    false => Answer::Stall,
                }
            }
        }
    }

    fn events(&self) -> Vec<RawFd> {
        vec![self.loopback.event()]
    }

    fn turn(&mut self) {
        self.loopback.turn();
    }
}

/// A vendor's request to the device, with neither a value nor an index.
fn is_control_test(setup: Setup, request: u8) -> bool {
    (setup.kind(), setup.recipient()) == (Kind::Vendor, Recipient::Device)
        && (setup.request, setup.value, setup.index) == (request, 0, 0)
}

fn descriptors(fastest: Speed, mode: Mode) -> Descriptors {
    let configuration = |bulk_packet, isochronous_packet, interrupt_packet| {
        let endpoint = |number, transfer, max_packet, interval, direction| EndpointInfo {
            endpoint: Endpoint::new(number, direction),
            transfer,
            synchronization: Synchronization::None,
            max_packet,
            interval,
            class_descriptors: Vec::new(),
        };
        let both = [Direction::In, Direction::Out];
        let bulk = both.map(|way| endpoint(BULK, Transfer::Bulk, bulk_packet, 0, way));
        let isochronous = both.map(|way| {
            endpoint(ISOCHRONOUS, Transfer::Isochronous, isochronous_packet, INTERVAL, way)
        });
        let interrupt = both
            .map(|way| endpoint(INTERRUPT, Transfer::Interrupt, interrupt_packet, INTERVAL, way));
        let interface = |alternate, name: &str, endpoints| Interface {
            alternate,
            class: [0xff, 0, 0],
            name: Some(name.to_owned()),
            endpoints,
            ..Interface::default()
        };
        let interfaces = match mode {
            Mode::Loopback => vec![interface(0, "Loopback", bulk.to_vec())],
            Mode::SourceSink(_) => {
                let name = "Source and sink";
                let with = |more| bulk.iter().chain(more).cloned().collect();
                vec![
                    interface(0, name, bulk.to_vec()),
                    interface(1, name, with(&isochronous)),
                    interface(2, name, with(&interrupt)),
                ]
            }
        };
        Configuration {
            self_powered: true,
            milliamperes: 2,
            interfaces,
            ..Configuration::default()
        }
    };
    let [[bulk_full, bulk_high], [full, high], [interrupt_full, interrupt_high]] =
        [BULK_PACKET, ISOCHRONOUS_PACKET, INTERRUPT_PACKET];
    Descriptors {
        usb: 0x0200,
        class: [0xff, 0, 0],
        max_packet_0: 64,
        // By which Linux's driver knows it.
        id: (0x0525, 0xa4a0),
        release: 0x0100,
        manufacturer: String::from("vhost-usb"),
        product: String::from("Gadget Zero"),
        full_speed: Some(configuration(bulk_full, full, interrupt_full)),
        high_speed: (fastest == Speed::High)
            .then(|| configuration(bulk_high, high, interrupt_high)),
        ..Descriptors::default()
    }
}
