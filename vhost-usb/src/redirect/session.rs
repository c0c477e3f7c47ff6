//! What a host and its device are at: packets in, commands out. It knows no sockets.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::RawFd;

use super::filter::Filter;
use super::packet::{
    Capabilities, Command, DeviceInfo, Ended, EndpointInfo, InterfaceInfo, Packet, status,
};
use super::parse::{Parser, ProtocolError};
use crate::device::remote::backend::{Backend, Event, Id, Pipe, Status, Transfer};
use crate::usb::descriptor::Transfer as Kind;
use crate::usb::setup::{Setup, feature, request};
use crate::usb::{Direction, Endpoint, Speed};

/// What is served here: all of it, though no guest of a USB 2.0 controller ever asks for a bulk stream.
pub const CAPABILITIES: Capabilities = Capabilities::all();

/// Who this is.
const VERSION: &str = concat!("vhost-usb ", env!("CARGO_PKG_VERSION"));
/// Milliseconds of isochronous packets that a network may delay.
const JITTER: u32 = 60;
/// How often a second a host is to be interrupted by isochronous packets, and how many of those it is to
/// have at once.
const INTERRUPTS: u32 = 100;
const MOST_PACKETS: u32 = 32;
const MOST_TRANSFERS: u32 = 16;
/// Bytes of a bulk packet, of USB 3.
const MOST_BULK: usize = 1024;
/// How many transfers a host is to have under way at a bulk endpoint that is read ahead.
const BULK_TRANSFERS: u8 = 8;
/// Bytes of a periodic endpoint's packets in a microframe, that EHCI can move.
const MOST_PERIODIC: u16 = 3 * 1024;
/// Bytes that wait to be sent, before isochronous packets are dropped.
const BUSY: usize = 256 << 10;

/// The class of interfaces of none.
const VENDOR_SPECIFIC: u8 = 0xff;
/// Who makes serial converters: FTDI, Prolific, Silicon Labs, WCH.
const CONVERTERS: [u16; 4] = [0x0403, 0x067b, 0x10c4, 0x1a86];

/// Speeds, as the host tells them.
const SPEED_LOW: u8 = 0;
const SPEED_HIGH: u8 = 2;
const SPEED_SUPER: u8 = 3;

/// What is known of a device.
#[derive(Default)]
struct Known {
    device: Option<DeviceInfo>,
    interfaces: Option<Vec<InterfaceInfo>>,
    endpoints: BTreeMap<Endpoint, EndpointInfo>,
    /// It was let in.
    admitted: bool,
}

/// How a transfer's end is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pending {
    Data(Ended),
    Configuration,
    Alternate,
}

/// An endpoint whose packets come by themselves, or go so.
struct Stream {
    kind: Kind,
    state: StreamState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum StreamState {
    /// The host was asked to start it.
    Asked,
    Started,
    Stopped,
}

/// A host that is connected, and its device.
pub struct Session {
    parser: Parser,
    /// For the host.
    output: Vec<u8>,
    filter: Option<Filter>,
    known: Known,
    pending: BTreeMap<Id, Pending>,
    /// Endpoints whose packets come by themselves, or go so, and those that were stopped: some may be on
    /// their way.
    streams: BTreeMap<Endpoint, Stream>,
    events: VecDeque<Event>,
    /// The device has come or gone.
    changed: bool,
}

impl Session {
    /// One with nobody.
    #[must_use]
    pub fn new(filter: Option<Filter>) -> Self {
        Self {
            parser: Parser::new(CAPABILITIES),
            output: Vec::new(),
            filter,
            known: Known::default(),
            pending: BTreeMap::new(),
            streams: BTreeMap::new(),
            events: VecDeque::new(),
            changed: false,
        }
    }

    /// A host has been connected.
    pub fn greet(&mut self) {
        self.say(0, &Command::Hello { version: VERSION, capabilities: CAPABILITIES });
    }

    /// What is to be sent to the host; whoever sends it takes it out.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// The device has come or gone since this was asked last.
    pub fn take_change(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    fn say(&mut self, id: Id, command: &Command<'_>) {
        command.write(id, self.parser.agreed(), &mut self.output);
    }

    fn has(&self, capability: Capabilities) -> bool {
        self.parser.agreed().contains(capability)
    }

    /// Takes what the host has sent.
    ///
    /// # Errors
    /// See [`ProtocolError`]: the connection is of no more use.
    pub fn take_input(&mut self, mut bytes: &[u8]) -> Result<(), ProtocolError> {
        while let Some((id, packet)) = self.parser.next(&mut bytes)? {
            self.obey(id, packet)?;
        }
        Ok(())
    }

    fn obey(&mut self, id: u64, packet: Packet) -> Result<(), ProtocolError> {
        match packet {
            Packet::Hello { version, .. } => {
                log::debug!("redirection: {version}, {:?}", self.parser.agreed());
                if let Some(filter) = self.filter.as_ref().map(ToString::to_string)
                    && self.has(Capabilities::FILTER)
                {
                    self.say(0, &Command::Filter(&filter));
                }
            }
            Packet::Interfaces(interfaces) => {
                self.known.interfaces = Some(interfaces);
                self.judge();
            }
            Packet::Endpoints(endpoints) => {
                let each = endpoints.into_iter().map(|info| (info.endpoint, info));
                self.known.endpoints = each.collect();
                self.judge();
            }
            Packet::Connect(device) => {
                if self.known.device.is_some() || self.known.interfaces.is_none() {
                    return Err(ProtocolError::Device);
                }
                self.known.device = Some(device);
                self.known.admitted = true;
                self.changed = true;
                self.judge();
            }
            Packet::Disconnect => {
                self.lose();
                self.known = Known::default();
                if self.has(Capabilities::DEVICE_DISCONNECT_ACK) {
                    self.say(0, &Command::DisconnectAck);
                }
            }
            Packet::Configuration { status } => {
                self.end(id, Pending::Configuration, status, Vec::new(), 0);
            }
            Packet::Alternate { status } => {
                self.end(id, Pending::Alternate, status, Vec::new(), 0);
            }
            Packet::Ended { kind, status, length, data } => {
                self.end(id, Pending::Data(kind), status, data, length);
            }
            Packet::IsochronousStatus { status, endpoint }
            | Packet::InterruptStatus { status, endpoint }
            | Packet::BulkStatus { status, endpoint } => self.see_status(endpoint, status),
            Packet::Isochronous { endpoint, status, data } => {
                self.see_packet(endpoint, Kind::Isochronous, status, data);
            }
            Packet::Interrupt { endpoint, status, data } => {
                self.see_packet(endpoint, Kind::Interrupt, status, data);
            }
            Packet::BufferedBulk { endpoint, status, data } => {
                self.see_packet(endpoint, Kind::Bulk, status, data);
            }
            Packet::BulkStreams | Packet::Filter => {}
        }
        Ok(())
    }

    /// Whether what is known of a device that was let in lets it stay.
    fn judge(&mut self) {
        let Known { device: Some(device), interfaces, endpoints, admitted: true } = &self.known
        else {
            return;
        };
        let interfaces = interfaces.as_deref().unwrap_or_default();
        let allowed = self.filter.as_ref().is_none_or(|filter| filter.allows(device, interfaces));
        let why = match endpoints.values().all(is_possible) {
            _ if !allowed => "the filter refuses it",
            false => "no USB 2.0 controller can serve one of its endpoints",
            true => return,
        };
        log::warn!("redirection: {:04x}:{:04x}: {why}", device.vendor, device.product);
        self.lose();
        if self.has(Capabilities::FILTER) {
            self.say(0, &Command::FilterReject);
        }
    }

    /// The device is not there any more, for the guest.
    fn lose(&mut self) {
        self.changed |= std::mem::take(&mut self.known.admitted);
        self.pending.clear();
        self.streams.clear();
        self.events.clear();
    }

    /// A transfer has ended. One that nobody knows was cancelled.
    fn end(&mut self, id: u64, what: Pending, status: u8, data: Vec<u8>, length: u32) {
        let Ok(id) = Id::try_from(id) else { return };
        if self.pending.get(&id) != Some(&what) {
            return;
        }
        self.pending.remove(&id);
        let taken = usize::try_from(length).unwrap_or(0);
        self.events.push_back(Event::Ended { id, status: judged(status), data, taken });
    }

    fn see_packet(&mut self, endpoint: Endpoint, kind: Kind, status: u8, data: Vec<u8>) {
        if self.streams.get(&endpoint).is_some_and(|stream| stream.kind == kind) {
            let status = judged(status);
            self.events.push_back(Event::Packet { endpoint, status, data });
        }
    }

    /// A stream has started or stopped, or has not: of one that sends, a host says so for each packet that
    /// comes too late, too. Other errors are of a packet alone, and what was started goes on.
    fn see_status(&mut self, endpoint: Endpoint, status: u8) {
        let Some(stream) = self.streams.get_mut(&endpoint) else { return };
        let is_in = endpoint.direction() == Direction::In;
        let stops = match (stream.state, status) {
            (StreamState::Asked | StreamState::Started, status::STALL) => true,
            (StreamState::Asked, status::INVALID) => is_in,
            (StreamState::Asked, status::SUCCESS) => {
                stream.state = StreamState::Started;
                false
            }
            _ => false,
        };
        if stops {
            stream.state = StreamState::Stopped;
            self.events.push_back(Event::Stopped { endpoint, status: judged(status) });
        }
    }

    fn is_started(&self, endpoint: Endpoint) -> bool {
        self.streams.get(&endpoint).is_some_and(|stream| stream.state != StreamState::Stopped)
    }

    fn kind(&self, endpoint: Endpoint) -> Option<Kind> {
        self.pipe(endpoint).map(|pipe| pipe.kind)
    }

    /// An interface of a serial converter: its data come when they come, whatever is asked for, and are lost
    /// already if nobody reads them. Other modems and networks lose nothing, and should not: when its connection
    /// is slow, usbredirhost drops packets of what is read ahead.
    fn is_converter(&self, number: u8) -> bool {
        let vendor = self.known.device.map(|device| device.vendor);
        let mut interfaces = self.known.interfaces.iter().flatten();
        // First what sets other devices apart at once: it is asked for each token.
        vendor.is_some_and(|vendor| CONVERTERS.contains(&vendor))
            && interfaces
                .find(|interface| interface.number == number)
                .is_some_and(|interface| interface.class[0] == VENDOR_SPECIFIC)
    }

    fn submit_control(&mut self, id: Id, setup: Setup, data: &[u8]) {
        self.pending.insert(id, Pending::Data(Ended::Control));
        self.say(id, &Command::Control(setup, data));
    }

    /// Isochronous packets in a transfer of the host's, and transfers under way.
    fn stream(&self, endpoint: Endpoint) -> (u8, u8) {
        let interval = self.pipe(endpoint).map_or(1, |pipe| pipe.interval);
        let pause = u32::from(interval.clamp(1, 16)).saturating_sub(1);
        let each_second = if self.speed() == Speed::High { 8000u32 } else { 1000 } >> pause;
        let packets = (each_second / INTERRUPTS).clamp(1, MOST_PACKETS);
        let wanted = each_second.saturating_mul(JITTER) / 1000;
        let mut transfers = wanted.div_ceil(packets).max(1);
        if endpoint.direction() == Direction::Out {
            // Half of them are there for packets that come late.
            transfers = transfers.saturating_mul(2);
        }
        let byte = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
        (byte(packets), byte(transfers.min(MOST_TRANSFERS)))
    }
}

fn judged(status: u8) -> Status {
    match status {
        status::SUCCESS => Status::Done,
        status::STALL => Status::Stall,
        status::BABBLE => Status::Babble,
        _ => Status::Failed,
    }
}

/// A controller can serve it: periodic packets have their times, and not more bytes than there is time for.
fn is_possible(info: &EndpointInfo) -> bool {
    match info.kind {
        1 | 3 => info.interval > 0 && info.max_packet.unwrap_or(0) <= MOST_PERIODIC,
        _ => true,
    }
}

impl Backend for Session {
    fn speed(&self) -> Speed {
        match self.known.device.map(|device| device.speed) {
            Some(SPEED_LOW) => Speed::Low,
            // One that could be faster has an older one's ways too.
            Some(SPEED_HIGH | SPEED_SUPER) => Speed::High,
            _ => Speed::Full,
        }
    }

    fn is_gone(&self) -> bool {
        !self.known.admitted
    }

    fn pipe(&self, endpoint: Endpoint) -> Option<Pipe> {
        let info = self.known.endpoints.get(&endpoint).filter(|_| endpoint.number() != 0)?;
        let kind = match info.kind {
            0 => Kind::Control,
            1 => Kind::Isochronous,
            2 => Kind::Bulk,
            _ => Kind::Interrupt,
        };
        let max_packet = info.max_packet.unwrap_or(0).into();
        let ahead = kind == Kind::Bulk
            && endpoint.direction() == Direction::In
            && (1..=MOST_BULK).contains(&max_packet)
            && self.has(Capabilities::BULK_RECEIVING)
            && self.is_converter(info.interface);
        let interval = info.interval;
        Some(Pipe { interface: info.interface, kind, max_packet, interval, ahead })
    }

    fn jitter(&self) -> u32 {
        JITTER
    }

    fn reset(&mut self) {
        if !self.is_gone() {
            self.say(0, &Command::Reset);
        }
    }

    fn submit(&mut self, id: Id, transfer: Transfer) {
        match transfer {
            Transfer::Control { setup, data } => self.submit_control(id, setup, &data),
            // Hosts know it, and clear what their own driver knows of the endpoint too.
            Transfer::ClearHalt(endpoint) => {
                let setup = Setup {
                    request_type: 2,
                    request: request::CLEAR_FEATURE,
                    value: feature::ENDPOINT_HALT,
                    index: endpoint.address().into(),
                    length: 0,
                };
                self.submit_control(id, setup, &[]);
            }
            Transfer::SetConfiguration(value) => {
                self.pending.insert(id, Pending::Configuration);
                self.say(id, &Command::SetConfiguration(value));
            }
            Transfer::SetInterface { interface, alternate } => {
                self.pending.insert(id, Pending::Alternate);
                self.say(id, &Command::SetAlternate { interface, alternate });
            }
            Transfer::In { endpoint, length } => {
                self.pending.insert(id, Pending::Data(Ended::Bulk));
                self.say(id, &Command::BulkIn(endpoint, u32::try_from(length).unwrap_or(0)));
            }
            Transfer::Out { endpoint, data } if self.kind(endpoint) == Some(Kind::Interrupt) => {
                self.pending.insert(id, Pending::Data(Ended::Interrupt));
                self.say(id, &Command::Interrupt(endpoint, &data));
            }
            Transfer::Out { endpoint, data } => {
                self.pending.insert(id, Pending::Data(Ended::Bulk));
                self.say(id, &Command::BulkOut(endpoint, &data));
            }
        }
    }

    fn cancel(&mut self, id: Id) {
        // Settings can't be given up; what becomes of them is for nobody.
        if let Some(Pending::Data(_)) = self.pending.remove(&id) {
            self.say(id, &Command::Cancel);
        }
    }

    fn start(&mut self, endpoint: Endpoint) {
        let Some(pipe) = self.pipe(endpoint).filter(|_| !self.is_started(endpoint)) else { return };
        self.streams.insert(endpoint, Stream { kind: pipe.kind, state: StreamState::Asked });
        match pipe.kind {
            Kind::Isochronous => {
                let (packets, transfers) = self.stream(endpoint);
                self.say(0, &Command::StartIsochronous { endpoint, packets, transfers });
            }
            Kind::Bulk => {
                // A packet is a transfer, so that none waits for another to fill it.
                let bytes = u32::try_from(pipe.max_packet).unwrap_or(0);
                self.say(0, &Command::StartBulk { endpoint, bytes, transfers: BULK_TRANSFERS });
            }
            Kind::Control | Kind::Interrupt => self.say(0, &Command::StartInterrupt(endpoint)),
        }
    }

    fn stop(&mut self, endpoint: Endpoint) {
        let Some(stream) = self.streams.get_mut(&endpoint) else { return };
        if std::mem::replace(&mut stream.state, StreamState::Stopped) == StreamState::Stopped {
            return;
        }
        let command = match stream.kind {
            Kind::Isochronous => Command::StopIsochronous(endpoint),
            Kind::Bulk => Command::StopBulk(endpoint),
            Kind::Control | Kind::Interrupt => Command::StopInterrupt(endpoint),
        };
        self.say(0, &command);
    }

    fn send(&mut self, endpoint: Endpoint, packet: Vec<u8>) {
        // Those that come too late are not worth sending.
        if self.is_started(endpoint) && self.output.len() < BUSY {
            self.say(0, &Command::Isochronous(endpoint, &packet));
        }
    }

    fn take(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn events(&self) -> Vec<RawFd> {
        Vec::new()
    }
}
