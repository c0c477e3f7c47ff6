//! Bytes from the host, to packets. All of them are hostile.

use super::packet::{Capabilities, DeviceInfo, Ended, EndpointInfo, InterfaceInfo, Packet, kind};
use crate::usb::{Direction, Endpoint};

/// Bytes of a packet behind its header: a transfer's, as many as 16 bits can say, and its own header.
const LONGEST: u32 = (64 << 10) + 64;
/// Bytes of who a host is.
const VERSION: usize = 64;
/// Doublewords of capabilities; there is one today.
const CAPABILITIES: u32 = 16;
/// Interfaces and endpoints of a device.
const MOST: usize = 32;
/// An endpoint that there is not.
const NO_ENDPOINT: u8 = 255;
/// Control, isochronous, bulk, interrupt.
const LAST_KIND: u8 = 3;

/// Why a host is not listened to any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// It must say hello first, and once.
    #[error("a packet of type {0} is not for now")]
    Order(u32),
    /// There is no such packet, or not with what both sides can do.
    #[error("a packet of type {0} was not agreed upon")]
    Type(u32),
    /// It has not the length of its type.
    #[error("a packet of type {0} has {1} bytes")]
    Length(u32, u32),
    /// It says what can't be.
    #[error("a packet of type {0} does not say what it may")]
    Value(u32),
    /// It does not say first what it must.
    #[error("a device was connected without its interfaces, or twice")]
    Device,
}

/// Bytes that are read from their beginning.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (first, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(first)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn endpoint(&mut self) -> Option<Endpoint> {
        self.u8().and_then(endpoint)
    }
}

/// An endpoint, if its address has no bits that none has.
fn endpoint(address: u8) -> Option<Endpoint> {
    let endpoint = Endpoint::of_address(address);
    (endpoint.address() == address).then_some(endpoint)
}

/// What a host sends, piece by piece.
pub struct Parser {
    ours: Capabilities,
    /// What both can do, once the host has said hello.
    agreed: Option<Capabilities>,
    /// The beginning of a packet.
    bytes: Vec<u8>,
}

/// A packet's header.
struct Header {
    kind: u32,
    length: u32,
    id: u64,
}

impl Parser {
    /// One for a host that has said nothing yet.
    #[must_use]
    pub fn new(ours: Capabilities) -> Self {
        Self { ours, agreed: None, bytes: Vec::new() }
    }

    /// What both sides can do. Nothing, before the host has said hello.
    #[must_use]
    pub fn agreed(&self) -> Capabilities {
        self.agreed.unwrap_or_default()
    }

    /// Takes the first packet that is whole, with its id; of bytes that are not, the ones behind are wanted
    /// too the next time.
    ///
    /// # Errors
    /// See [`ProtocolError`]: nothing that follows means anything.
    pub fn next(&mut self, from: &mut &[u8]) -> Result<Option<(u64, Packet)>, ProtocolError> {
        let has_long_ids = self.agreed().contains(Capabilities::IDS_64_BITS);
        let header_length = if has_long_ids { 16 } else { 12 };
        self.fill(from, header_length);
        let Some(header) = header(&self.bytes, has_long_ids) else { return Ok(None) };
        self.check(&header)?;
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        let whole = length.saturating_add(header_length);
        self.fill(from, whole);
        let Some(body) = self.bytes.get(header_length..whole) else { return Ok(None) };
        let packet = self.parse(&header, body)?;
        if let Packet::Hello { capabilities, .. } = &packet {
            self.agreed = Some(*capabilities & self.ours);
        }
        self.bytes.clear();
        Ok(Some((header.id, packet)))
    }

    /// Takes bytes until there are so many.
    fn fill(&mut self, from: &mut &[u8], wanted: usize) {
        let count = wanted.saturating_sub(self.bytes.len()).min(from.len());
        let (taken, rest) = from.split_at_checked(count).unwrap_or((from, &[]));
        self.bytes.extend_from_slice(taken);
        *from = rest;
    }

    /// Whether a packet may come now, and so many bytes of it: before any of them are waited for.
    fn check(&self, header: &Header) -> Result<(), ProtocolError> {
        let Header { kind, length, .. } = *header;
        let Some(agreed) = self.agreed else {
            let most = CAPABILITIES.saturating_mul(4).saturating_add(64);
            return match kind {
                kind::HELLO if (64..=most).contains(&length) && length % 4 == 0 => Ok(()),
                kind::HELLO => Err(ProtocolError::Length(kind, length)),
                _ => Err(ProtocolError::Order(kind)),
            };
        };
        let has = |capability| agreed.contains(capability);
        let (least, with_data) = match kind {
            kind::HELLO => return Err(ProtocolError::Order(kind)),
            kind::DEVICE_CONNECT if has(Capabilities::CONNECT_DEVICE_VERSION) => (10, false),
            kind::DEVICE_CONNECT => (8, false),
            kind::DEVICE_DISCONNECT => (0, false),
            kind::INTERFACE_INFO => (132, false),
            kind::EP_INFO if has(Capabilities::BULK_STREAMS) => (288, false),
            kind::EP_INFO if has(Capabilities::EP_INFO_MAX_PACKET_SIZE) => (160, false),
            kind::EP_INFO => (96, false),
            kind::CONFIGURATION_STATUS => (2, false),
            kind::ALT_SETTING_STATUS => (3, false),
            kind::ISO_STREAM_STATUS | kind::INTERRUPT_RECEIVING_STATUS => (2, false),
            kind::BULK_STREAMS_STATUS if has(Capabilities::BULK_STREAMS) => (9, false),
            kind::BULK_RECEIVING_STATUS if has(Capabilities::BULK_RECEIVING) => (6, false),
            kind::FILTER_FILTER if has(Capabilities::FILTER) => (1, true),
            kind::CONTROL_PACKET => (10, true),
            kind::BULK_PACKET if has(Capabilities::BULK_LENGTH_32_BITS) => (10, true),
            kind::BULK_PACKET => (8, true),
            kind::ISO_PACKET | kind::INTERRUPT_PACKET => (4, true),
            kind::BUFFERED_BULK_PACKET if has(Capabilities::BULK_RECEIVING) => (10, true),
            _ => return Err(ProtocolError::Type(kind)),
        };
        let most = if with_data { LONGEST } else { least };
        match (least..=most).contains(&length) {
            true => Ok(()),
            false => Err(ProtocolError::Length(kind, length)),
        }
    }

    fn parse(&self, header: &Header, body: &[u8]) -> Result<Packet, ProtocolError> {
        let mut bytes = Bytes(body);
        let packet = match header.kind {
            kind::HELLO => hello(&mut bytes),
            kind::DEVICE_CONNECT => self.device(&mut bytes).map(Packet::Connect),
            kind::DEVICE_DISCONNECT => Some(Packet::Disconnect),
            kind::INTERFACE_INFO => interfaces(&mut bytes).map(Packet::Interfaces),
            kind::EP_INFO => self.endpoints(&mut bytes).map(Packet::Endpoints),
            kind::CONFIGURATION_STATUS => bytes.u8().map(|status| Packet::Configuration { status }),
            kind::ALT_SETTING_STATUS => bytes.u8().map(|status| Packet::Alternate { status }),
            kind::ISO_STREAM_STATUS => {
                let both = bytes.u8().zip(bytes.endpoint());
                both.map(|(status, endpoint)| Packet::IsochronousStatus { status, endpoint })
            }
            kind::INTERRUPT_RECEIVING_STATUS => {
                let both = bytes.u8().zip(bytes.endpoint());
                let both = both.filter(|(_, endpoint)| endpoint.direction() == Direction::In);
                both.map(|(status, endpoint)| Packet::InterruptStatus { status, endpoint })
            }
            kind::BULK_STREAMS_STATUS => Some(Packet::BulkStreams),
            kind::BULK_RECEIVING_STATUS => bulk_status(&mut bytes),
            kind::FILTER_FILTER => body.ends_with(&[0]).then_some(Packet::Filter),
            kind::CONTROL_PACKET => control(&mut bytes),
            kind::BULK_PACKET => self.bulk(&mut bytes),
            kind::ISO_PACKET => isochronous(&mut bytes),
            kind::INTERRUPT_PACKET => interrupt(&mut bytes),
            kind::BUFFERED_BULK_PACKET => buffered(&mut bytes),
            kind => return Err(ProtocolError::Type(kind)),
        };
        packet.ok_or(ProtocolError::Value(header.kind))
    }

    fn device(&self, bytes: &mut Bytes<'_>) -> Option<DeviceInfo> {
        let [speed, class @ ..] = bytes.array::<4>()?;
        let (vendor, product) = (bytes.u16()?, bytes.u16()?);
        Some(DeviceInfo { speed, class, vendor, product, version: bytes.u16() })
    }

    fn endpoints(&self, bytes: &mut Bytes<'_>) -> Option<Vec<EndpointInfo>> {
        let [kinds, intervals, interfaces] =
            [bytes.array::<MOST>()?, bytes.array::<MOST>()?, bytes.array::<MOST>()?];
        let told = self.agreed().contains(Capabilities::EP_INFO_MAX_PACKET_SIZE);
        let mut all = Vec::new();
        for (((place, kind), interval), interface) in
            (0u8..).zip(kinds).zip(intervals).zip(interfaces)
        {
            let max_packet = if told { Some(bytes.u16()?) } else { None };
            // First those that take data, then those that send them.
            let direction = if place < 16 { Direction::Out } else { Direction::In };
            let endpoint = Endpoint::new(place, direction);
            match kind {
                NO_ENDPOINT => {}
                0..=LAST_KIND => {
                    all.push(EndpointInfo { endpoint, kind, interval, interface, max_packet });
                }
                _ => return None,
            }
        }
        Some(all)
    }

    fn bulk(&self, bytes: &mut Bytes<'_>) -> Option<Packet> {
        let (endpoint, status) = (bytes.endpoint()?, bytes.u8()?);
        let low = u32::from(bytes.u16()?);
        let _stream = bytes.u32()?;
        let high = match self.agreed().contains(Capabilities::BULK_LENGTH_32_BITS) {
            true => u32::from(bytes.u16()?),
            false => 0,
        };
        ended(Ended::Bulk, endpoint, status, high << 16 | low, bytes.0)
    }
}

fn header(bytes: &[u8], has_long_ids: bool) -> Option<Header> {
    let mut bytes = Bytes(bytes);
    let (kind, length, low) = (bytes.u32()?, bytes.u32()?, bytes.u32()?);
    let high = if has_long_ids { bytes.u32()? } else { 0 };
    Some(Header { kind, length, id: u64::from(high) << 32 | u64::from(low) })
}

fn hello(bytes: &mut Bytes<'_>) -> Option<Packet> {
    let version = bytes.take(VERSION)?;
    let end = version.iter().position(|byte| *byte == 0).unwrap_or(VERSION);
    let text = String::from_utf8_lossy(version.get(..end)?);
    // It goes to the log.
    let version = text.chars().map(|char| if char.is_control() { '?' } else { char }).collect();
    let mut capabilities = Capabilities::from_bits_truncate(bytes.u32().unwrap_or(0));
    if !capabilities.contains(Capabilities::EP_INFO_MAX_PACKET_SIZE) {
        // Not without the other.
        capabilities.remove(Capabilities::BULK_STREAMS);
    }
    Some(Packet::Hello { version, capabilities })
}

fn interfaces(bytes: &mut Bytes<'_>) -> Option<Vec<InterfaceInfo>> {
    let count = usize::try_from(bytes.u32()?).ok().filter(|count| *count <= MOST)?;
    let numbers = bytes.array::<MOST>()?;
    let [classes, subclasses, protocols] =
        [bytes.array::<MOST>()?, bytes.array::<MOST>()?, bytes.array::<MOST>()?];
    let classes = classes.into_iter().zip(subclasses).zip(protocols);
    let all = numbers.into_iter().zip(classes).map(|(number, ((class, subclass), protocol))| {
        InterfaceInfo { number, class: [class, subclass, protocol] }
    });
    Some(all.take(count).collect())
}

/// A transfer that has ended: what has come is there, what was sent is not.
fn ended(kind: Ended, endpoint: Endpoint, status: u8, length: u32, data: &[u8]) -> Option<Packet> {
    let wanted = if endpoint.direction() == Direction::In { length } else { 0 };
    let matches = usize::try_from(wanted) == Ok(data.len());
    matches.then(|| Packet::Ended { kind, status, length, data: data.to_vec() })
}

fn control(bytes: &mut Bytes<'_>) -> Option<Packet> {
    let endpoint = bytes.endpoint()?;
    let [_request, _request_type, status] = bytes.array()?;
    let [_value, _index, length] = [bytes.u16()?, bytes.u16()?, bytes.u16()?];
    ended(Ended::Control, endpoint, status, length.into(), bytes.0)
}

fn isochronous(bytes: &mut Bytes<'_>) -> Option<Packet> {
    let (endpoint, status, length) = (bytes.endpoint()?, bytes.u8()?, bytes.u16()?);
    let matches = endpoint.direction() == Direction::In && usize::from(length) == bytes.0.len();
    matches.then(|| Packet::Isochronous { endpoint, status, data: bytes.0.to_vec() })
}

fn bulk_status(bytes: &mut Bytes<'_>) -> Option<Packet> {
    let (_stream, endpoint, status) = (bytes.u32()?, bytes.endpoint()?, bytes.u8()?);
    let matches = endpoint.direction() == Direction::In;
    matches.then_some(Packet::BulkStatus { status, endpoint })
}

fn buffered(bytes: &mut Bytes<'_>) -> Option<Packet> {
    let (_stream, length) = (bytes.u32()?, bytes.u32()?);
    let (endpoint, status) = (bytes.endpoint()?, bytes.u8()?);
    let matches =
        endpoint.direction() == Direction::In && usize::try_from(length) == Ok(bytes.0.len());
    matches.then(|| Packet::BufferedBulk { endpoint, status, data: bytes.0.to_vec() })
}

fn interrupt(bytes: &mut Bytes<'_>) -> Option<Packet> {
    let (endpoint, status, length) = (bytes.endpoint()?, bytes.u8()?, bytes.u16()?);
    match ended(Ended::Interrupt, endpoint, status, length.into(), bytes.0)? {
        Packet::Ended { data, .. } if endpoint.direction() == Direction::In => {
            Some(Packet::Interrupt { endpoint, status, data })
        }
        other => Some(other),
    }
}
