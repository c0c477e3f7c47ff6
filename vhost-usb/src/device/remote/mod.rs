//! Devices that are elsewhere: another program, or the host's own driver, has them and moves their data.
//!
//! - [`Remote`]: the device, as a port has it;
//! - [`backend`]: who has the real one;
//! - [`control`]: requests, which are answered elsewhere;
//! - [`transfers`]: bulk endpoints, and interrupt ones that take packets;
//! - [`packets`]: endpoints whose packets come by themselves, bulk ones that are read ahead among them, and
//!   isochronous ones.
//!
//! Nothing waits: who asks for what has not come yet is answered [`Nak`](Answer::Nak). What is kept here is
//! bounded, whatever the other end sends.

pub mod backend;
mod control;
mod packets;
#[cfg(test)]
pub(crate) mod tests;
mod transfers;

use std::collections::BTreeMap;
use std::os::fd::RawFd;

use super::Device;
use crate::usb::data::{Sink, Source};
use crate::usb::descriptor::Transfer as Kind;
use crate::usb::setup::{Setup, feature, request};
use crate::usb::{Answer, Direction, Endpoint, Speed};
use backend::{Backend, Event, Id, Pipe, Transfer};
use control::{Control, Meaning};
use packets::Packets;
use transfers::Transfers;

/// Bytes of interrupt and isochronous packets at full speed (USB 2.0, 5.7.3 and 5.6.3), at most.
const FULL_SPEED_INTERRUPT: usize = 64;
const FULL_SPEED_ISOCHRONOUS: usize = 1023;

/// No token has such an address.
const NOWHERE: u8 = u8::MAX;

/// The way to the real device.
struct Line<B> {
    backend: B,
    last: Id,
}

impl<B: Backend> Line<B> {
    fn submit(&mut self, transfer: Transfer) -> Id {
        self.last = self.last.wrapping_add(1);
        self.backend.submit(self.last, transfer);
        self.last
    }
}

/// What an endpoint other than 0 does.
enum Flow {
    Transfers(Transfers),
    Packets(Packets),
}

/// A device that is elsewhere.
pub struct Remote<B> {
    line: Line<B>,
    control: Control,
    /// Endpoints that the host has used, and as what.
    flows: BTreeMap<Endpoint, (Pipe, Flow)>,
    address: u8,
    /// It is plugged in where high speed is not possible.
    slowed: bool,
    remote_wakeup: bool,
    suspended: bool,
    /// Its port was told that it has gone.
    told_gone: bool,
    /// The device that is there is not for the host.
    left_out: bool,
    /// That was judged of a device that is there.
    judged: bool,
}

impl<B: Backend> Remote<B> {
    /// The device that this backend has.
    #[must_use]
    pub fn new(backend: B) -> Self {
        Self {
            line: Line { backend, last: 0 },
            control: Control::default(),
            flows: BTreeMap::new(),
            address: 0,
            slowed: false,
            remote_wakeup: false,
            suspended: false,
            told_gone: false,
            left_out: false,
            judged: false,
        }
    }

    /// Who has the real device.
    pub fn backend(&mut self) -> &mut B {
        &mut self.line.backend
    }

    /// Another device is there, or none: whatever was under way is nobody's.
    pub fn renew(&mut self) {
        self.judge();
        self.control.reset();
        self.flows.clear();
        self.address = 0;
        self.remote_wakeup = false;
        self.suspended = false;
    }

    /// It is not there for the host.
    fn is_gone(&self) -> bool {
        self.line.backend.is_gone() || self.left_out
    }

    /// The host can use it where it is plugged in. A device that signals at high speed can't tell whether a
    /// packet of 64 bytes is all of its own one of 512.
    fn is_possible(&self) -> bool {
        if !self.slowed || self.line.backend.speed() != Speed::High {
            return true;
        }
        let all = (1..16).flat_map(|number| {
            [Direction::In, Direction::Out].map(|direction| Endpoint::new(number, direction))
        });
        let mut pipes = all.filter_map(|endpoint| self.line.backend.pipe(endpoint));
        pipes.all(|pipe| match pipe.kind {
            Kind::Control => true,
            Kind::Bulk => false,
            Kind::Interrupt => pipe.max_packet <= FULL_SPEED_INTERRUPT,
            Kind::Isochronous => pipe.max_packet <= FULL_SPEED_ISOCHRONOUS,
        })
    }

    /// Decides whether a device that has come is for the host. What it is set to later does not count: it would
    /// be lost in the middle of its use.
    fn judge(&mut self) {
        self.judged = !self.line.backend.is_gone();
        self.left_out = self.judged && !self.is_possible();
        if self.left_out {
            log::info!("a high-speed device is left out of a full-speed port");
        }
    }

    /// Sees what has happened.
    fn collect(&mut self) {
        while let Some(mut event) = self.line.backend.take() {
            match event {
                Event::Ended { .. } => {
                    let mut flows = self.flows.values_mut();
                    let _ = self.control.ended(&mut event)
                        || flows.any(|(_, flow)| match flow {
                            Flow::Transfers(transfers) => transfers.ended(&mut event),
                            Flow::Packets(_) => false,
                        });
                }
                Event::Packet { endpoint, status, data } => {
                    if let Some((_, Flow::Packets(packets))) = self.flows.get_mut(&endpoint) {
                        packets.arrived(endpoint, status, data, &mut self.line);
                    }
                }
                Event::Stopped { endpoint, status } => {
                    if let Some((_, Flow::Packets(packets))) = self.flows.get_mut(&endpoint) {
                        packets.has_stopped(status);
                    }
                }
            }
        }
    }

    /// Gives up what is under way at such endpoints.
    fn forget(&mut self, is_over: impl Fn(Endpoint, &Pipe) -> bool) {
        let line = &mut self.line;
        self.flows.retain(|endpoint, (pipe, flow)| {
            let over = is_over(*endpoint, pipe);
            if over {
                match flow {
                    Flow::Transfers(transfers) => transfers.cancel(line),
                    Flow::Packets(packets) => packets.stop(*endpoint, line),
                }
            }
            !over
        });
    }

    /// An endpoint as it is now, and the way to it. `None`: there is no such endpoint.
    fn flow(&mut self, endpoint: Endpoint) -> Option<(&mut Flow, &mut Line<B>)> {
        let pipe = self.line.backend.pipe(endpoint);
        if self.flows.get(&endpoint).is_some_and(|(known, _)| Some(*known) != pipe) {
            self.forget(|other, _| other == endpoint);
        }
        let pipe = pipe?;
        let line = &mut self.line;
        let (_, flow) = self.flows.entry(endpoint).or_insert_with(|| {
            let flow = match (pipe.kind, endpoint.direction()) {
                (Kind::Isochronous, _) | (Kind::Interrupt, Direction::In) => {
                    Flow::Packets(Packets::new(&pipe, line))
                }
                (Kind::Bulk, Direction::In) if pipe.ahead => {
                    Flow::Packets(Packets::new(&pipe, line))
                }
                _ => Flow::Transfers(Transfers::new(&pipe)),
            };
            (pipe, flow)
        });
        Some((flow, line))
    }

    /// Does what a request means.
    fn obey(&mut self, setup: Setup, meaning: Meaning) {
        let transfer = match meaning {
            Meaning::Address(address) => return self.control.done(address),
            Meaning::Nonsense => {
                self.control.refuse();
                return;
            }
            Meaning::Transfer(transfer) => transfer,
        };
        match &transfer {
            // Endpoints begin anew (9.1.1.5).
            Transfer::SetConfiguration(_) => self.forget(|_, _| true),
            Transfer::SetInterface { interface, .. } => {
                self.forget(|_, pipe| pipe.interface == *interface);
            }
            Transfer::ClearHalt(endpoint) => self.forget(|other, _| other == *endpoint),
            _ => {}
        }
        if setup.request_type == 0 && setup.value == feature::DEVICE_REMOTE_WAKEUP {
            match setup.request {
                request::SET_FEATURE => self.remote_wakeup = true,
                request::CLEAR_FEATURE => self.remote_wakeup = false,
                _ => {}
            }
        }
        let id = self.line.submit(transfer);
        self.control.asked(setup, id);
    }

    fn give_up_request(&mut self) {
        if let Some(id) = self.control.reset() {
            self.line.backend.cancel(id);
        }
    }
}

impl<B: Backend> Device for Remote<B> {
    fn speed(&self) -> Speed {
        match self.line.backend.speed() {
            Speed::High if self.slowed => Speed::Full,
            speed => speed,
        }
    }

    fn reset(&mut self) {
        self.give_up_request();
        self.forget(|_, _| true);
        self.address = 0;
        self.remote_wakeup = false;
        self.suspended = false;
        self.line.backend.reset();
    }

    fn address(&self) -> u8 {
        self.address
    }

    fn setup(&mut self, endpoint: u8, setup: Setup) -> Answer {
        if endpoint != 0 || self.is_gone() {
            return Answer::Silent;
        }
        self.collect();
        self.give_up_request();
        if let Some(meaning) = self.control.begin(setup) {
            self.obey(setup, meaning);
        }
        Answer::moved(8)
    }

    fn data_in(&mut self, endpoint: u8, to: &mut dyn Sink) -> Answer {
        self.collect();
        if self.line.backend.is_gone() {
            return Answer::Silent;
        }
        if endpoint == 0 {
            let (answer, address) = self.control.send(to);
            self.address = address.unwrap_or(self.address);
            return answer;
        }
        let endpoint = Endpoint::new(endpoint, Direction::In);
        let Some((flow, line)) = self.flow(endpoint) else { return Answer::Silent };
        match flow {
            Flow::Transfers(transfers) => transfers.receive(endpoint, to, line),
            Flow::Packets(packets) => packets.receive(endpoint, to, line),
        }
    }

    fn data_out(&mut self, endpoint: u8, from: &dyn Source) -> Answer {
        self.collect();
        if self.line.backend.is_gone() {
            return Answer::Silent;
        }
        if endpoint == 0 {
            let (answer, whole) = self.control.take(from);
            if let Some((setup, meaning)) = whole {
                self.obey(setup, meaning);
            }
            return answer;
        }
        let endpoint = Endpoint::new(endpoint, Direction::Out);
        let Some((flow, line)) = self.flow(endpoint) else { return Answer::Silent };
        match flow {
            Flow::Transfers(transfers) => transfers.transmit(endpoint, from, line),
            Flow::Packets(packets) => packets.transmit(endpoint, from, line),
        }
    }

    fn cancel(&mut self, endpoint: Endpoint) {
        match endpoint.number() {
            0 => self.give_up_request(),
            _ => {
                if let Some((_, Flow::Transfers(transfers))) = self.flows.get_mut(&endpoint) {
                    transfers.cancel(&mut self.line);
                }
            }
        }
    }

    fn is_present(&self) -> bool {
        !self.is_gone()
    }

    fn take_change(&mut self) -> bool {
        if self.judged == self.line.backend.is_gone() {
            self.judge();
        }
        let gone = self.is_gone();
        std::mem::replace(&mut self.told_gone, gone) != gone
    }

    fn events(&self) -> Vec<RawFd> {
        self.line.backend.events()
    }

    fn turn(&mut self) {
        self.collect();
    }

    fn set_suspended(&mut self, suspended: bool) {
        self.suspended = suspended;
    }

    fn set_high_speed(&mut self, possible: bool) {
        self.slowed = !possible;
        self.judge();
        self.told_gone = self.is_gone();
    }

    /// The real device is never suspended: it has something to say if it has said something.
    fn wakes(&self) -> bool {
        let waits = |flow: &Flow| matches!(flow, Flow::Packets(packets) if packets.is_waiting());
        self.suspended && self.remote_wakeup && self.flows.values().any(|(_, flow)| waits(flow))
    }

    fn goes_on(&mut self, _noted: &mut dyn Iterator<Item = u32>) {
        // Another device may be at address 0 when its port is reset.
        self.address = NOWHERE;
    }

    fn find(&mut self, address: u8) -> Option<&mut dyn Device> {
        let is_it = address == self.address && self.is_present();
        is_it.then_some(self)
    }
}
