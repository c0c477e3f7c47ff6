//! What all emulated devices do alike: the default control pipe and the standard requests (USB 2.0, 8.5.3
//! and 9.4).

use std::io;
use std::os::fd::RawFd;

use super::Device;
use crate::usb::data::{Sink, Source};
use crate::usb::descriptor::{CONFIGURATION_VALUE, Descriptors, Interface};
use crate::usb::setup::{Kind, Recipient, Setup, feature, request};
use crate::usb::{Answer, Direction, Endpoint, Speed};

/// What an emulated device does, beyond what all do.
pub trait Function: Send {
    /// What it says that it is. Always the same.
    fn descriptors(&self) -> &Descriptors;

    /// It is as when it was plugged in.
    fn reset(&mut self);

    /// How fast it signals now: told before anything else, and when that changes.
    fn speed_set(&mut self, _speed: Speed) {}

    /// It has been configured, or is not any more; endpoints begin anew.
    fn configured(&mut self, _configured: bool) {}

    /// An alternate setting was chosen, one of those in its descriptors.
    fn interface_set(&mut self, _interface: u8, _alternate: u8) {}

    /// An endpoint is not halted any more (9.4.5).
    fn halt_cleared(&mut self, _endpoint: Endpoint) {}

    /// A request of its class or vendor, or for a descriptor of its class, that asks for data: at most
    /// wLength of them are sent. `None`: it is not supported.
    fn request_in(&mut self, _setup: Setup) -> Option<Vec<u8>> {
        None
    }

    /// One that brings data, or needs none; all of wLength are there. `None`: it is not supported.
    fn request_out(&mut self, _setup: Setup, _data: &[u8]) -> Option<()> {
        None
    }

    /// IN tokens for an endpoint of its current settings, not halted. An answer of
    /// [`Stall`](Answer::Stall) halts it.
    fn data_in(&mut self, endpoint: u8, to: &mut dyn Sink) -> Answer;

    /// OUT tokens, likewise.
    fn data_out(&mut self, endpoint: u8, from: &dyn Source) -> Answer;

    /// As [`Device::cancel`].
    fn cancel(&mut self, _endpoint: Endpoint) {}

    /// As [`Device::events`].
    fn events(&self) -> Vec<RawFd> {
        Vec::new()
    }

    /// As [`Device::events_changed`].
    fn events_changed(&mut self) -> bool {
        false
    }

    /// As [`Device::turn`].
    fn turn(&mut self) {}

    /// It goes on in another process with its address, its configuration and its interfaces' settings, and
    /// what it [notes](Self::note) beyond that.
    const IS_NOTED: bool = false;

    /// As [`Device::note`].
    fn note(&self, _words: &mut dyn FnMut(u32)) {}

    /// As [`Device::goes_on`].
    fn goes_on(&mut self, _noted: &mut dyn Iterator<Item = u32>) {}

    /// Something has happened for which it would wake a host that is asleep.
    fn wants_to_wake(&self) -> bool {
        false
    }

    /// As [`Device::activate`].
    ///
    /// # Errors
    /// Somebody else has what it needs.
    fn activate(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// As [`Device::deactivate`].
    fn deactivate(&mut self) {}

    /// What is plugged into it signals resume: a hub passes that on, whether it may wake the host by
    /// itself or not (11.9).
    fn passes_wake(&self) -> bool {
        false
    }

    /// As [`Device::set_suspended`].
    fn set_suspended(&mut self, _suspended: bool) {}

    /// Who has an address among what is plugged into it.
    fn find(&mut self, _address: u8) -> Option<&mut dyn Device> {
        None
    }
}

/// Where a control transfer is (8.5.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// Nothing was asked yet.
    #[default]
    Idle,
    /// The answer goes to the host, from an offset on; then it sends an empty packet.
    In { data: Vec<u8>, sent: usize },
    /// Data come from the host; then it wants an empty packet.
    Out { setup: Setup, data: Vec<u8> },
    /// The request is not supported: until the next SETUP.
    Stalled,
}

/// An emulated device.
pub struct Emulated<F> {
    function: F,
    /// Where high speed is possible.
    fastest: Speed,
    speed: Speed,
    address: u8,
    configured: bool,
    /// The alternate settings of interfaces, by their numbers.
    alternates: Vec<u8>,
    /// Halted endpoints, a bit for each: numbers of OUT ones, then of IN ones.
    halted: u32,
    remote_wakeup: bool,
    suspended: bool,
    stage: Stage,
}

/// No token has such an address.
const NOWHERE: u8 = u8::MAX;
/// What a noted word of a device looks like: this, and below it remote wake-up, its configuration and its
/// address. The settings of its interfaces follow.
const NOTE: u32 = 0xb075_0000;
const NOTE_MASK: u32 = 0xffff_0000;
const REMOTE_WAKEUP: u32 = 1 << 9;
const CONFIGURED: u32 = 1 << 8;
const ADDRESS: u32 = 0x7f;

fn bit(endpoint: Endpoint) -> u32 {
    let base = if endpoint.direction() == Direction::In { 0x1_0000 } else { 1 };
    base << endpoint.number()
}

impl<F: Function> Emulated<F> {
    /// One that signals at that speed, for which it has a configuration.
    #[must_use]
    pub fn new(mut function: F, speed: Speed) -> Self {
        function.speed_set(speed);
        Self {
            function,
            fastest: speed,
            speed,
            address: 0,
            configured: false,
            alternates: Vec::new(),
            halted: 0,
            remote_wakeup: false,
            suspended: false,
            stage: Stage::Idle,
        }
    }

    /// What is particular to it.
    pub fn function(&mut self) -> &mut F {
        &mut self.function
    }

    fn interfaces(&self) -> &[Interface] {
        let configuration = self.function.descriptors().configuration(self.speed);
        configuration.map_or(&[], |configuration| &configuration.interfaces)
    }

    fn alternate(&self, interface: u8) -> u8 {
        self.alternates.get(usize::from(interface)).copied().unwrap_or(0)
    }

    /// The interfaces as they are set now.
    fn current(&self) -> impl Iterator<Item = &Interface> {
        let all = self.interfaces().iter().filter(|_| self.configured);
        all.filter(|interface| interface.alternate == self.alternate(interface.number))
    }

    fn has(&self, endpoint: Endpoint) -> bool {
        let mut all = self.current().flat_map(|interface| &interface.endpoints);
        all.any(|info| info.endpoint == endpoint)
    }

    /// Whether there is such an endpoint, or 0, which can't be halted for long.
    fn named(&self, index: u16) -> Option<Endpoint> {
        let endpoint = Endpoint::of_address(u8::try_from(index).ok()?);
        (endpoint.number() == 0 || self.has(endpoint)).then_some(endpoint)
    }

    fn request_in(&mut self, setup: Setup) -> Option<Vec<u8>> {
        if setup.kind() != Kind::Standard {
            let microsoft = self.function.descriptors().microsoft(setup);
            return microsoft.or_else(|| self.function.request_in(setup));
        }
        match (setup.request, setup.recipient()) {
            (request::GET_STATUS, Recipient::Device) => {
                let configuration = self.function.descriptors().configuration(self.speed);
                let powered = configuration.is_some_and(|it| it.self_powered);
                Some(vec![u8::from(powered) | u8::from(self.remote_wakeup) << 1, 0])
            }
            (request::GET_STATUS, Recipient::Interface) => {
                let number = u8::try_from(setup.index).ok()?;
                self.current().any(|interface| interface.number == number).then(|| vec![0, 0])
            }
            (request::GET_STATUS, Recipient::Endpoint) => {
                let endpoint = self.named(setup.index)?;
                Some(vec![u8::from(self.halted & bit(endpoint) != 0), 0])
            }
            (request::GET_DESCRIPTOR, Recipient::Device) => {
                let [kind, index] = setup.value_bytes();
                let own = self.function.descriptors().get(self.speed, kind, index);
                own.or_else(|| self.function.request_in(setup))
            }
            (request::GET_CONFIGURATION, Recipient::Device) => {
                Some(vec![if self.configured { CONFIGURATION_VALUE } else { 0 }])
            }
            (request::GET_INTERFACE, Recipient::Interface) => {
                let number = u8::try_from(setup.index).ok()?;
                let found = self.current().find(|interface| interface.number == number)?;
                Some(vec![found.alternate])
            }
            _ => self.function.request_in(setup),
        }
    }

    fn request_out(&mut self, setup: Setup, data: &[u8]) -> Option<()> {
        if setup.kind() != Kind::Standard {
            return self.function.request_out(setup, data);
        }
        match (setup.request, setup.recipient()) {
            (request::SET_ADDRESS, Recipient::Device) => {
                self.address = u8::try_from(setup.value).ok().filter(|address| *address < 128)?;
                Some(())
            }
            (request::SET_CONFIGURATION, Recipient::Device) => {
                match setup.value {
                    0 => self.configure(false),
                    value if value == u16::from(CONFIGURATION_VALUE) => self.configure(true),
                    _ => return None,
                }
                Some(())
            }
            (request::SET_INTERFACE, Recipient::Interface) => {
                self.set_interface(setup.index.try_into().ok()?, setup.value.try_into().ok()?)
            }
            (request::CLEAR_FEATURE, Recipient::Endpoint)
                if setup.value == feature::ENDPOINT_HALT =>
            {
                let endpoint = self.named(setup.index)?;
                self.halted &= !bit(endpoint);
                self.function.halt_cleared(endpoint);
                Some(())
            }
            (request::SET_FEATURE, Recipient::Endpoint)
                if setup.value == feature::ENDPOINT_HALT =>
            {
                let endpoint = self.named(setup.index)?;
                if endpoint.number() != 0 {
                    self.halted |= bit(endpoint);
                }
                Some(())
            }
            (request::SET_FEATURE | request::CLEAR_FEATURE, Recipient::Device)
                if setup.value == feature::DEVICE_REMOTE_WAKEUP =>
            {
                let configuration = self.function.descriptors().configuration(self.speed);
                if !configuration.is_some_and(|it| it.remote_wakeup) {
                    return None;
                }
                self.remote_wakeup = setup.request == request::SET_FEATURE;
                Some(())
            }
            _ => self.function.request_out(setup, data),
        }
    }

    /// The interfaces that have several settings.
    fn adjustable(&self) -> Vec<u8> {
        let all = self.interfaces().iter();
        let mut numbers: Vec<u8> =
            all.filter(|it| it.alternate != 0).map(|interface| interface.number).collect();
        numbers.dedup();
        numbers
    }

    fn configure(&mut self, configured: bool) {
        self.configured = configured;
        self.alternates.clear();
        self.halted = 0;
        self.function.configured(configured);
    }

    /// SET_INTERFACE.
    fn set_interface(&mut self, interface: u8, alternate: u8) -> Option<()> {
        let wanted = |it: &&Interface| it.number == interface && it.alternate == alternate;
        let found = self.interfaces().iter().filter(|_| self.configured).find(wanted)?;
        let endpoints: Vec<Endpoint> = found.endpoints.iter().map(|info| info.endpoint).collect();
        endpoints.iter().for_each(|endpoint| self.halted &= !bit(*endpoint));
        let place = usize::from(interface);
        if self.alternates.len() <= place {
            self.alternates.resize(place.saturating_add(1), 0);
        }
        if let Some(setting) = self.alternates.get_mut(place) {
            *setting = alternate;
        }
        self.function.interface_set(interface, alternate);
        Some(())
    }

    fn control_in(&mut self, to: &mut dyn Sink) -> Answer {
        match &mut self.stage {
            Stage::In { data, sent } => {
                let room = to.room();
                let count = to.write(data.get(*sent..).unwrap_or_default());
                *sent = sent.saturating_add(count);
                Answer::Moved { bytes: count, short: count < room }
            }
            Stage::Out { setup, data } if data.len() >= usize::from(setup.length) => {
                // The status stage: now it is done, and the host sees whether it could be.
                let (setup, data) = (*setup, std::mem::take(data));
                let done = self.request_out(setup, &data).is_some();
                self.stage = if done { Stage::Idle } else { Stage::Stalled };
                if done { Answer::Moved { bytes: 0, short: true } } else { Answer::Stall }
            }
            Stage::Out { .. } | Stage::Idle | Stage::Stalled => self.stall(),
        }
    }

    fn control_out(&mut self, from: &dyn Source) -> Answer {
        match &mut self.stage {
            // The status stage, which may come before the host has read all.
            Stage::In { .. } if from.is_empty() => {
                self.stage = Stage::Idle;
                Answer::moved(0)
            }
            Stage::Out { setup, data } => {
                let wanted = usize::from(setup.length).saturating_sub(data.len());
                if from.len() > wanted {
                    return self.stall();
                }
                data.extend(from.to_vec(wanted));
                Answer::moved(from.len())
            }
            Stage::In { .. } | Stage::Idle | Stage::Stalled => self.stall(),
        }
    }

    fn stall(&mut self) -> Answer {
        self.stage = Stage::Stalled;
        Answer::Stall
    }

    /// Answers for an endpoint other than 0, and halts it if its function does not go on.
    fn transfer(&mut self, endpoint: Endpoint, ask: impl FnOnce(&mut F) -> Answer) -> Answer {
        if !self.has(endpoint) {
            return Answer::Silent;
        }
        if self.halted & bit(endpoint) != 0 {
            return Answer::Stall;
        }
        let answer = ask(&mut self.function);
        if answer == Answer::Stall {
            self.halted |= bit(endpoint);
        }
        answer
    }
}

impl<F: Function> Device for Emulated<F> {
    fn speed(&self) -> Speed {
        self.speed
    }

    fn reset(&mut self) {
        self.address = 0;
        self.configure(false);
        self.remote_wakeup = false;
        self.suspended = false;
        self.stage = Stage::Idle;
        self.function.reset();
    }

    fn address(&self) -> u8 {
        self.address
    }

    fn setup(&mut self, endpoint: u8, setup: Setup) -> Answer {
        if endpoint != 0 {
            return Answer::Silent;
        }
        self.stage = match setup.direction() {
            Direction::In if setup.length > 0 => match self.request_in(setup) {
                Some(mut data) => {
                    data.truncate(setup.length.into());
                    Stage::In { data, sent: 0 }
                }
                None => Stage::Stalled,
            },
            _ => Stage::Out { setup, data: Vec::new() },
        };
        Answer::moved(8)
    }

    fn data_in(&mut self, endpoint: u8, to: &mut dyn Sink) -> Answer {
        match endpoint {
            0 => self.control_in(to),
            _ => self.transfer(Endpoint::new(endpoint, Direction::In), |function| {
                function.data_in(endpoint, to)
            }),
        }
    }

    fn data_out(&mut self, endpoint: u8, from: &dyn Source) -> Answer {
        match endpoint {
            0 => self.control_out(from),
            _ => self.transfer(Endpoint::new(endpoint, Direction::Out), |function| {
                function.data_out(endpoint, from)
            }),
        }
    }

    fn cancel(&mut self, endpoint: Endpoint) {
        self.function.cancel(endpoint);
    }

    fn events(&self) -> Vec<RawFd> {
        self.function.events()
    }

    fn events_changed(&mut self) -> bool {
        self.function.events_changed()
    }

    fn turn(&mut self) {
        self.function.turn();
    }

    fn note(&self, words: &mut dyn FnMut(u32)) {
        if F::IS_NOTED {
            let remote_wakeup = if self.remote_wakeup { REMOTE_WAKEUP } else { 0 };
            let configured = if self.configured { CONFIGURED } else { 0 };
            let address = Some(u32::from(self.address)).filter(|address| *address <= ADDRESS);
            words(address.map_or(0, |address| NOTE | remote_wakeup | configured | address));
            self.adjustable().iter().for_each(|it| words(self.alternate(*it).into()));
            self.function.note(words);
        }
    }

    fn goes_on(&mut self, noted: &mut dyn Iterator<Item = u32>) {
        // Another device may be at address 0 when its port is reset.
        self.address = NOWHERE;
        if F::IS_NOTED {
            let known = noted.next().filter(|word| word & NOTE_MASK == NOTE);
            if let Some(word) = known {
                self.address = u8::try_from(word & ADDRESS).unwrap_or(NOWHERE);
                self.configure(word & CONFIGURED != 0);
                self.remote_wakeup = word & REMOTE_WAKEUP != 0;
            }
            for interface in self.adjustable() {
                let alternate = noted.next().and_then(|word| u8::try_from(word).ok());
                if known.is_some() {
                    // One that there is not is none that was noted.
                    self.set_interface(interface, alternate.unwrap_or(0));
                }
            }
        }
        self.function.goes_on(noted);
    }

    fn set_suspended(&mut self, suspended: bool) {
        self.suspended = suspended;
        self.function.set_suspended(suspended);
    }

    fn set_high_speed(&mut self, possible: bool) {
        let slower = self.fastest == Speed::High
            && !possible
            && self.function.descriptors().full_speed.is_some();
        self.speed = if slower { Speed::Full } else { self.fastest };
        self.function.speed_set(self.speed);
    }

    fn wakes(&self) -> bool {
        let own = self.remote_wakeup && self.function.wants_to_wake();
        self.suspended && (own || self.function.passes_wake())
    }

    fn activate(&mut self) -> io::Result<()> {
        self.function.activate()
    }

    fn deactivate(&mut self) {
        self.function.deactivate();
    }

    fn find(&mut self, address: u8) -> Option<&mut dyn Device> {
        if address == self.address {
            return Some(self);
        }
        self.function.find(address)
    }
}

#[cfg(test)]
pub(crate) mod tests;
