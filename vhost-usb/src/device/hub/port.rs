//! A hub's port (USB 2.0, 11.5): what is plugged in, and whether it is served.

use std::os::fd::RawFd;

use crate::device::Device;
use crate::usb::Speed;

/// Features of a port (table 11-17).
pub(super) mod feature {
    pub(in super::super) const PORT_ENABLE: u16 = 1;
    pub(in super::super) const PORT_SUSPEND: u16 = 2;
    pub(in super::super) const PORT_RESET: u16 = 4;
    pub(in super::super) const PORT_POWER: u16 = 8;
    /// C_PORT_CONNECTION, the first of the changes.
    pub(super) const FIRST_CHANGE: u16 = 16;
    /// C_PORT_RESET, the last of them.
    pub(super) const LAST_CHANGE: u16 = 20;
}

/// Bits of wPortStatus (table 11-21); the first five also of wPortChange (table 11-22).
mod bit {
    pub(super) const CONNECTION: u16 = 1;
    pub(super) const ENABLE: u16 = 1 << 1;
    pub(super) const SUSPEND: u16 = 1 << 2;
    pub(super) const OVER_CURRENT: u16 = 1 << 3;
    pub(super) const RESET: u16 = 1 << 4;
    pub(super) const POWER: u16 = 1 << 8;
    pub(super) const LOW_SPEED: u16 = 1 << 9;
    pub(super) const HIGH_SPEED: u16 = 1 << 10;
    /// Those that a port itself has.
    pub(super) const KEPT: u16 = CONNECTION | ENABLE | SUSPEND | OVER_CURRENT | POWER;
    pub(super) const CHANGES: u16 = CONNECTION | ENABLE | SUSPEND | OVER_CURRENT | RESET;
}

/// A port.
#[derive(Default)]
pub(super) struct Port {
    device: Option<Box<dyn Device>>,
    status: u16,
    change: u16,
}

impl Port {
    fn is(&self, bits: u16) -> bool {
        self.status & bits == bits
    }

    /// Is powered off, as when the hub is configured.
    pub(super) fn begin(&mut self) {
        self.status &= bit::OVER_CURRENT;
        self.change = 0;
    }

    /// Something is plugged into it, while nothing is.
    pub(super) fn plug(&mut self, device: Box<dyn Device>) {
        self.device = Some(device);
        self.connect();
    }

    fn connect(&mut self) {
        let is_there = self.device.as_ref().is_some_and(|device| device.is_present());
        if self.is(bit::POWER) && is_there {
            self.status |= bit::CONNECTION;
            self.change |= bit::CONNECTION;
        }
    }

    fn disconnect(&mut self) {
        if self.is(bit::CONNECTION) {
            self.change |= bit::CONNECTION;
        }
        self.status &= bit::POWER | bit::OVER_CURRENT;
    }

    pub(super) fn unplug(&mut self) -> Option<Box<dyn Device>> {
        let device = self.device.take()?;
        self.disconnect();
        Some(device)
    }

    /// Sees whether its device has come or gone by itself.
    pub(super) fn look(&mut self) {
        if self.device.as_mut().is_some_and(|device| device.take_change()) {
            self.disconnect();
            self.connect();
        }
    }

    pub(super) fn device(&mut self) -> Option<&mut (dyn Device + 'static)> {
        self.device.as_deref_mut()
    }

    /// Its device, if the bus reaches it.
    pub(super) fn served(&mut self) -> Option<&mut (dyn Device + 'static)> {
        let served = self.status & (bit::ENABLE | bit::SUSPEND) == bit::ENABLE;
        self.device.as_deref_mut().filter(|_| served)
    }

    pub(super) fn events(&self) -> Vec<RawFd> {
        self.device.as_ref().map(|device| device.events()).unwrap_or_default()
    }

    /// SetPortFeature(PORT_POWER): nothing happens during over-current (11.24.2.13).
    pub(super) fn power_on(&mut self) {
        if !self.is(bit::OVER_CURRENT) && !self.is(bit::POWER) {
            self.status |= bit::POWER;
            self.connect();
        }
    }

    pub(super) fn power_off(&mut self) {
        self.status &= bit::OVER_CURRENT;
    }

    pub(super) fn set_over_current(&mut self, over: bool) {
        if over == self.is(bit::OVER_CURRENT) {
            return;
        }
        self.change |= bit::OVER_CURRENT;
        self.status = if over { bit::OVER_CURRENT } else { self.status & !bit::OVER_CURRENT };
    }

    pub(super) fn disable(&mut self) {
        self.status &= !(bit::ENABLE | bit::SUSPEND | bit::HIGH_SPEED);
    }

    /// SetPortFeature(PORT_RESET): it is over at once.
    pub(super) fn reset(&mut self) {
        if !self.is(bit::POWER) {
            return;
        }
        self.disable();
        self.change |= bit::RESET;
        if self.is(bit::CONNECTION)
            && let Some(device) = &mut self.device
        {
            device.set_suspended(false);
            device.reset();
            self.status |= bit::ENABLE;
        }
    }

    pub(super) fn suspend(&mut self) {
        if let Some(device) = self.served() {
            device.set_suspended(true);
            self.status |= bit::SUSPEND;
        }
    }

    /// ClearPortFeature(PORT_SUSPEND), or the device wants it.
    pub(super) fn resume(&mut self) {
        if self.is(bit::SUSPEND) {
            self.status &= !bit::SUSPEND;
            self.change |= bit::SUSPEND;
            if let Some(device) = &mut self.device {
                device.set_suspended(false);
            }
        }
    }

    /// The hub's own bus is suspended or goes on: so do its devices, but those that were suspended by
    /// themselves.
    pub(super) fn bus_suspended(&mut self, suspended: bool) {
        if let Some(device) = self.served() {
            device.set_suspended(suspended);
        }
    }

    /// It is suspended by itself, and its device wants to go on.
    pub(super) fn wakes(&self) -> bool {
        self.is(bit::SUSPEND) && self.signals_resume()
    }

    /// Its device, suspended somehow, wants to go on.
    pub(super) fn signals_resume(&self) -> bool {
        self.is(bit::ENABLE) && self.device.as_ref().is_some_and(|device| device.wakes())
    }

    /// As [`Device::note`]: wPortStatus and wPortChange, then its device.
    pub(super) fn note(&self, words: &mut dyn FnMut(u32)) {
        words(u32::from(self.status) | u32::from(self.change) << 16);
        if let Some(device) = &self.device {
            device.note(words);
        }
    }

    /// As [`Device::goes_on`].
    pub(super) fn goes_on(&mut self, noted: &mut dyn Iterator<Item = u32>) {
        let [s0, s1, c0, c1] = noted.next().unwrap_or(0).to_le_bytes();
        self.status = u16::from_le_bytes([s0, s1]) & bit::KEPT;
        self.change = u16::from_le_bytes([c0, c1]) & bit::CHANGES;
        let is_there = self.device.as_ref().is_some_and(|device| device.is_present());
        if !is_there {
            self.disconnect();
        } else if !self.is(bit::CONNECTION) {
            self.connect();
        }
        // Its device has forgotten that it was suspended, and its driver is to find out.
        self.resume();
        if let Some(device) = &mut self.device {
            device.goes_on(noted);
        }
    }

    pub(super) fn has_changed(&self) -> bool {
        self.change != 0
    }

    /// ClearPortFeature(C_PORT_…). `None`: it is no such feature.
    pub(super) fn clear_change(&mut self, feature: u16) -> Option<()> {
        if !(feature::FIRST_CHANGE..=feature::LAST_CHANGE).contains(&feature) {
            return None;
        }
        let number = feature.checked_sub(feature::FIRST_CHANGE)?;
        self.change &= !1u16.checked_shl(number.into())?;
        Some(())
    }

    /// wPortStatus and wPortChange (11.24.2.7).
    pub(super) fn status(&self) -> [u8; 4] {
        let speed = match self.device.as_ref().map(|device| device.speed()) {
            Some(Speed::Low) if self.is(bit::CONNECTION) => bit::LOW_SPEED,
            // It is seen at the reset.
            Some(Speed::High) if self.is(bit::ENABLE) => bit::HIGH_SPEED,
            _ => 0,
        };
        let ([s0, s1], [c0, c1]) = ((self.status | speed).to_le_bytes(), self.change.to_le_bytes());
        [s0, s1, c0, c1]
    }
}
