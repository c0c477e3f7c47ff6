//! A port's status and control register (EHCI 1.0, 2.3.9 and 4.2).

use crate::controller::ports::{Owner, Ports};
use crate::usb::Speed;

const CONNECTED: u32 = 1;
const CONNECT_CHANGE: u32 = 1 << 1;
const ENABLED: u32 = 1 << 2;
const ENABLE_CHANGE: u32 = 1 << 3;
const OVER_CURRENT_CHANGE: u32 = 1 << 5;
const RESUME: u32 = 1 << 6;
const SUSPENDED: u32 = 1 << 7;
const RESET: u32 = 1 << 8;
/// The lines' state: K of a low-speed device, J of a full-speed one.
const LINE_K: u32 = 1 << 10;
const LINE_J: u32 = 2 << 10;
/// Ports always have power.
const POWER: u32 = 1 << 12;
const OWNER: u32 = 1 << 13;
/// What the driver sets and reads, and nothing comes of: test control, indicators, what wakes.
const KEPT: u32 = 3 << 14 | 0xf << 16 | 7 << 20;
/// Cleared by writing ones.
const CHANGES: u32 = CONNECT_CHANGE | ENABLE_CHANGE | OVER_CURRENT_CHANGE;

/// A port's register.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RootPort {
    bits: u32,
}

impl RootPort {
    pub(super) fn read(&self) -> u32 {
        self.bits | POWER
    }

    /// Its device is asked by the schedules.
    pub(super) fn is_served(&self) -> bool {
        self.bits & (ENABLED | SUSPENDED | OWNER) == ENABLED
    }

    /// Is as at power-on.
    pub(super) fn reset(&mut self, number: usize, ports: &mut Ports) {
        *self = Self::default();
        // A device that is there is found as new.
        self.connect(number, ports);
    }

    /// Is as another process had it. A device that was not there then has been plugged in since.
    /// `true`: the driver is to be told.
    pub(super) fn restore(&mut self, bits: u32, number: usize, ports: &mut Ports) -> bool {
        self.bits = bits & !POWER;
        if self.bits & OWNER != 0 {
            ports.set_owner(number, Owner::Companion);
        }
        let was = self.bits & (CONNECTED | OWNER) == CONNECTED;
        if was && ports.device(number).is_some() {
            ports.take_change(number, Owner::Ehci);
        }
        // Whoever may wake the host has forgotten that: the host is to wake up, and find out.
        let suspended = self.bits & (SUSPENDED | OWNER) == SUSPENDED;
        if suspended {
            self.bits |= RESUME;
        }
        suspended
    }

    fn connect(&mut self, number: usize, ports: &mut Ports) {
        self.bits &= KEPT | CHANGES;
        if ports.owner(number) == Owner::Companion {
            self.bits |= OWNER;
            return;
        }
        if let Some(speed) = ports.speed(number) {
            self.bits |= CONNECTED | line(speed);
            self.bits |= CONNECT_CHANGE;
        }
    }

    /// Sees whether something was plugged in or out, or wakes up. `true`: the driver is to be told.
    pub(super) fn update(&mut self, number: usize, ports: &mut Ports) -> bool {
        let owned = ports.owner(number) == Owner::Ehci;
        if owned != (self.bits & OWNER == 0) {
            self.connect(number, ports);
        }
        let was = self.bits & CONNECTED;
        let there = owned && ports.speed(number).is_some();
        // What another process had may not be there any more.
        if ports.take_change(number, Owner::Ehci) || there != (was != 0) {
            self.connect(number, ports);
            if was != 0 {
                self.bits |= CONNECT_CHANGE;
            }
            return self.bits & CONNECT_CHANGE != 0;
        }
        let wakes = |device: &mut (dyn crate::device::Device + 'static)| device.wakes();
        if self.bits & (SUSPENDED | RESUME) == SUSPENDED && ports.device(number).is_some_and(wakes)
        {
            self.bits |= RESUME;
            return true;
        }
        false
    }

    /// The driver writes it.
    pub(super) fn write(&mut self, value: u32, number: usize, ports: &mut Ports, may_route: bool) {
        self.bits &= !(value & CHANGES);
        self.bits = self.bits & !KEPT | value & KEPT;
        if may_route {
            let owner = if value & OWNER == 0 { Owner::Ehci } else { Owner::Companion };
            ports.set_owner(number, owner);
            if owner == Owner::Companion {
                return;
            }
        }
        if self.bits & OWNER != 0 {
            return;
        }
        if value & ENABLED == 0 {
            // A driver can disable a port, and not enable it.
            self.bits &= !(ENABLED | SUSPENDED | RESUME);
        }
        match (self.bits & RESET != 0, value & RESET != 0) {
            (false, true) => {
                self.bits = self.bits & !(ENABLED | SUSPENDED | RESUME) | RESET;
            }
            (true, false) => self.end_reset(number, ports),
            _ => {}
        }
        self.write_suspend(value, number, ports);
    }

    /// A high-speed device is enabled; another is for a companion (4.2.2).
    fn end_reset(&mut self, number: usize, ports: &mut Ports) {
        self.bits &= !RESET;
        let Some(device) = ports.device(number) else { return };
        device.set_suspended(false);
        device.reset();
        if device.speed() == Speed::High {
            self.bits |= ENABLED;
        }
    }

    fn write_suspend(&mut self, value: u32, number: usize, ports: &mut Ports) {
        let before = self.bits & SUSPENDED;
        if value & SUSPENDED != 0 && self.bits & (ENABLED | RESET) == ENABLED {
            self.bits |= SUSPENDED;
        }
        if self.bits & SUSPENDED != 0 {
            match (self.bits & RESUME != 0, value & RESUME != 0) {
                (false, true) => self.bits |= RESUME,
                // The driver ends what it, or a device, began.
                (true, false) => self.bits &= !(RESUME | SUSPENDED),
                _ => {}
            }
        }
        let after = self.bits & SUSPENDED;
        if before != after
            && let Some(device) = ports.device(number)
        {
            device.set_suspended(after != 0);
        }
    }
}

/// The lines while nothing is sent (2.3.9, Line Status); a high-speed device's are not told apart from
/// a full-speed one's before its reset.
fn line(speed: Speed) -> u32 {
    match speed {
        Speed::Low => LINE_K,
        Speed::Full | Speed::High => LINE_J,
    }
}
