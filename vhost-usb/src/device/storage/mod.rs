//! Mass storage, by the Bulk-Only Transport (1.0), over `vhost-scsi`'s SCSI target: disks, CDs, whatever
//! it has.
//!
//! - [`wire`]: the wrappers;
//! - [`work`]: what a command moves, and where;
//! - [`Storage`]: the transport's own states.

#[cfg(test)]
mod tests;
mod wire;
mod work;

use std::io;
use std::os::fd::RawFd;

use vhost_scsi::scsi::target::Bus;

use super::emulated::Function;
use crate::usb::data::{Sink, Source};
use crate::usb::descriptor::{
    Configuration, Descriptors, EndpointInfo, Interface, Synchronization, Transfer,
};
use crate::usb::setup::{Kind, Recipient, Setup};
use crate::usb::{Answer, Direction, Endpoint};
use wire::{COMMAND, Command, Status};
use work::{Ended, Medium, Work};

/// The endpoints' number, in both directions.
const ENDPOINT: u8 = 1;
const HIGH_SPEED_PACKET: u16 = 512;
const FULL_SPEED_PACKET: u16 = 64;

/// Requests of the class (3).
const BULK_ONLY_RESET: u8 = 0xff;
const GET_MAX_LUN: u8 = 0xfe;
/// The wrapper's field has 4 bits.
const MOST_LUN: u8 = 15;

/// REQUEST SENSE (SPC-4 6.39): the last command's sense is asked for, since the transport carries none.
const REQUEST_SENSE: u8 = 0x03;

/// Where the transport is (5.3).
enum State {
    /// It waits for a command.
    Ready,
    /// A command's data move, or it is waited for.
    Busy { command: Command, moved: u32, work: Work },
    /// All data have moved that will; the host is to see a halt, as it wanted more (6.7).
    Halts { status: Vec<u8> },
    /// The host is to read how the command ended.
    Status(Vec<u8>),
    /// The host sent what is no command: until it resets the transport (6.6.1).
    Lost,
}

/// A storage device, with the units of a target 0.
pub struct Storage {
    descriptors: Descriptors,
    medium: Medium,
    state: State,
    /// Of the last command that failed.
    sense: Vec<u8>,
}

impl Storage {
    /// One with these units: of target 0, at most 16. `serial` is its serial number, of at least 12
    /// hexadecimal digits (4.1.1).
    ///
    /// # Errors
    /// No descriptor can be had.
    pub fn new(bus: Bus, serial: &str) -> io::Result<Self> {
        Ok(Self {
            descriptors: descriptors(serial),
            medium: Medium::new(bus)?,
            state: State::Ready,
            sense: Vec::new(),
        })
    }

    fn last_lun(&self) -> u8 {
        let units = self.medium.bus().snapshot();
        let last = units.target(0).map(|(address, _)| address.lun).max().unwrap_or(0);
        u8::try_from(last).unwrap_or(MOST_LUN).min(MOST_LUN)
    }

    fn begin(&mut self, bytes: &[u8]) -> Answer {
        let last = self.last_lun();
        let Some(command) = Command::parse(bytes).filter(|command| command.lun <= last) else {
            self.state = State::Lost;
            return Answer::Stall;
        };
        let sense = std::mem::take(&mut self.sense);
        let work = match command.cdb {
            [REQUEST_SENSE, _, _, _, most, ..] if !sense.is_empty() => {
                let mut sense = sense;
                sense.truncate(most.into());
                Work::reply(sense, &command)
            }
            _ => self.medium.begin(&command),
        };
        self.state = State::Busy { command, moved: 0, work };
        self.go_on();
        Answer::moved(COMMAND)
    }

    /// Ends the command, if its work is done and its data have moved.
    fn go_on(&mut self) {
        let State::Busy { command, moved, work } = &mut self.state else { return };
        let Some(ended) = work.ended() else { return };
        let residue = command.length.saturating_sub(*moved);
        let (status, sense) = match ended {
            Ended::Passed => (Status::Passed, Vec::new()),
            Ended::Failed { sense } => (Status::Failed, sense),
            Ended::PhaseError => (Status::PhaseError, Vec::new()),
        };
        self.sense = sense;
        let wrapper = wire::status(command.tag, residue, status);
        self.state = match residue {
            0 => State::Status(wrapper),
            _ => State::Halts { status: wrapper },
        };
    }

    fn send(&mut self, to: &mut dyn Sink) -> Answer {
        match &mut self.state {
            State::Busy { command, moved, work } if command.direction == Direction::In => {
                let wanted = command.length.saturating_sub(*moved);
                let room = to.room();
                let bytes = work.send(to, wanted);
                work.go_on(&mut self.medium);
                *moved = moved.saturating_add(bytes);
                let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                self.go_on();
                match &self.state {
                    // The host sees the end by a short packet, or else by the halt that follows.
                    State::Halts { .. } if bytes > 0 => {
                        let short = bytes < room && self.is_short(bytes);
                        self.answer_short(bytes, short)
                    }
                    State::Halts { .. } => self.halt(),
                    _ if bytes > 0 => Answer::moved(bytes),
                    _ => Answer::Nak,
                }
            }
            State::Busy { .. } => Answer::Nak,
            State::Halts { .. } => self.halt(),
            State::Status(wrapper) => {
                let bytes = to.write(wrapper);
                self.state = State::Ready;
                Answer::Moved { bytes, short: true }
            }
            State::Ready => Answer::Nak,
            State::Lost => Answer::Stall,
        }
    }

    /// Whether a transfer's last packet of that many bytes tells the host that it is the last.
    fn is_short(&self, bytes: usize) -> bool {
        // At full speed packets are 64 bytes: a multiple of 512 is one of those.
        !bytes.is_multiple_of(usize::from(FULL_SPEED_PACKET))
    }

    fn answer_short(&mut self, bytes: usize, short: bool) -> Answer {
        if short && let State::Halts { status } = &mut self.state {
            // The host has seen the end: nothing needs to halt (6.7.2).
            self.state = State::Status(std::mem::take(status));
        }
        Answer::Moved { bytes, short }
    }

    /// Halts the endpoint that the data were to move through; the status is read after that.
    fn halt(&mut self) -> Answer {
        if let State::Halts { status } = &mut self.state {
            self.state = State::Status(std::mem::take(status));
        }
        Answer::Stall
    }

    fn take(&mut self, from: &dyn Source) -> Answer {
        match &mut self.state {
            // What was given up must not be overtaken by what comes now.
            State::Ready if self.medium.is_busy() => Answer::Nak,
            State::Ready => self.begin(&from.to_vec(COMMAND.saturating_add(1))),
            State::Busy { command, moved, work } if command.direction == Direction::Out => {
                let wanted = command.length.saturating_sub(*moved);
                let bytes = work.take(from, wanted, &mut self.medium);
                *moved = moved.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
                self.go_on();
                match &self.state {
                    _ if bytes > 0 => Answer::moved(bytes),
                    State::Halts { .. } => self.halt(),
                    _ => Answer::Nak,
                }
            }
            State::Halts { .. } => self.halt(),
            State::Busy { .. } | State::Status(_) => Answer::Nak,
            State::Lost => Answer::Stall,
        }
    }

    fn reset_transport(&mut self) {
        // What is under way ends, and nobody hears of it; until then no command is taken.
        self.state = State::Ready;
        self.medium.forget();
    }
}

impl Function for Storage {
    fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    fn reset(&mut self) {
        self.reset_transport();
        self.sense.clear();
    }

    fn configured(&mut self, _configured: bool) {
        self.reset_transport();
    }

    fn request_in(&mut self, setup: Setup) -> Option<Vec<u8>> {
        let of_class = (setup.kind(), setup.recipient()) == (Kind::Class, Recipient::Interface);
        (of_class && setup.request == GET_MAX_LUN).then(|| vec![self.last_lun()])
    }

    fn request_out(&mut self, setup: Setup, _data: &[u8]) -> Option<()> {
        let of_class = (setup.kind(), setup.recipient()) == (Kind::Class, Recipient::Interface);
        (of_class && setup.request == BULK_ONLY_RESET).then(|| self.reset_transport())
    }

    fn data_in(&mut self, _endpoint: u8, to: &mut dyn Sink) -> Answer {
        self.send(to)
    }

    fn data_out(&mut self, _endpoint: u8, from: &dyn Source) -> Answer {
        self.take(from)
    }

    fn events(&self) -> Vec<RawFd> {
        self.medium.events()
    }

    fn activate(&mut self) -> io::Result<()> {
        self.medium.acquire()
    }

    fn deactivate(&mut self) {
        self.medium.release();
    }

    /// A command may be under way that nobody knows here.
    fn goes_on(&mut self, _noted: &mut dyn Iterator<Item = u32>) {
        self.state = State::Lost;
    }

    fn turn(&mut self) {
        for (number, done) in self.medium.turn() {
            if let State::Busy { work, .. } = &mut self.state {
                work.done(number, done);
            }
        }
        self.go_on();
    }
}

fn descriptors(serial: &str) -> Descriptors {
    let configuration = |max_packet| {
        let endpoint = |direction| EndpointInfo {
            endpoint: Endpoint::new(ENDPOINT, direction),
            transfer: Transfer::Bulk,
            synchronization: Synchronization::None,
            max_packet,
            interval: 0,
            class_descriptors: Vec::new(),
        };
        Configuration {
            milliamperes: 500,
            interfaces: vec![Interface {
                // Mass storage, SCSI transparent commands, Bulk-Only.
                class: [0x08, 0x06, 0x50],
                endpoints: vec![endpoint(Direction::In), endpoint(Direction::Out)],
                ..Interface::default()
            }],
            ..Configuration::default()
        }
    };
    Descriptors {
        usb: 0x0200,
        max_packet_0: 64,
        // pid.codes' numbers for tests: it is no vendor's product.
        id: (0x1209, 0x0001),
        release: 0x0100,
        manufacturer: String::from("vhost-usb"),
        product: String::from("Storage"),
        serial: serial.to_owned(),
        full_speed: Some(configuration(FULL_SPEED_PACKET)),
        high_speed: Some(configuration(HIGH_SPEED_PACKET)),
        ..Descriptors::default()
    }
}
