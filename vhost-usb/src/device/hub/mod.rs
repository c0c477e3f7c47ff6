//! A hub (USB 2.0, 11): at high speed with one transaction translator, or at full speed, as those of
//! USB 1.1.
//!
//! - [`Hub`]: its requests and its status change endpoint;
//! - [`descriptors`]: what it says that it is;
//! - [`port`]: a port's states;
//! - [`sockets`]: where devices are plugged in and out while it is in use.
//!
//! What is plugged in is the hub's: [`Device::find`] leads to it once its port is enabled, and the hub's
//! [`events`](Device::events) are those of all its devices too. They change when something is plugged in
//! or out, which is done in [`turn`](Device::turn): who waits for them asks for them again after it. (An
//! epoll descriptor for all would not change, but can't be nested as deeply as hubs can.)

mod descriptors;
mod port;
pub mod sockets;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::Device;
use super::emulated::Function;
use crate::usb::data::{Sink, Source};
use crate::usb::descriptor::Descriptors;
use crate::usb::setup::{Kind, Recipient, Setup, request};
use crate::usb::{Answer, Speed};
use port::{Port, feature};
use sockets::{Order, Sockets};

/// Ports that a hub has, if nothing else is wanted.
pub const PORTS: usize = 4;
/// Ports that it can have.
pub const MOST_PORTS: usize = 8;

/// Requests to a port's transaction translator (table 11-16).
const CLEAR_TT_BUFFER: u8 = 8;
const RESET_TT: u8 = 9;
const GET_TT_STATE: u8 = 10;
const STOP_TT: u8 = 11;
/// wIndex of these, as there is one translator (11.24.2.3).
const TT: u16 = 1;

/// Features of the hub (table 11-17): changes of its own power, which there are not.
const C_HUB_LOCAL_POWER: u16 = 0;
const C_HUB_OVER_CURRENT: u16 = 1;

/// A hub.
pub struct Hub {
    descriptors: Descriptors,
    ports: Vec<Port>,
    sockets: Arc<Sockets>,
    speed: Speed,
    configured: bool,
    suspended: bool,
    /// Something was plugged in: its events are to be noticed.
    plugged: bool,
    /// The guest runs.
    active: bool,
    /// Nothing goes through the transaction translator (11.24.2.11).
    is_tt_stopped: bool,
}

impl Hub {
    /// One with so many ports, 1 to [`MOST_PORTS`], that can be so fast.
    ///
    /// # Errors
    /// No descriptor can be had.
    pub fn new(fastest: Speed, ports: usize) -> io::Result<Self> {
        let count = ports.clamp(1, MOST_PORTS);
        Ok(Self {
            descriptors: descriptors::standard(fastest, count),
            ports: std::iter::repeat_with(Port::default).take(count).collect(),
            sockets: Arc::new(Sockets::new()?),
            speed: fastest,
            configured: false,
            suspended: false,
            plugged: false,
            active: false,
            is_tt_stopped: false,
        })
    }

    /// Where devices can be plugged in and out later, by whoever has not the hub itself.
    #[must_use]
    pub fn sockets(&self) -> Arc<Sockets> {
        Arc::clone(&self.sockets)
    }

    /// How many ports it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ports.len()
    }

    /// It has none, which can't be.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    /// Plugs a device into a port, counted from 0; what was there before is taken out. It is
    /// [active](Device::activate) if the guest runs. `false`: there is no such port.
    pub fn plug(&mut self, port: usize, mut device: Box<dyn Device>) -> bool {
        if port >= self.ports.len() {
            return false;
        }
        device.set_high_speed(self.speed == Speed::High);
        drop(self.unplug(port));
        if let Some(port) = self.ports.get_mut(port) {
            port.plug(device);
        }
        true
    }

    /// Takes the device out of a port.
    pub fn unplug(&mut self, port: usize) -> Option<Box<dyn Device>> {
        let mut device = self.ports.get_mut(port)?.unplug()?;
        if self.active {
            device.deactivate();
        }
        Some(device)
    }

    /// What is plugged into a port.
    pub fn device(&mut self, port: usize) -> Option<&mut (dyn Device + 'static)> {
        self.ports.get_mut(port)?.device()
    }

    /// A port's device takes more current than it may, or does not any more: the port is off meanwhile.
    pub fn set_over_current(&mut self, port: usize, over: bool) {
        if let Some(port) = self.ports.get_mut(port) {
            port.set_over_current(over);
        }
    }

    /// Does what was asked for at its sockets.
    fn obey(&mut self) {
        for order in self.sockets.take() {
            match order {
                Order::Plug(port, device) => drop(self.plug(port, device)),
                Order::Unplug(port) => drop(self.unplug(port)),
                Order::OverCurrent(port, over) => self.set_over_current(port, over),
            }
        }
    }

    /// Ports see whether their devices are there; those whose devices signal resume go on, but not while the
    /// hub is suspended itself (11.9).
    fn attend(&mut self) {
        self.ports.iter_mut().for_each(Port::look);
        if !self.suspended {
            self.ports.iter_mut().filter(|port| port.wakes()).for_each(Port::resume);
        }
    }

    /// A port by a request's wIndex; they are counted from 1 there.
    fn port(&mut self, index: u16) -> Option<&mut Port> {
        self.ports.get_mut(usize::from(index).checked_sub(1)?)
    }

    fn has_tt(&self, index: u16) -> bool {
        self.speed == Speed::High && index == TT
    }

    /// The status change endpoint's bitmap (11.12.4): the hub itself, which never changes, then ports.
    fn changes(&self) -> Option<Vec<u8>> {
        let mut bits: u16 = 0;
        for (number, _) in self.ports.iter().enumerate().filter(|(_, port)| port.has_changed()) {
            bits |= u16::try_from(number).ok().and_then(|it| 2u16.checked_shl(it.into()))?;
        }
        let mut bytes = bits.to_le_bytes().to_vec();
        bytes.truncate(descriptors::bitmap_length(self.ports.len()));
        (bits != 0 && self.configured).then_some(bytes)
    }

    fn set_port_feature(&mut self, setup: Setup) -> Option<()> {
        let configured = self.configured;
        let [_selector, number] = setup.index.to_be_bytes();
        let port = self.port(number.into()).filter(|_| configured)?;
        match setup.value {
            feature::PORT_POWER => port.power_on(),
            feature::PORT_RESET => port.reset(),
            feature::PORT_SUSPEND => port.suspend(),
            // No port has indicators, and test modes are for real signals.
            _ => return None,
        }
        Some(())
    }

    fn clear_port_feature(&mut self, setup: Setup) -> Option<()> {
        let configured = self.configured;
        let [_selector, number] = setup.index.to_be_bytes();
        let port = self.port(number.into()).filter(|_| configured)?;
        match setup.value {
            feature::PORT_POWER => port.power_off(),
            feature::PORT_ENABLE => port.disable(),
            feature::PORT_SUSPEND => port.resume(),
            value => port.clear_change(value)?,
        }
        Some(())
    }
}

impl Function for Hub {
    fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    fn reset(&mut self) {
        self.suspended = false;
        self.is_tt_stopped = false;
    }

    fn speed_set(&mut self, speed: Speed) {
        self.speed = speed;
        for device in self.ports.iter_mut().filter_map(Port::device) {
            device.set_high_speed(speed == Speed::High);
        }
    }

    fn configured(&mut self, configured: bool) {
        self.configured = configured;
        // Each port waits for its power then (11.5).
        self.ports.iter_mut().for_each(Port::begin);
    }

    fn request_in(&mut self, setup: Setup) -> Option<Vec<u8>> {
        match (setup.kind(), setup.recipient(), setup.request) {
            (Kind::Class, Recipient::Device, request::GET_DESCRIPTOR) => {
                // 1.0's drivers ask for type 0.
                let [descriptors::OF_CLASS | 0, 0] = setup.value_bytes() else { return None };
                Some(descriptors::of_class(self.ports.len()))
            }
            // Its power is good, and nothing has changed.
            (Kind::Class, Recipient::Device, request::GET_STATUS) => Some(vec![0; 4]),
            (Kind::Class, Recipient::Other, request::GET_STATUS) => {
                self.attend();
                let configured = self.configured;
                Some(self.port(setup.index).filter(|_| configured)?.status().to_vec())
            }
            // What the state looks like is each vendor's; this translator keeps none.
            (Kind::Class, Recipient::Other, GET_TT_STATE) if self.has_tt(setup.index) => {
                Some(vec![0; 4])
            }
            _ => None,
        }
    }

    fn request_out(&mut self, setup: Setup, _data: &[u8]) -> Option<()> {
        match (setup.kind(), setup.recipient(), setup.request) {
            (Kind::Class, Recipient::Device, request::SET_FEATURE | request::CLEAR_FEATURE) => {
                matches!(setup.value, C_HUB_LOCAL_POWER | C_HUB_OVER_CURRENT).then_some(())
            }
            (Kind::Class, Recipient::Other, request::SET_FEATURE) => self.set_port_feature(setup),
            (Kind::Class, Recipient::Other, request::CLEAR_FEATURE) => {
                self.clear_port_feature(setup)
            }
            (Kind::Class, Recipient::Other, CLEAR_TT_BUFFER) => {
                // Transactions end as they begin here: nothing is left in a buffer.
                self.has_tt(setup.index).then_some(())
            }
            (Kind::Class, Recipient::Other, RESET_TT | STOP_TT) => {
                let has_tt = self.has_tt(setup.index);
                has_tt.then(|| self.is_tt_stopped = setup.request == STOP_TT)
            }
            _ => None,
        }
    }

    fn data_in(&mut self, _endpoint: u8, to: &mut dyn Sink) -> Answer {
        self.attend();
        match self.changes() {
            Some(changes) => {
                let bytes = to.write(&changes);
                Answer::Moved { bytes, short: false }
            }
            None => Answer::Nak,
        }
    }

    fn data_out(&mut self, _endpoint: u8, _from: &dyn Source) -> Answer {
        Answer::Stall
    }

    fn events(&self) -> Vec<RawFd> {
        let mut events = vec![self.sockets.event()];
        events.extend(self.ports.iter().flat_map(Port::events));
        events
    }

    fn events_changed(&mut self) -> bool {
        let mut devices = self.ports.iter_mut().filter_map(Port::device);
        let below = devices.any(|device| device.events_changed());
        std::mem::take(&mut self.plugged) || below
    }

    /// Behind a hub that its driver does not know any more, all would be lost.
    const IS_NOTED: bool = true;

    fn note(&self, words: &mut dyn FnMut(u32)) {
        self.ports.iter().for_each(|port| port.note(words));
    }

    fn goes_on(&mut self, noted: &mut dyn Iterator<Item = u32>) {
        self.ports.iter_mut().for_each(|port| port.goes_on(noted));
    }

    fn turn(&mut self) {
        self.obey();
        self.ports.iter_mut().filter_map(Port::device).for_each(|device| device.turn());
        self.attend();
    }

    fn activate(&mut self) -> io::Result<()> {
        let mut devices = self.ports.iter_mut().filter_map(Port::device);
        if let Err(error) = devices.try_for_each(|device| device.activate()) {
            // One that was not activated has nothing to give back.
            self.deactivate();
            return Err(error);
        }
        self.active = true;
        Ok(())
    }

    fn deactivate(&mut self) {
        self.active = false;
        self.ports.iter_mut().filter_map(Port::device).for_each(|device| device.deactivate());
    }

    fn wants_to_wake(&self) -> bool {
        self.changes().is_some()
    }

    fn passes_wake(&self) -> bool {
        self.ports.iter().any(Port::signals_resume)
    }

    fn set_suspended(&mut self, suspended: bool) {
        self.suspended = suspended;
        self.ports.iter_mut().for_each(|port| port.bus_suspended(suspended));
        self.attend();
    }

    fn find(&mut self, address: u8) -> Option<&mut dyn Device> {
        let is_tt_stopped = self.is_tt_stopped;
        let mut served = self.ports.iter_mut().filter_map(Port::served);
        let found = served.find_map(|device| device.find(address))?;
        (found.speed() == Speed::High || !is_tt_stopped).then_some(found)
    }
}
