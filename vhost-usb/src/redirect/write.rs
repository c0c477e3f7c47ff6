//! Commands, to bytes for the host.

use super::packet::{Capabilities, Command, kind};
use crate::usb::{Direction, Endpoint};

/// Bytes of who this is, with a zero at least.
const VERSION: usize = 64;
/// Where a stream would be named.
const NO_STREAM: [u8; 4] = [0; 4];

fn low_16(length: usize) -> [u8; 2] {
    u16::try_from(length & 0xffff).unwrap_or(0).to_le_bytes()
}

/// The length of a transfer's data, which is at most what 16 bits can say without the capability.
fn high_16(length: usize) -> [u8; 2] {
    u16::try_from(length >> 16).unwrap_or(0).to_le_bytes()
}

fn version(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.truncate(VERSION.saturating_sub(1));
    bytes.resize(VERSION, 0);
    bytes
}

fn bulk(endpoint: Endpoint, length: usize, data: &[u8], agreed: Capabilities) -> Vec<u8> {
    let mut bytes = vec![endpoint.address(), 0];
    bytes.extend(low_16(length));
    bytes.extend(NO_STREAM);
    if agreed.contains(Capabilities::BULK_LENGTH_32_BITS) {
        bytes.extend(high_16(length));
    }
    bytes.extend(data);
    bytes
}

fn packet(endpoint: Endpoint, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![endpoint.address(), 0];
    bytes.extend(low_16(data.len()));
    bytes.extend(data);
    bytes
}

impl Command<'_> {
    /// Its type, and all that follows the header.
    fn body(&self, agreed: Capabilities) -> (u32, Vec<u8>) {
        match *self {
            Command::Hello { version: text, capabilities } => {
                let mut bytes = version(text);
                bytes.extend(capabilities.bits().to_le_bytes());
                (kind::HELLO, bytes)
            }
            Command::Reset => (kind::RESET, Vec::new()),
            Command::SetConfiguration(value) => (kind::SET_CONFIGURATION, vec![value]),
            Command::SetAlternate { interface, alternate } => {
                (kind::SET_ALT_SETTING, vec![interface, alternate])
            }
            Command::StartIsochronous { endpoint, packets, transfers } => {
                (kind::START_ISO_STREAM, vec![endpoint.address(), packets, transfers])
            }
            Command::StopIsochronous(endpoint) => (kind::STOP_ISO_STREAM, vec![endpoint.address()]),
            Command::StartInterrupt(endpoint) => {
                (kind::START_INTERRUPT_RECEIVING, vec![endpoint.address()])
            }
            Command::StopInterrupt(endpoint) => {
                (kind::STOP_INTERRUPT_RECEIVING, vec![endpoint.address()])
            }
            Command::StartBulk { endpoint, bytes: length, transfers } => {
                let mut bytes = NO_STREAM.to_vec();
                bytes.extend(length.to_le_bytes());
                bytes.extend([endpoint.address(), transfers]);
                (kind::START_BULK_RECEIVING, bytes)
            }
            Command::StopBulk(endpoint) => {
                let mut bytes = NO_STREAM.to_vec();
                bytes.push(endpoint.address());
                (kind::STOP_BULK_RECEIVING, bytes)
            }
            Command::Cancel => (kind::CANCEL_DATA_PACKET, Vec::new()),
            Command::FilterReject => (kind::FILTER_REJECT, Vec::new()),
            Command::Filter(text) => {
                let mut bytes = text.as_bytes().to_vec();
                bytes.push(0);
                (kind::FILTER_FILTER, bytes)
            }
            Command::DisconnectAck => (kind::DEVICE_DISCONNECT_ACK, Vec::new()),
            Command::Control(setup, data) => {
                let endpoint = Endpoint::new(0, setup.direction());
                let mut bytes = vec![endpoint.address(), setup.request, setup.request_type, 0];
                for field in [setup.value, setup.index, setup.length] {
                    bytes.extend(field.to_le_bytes());
                }
                if setup.direction() == Direction::Out {
                    bytes.extend(data);
                }
                (kind::CONTROL_PACKET, bytes)
            }
            Command::BulkIn(endpoint, length) => {
                let length = usize::try_from(length).unwrap_or(0);
                (kind::BULK_PACKET, bulk(endpoint, length, &[], agreed))
            }
            Command::BulkOut(endpoint, data) => {
                (kind::BULK_PACKET, bulk(endpoint, data.len(), data, agreed))
            }
            Command::Isochronous(endpoint, data) => (kind::ISO_PACKET, packet(endpoint, data)),
            Command::Interrupt(endpoint, data) => (kind::INTERRUPT_PACKET, packet(endpoint, data)),
        }
    }

    /// Appends it, for a host with which that was agreed; before its hello, nothing was.
    pub fn write(&self, id: u32, agreed: Capabilities, to: &mut Vec<u8>) {
        let (kind, body) = self.body(agreed);
        to.extend(kind.to_le_bytes());
        to.extend(u32::try_from(body.len()).unwrap_or(0).to_le_bytes());
        to.extend(id.to_le_bytes());
        if agreed.contains(Capabilities::IDS_64_BITS) {
            to.extend([0; 4]);
        }
        to.extend(body);
    }
}
