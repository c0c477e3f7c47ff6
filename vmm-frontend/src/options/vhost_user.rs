//! `--vhost-user`.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::Pairs;
use crate::virtio::vhost_user::{Kind, Settings};

/// A device of a running process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VhostUserOption {
    /// Which device it is.
    pub kind: Kind,
    /// The socket that the process listens on.
    pub socket: PathBuf,
    /// Queues, all of them.
    pub queues: Option<u16>,
    /// The most descriptors of a queue.
    pub queue_size: u16,
}

/// What is said of a device.
pub const VHOST_USER_KEYS: [&str; 5] = ["type", "socket", "id", "queues", "queue-size"];
/// The most queues that the protocol can name in every message.
const QUEUES: u16 = 256;
const QUEUE_SIZE: u16 = 256;
const QUEUE_SIZES: RangeInclusive<u16> = 2..=1024;
/// virtio's numbers for types of devices.
const IDS: RangeInclusive<u16> = 1..=63;

fn wrong(key: &str, number: u16, range: &RangeInclusive<u16>) -> String {
    format!("{key}={number}: it must be {} to {}", range.start(), range.end())
}

impl VhostUserOption {
    /// A device of a running process; the numbers are checked here.
    ///
    /// # Errors
    /// One of them is not possible, or missing.
    pub fn new(
        kind: Kind,
        socket: PathBuf,
        queues: Option<u16>,
        queue_size: Option<u16>,
    ) -> Result<Self, String> {
        match kind {
            Kind::Generic(id) if !IDS.contains(&id) => return Err(wrong("virtio-id", id, &IDS)),
            Kind::Generic(_) if queues.is_none() => {
                return Err(String::from("a generic device needs its number of queues"));
            }
            _ => {}
        }
        if let Some(queues) = queues.filter(|queues| !(1..=QUEUES).contains(queues)) {
            return Err(wrong("queues", queues, &(1..=QUEUES)));
        }
        let queue_size = queue_size.unwrap_or(QUEUE_SIZE);
        if !QUEUE_SIZES.contains(&queue_size) {
            return Err(wrong("queue-size", queue_size, &QUEUE_SIZES));
        }
        if !queue_size.is_power_of_two() {
            return Err(format!("queue-size={queue_size}: it must be a power of two"));
        }
        Ok(Self { kind, socket, queues, queue_size })
    }

    /// A device of a process that was started for this machine.
    #[must_use]
    pub fn of(kind: Kind, socket: &Path) -> Self {
        Self { kind, socket: socket.to_owned(), queues: None, queue_size: QUEUE_SIZE }
    }

    /// What is wanted of it, in a machine of so many processors.
    #[must_use]
    pub fn settings(self, processors: u16) -> Settings {
        let Self { kind, socket: path, queues, queue_size } = self;
        Settings { kind, path, queues, queue_size, processors }
    }
}

impl FromStr for VhostUserOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pairs = Pairs::parse(text, &VHOST_USER_KEYS)?;
        let id = pairs.number("id", IDS)?;
        let queues = pairs.number("queues", 1..=QUEUES)?;
        let kind = match (pairs.get("type"), id) {
            (None, _) => {
                return Err(String::from("type= is missing: scsi, net, blk, sound, generic"));
            }
            (Some("generic"), Some(id)) => Kind::Generic(id),
            (Some("generic"), None) => {
                return Err(String::from(
                    "type=generic needs id=NUMBER, virtio's for the device type",
                ));
            }
            (Some(_), Some(_)) => return Err(String::from("id= is only for type=generic")),
            (Some(name), None) => name.parse::<Kind>().map_err(|error| error.to_string())?,
        };
        if matches!(kind, Kind::Generic(_)) && queues.is_none() {
            return Err(String::from("type=generic needs queues=NUMBER"));
        }
        let socket = pairs.get("socket").filter(|path| !path.is_empty());
        let socket = socket.ok_or_else(|| String::from("socket=PATH is missing"))?.into();
        let queue_size = pairs.number("queue-size", QUEUE_SIZES)?;
        Self::new(kind, socket, queues, queue_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_by_type_or_number() {
        let scsi = "type=scsi,socket=/run/s".parse();
        let socket = PathBuf::from("/run/s");
        let expected = VhostUserOption { kind: Kind::Scsi, socket, queues: None, queue_size: 256 };
        assert_eq!(scsi, Ok(expected));
        let generic: VhostUserOption =
            "type=generic,id=26,queues=2,socket=/run/fs,queue-size=1024".parse().unwrap();
        assert_eq!((generic.kind.id(), generic.queues, generic.queue_size), (26, Some(2), 1024));
        for wrong in [
            "",
            "type=scsi",
            "type=usb,socket=/s",
            "type=generic,socket=/s,queues=1",
            "type=generic,id=26,socket=/s",
            "type=scsi,id=8,socket=/s",
            "type=scsi,socket=",
            "type=scsi,socket=/s,queue-size=100",
            "type=scsi,socket=/s,queues=0",
            "socket=/s",
        ] {
            assert!(wrong.parse::<VhostUserOption>().is_err(), "{wrong}");
        }
    }
}
