//! Packets: what the host of a redirected device sends, and what is sent to it.
//!
//! "Host" is the protocol's usb-host here: who has the device. This program is its usb-guest.

use crate::usb::Endpoint;
use crate::usb::setup::Setup;

/// Packet types.
pub(super) mod kind {
    pub(in crate::redirect) const HELLO: u32 = 0;
    pub(in crate::redirect) const DEVICE_CONNECT: u32 = 1;
    pub(in crate::redirect) const DEVICE_DISCONNECT: u32 = 2;
    pub(in crate::redirect) const RESET: u32 = 3;
    pub(in crate::redirect) const INTERFACE_INFO: u32 = 4;
    pub(in crate::redirect) const EP_INFO: u32 = 5;
    pub(in crate::redirect) const SET_CONFIGURATION: u32 = 6;
    pub(in crate::redirect) const CONFIGURATION_STATUS: u32 = 8;
    pub(in crate::redirect) const SET_ALT_SETTING: u32 = 9;
    pub(in crate::redirect) const ALT_SETTING_STATUS: u32 = 11;
    pub(in crate::redirect) const START_ISO_STREAM: u32 = 12;
    pub(in crate::redirect) const STOP_ISO_STREAM: u32 = 13;
    pub(in crate::redirect) const ISO_STREAM_STATUS: u32 = 14;
    pub(in crate::redirect) const START_INTERRUPT_RECEIVING: u32 = 15;
    pub(in crate::redirect) const STOP_INTERRUPT_RECEIVING: u32 = 16;
    pub(in crate::redirect) const INTERRUPT_RECEIVING_STATUS: u32 = 17;
    pub(in crate::redirect) const BULK_STREAMS_STATUS: u32 = 20;
    pub(in crate::redirect) const CANCEL_DATA_PACKET: u32 = 21;
    pub(in crate::redirect) const FILTER_REJECT: u32 = 22;
    pub(in crate::redirect) const FILTER_FILTER: u32 = 23;
    pub(in crate::redirect) const DEVICE_DISCONNECT_ACK: u32 = 24;
    pub(in crate::redirect) const START_BULK_RECEIVING: u32 = 25;
    pub(in crate::redirect) const STOP_BULK_RECEIVING: u32 = 26;
    pub(in crate::redirect) const BULK_RECEIVING_STATUS: u32 = 27;
    pub(in crate::redirect) const CONTROL_PACKET: u32 = 100;
    pub(in crate::redirect) const BULK_PACKET: u32 = 101;
    pub(in crate::redirect) const ISO_PACKET: u32 = 102;
    pub(in crate::redirect) const INTERRUPT_PACKET: u32 = 103;
    pub(in crate::redirect) const BUFFERED_BULK_PACKET: u32 = 104;
}

/// Statuses. Any other is an error too.
pub mod status {
    /// It is done.
    pub const SUCCESS: u8 = 0;
    /// What was asked for can't be.
    pub const INVALID: u8 = 2;
    /// The endpoint is halted; of what was started: it has stopped.
    pub const STALL: u8 = 4;
    /// The device has sent too much.
    pub const BABBLE: u8 = 6;
}

bitflags::bitflags! {
    /// What a side can do beyond the protocol's first version. Both must be able to.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Capabilities: u32 {
        /// Bulk streams, of USB 3.
        const BULK_STREAMS = 1;
        /// A device's bcdDevice is told.
        const CONNECT_DEVICE_VERSION = 1 << 1;
        /// Filters are told, and that one has refused a device.
        const FILTER = 1 << 2;
        /// That a device has gone is acknowledged.
        const DEVICE_DISCONNECT_ACK = 1 << 3;
        /// The sizes of endpoints' packets are told.
        const EP_INFO_MAX_PACKET_SIZE = 1 << 4;
        /// Packets' ids have 64 bits.
        const IDS_64_BITS = 1 << 5;
        /// The lengths of bulk packets have 32 bits.
        const BULK_LENGTH_32_BITS = 1 << 6;
        /// Bulk endpoints can be read without being asked each time.
        const BULK_RECEIVING = 1 << 7;
    }
}

/// A device, as it is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// 0 low, 1 full, 2 high, 3 super.
    pub speed: u8,
    /// Class, subclass, protocol.
    pub class: [u8; 3],
    /// idVendor.
    pub vendor: u16,
    /// idProduct.
    pub product: u16,
    /// bcdDevice.
    pub version: Option<u16>,
}

/// An interface, as it is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceInfo {
    /// Its number.
    pub number: u8,
    /// Class, subclass, protocol.
    pub class: [u8; 3],
}

/// How an endpoint moves data, as bmAttributes has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointInfo {
    /// Which one.
    pub endpoint: Endpoint,
    /// 0 control, 1 isochronous, 2 bulk, 3 interrupt.
    pub kind: u8,
    /// bInterval.
    pub interval: u8,
    /// Whose it is.
    pub interface: u8,
    /// Bytes of a packet; `None`: it is not told.
    pub max_packet: Option<u16>,
}

/// What comes from the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// The first of all.
    Hello {
        /// Who it is.
        version: String,
        /// What it can do.
        capabilities: Capabilities,
    },
    /// A device is there.
    Connect(DeviceInfo),
    /// It is not there any more.
    Disconnect,
    /// Its interfaces.
    Interfaces(Vec<InterfaceInfo>),
    /// Its endpoints.
    Endpoints(Vec<EndpointInfo>),
    /// The configuration was set.
    Configuration {
        /// Whether it was.
        status: u8,
    },
    /// An alternate setting was chosen.
    Alternate {
        /// Whether it was.
        status: u8,
    },
    /// A stream of isochronous packets was started or stopped, or has stopped.
    IsochronousStatus {
        /// Which it is.
        status: u8,
        /// Which one.
        endpoint: Endpoint,
    },
    /// Receiving interrupt packets was started or stopped, or has stopped.
    InterruptStatus {
        /// Which it is.
        status: u8,
        /// Which one.
        endpoint: Endpoint,
    },
    /// Receiving bulk packets was started or stopped, or has stopped.
    BulkStatus {
        /// Which it is.
        status: u8,
        /// Which one.
        endpoint: Endpoint,
    },
    /// Of bulk streams, for which no guest of a USB 2.0 controller can ask.
    BulkStreams,
    /// What filter is in place there.
    Filter,
    /// The end of a control transfer, or of a bulk or interrupt one that was asked for.
    Ended {
        /// What it was.
        kind: Ended,
        /// How.
        status: u8,
        /// Bytes that have moved.
        length: u32,
        /// Those that have come.
        data: Vec<u8>,
    },
    /// An isochronous packet.
    Isochronous {
        /// From where.
        endpoint: Endpoint,
        /// How.
        status: u8,
        /// What is in it.
        data: Vec<u8>,
    },
    /// An interrupt packet.
    Interrupt {
        /// From where.
        endpoint: Endpoint,
        /// How.
        status: u8,
        /// What is in it.
        data: Vec<u8>,
    },
    /// A bulk packet that was not asked for.
    BufferedBulk {
        /// From where.
        endpoint: Endpoint,
        /// How.
        status: u8,
        /// What is in it.
        data: Vec<u8>,
    },
}

/// What has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A control transfer.
    Control,
    /// A bulk transfer.
    Bulk,
    /// An interrupt packet that was sent.
    Interrupt,
}

/// What goes to the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// The first of all.
    Hello {
        /// Who this is: at most 63 bytes.
        version: &'a str,
        /// What can be done here.
        capabilities: Capabilities,
    },
    /// Reset the device.
    Reset,
    /// Set its configuration.
    SetConfiguration(u8),
    /// Choose an alternate setting.
    SetAlternate {
        /// Of which interface.
        interface: u8,
        /// Which.
        alternate: u8,
    },
    /// Start a stream of isochronous packets.
    StartIsochronous {
        /// Which one.
        endpoint: Endpoint,
        /// Packets that the host hands to its driver at once.
        packets: u8,
        /// How often it does so before the first is done.
        transfers: u8,
    },
    /// Stop it.
    StopIsochronous(Endpoint),
    /// Receive interrupt packets.
    StartInterrupt(Endpoint),
    /// Receive no more.
    StopInterrupt(Endpoint),
    /// Receive bulk packets.
    StartBulk {
        /// Which one.
        endpoint: Endpoint,
        /// Bytes of each transfer, a multiple of a packet's.
        bytes: u32,
        /// How many the host has under way at once.
        transfers: u8,
    },
    /// Receive no more.
    StopBulk(Endpoint),
    /// End a transfer.
    Cancel,
    /// A filter here has refused the device.
    FilterReject,
    /// What filter is in place here.
    Filter(&'a str),
    /// It was seen that the device has gone.
    DisconnectAck,
    /// A control transfer, with its data if they go to the device.
    Control(Setup, &'a [u8]),
    /// So many bytes are wanted from a bulk endpoint.
    BulkIn(Endpoint, u32),
    /// Bytes for a bulk endpoint.
    BulkOut(Endpoint, &'a [u8]),
    /// A packet for an isochronous endpoint.
    Isochronous(Endpoint, &'a [u8]),
    /// A packet for an interrupt endpoint.
    Interrupt(Endpoint, &'a [u8]),
}
