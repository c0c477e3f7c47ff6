//! What a device says that it is (USB 2.0, 9.5 and 9.6).

use super::setup::{Kind, Recipient, Setup};
use super::{Endpoint, Speed, microsoft};

/// Descriptor types (table 9-5).
pub mod kind {
    /// Of a device.
    pub const DEVICE: u8 = 1;
    /// Of a configuration, with all that belongs to it.
    pub const CONFIGURATION: u8 = 2;
    /// Text.
    pub const STRING: u8 = 3;
    /// Of an interface.
    pub const INTERFACE: u8 = 4;
    /// Of an endpoint.
    pub const ENDPOINT: u8 = 5;
    /// Of a device that can be faster, or slower.
    pub const DEVICE_QUALIFIER: u8 = 6;
    /// Of a configuration at the other speed.
    pub const OTHER_SPEED_CONFIGURATION: u8 = 7;
}

/// How an endpoint moves data (table 9-13, bmAttributes D1…0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// Requests and answers.
    Control,
    /// At fixed times, unchecked.
    Isochronous,
    /// Whenever there is time.
    Bulk,
    /// Little, and soon.
    Interrupt,
}

/// Whose clock says how much an isochronous endpoint moves (bmAttributes D3…2, and 5.12.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Synchronization {
    /// Nobody's.
    #[default]
    None = 0,
    /// Its own.
    Asynchronous = 1,
    /// That of who sends to it.
    Adaptive = 2,
}

/// An endpoint other than the default control pipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointInfo {
    /// Which one.
    pub endpoint: Endpoint,
    /// How it moves data.
    pub transfer: Transfer,
    /// Whose clock says how much.
    pub synchronization: Synchronization,
    /// wMaxPacketSize: bytes, and at high speed further transactions in D12…11.
    pub max_packet: u16,
    /// bInterval, in the speed's own units.
    pub interval: u8,
    /// Descriptors of its interface's class, which follow its own.
    pub class_descriptors: Vec<u8>,
}

/// An interface, in one of its alternate settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its number.
    pub number: u8,
    /// Which setting.
    pub alternate: u8,
    /// Class, subclass, protocol.
    pub class: [u8; 3],
    /// Its name.
    pub name: Option<String>,
    /// Descriptors of its class, which follow its own.
    pub class_descriptors: Vec<u8>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointInfo>,
}

/// A configuration. A device has one, number 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// It has its own power.
    pub self_powered: bool,
    /// It can wake the host.
    pub remote_wakeup: bool,
    /// What it takes from the bus, in mA, at most 500.
    pub milliamperes: u16,
    /// Its interfaces, in all their settings.
    pub interfaces: Vec<Interface>,
}

/// The value of the only configuration.
pub const CONFIGURATION_VALUE: u8 = 1;

/// All that a device says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Descriptors {
    /// bcdUSB: 0x0110 or 0x0200.
    pub usb: u16,
    /// Class, subclass, protocol; zeroes if its interfaces have them.
    pub class: [u8; 3],
    /// The largest packet of endpoint 0 at low or full speed; at high speed it is 64.
    pub max_packet_0: u8,
    /// Vendor and product.
    pub id: (u16, u16),
    /// bcdDevice.
    pub release: u16,
    /// Who made it.
    pub manufacturer: String,
    /// What it is.
    pub product: String,
    /// Which one it is.
    pub serial: String,
    /// Its configuration at low or full speed, if it can be so slow.
    pub full_speed: Option<Configuration>,
    /// Its configuration at high speed, if it can be so fast.
    pub high_speed: Option<Configuration>,
    /// Windows may suspend it while it is idle: it is told so by [Microsoft's descriptors](microsoft).
    pub selective_suspend: bool,
}

const MANUFACTURER: u8 = 1;
const PRODUCT: u8 = 2;
const SERIAL: u8 = 3;
/// Names of interfaces follow.
const FIRST_NAME: u8 = 4;
/// The class of hubs.
const HUB: u8 = 9;
/// The class of audio, and its protocol in release 1.0 (Audio 1.0, appendix A).
const AUDIO: u8 = 1;
const AUDIO_1: u8 = 0;
/// English (United States).
const LANGUAGE: u16 = 0x0409;
/// UTF-16 units that a string descriptor has room for.
const STRING_UNITS: usize = 126;

fn low_byte(number: usize) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

impl Descriptors {
    /// The configuration at a speed.
    #[must_use]
    pub fn configuration(&self, speed: Speed) -> Option<&Configuration> {
        match speed {
            Speed::High => self.high_speed.as_ref(),
            Speed::Low | Speed::Full => self.full_speed.as_ref(),
        }
    }

    fn other(&self, speed: Speed) -> Option<&Configuration> {
        self.configuration(if speed == Speed::High { Speed::Full } else { Speed::High })
    }

    /// At a speed: hubs have a transaction translator at high speed only (11.23.1).
    fn class(&self, speed: Speed) -> [u8; 3] {
        match self.class {
            [HUB, subclass, _] if speed != Speed::High => [HUB, subclass, 0],
            class => class,
        }
    }

    /// The answer to a request for Microsoft's descriptors, if there are some.
    #[must_use]
    pub fn microsoft(&self, setup: Setup) -> Option<Vec<u8>> {
        let asked = self.selective_suspend
            && setup.kind() == Kind::Vendor
            && matches!(setup.recipient(), Recipient::Device | Recipient::Interface)
            && setup.request == microsoft::VENDOR_CODE;
        if asked { microsoft::feature(setup.index) } else { None }
    }

    fn max_packet_0(&self, speed: Speed) -> u8 {
        if speed == Speed::High { 64 } else { self.max_packet_0 }
    }

    /// The bytes of a descriptor that GET_DESCRIPTOR asks for (9.4.3). `None`: there is none.
    #[must_use]
    pub fn get(&self, speed: Speed, kind: u8, index: u8) -> Option<Vec<u8>> {
        match (kind, index) {
            (kind::DEVICE, 0) => Some(self.device(speed)),
            (kind::CONFIGURATION, 0) => {
                Some(self.whole(self.configuration(speed)?, kind::CONFIGURATION))
            }
            (kind::OTHER_SPEED_CONFIGURATION, 0) => {
                Some(self.whole(self.other(speed)?, kind::OTHER_SPEED_CONFIGURATION))
            }
            (kind::DEVICE_QUALIFIER, 0) => {
                self.other(speed)?;
                Some(self.qualifier(speed))
            }
            (kind::STRING, index) => self.string(index),
            _ => None,
        }
    }

    /// Table 9-8.
    fn device(&self, speed: Speed) -> Vec<u8> {
        let mut bytes = vec![18, kind::DEVICE];
        bytes.extend(self.usb.to_le_bytes());
        bytes.extend(self.class(speed));
        bytes.push(self.max_packet_0(speed));
        bytes.extend(self.id.0.to_le_bytes());
        bytes.extend(self.id.1.to_le_bytes());
        bytes.extend(self.release.to_le_bytes());
        let named = |text: &String, index| if text.is_empty() { 0 } else { index };
        bytes.push(named(&self.manufacturer, MANUFACTURER));
        bytes.push(named(&self.product, PRODUCT));
        bytes.push(named(&self.serial, SERIAL));
        bytes.push(1); // configurations
        bytes
    }

    /// Table 9-9: as it would be at the other speed.
    fn qualifier(&self, speed: Speed) -> Vec<u8> {
        let other = if speed == Speed::High { Speed::Full } else { Speed::High };
        let mut bytes = vec![10, kind::DEVICE_QUALIFIER];
        bytes.extend(self.usb.to_le_bytes());
        bytes.extend(self.class(other));
        bytes.extend([self.max_packet_0(other), 1, 0]);
        bytes
    }

    /// Tables 9-10 to 9-13.
    fn whole(&self, configuration: &Configuration, kind: u8) -> Vec<u8> {
        let mut body = Vec::new();
        for interface in &configuration.interfaces {
            self.append_interface(&mut body, interface);
        }
        let mut numbers: Vec<u8> =
            configuration.interfaces.iter().map(|interface| interface.number).collect();
        numbers.dedup();
        let length = u16::try_from(body.len().saturating_add(9)).unwrap_or(u16::MAX);
        let mut attributes = 0x80;
        if configuration.self_powered {
            attributes |= 0x40;
        }
        if configuration.remote_wakeup {
            attributes |= 0x20;
        }
        let power = low_byte(usize::from(configuration.milliamperes.div_ceil(2)));
        let mut bytes = vec![9, kind];
        bytes.extend(length.to_le_bytes());
        bytes.extend([low_byte(numbers.len()), CONFIGURATION_VALUE, 0, attributes, power]);
        bytes.extend(body);
        bytes
    }

    fn append_interface(&self, bytes: &mut Vec<u8>, interface: &Interface) {
        let Interface { number, alternate, class, name, class_descriptors, endpoints } = interface;
        let name = name.as_ref().and_then(|name| self.index_of(name)).unwrap_or(0);
        let count = low_byte(endpoints.len());
        bytes.extend([9, kind::INTERFACE, *number, *alternate, count]);
        bytes.extend(class);
        bytes.push(name);
        bytes.extend(class_descriptors);
        // Release 1.0 of audio lengthens its endpoints' descriptors: bRefresh and bSynchAddress, for endpoints
        // that tell of a clock (Audio 1.0, 4.6.1.1).
        let more: &[u8] = match class {
            [AUDIO, _, AUDIO_1] => &[0, 0],
            _ => &[],
        };
        let length = low_byte(more.len().saturating_add(7));
        for endpoint in endpoints {
            let transfer = match endpoint.transfer {
                Transfer::Control => 0,
                Transfer::Isochronous => 1,
                Transfer::Bulk => 2,
                Transfer::Interrupt => 3,
            };
            let attributes = transfer | (endpoint.synchronization as u8) << 2;
            let address = endpoint.endpoint.address();
            bytes.extend([length, kind::ENDPOINT, address, attributes]);
            bytes.extend(endpoint.max_packet.to_le_bytes());
            bytes.push(endpoint.interval);
            bytes.extend(more);
            bytes.extend(&endpoint.class_descriptors);
        }
    }

    /// The names of interfaces, each once.
    fn names(&self) -> Vec<&str> {
        let configurations = self.full_speed.iter().chain(&self.high_speed);
        let interfaces = configurations.flat_map(|configuration| &configuration.interfaces);
        let mut names: Vec<&str> = Vec::new();
        for name in interfaces.filter_map(|interface| interface.name.as_deref()) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    fn index_of(&self, name: &str) -> Option<u8> {
        let place = self.names().iter().position(|known| *known == name)?;
        u8::try_from(place).ok()?.checked_add(FIRST_NAME)
    }

    /// 9.6.7. Whatever the language.
    fn string(&self, index: u8) -> Option<Vec<u8>> {
        let text = match index {
            0 => {
                let mut bytes = vec![4, kind::STRING];
                bytes.extend(LANGUAGE.to_le_bytes());
                return Some(bytes);
            }
            microsoft::STRING if self.selective_suspend => return Some(microsoft::string()),
            MANUFACTURER => self.manufacturer.as_str(),
            PRODUCT => self.product.as_str(),
            SERIAL => self.serial.as_str(),
            _ => {
                let place = usize::from(index.checked_sub(FIRST_NAME)?);
                self.names().get(place).copied()?
            }
        };
        if text.is_empty() {
            return None;
        }
        let units: Vec<u16> = text.encode_utf16().take(STRING_UNITS).collect();
        let length = units.len().saturating_mul(2).saturating_add(2);
        let mut bytes = vec![low_byte(length), kind::STRING];
        bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Direction;
    use super::*;

    fn stick() -> Descriptors {
        let configuration = |max_packet| Configuration {
            milliamperes: 100,
            remote_wakeup: true,
            interfaces: vec![Interface {
                class: [8, 6, 0x50],
                name: Some(String::from("Data")),
                endpoints: vec![EndpointInfo {
                    endpoint: Endpoint::new(1, Direction::In),
                    transfer: Transfer::Bulk,
                    synchronization: Synchronization::None,
                    max_packet,
                    interval: 0,
                    class_descriptors: Vec::new(),
                }],
                ..Interface::default()
            }],
            ..Configuration::default()
        };
        Descriptors {
            usb: 0x200,
            max_packet_0: 8,
            id: (0x1234, 0x5678),
            product: String::from("é"),
            full_speed: Some(configuration(64)),
            high_speed: Some(configuration(512)),
            ..Descriptors::default()
        }
    }

    #[test]
    fn each_descriptor_has_its_bytes() {
        let stick = stick();
        let device = [18, 1, 0, 2, 0, 0, 0, 64, 0x34, 0x12, 0x78, 0x56, 0, 0, 0, 2, 0, 1];
        assert_eq!(stick.get(Speed::High, kind::DEVICE, 0).unwrap(), device);
        assert_eq!(stick.get(Speed::Full, kind::DEVICE, 0).unwrap()[7], 8);
        let configuration = [
            9, 2, 25, 0, 1, 1, 0, 0xa0, 50, // configuration
            9, 4, 0, 0, 1, 8, 6, 0x50, 4, // interface
            7, 5, 0x81, 2, 0, 2, 0, // endpoint
        ];
        assert_eq!(stick.get(Speed::High, kind::CONFIGURATION, 0).unwrap(), configuration);
        let other = stick.get(Speed::High, kind::OTHER_SPEED_CONFIGURATION, 0).unwrap();
        assert_eq!((other[1], &other[22..24]), (7, &[64, 0][..]));
        let qualifier = [10, 6, 0, 2, 0, 0, 0, 8, 1, 0];
        assert_eq!(stick.get(Speed::High, kind::DEVICE_QUALIFIER, 0).unwrap(), qualifier);
        assert_eq!(stick.get(Speed::High, kind::STRING, 0).unwrap(), [4, 3, 9, 4]);
        assert_eq!(stick.get(Speed::High, kind::STRING, 2).unwrap(), [4, 3, 0xe9, 0]);
        assert_eq!(stick.get(Speed::High, kind::STRING, 4).unwrap(), b"\x0a\x03D\0a\0t\0a\0");
    }

    #[test]
    fn what_is_not_there_has_no_descriptor() {
        let mut stick = stick();
        for (kind, index) in [(kind::DEVICE, 1), (kind::CONFIGURATION, 1), (kind::STRING, 1)] {
            assert_eq!(stick.get(Speed::High, kind, index), None);
        }
        assert_eq!((stick.string(5), stick.get(Speed::High, 9, 0)), (None, None));
        stick.high_speed = None;
        assert_eq!(stick.get(Speed::Full, kind::DEVICE_QUALIFIER, 0), None);
        assert_eq!(stick.get(Speed::High, kind::CONFIGURATION, 0), None);
    }
}
