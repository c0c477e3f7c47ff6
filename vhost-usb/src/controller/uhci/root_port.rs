//! A port's status and control register (UHCI 1.1, 2.1.7).

use crate::controller::ports::{Owner, Ports};
use crate::usb::Speed;

const CONNECTED: u16 = 1;
const CONNECT_CHANGE: u16 = 1 << 1;
const ENABLED: u16 = 1 << 2;
const ENABLE_CHANGE: u16 = 1 << 3;
/// The lines' state: D+ is high of a full-speed device at rest, D- of a low-speed one.
const LINE_PLUS: u16 = 1 << 4;
const LINE_MINUS: u16 = 1 << 5;
const RESUME: u16 = 1 << 6;
/// Always set: drivers know by it that there is a port.
const ONE: u16 = 1 << 7;
const LOW_SPEED: u16 = 1 << 8;
const RESET: u16 = 1 << 9;
const SUSPENDED: u16 = 1 << 12;
/// Cleared by writing ones.
pub(super) const CHANGES: u16 = CONNECT_CHANGE | ENABLE_CHANGE;

/// A port's register.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RootPort {
    bits: u16,
    /// What its device was told last: the bus is suspended.
    told: bool,
}

impl RootPort {
    pub(super) fn read(&self) -> u16 {
        self.bits | ONE
    }

    /// Its device is asked by the schedule.
    pub(super) fn is_served(&self) -> bool {
        self.bits & (ENABLED | SUSPENDED | RESET) == ENABLED
    }

    /// All is as at power-on, or after HCRESET (2.1.1): as if the device were taken out and plugged in
    /// again.
    pub(super) fn reset(&mut self, number: usize, ports: &mut Ports) {
        let was = self.bits & ENABLED;
        self.bits = 0;
        self.connect(number, ports);
        if was != 0 {
            self.bits |= ENABLE_CHANGE;
        }
        self.tell(number, ports, false);
    }

    /// A reset is signalled, on all of the bus or here alone.
    pub(super) fn signal_reset(&mut self, number: usize, ports: &mut Ports) {
        if ports.owner(number) != Owner::Companion {
            return;
        }
        if let Some(device) = ports.device(number) {
            device.set_suspended(false);
            device.reset();
        }
        self.told = false;
    }

    /// Is as another process had it. A device that was not there then has been plugged in since.
    pub(super) fn restore(&mut self, bits: u16, number: usize, ports: &mut Ports, global: bool) {
        self.bits = bits & !ONE;
        if self.bits & CONNECTED != 0 && ports.device(number).is_some() {
            ports.take_change(number, Owner::Companion);
        }
        self.tell(number, ports, global);
    }

    fn connect(&mut self, number: usize, ports: &mut Ports) {
        self.bits &= CHANGES;
        let speed = match ports.owner(number) {
            Owner::Companion => ports.speed(number),
            Owner::Ehci => None,
        };
        if let Some(speed) = speed {
            self.bits |= CONNECTED | CONNECT_CHANGE | line(speed);
        }
    }

    /// Sees whether something was plugged in or out, or wakes up. `true`: a suspended bus resumes.
    pub(super) fn update(&mut self, number: usize, ports: &mut Ports, global: bool) -> bool {
        let owned = ports.owner(number) == Owner::Companion;
        let there = owned && ports.speed(number).is_some();
        let was = self.bits;
        if ports.take_change(number, Owner::Companion) || there != (was & CONNECTED != 0) {
            self.connect(number, ports);
            if was & CONNECTED != 0 {
                self.bits |= CONNECT_CHANGE;
            }
            // Only a port that was enabled is disabled by that (2.1.7, bit 3).
            if was & ENABLED != 0 {
                self.bits |= ENABLE_CHANGE;
            }
            self.told = false;
            return self.bits & CONNECT_CHANGE != 0;
        }
        self.tell(number, ports, global);
        if !(self.told && owned && ports.device(number).is_some_and(|device| device.wakes())) {
            return false;
        }
        if self.bits & SUSPENDED != 0 {
            self.bits |= RESUME;
        }
        true
    }

    /// The driver writes it.
    pub(super) fn write(&mut self, value: u16, number: usize, ports: &mut Ports, global: bool) {
        self.bits &= !(value & CHANGES);
        let was = self.bits;
        let set = |bits: u16, bit: u16, on: bool| if on { bits | bit } else { bits & !bit };
        self.bits = set(self.bits, RESET, value & RESET != 0);
        if self.bits & RESET != 0 {
            self.bits &= !(ENABLED | SUSPENDED | RESUME);
        } else {
            if was & RESET != 0 {
                self.signal_reset(number, ports);
            }
            let enabled = value & ENABLED != 0 && self.bits & CONNECTED != 0;
            self.bits = set(self.bits, ENABLED, enabled);
            let suspended = enabled && value & SUSPENDED != 0;
            self.bits = set(self.bits, SUSPENDED, suspended);
            // The driver begins to resume, and ends what it, or a device, began: then the port is not
            // suspended any more, whether or not the driver says so.
            self.bits = set(self.bits, RESUME, suspended && value & RESUME != 0);
            if was & RESUME != 0 && self.bits & RESUME == 0 {
                self.bits &= !SUSPENDED;
            }
        }
        self.tell(number, ports, global);
    }

    /// Lets the device know whether its bus is suspended: all of it, or just this port.
    fn tell(&mut self, number: usize, ports: &mut Ports, global: bool) {
        let suspended = self.bits & CONNECTED != 0 && (global || self.bits & SUSPENDED != 0);
        if suspended != self.told
            && ports.owner(number) == Owner::Companion
            && let Some(device) = ports.device(number)
        {
            device.set_suspended(suspended);
        }
        self.told = suspended;
    }
}

/// The lines while nothing is sent, and how fast that is (2.1.7, bits 4, 5 and 8).
fn line(speed: Speed) -> u16 {
    match speed {
        Speed::Low => LINE_MINUS | LOW_SPEED,
        Speed::Full | Speed::High => LINE_PLUS,
    }
}
