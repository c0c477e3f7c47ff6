//! The default control pipe (USB 2.0, 8.5.3): requests that are answered elsewhere.

use super::backend::{Event, Id, Status, Transfer};
use crate::usb::data::{Sink, Source};
use crate::usb::descriptor::kind;
use crate::usb::setup::{Recipient, Setup, feature, request};
use crate::usb::{Answer, Direction, Endpoint};

/// A SuperSpeed device's packets of endpoint 0, as a power of two (USB 3.2, 9.6.1), and those of a
/// high-speed one. There is no place for the former in a port of a USB 2.0 controller.
const SUPER_SPEED_PACKET: u8 = 9;
const HIGH_SPEED_PACKET: u8 = 64;
/// Where a device's descriptor has it (table 9-8).
const MAX_PACKET_0: usize = 7;

/// Where a control transfer is.
#[derive(Debug, Default)]
enum Stage {
    /// Nothing was asked yet, or all is done.
    #[default]
    Idle,
    /// Data come from the host.
    Data { setup: Setup, data: Vec<u8> },
    /// It is being answered.
    Asked { setup: Setup, id: Id },
    /// What was asked for goes to the host, from an offset on; then it sends an empty packet.
    Reply { data: Vec<u8>, sent: usize },
    /// It is done: the host wants an empty packet.
    Status { address: Option<u8> },
    /// It can't be done: until the next SETUP.
    Failed(Answer),
}

/// The pipe.
#[derive(Debug, Default)]
pub(super) struct Control {
    stage: Stage,
}

/// What a request is to the device that is elsewhere.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It is the bus's own: nobody there knows the address that the device has here.
    Address(u8),
    /// A transfer.
    Transfer(Transfer),
    /// It can't be.
    Nonsense,
}

fn low(value: u16) -> Option<u8> {
    u8::try_from(value).ok()
}

/// A request with all its data.
fn meaning(setup: Setup, data: Vec<u8>) -> Meaning {
    const DEVICE: u8 = 0;
    const INTERFACE: u8 = 1;
    const ENDPOINT: u8 = 2;
    let transfer = match (setup.request_type, setup.request) {
        (DEVICE, request::SET_ADDRESS) => {
            let address = low(setup.value).filter(|address| *address < 128);
            return address.map_or(Meaning::Nonsense, Meaning::Address);
        }
        (DEVICE, request::SET_CONFIGURATION) => low(setup.value).map(Transfer::SetConfiguration),
        (INTERFACE, request::SET_INTERFACE) => {
            let both = low(setup.index).zip(low(setup.value));
            both.map(|(interface, alternate)| Transfer::SetInterface { interface, alternate })
        }
        (ENDPOINT, request::CLEAR_FEATURE) if setup.value == feature::ENDPOINT_HALT => {
            low(setup.index).map(|address| match Endpoint::of_address(address) {
                endpoint if endpoint.number() == 0 => Transfer::Control { setup, data },
                endpoint => Transfer::ClearHalt(endpoint),
            })
        }
        _ => Some(Transfer::Control { setup, data }),
    };
    transfer.map_or(Meaning::Nonsense, Meaning::Transfer)
}

impl Control {
    /// Nothing was asked yet. Returns what is under way, which nobody waits for any more.
    pub(super) fn reset(&mut self) -> Option<Id> {
        match std::mem::take(&mut self.stage) {
            Stage::Asked { id, .. } => Some(id),
            _ => None,
        }
    }

    /// A new request, after [`reset`](Self::reset); what it means, if all of it is there.
    pub(super) fn begin(&mut self, setup: Setup) -> Option<Meaning> {
        if setup.direction() == Direction::Out && setup.length > 0 {
            self.stage = Stage::Data { setup, data: Vec::new() };
            return None;
        }
        Some(meaning(setup, Vec::new()))
    }

    /// What the last request meant was asked for.
    pub(super) fn asked(&mut self, setup: Setup, id: Id) {
        self.stage = Stage::Asked { setup, id };
    }

    /// The address is the device's once the host has seen that it is (9.4.6).
    pub(super) fn done(&mut self, address: u8) {
        self.stage = Stage::Status { address: Some(address) };
    }

    /// The request can't be done.
    pub(super) fn refuse(&mut self) -> Answer {
        self.stage = Stage::Failed(Answer::Stall);
        Answer::Stall
    }

    /// Takes data; the request and what it means, once all are there.
    pub(super) fn take(&mut self, from: &dyn Source) -> (Answer, Option<(Setup, Meaning)>) {
        if let Stage::Data { setup, data } = &mut self.stage {
            let wanted = usize::from(setup.length).saturating_sub(data.len());
            if from.len() > wanted {
                return (self.refuse(), None);
            }
            data.extend(from.to_vec(wanted));
            let is_whole = from.len() == wanted;
            let whole = is_whole.then(|| (*setup, meaning(*setup, std::mem::take(data))));
            return (Answer::moved(from.len()), whole);
        }
        let answer = match &self.stage {
            // The host may have seen enough before it has all, or before there is any.
            Stage::Reply { .. } if from.is_empty() => {
                self.stage = Stage::Idle;
                Answer::moved(0)
            }
            Stage::Asked { setup, .. } if is_in(*setup) && from.is_empty() => Answer::Nak,
            // More than there is to it; what was asked for is under way all the same.
            Stage::Asked { .. } => Answer::Stall,
            Stage::Failed(answer) => *answer,
            _ => self.refuse(),
        };
        (answer, None)
    }

    /// Sends what was asked for, or that it is done; the device's address, if it gets one.
    pub(super) fn send(&mut self, to: &mut dyn Sink) -> (Answer, Option<u8>) {
        let answer = match &mut self.stage {
            Stage::Reply { data, sent } => {
                let room = to.room();
                let count = to.write(data.get(*sent..).unwrap_or_default());
                *sent = sent.saturating_add(count);
                Answer::Moved { bytes: count, short: count < room }
            }
            Stage::Asked { .. } => Answer::Nak,
            Stage::Status { address } => {
                let address = *address;
                self.stage = Stage::Idle;
                return (Answer::Moved { bytes: 0, short: true }, address);
            }
            Stage::Failed(answer) => *answer,
            Stage::Data { .. } | Stage::Idle => self.refuse(),
        };
        (answer, None)
    }

    /// A transfer has ended. `false`: it was not this pipe's.
    pub(super) fn ended(&mut self, event: &mut Event) -> bool {
        let Event::Ended { id, status, data, .. } = event else { return false };
        let Stage::Asked { setup, id: asked } = &self.stage else { return false };
        if id != asked {
            return false;
        }
        let setup = *setup;
        self.stage = match status {
            Status::Done if is_in(setup) => {
                let mut data = std::mem::take(data);
                if data.len() > usize::from(setup.length) {
                    Stage::Failed(Answer::Babble)
                } else {
                    mend(setup, &mut data);
                    Stage::Reply { data, sent: 0 }
                }
            }
            Status::Done => Stage::Status { address: None },
            Status::Stall => Stage::Failed(Answer::Stall),
            Status::Babble => Stage::Failed(Answer::Babble),
            Status::Failed => Stage::Failed(Answer::Silent),
        };
        true
    }
}

fn is_in(setup: Setup) -> bool {
    setup.direction() == Direction::In && setup.length > 0
}

/// Makes a SuperSpeed device's descriptor one that a host believes at high speed.
fn mend(setup: Setup, data: &mut [u8]) {
    let asked = setup.request == request::GET_DESCRIPTOR
        && setup.recipient() == Recipient::Device
        && setup.request_type == 0x80
        && setup.value_bytes() == [kind::DEVICE, 0];
    if let Some(size) = data.get_mut(MAX_PACKET_0).filter(|_| asked)
        && *size == SUPER_SPEED_PACKET
    {
        *size = HIGH_SPEED_PACKET;
    }
}
