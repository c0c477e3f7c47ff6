//! The bytes of requests and responses (virtio 1.2, 5.6.6), little-endian.

use vhost_runtime::chain::Buffers;

use crate::scsi::target::Address;
use crate::scsi::{Cdb, Reply};

/// CDB bytes in a command request: `cdb_size`, which this device does not let the driver change.
pub const CDB_SIZE: usize = 32;
/// Sense bytes in a command response: `sense_size`, likewise.
pub const SENSE_SIZE: usize = 96;
/// `struct virtio_scsi_req_cmd`, device-readable part before the data.
pub const COMMAND: usize = 19 + CDB_SIZE;
/// `struct virtio_scsi_req_cmd`, device-writable part before the data.
pub const RESPONSE: usize = 12 + SENSE_SIZE;

/// `response` of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are the standard's own")]
pub enum Response {
    Ok = 0,
    Overrun = 1,
    Aborted = 2,
    BadTarget = 3,
    Reset = 4,
    Busy = 5,
    TransportFailure = 6,
    TargetFailure = 7,
    NexusFailure = 8,
    Failure = 9,
}

/// The device-readable head of a command request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// Whom it is for; `None` for an address that no unit can have.
    pub address: Option<Address>,
    /// The driver's name for it.
    pub tag: u64,
    /// The CDB.
    pub cdb: Cdb,
}

impl Command {
    /// `None`: the request is too short for a head.
    #[must_use]
    pub fn read(readable: Buffers<'_>) -> Option<Self> {
        let mut bytes = [0; COMMAND];
        if readable.read(&mut bytes) < COMMAND {
            return None;
        }
        Some(Self {
            address: Address::parse(field(&bytes, 0)),
            tag: u64::from_le_bytes(field(&bytes, 8)),
            cdb: field(&bytes, 19),
        })
    }
}

/// `N` bytes from `at` on; zeroes past the end, where no caller reads.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    if let Some(found) = bytes.get(at..).and_then(|rest| rest.get(..N)) {
        field.copy_from_slice(found);
    }
    field
}

/// The head of a response. Of the room for sense data only as much is to be written as there is.
#[must_use]
pub fn response(response: Response, reply: &Reply, residual: u64) -> ([u8; RESPONSE], usize) {
    let mut bytes = [0; RESPONSE];
    let sense = reply.sense.get(..SENSE_SIZE).unwrap_or(&reply.sense);
    let mut put = |at: usize, field: &[u8]| {
        if let Some(place) = bytes.get_mut(at..).and_then(|rest| rest.get_mut(..field.len())) {
            place.copy_from_slice(field);
        }
    };
    put(0, &u32::try_from(sense.len()).unwrap_or(0).to_le_bytes());
    put(4, &u32::try_from(residual).unwrap_or(u32::MAX).to_le_bytes());
    put(10, &[reply.status, response as u8]);
    put(12, sense);
    (bytes, sense.len().saturating_add(12))
}

/// A request on the control queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// A task management function.
    TaskManagement {
        /// Which: see [`super::tmf::Function`].
        subtype: u32,
        /// Whom it is for.
        address: Option<Address>,
        /// The task, where it is about one.
        tag: u64,
    },
    /// Asynchronous notification, queried or subscribed.
    AsynchronousNotification,
    /// Something else.
    Unknown,
}

/// Bytes of a task management request's readable part.
pub const TASK_MANAGEMENT: usize = 24;
const TYPE_TASK_MANAGEMENT: u32 = 0;
const TYPE_AN_QUERY: u32 = 1;
const TYPE_AN_SUBSCRIBE: u32 = 2;

impl Control {
    /// `None`: the request is too short for what it claims to be.
    #[must_use]
    pub fn read(readable: Buffers<'_>) -> Option<Self> {
        let mut bytes = [0; TASK_MANAGEMENT];
        let length = readable.read(&mut bytes);
        if length < 4 {
            return None;
        }
        match u32::from_le_bytes(field(&bytes, 0)) {
            TYPE_TASK_MANAGEMENT if length < TASK_MANAGEMENT => None,
            TYPE_TASK_MANAGEMENT => Some(Self::TaskManagement {
                subtype: u32::from_le_bytes(field(&bytes, 4)),
                address: Address::parse(field(&bytes, 8)),
                tag: u64::from_le_bytes(field(&bytes, 16)),
            }),
            TYPE_AN_QUERY | TYPE_AN_SUBSCRIBE => Some(Self::AsynchronousNotification),
            _ => Some(Self::Unknown),
        }
    }
}

/// Something that happened to a unit, for the event queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A unit is there.
    Added(Address),
    /// A unit is gone.
    Removed(Address),
    /// A unit's capacity changed.
    CapacityChanged(Address),
    /// Events could not be told, for want of buffers.
    Missed,
}

/// Bytes of an event.
pub const EVENT: usize = 16;

impl Event {
    /// `struct virtio_scsi_event`; `missed` says that there were others before.
    #[must_use]
    pub fn bytes(self, missed: bool) -> [u8; EVENT] {
        const NO_EVENT: u32 = 0;
        const TRANSPORT_RESET: u32 = 1;
        const PARAMETER_CHANGE: u32 = 3;
        const EVENTS_MISSED: u32 = 1 << 31;
        const RESCAN: u32 = 1;
        const REMOVED: u32 = 2;
        // ASC in the low byte, ASCQ in the next: CAPACITY DATA HAS CHANGED.
        const CAPACITY: u32 = 0x092a;
        let (event, address, reason) = match self {
            Self::Added(address) => (TRANSPORT_RESET, Some(address), RESCAN),
            Self::Removed(address) => (TRANSPORT_RESET, Some(address), REMOVED),
            Self::CapacityChanged(address) => (PARAMETER_CHANGE, Some(address), CAPACITY),
            Self::Missed => (NO_EVENT, None, 0),
        };
        let event = if missed || self == Self::Missed { event | EVENTS_MISSED } else { event };
        let lun = address.map_or([0; 8], Address::bytes);
        let mut bytes = [0; EVENT];
        let fields = event.to_le_bytes().into_iter().chain(lun).chain(reason.to_le_bytes());
        bytes.iter_mut().zip(fields).for_each(|(place, byte)| *place = byte);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::Sense;

    #[test]
    fn a_response_has_its_fields_where_the_standard_says() {
        let reply = Sense::WRITE_PROTECTED.reply(false);
        let (bytes, length) = response(Response::Ok, &reply, 0x1234);
        assert_eq!(length, 12 + 18);
        assert_eq!(bytes[..12], [18, 0, 0, 0, 0x34, 0x12, 0, 0, 0, 0, 2, 0]);
        assert_eq!(bytes[12..14], [0x70, 0]);
        assert_eq!(bytes[24], 0x27);
    }

    #[test]
    fn sense_beyond_its_field_is_cut() {
        let reply = Reply { sense: vec![1; 200], ..Reply::good() };
        let (bytes, length) = response(Response::Ok, &reply, u64::MAX);
        assert_eq!(length, RESPONSE);
        assert_eq!(bytes[..8], [96, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    }

    #[test]
    fn events() {
        let address = Address { target: 3, lun: 300 };
        assert_eq!(
            Event::Added(address).bytes(false),
            [1, 0, 0, 0, 1, 3, 0x41, 0x2c, 0, 0, 0, 0, 1, 0, 0, 0]
        );
        assert_eq!(Event::Removed(address).bytes(true)[3], 0x80);
        let low = Address { target: 3, lun: 255 };
        assert_eq!(Event::Removed(low).bytes(false)[4..8], [1, 3, 0, 255], "as REPORT LUNS");
        assert_eq!(Event::CapacityChanged(address).bytes(false)[12..], [0x2a, 0x09, 0, 0]);
    }
}
