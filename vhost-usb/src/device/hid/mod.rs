//! Human interface devices (Device Class Definition for HID 1.11): a keyboard, a mouse, a tablet.
//!
//! - [`Hid`]: the class's requests, and the interrupt endpoint that reports go through;
//! - [`Input`]: the other end, for whoever has something to report, on any thread;
//! - [`keyboard`], [`mouse`], [`tablet`]: what each reports;
//! - [`key_names`]: keys by QEMU's names;
//! - [`pointer`]: motions and buttons in their order, for mouse and tablet;
//! - [`idle`]: reports that are repeated while nothing happens.

mod idle;
pub mod key_names;
pub mod keyboard;
pub mod mouse;
pub mod pointer;
pub mod tablet;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::emulated::Function;
use crate::usb::data::{Sink, Source};
use crate::usb::descriptor::{
    Configuration, Descriptors, EndpointInfo, Interface, Synchronization, Transfer,
};
use crate::usb::setup::{Kind, Recipient, Setup, request};
use crate::usb::{Answer, Direction, Endpoint, Speed};
use idle::Idle;

/// The class, and the subclass of what a BIOS can use (4.2).
const CLASS: u8 = 3;
const BOOT: u8 = 1;
/// The endpoint of reports.
const ENDPOINT: u8 = 1;
const INTERFACE: u16 = 0;

/// Descriptors of the class (7.1).
const HID_DESCRIPTOR: u8 = 0x21;
const REPORT_DESCRIPTOR: u8 = 0x22;

/// Requests of the class (7.2).
const GET_REPORT: u8 = 0x01;
const GET_IDLE: u8 = 0x02;
const GET_PROTOCOL: u8 = 0x03;
const SET_REPORT: u8 = 0x09;
const SET_IDLE: u8 = 0x0a;
const SET_PROTOCOL: u8 = 0x0b;

/// Types of reports, in wValue's high byte (7.2.1). No device here has reports with an ID, in its low
/// byte.
const INPUT: [u8; 2] = [1, 0];
const OUTPUT: [u8; 2] = [2, 0];

/// How reports look (7.2.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// As appendix B has it, for a BIOS.
    Boot = 0,
    /// As the report descriptor has it.
    #[default]
    Report = 1,
}

/// What a kind of device says that it is.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// The product.
    pub product: &'static str,
    /// idProduct.
    pub product_id: u16,
    /// bInterfaceProtocol of what a BIOS can use: 1 for a keyboard, 2 for a mouse (4.3).
    pub boot: Option<u8>,
    /// What its reports mean (6.2.2).
    pub report_descriptor: &'static [u8],
    /// wMaxPacketSize: a report fits.
    pub max_packet: u16,
    /// bInterval at full speed, in milliseconds, and at high speed, as a power of two.
    pub intervals: [u8; 2],
}

/// What a kind of device reports.
pub trait Reports: Default + Send + 'static {
    /// What it says that it is.
    const SHAPE: Shape;

    /// Takes the oldest change, and makes a report of it. `None`: nothing is new.
    fn take(&mut self, protocol: Protocol) -> Option<Vec<u8>>;

    /// Something is new.
    fn waits(&self) -> bool;

    /// A report of how things are, as far as they were reported.
    fn current(&self, protocol: Protocol) -> Vec<u8>;

    /// The host sends a report. `None`: there are none of that kind.
    fn output(&mut self, _report: &[u8]) -> Option<()> {
        None
    }

    /// What the host has sent last.
    fn last_output(&self) -> Option<Vec<u8>> {
        None
    }

    /// The host begins anew: what it has not read yet is over, and what is held down still is.
    fn reset(&mut self);
}

/// Where events come in. Each kind has methods of its own for that.
pub struct Input<R> {
    reports: Mutex<R>,
    wake: EventFd,
}

impl<R: Reports> Input<R> {
    fn new() -> io::Result<Self> {
        Ok(Self { reports: Mutex::default(), wake: EventFd::new(EFD_NONBLOCK)? })
    }

    fn lock(&self) -> MutexGuard<'_, R> {
        // A thread that panicked has left events at worst half-told.
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets something happen, and the device know of it.
    fn happen(&self, event: impl FnOnce(&mut R)) {
        let waits = {
            let mut reports = self.lock();
            event(&mut reports);
            reports.waits()
        };
        if waits {
            // A counter that is full is readable as well.
            let _ = self.wake.write(1);
        }
    }
}

/// A keyboard, mouse or tablet.
pub struct Hid<R> {
    descriptors: Descriptors,
    input: Arc<Input<R>>,
    protocol: Protocol,
    idle: Idle,
}

impl<R: Reports> Hid<R> {
    /// One that can be so fast; a low-speed one is a full-speed one here.
    ///
    /// # Errors
    /// No descriptor can be had.
    pub fn new(fastest: Speed) -> io::Result<Self> {
        Ok(Self {
            descriptors: descriptors(R::SHAPE, fastest),
            input: Arc::new(Input::new()?),
            protocol: Protocol::Report,
            idle: Idle::new()?,
        })
    }

    /// Where its events come in.
    #[must_use]
    pub fn input(&self) -> Arc<Input<R>> {
        Arc::clone(&self.input)
    }
}

impl<R: Reports> Function for Hid<R> {
    fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    fn reset(&mut self) {
        self.protocol = Protocol::Report; // 7.2.6
        self.idle.set(0);
        self.input.lock().reset();
    }

    fn request_in(&mut self, setup: Setup) -> Option<Vec<u8>> {
        if setup.recipient() != Recipient::Interface || setup.index != INTERFACE {
            return None;
        }
        match (setup.kind(), setup.request) {
            (Kind::Standard, request::GET_DESCRIPTOR) => match setup.value_bytes() {
                [HID_DESCRIPTOR, 0] => Some(hid_descriptor(R::SHAPE.report_descriptor)),
                [REPORT_DESCRIPTOR, 0] => Some(R::SHAPE.report_descriptor.to_vec()),
                _ => None,
            },
            (Kind::Class, GET_REPORT) => match setup.value_bytes() {
                INPUT => Some(self.input.lock().current(self.protocol)),
                OUTPUT => self.input.lock().last_output(),
                _ => None,
            },
            (Kind::Class, GET_IDLE) if setup.value == 0 => Some(vec![self.idle.rate()]),
            (Kind::Class, GET_PROTOCOL) if R::SHAPE.boot.is_some() => {
                Some(vec![self.protocol as u8])
            }
            _ => None,
        }
    }

    fn request_out(&mut self, setup: Setup, data: &[u8]) -> Option<()> {
        let mine = (setup.kind(), setup.recipient(), setup.index)
            == (Kind::Class, Recipient::Interface, INTERFACE);
        match setup.request {
            _ if !mine => None,
            SET_REPORT if setup.value_bytes() == OUTPUT => self.input.lock().output(data),
            SET_IDLE => {
                let [rate, 0] = setup.value_bytes() else { return None };
                self.idle.set(rate);
                Some(())
            }
            SET_PROTOCOL if R::SHAPE.boot.is_some() => {
                self.protocol = match setup.value {
                    0 => Protocol::Boot,
                    1 => Protocol::Report,
                    _ => return None,
                };
                Some(())
            }
            _ => None,
        }
    }

    fn data_in(&mut self, _endpoint: u8, to: &mut dyn Sink) -> Answer {
        if to.room() == 0 {
            return Answer::moved(0);
        }
        let mut reports = self.input.lock();
        let report = match reports.take(self.protocol) {
            Some(report) => report,
            None if self.idle.is_due() => reports.current(self.protocol),
            None => return Answer::Nak,
        };
        drop(reports);
        self.idle.sent();
        // A BIOS may have room for no more than a boot report, whatever the protocol: its bytes come
        // first in every report, so it gets them, and no babble.
        let bytes = to.write(&report);
        Answer::Moved { bytes, short: bytes < usize::from(R::SHAPE.max_packet) }
    }

    fn data_out(&mut self, _endpoint: u8, _from: &dyn Source) -> Answer {
        Answer::Stall
    }

    fn events(&self) -> Vec<RawFd> {
        // The timer is set only while the host wants reports repeated.
        vec![self.input.wake.as_raw_fd(), self.idle.event()]
    }

    fn turn(&mut self) {
        let _ = self.input.wake.read(); // however often it was written
        self.idle.turn();
    }

    fn wants_to_wake(&self) -> bool {
        self.input.lock().waits()
    }
}

/// 6.2.1: version 1.11, of no country, with one report descriptor.
fn hid_descriptor(report_descriptor: &[u8]) -> Vec<u8> {
    let length = u16::try_from(report_descriptor.len()).unwrap_or(u16::MAX);
    let mut bytes = vec![9, HID_DESCRIPTOR, 0x11, 0x01, 0, 1, REPORT_DESCRIPTOR];
    bytes.extend(length.to_le_bytes());
    bytes
}

fn descriptors(shape: Shape, fastest: Speed) -> Descriptors {
    let configuration = |interval| Configuration {
        remote_wakeup: true,
        milliamperes: 100,
        interfaces: vec![Interface {
            class: match shape.boot {
                Some(protocol) => [CLASS, BOOT, protocol],
                None => [CLASS, 0, 0],
            },
            class_descriptors: hid_descriptor(shape.report_descriptor),
            endpoints: vec![EndpointInfo {
                endpoint: Endpoint::new(ENDPOINT, Direction::In),
                transfer: Transfer::Interrupt,
                synchronization: Synchronization::None,
                max_packet: shape.max_packet,
                interval,
                class_descriptors: Vec::new(),
            }],
            ..Interface::default()
        }],
        ..Configuration::default()
    };
    let [full, high] = shape.intervals;
    Descriptors {
        usb: 0x0200,
        max_packet_0: 8,
        // pid.codes' numbers for tests: it is no vendor's product.
        id: (0x1209, shape.product_id),
        release: 0x0100,
        manufacturer: String::from("vhost-usb"),
        product: shape.product.to_owned(),
        full_speed: Some(configuration(full)),
        high_speed: (fastest == Speed::High).then(|| configuration(high)),
        selective_suspend: true,
        ..Descriptors::default()
    }
}
