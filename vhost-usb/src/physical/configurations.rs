//! What a device says that it is, as usbfs gives it: its device descriptor, and its configurations with all
//! that belongs to them (USB 2.0, 9.6). A device may say anything.

use crate::device::remote::backend::Pipe;
use crate::usb::descriptor::{Transfer as Kind, kind};
use crate::usb::{Endpoint, Speed};

/// An interface in one of its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Setting {
    interface: u8,
    alternate: u8,
    pipes: Vec<(Endpoint, Pipe)>,
}

/// A configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Configuration {
    value: u8,
    settings: Vec<Setting>,
}

/// All of a device, and which is in use.
#[derive(Debug, Default)]
pub(super) struct Configurations {
    all: Vec<Configuration>,
    /// bConfigurationValue; 0 while there is none.
    active: u8,
    /// Interfaces that are not in their setting 0.
    alternates: Vec<(u8, u8)>,
}

impl Configurations {
    /// Reads descriptors, as far as they make sense.
    pub(super) fn parse(mut bytes: &[u8], speed: Speed) -> Self {
        let mut all: Vec<Configuration> = Vec::new();
        while let Some(&[length, kind, ..]) = bytes.first_chunk::<2>()
            && length >= 2
            && let Some((descriptor, rest)) = bytes.split_at_checked(length.into())
        {
            bytes = rest;
            let configuration = all.last_mut();
            match (kind, configuration) {
                (kind::CONFIGURATION, _) => {
                    let value = descriptor.get(5).copied().unwrap_or(0);
                    all.push(Configuration { value, settings: Vec::new() });
                }
                (kind::INTERFACE, Some(configuration)) => {
                    if let Some(&[_, _, interface, alternate]) = descriptor.first_chunk::<4>() {
                        let setting = Setting { interface, alternate, pipes: Vec::new() };
                        configuration.settings.push(setting);
                    }
                }
                (kind::ENDPOINT, Some(Configuration { settings, .. })) => {
                    if let Some(setting) = settings.last_mut() {
                        setting.pipes.extend(pipe(descriptor, setting.interface, speed));
                    }
                }
                _ => {}
            }
        }
        Self { all, active: 0, alternates: Vec::new() }
    }

    /// Another configuration is in use, with all its interfaces in their setting 0.
    pub(super) fn set_active(&mut self, value: u8) {
        self.active = value;
        self.alternates.clear();
    }

    /// An interface is in another setting.
    pub(super) fn set_alternate(&mut self, interface: u8, alternate: u8) {
        self.alternates.retain(|(other, _)| *other != interface);
        self.alternates.push((interface, alternate));
    }

    fn configuration(&self, value: u8) -> Option<&Configuration> {
        self.all.iter().find(|configuration| configuration.value == value)
    }

    /// The numbers of a configuration's interfaces.
    pub(super) fn interfaces(&self, value: u8) -> Vec<u8> {
        let settings = self.configuration(value).map(|it| it.settings.as_slice());
        let settings = settings.unwrap_or_default().iter();
        let mut numbers: Vec<u8> = settings.map(|setting| setting.interface).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// Those of the configuration that is in use.
    pub(super) fn active_interfaces(&self) -> Vec<u8> {
        self.interfaces(self.active)
    }

    /// An endpoint, as it is now.
    pub(super) fn pipe(&self, endpoint: Endpoint) -> Option<Pipe> {
        let alternate = |interface| {
            let set = self.alternates.iter().find(|(other, _)| *other == interface);
            set.map_or(0, |(_, alternate)| *alternate)
        };
        let settings = self.configuration(self.active)?.settings.iter();
        let mut pipes = settings
            .filter(|setting| setting.alternate == alternate(setting.interface))
            .flat_map(|setting| &setting.pipes);
        pipes.find(|(other, _)| *other == endpoint).map(|(_, pipe)| *pipe)
    }
}

/// 9.6.6.
fn pipe(descriptor: &[u8], interface: u8, speed: Speed) -> Option<(Endpoint, Pipe)> {
    let &[_, _, address, attributes, low, high, interval] = descriptor.first_chunk::<7>()?;
    let kind = match attributes & 3 {
        0 => Kind::Control,
        1 => Kind::Isochronous,
        2 => Kind::Bulk,
        _ => Kind::Interrupt,
    };
    let size = u16::from_le_bytes([low, high]);
    let more = if speed == Speed::High { size >> 11 & 3 } else { 0 };
    let max_packet = usize::from(size & 0x7ff).saturating_mul(usize::from(more).saturating_add(1));
    let pipe = Pipe { interface, kind, max_packet, interval, ahead: false };
    Some((Endpoint::of_address(address), pipe)).filter(|(endpoint, _)| endpoint.number() != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device with one configuration: an interface with a bulk endpoint, and one with two settings.
    const BYTES: [u8; 18 + 9 + 9 + 7 + 9 + 9 + 3 + 7] = [
        18, 1, 0, 2, 0, 0, 0, 64, 0xf4, 0x46, 1, 0, 0, 0, 1, 2, 3, 1, // the device
        9, 2, 53, 0, 2, 5, 0, 0x80, 50, // the configuration
        9, 4, 0, 0, 1, 8, 6, 80, 0, 7, 5, 0x81, 2, 0, 2, 0, // bulk
        9, 4, 1, 0, 0, 1, 2, 0, 0, // nothing
        9, 4, 1, 1, 1, 1, 2, 0, 0, 3, 0x24, 1, 7, 5, 0x02, 1, 0, 0x14, 1, // isochronous
    ];

    #[test]
    fn endpoints_are_those_of_the_settings_in_use() {
        let mut all = Configurations::parse(&BYTES, Speed::High);
        let (bulk, isochronous) = (Endpoint::of_address(0x81), Endpoint::of_address(2));
        assert_eq!((all.pipe(bulk), all.interfaces(5)), (None, vec![0, 1]));
        all.set_active(5);
        assert_eq!(all.pipe(bulk).unwrap().max_packet, 512);
        assert_eq!(all.pipe(isochronous), None);
        all.set_alternate(1, 1);
        let (kind, max_packet) = (Kind::Isochronous, 3072);
        let pipe = Pipe { interface: 1, kind, max_packet, interval: 1, ahead: false };
        assert_eq!(all.pipe(isochronous), Some(pipe));
        all.set_active(5);
        assert_eq!(all.pipe(isochronous), None);
        all.set_active(4);
        assert_eq!((all.pipe(bulk), all.interfaces(4)), (None, vec![]));
    }

    proptest::proptest! {
        #[test]
        fn a_device_may_say_anything(bytes: Vec<u8>, cut in 0..BYTES.len()) {
            let mut all = Configurations::parse(&bytes, Speed::High);
            all.set_active(1);
            for address in 0..=u8::MAX {
                all.pipe(Endpoint::of_address(address));
            }
            Configurations::parse(&BYTES[..cut], Speed::Full);
        }
    }
}
