//! Requests to a device's default control pipe (USB 2.0, 9.3).

use super::Direction;

/// Whose request it is (table 9-2, bmRequestType D6…5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Every device's.
    Standard,
    /// Its class's.
    Class,
    /// Its vendor's.
    Vendor,
    /// Nobody's.
    Reserved,
}

/// Whom it is for (table 9-2, bmRequestType D4…0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// The device.
    Device,
    /// One of its interfaces, by wIndex.
    Interface,
    /// One of its endpoints, by wIndex.
    Endpoint,
    /// Something else; hubs: a port.
    Other,
    /// Nobody.
    Reserved,
}

/// The standard requests (table 9-4).
pub mod request {
    /// Status of device, interface or endpoint.
    pub const GET_STATUS: u8 = 0;
    /// Clears a feature.
    pub const CLEAR_FEATURE: u8 = 1;
    /// Sets a feature.
    pub const SET_FEATURE: u8 = 3;
    /// Gives the device its address.
    pub const SET_ADDRESS: u8 = 5;
    /// Asks for a descriptor.
    pub const GET_DESCRIPTOR: u8 = 6;
    /// Replaces a descriptor.
    pub const SET_DESCRIPTOR: u8 = 7;
    /// Asks for the configuration.
    pub const GET_CONFIGURATION: u8 = 8;
    /// Chooses a configuration.
    pub const SET_CONFIGURATION: u8 = 9;
    /// Asks for an interface's alternate setting.
    pub const GET_INTERFACE: u8 = 10;
    /// Chooses an interface's alternate setting.
    pub const SET_INTERFACE: u8 = 11;
}

/// The features (table 9-6).
pub mod feature {
    /// Of an endpoint.
    pub const ENDPOINT_HALT: u16 = 0;
    /// Of a device.
    pub const DEVICE_REMOTE_WAKEUP: u16 = 1;
    /// Of a device.
    pub const TEST_MODE: u16 = 2;
}

/// A SETUP packet's 8 bytes (table 9-2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setup {
    /// bmRequestType.
    pub request_type: u8,
    /// bRequest.
    pub request: u8,
    /// wValue.
    pub value: u16,
    /// wIndex.
    pub index: u16,
    /// wLength: bytes of the data stage, at most.
    pub length: u16,
}

impl Setup {
    /// From the bytes of a packet.
    #[must_use]
    pub const fn parse(bytes: [u8; 8]) -> Self {
        let [request_type, request, v0, v1, i0, i1, l0, l1] = bytes;
        Self {
            request_type,
            request,
            value: u16::from_le_bytes([v0, v1]),
            index: u16::from_le_bytes([i0, i1]),
            length: u16::from_le_bytes([l0, l1]),
        }
    }

    /// A packet's bytes.
    #[must_use]
    pub const fn bytes(self) -> [u8; 8] {
        let ([v0, v1], [i0, i1]) = (self.value.to_le_bytes(), self.index.to_le_bytes());
        let [l0, l1] = self.length.to_le_bytes();
        [self.request_type, self.request, v0, v1, i0, i1, l0, l1]
    }

    /// Which way its data stage goes.
    #[must_use]
    pub const fn direction(self) -> Direction {
        if self.request_type & 0x80 == 0 { Direction::Out } else { Direction::In }
    }

    /// Whose request it is.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self.request_type >> 5 & 3 {
            0 => Kind::Standard,
            1 => Kind::Class,
            2 => Kind::Vendor,
            _ => Kind::Reserved,
        }
    }

    /// Whom it is for.
    #[must_use]
    pub const fn recipient(self) -> Recipient {
        match self.request_type & 0x1f {
            0 => Recipient::Device,
            1 => Recipient::Interface,
            2 => Recipient::Endpoint,
            3 => Recipient::Other,
            _ => Recipient::Reserved,
        }
    }

    /// wValue's two halves: a descriptor's type and its number, say.
    #[must_use]
    pub const fn value_bytes(self) -> [u8; 2] {
        self.value.to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_has_its_fields_in_order() {
        let bytes = [0xa1, 6, 1, 2, 3, 4, 5, 6];
        let setup = Setup::parse(bytes);
        assert_eq!((setup.value, setup.index, setup.length), (0x201, 0x403, 0x605));
        assert_eq!(setup.value_bytes(), [2, 1]);
        assert_eq!(
            (setup.direction(), setup.kind(), setup.recipient()),
            (Direction::In, Kind::Class, Recipient::Interface)
        );
        assert_eq!(setup.bytes(), bytes);
    }
}
