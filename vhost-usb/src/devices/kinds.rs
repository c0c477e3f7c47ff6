//! What each kind of device is made of.

use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use vhost_scsi::scsi::target::Bus;
use vhost_scsi::units::{Addresses, Kind, Unit};

use super::inputs::Input;
use super::passed::Passed;
use super::text::Text;
use super::{DeviceError, audio, lines, speed};
use crate::device::Device;
use crate::device::audio::Audio;
use crate::device::emulated::{Emulated, Function};
use crate::device::gadget_zero::{GadgetZero, Mode, Pattern};
use crate::device::hid::keyboard::Keyboard;
use crate::device::hid::mouse::Mouse;
use crate::device::hid::tablet::Tablet;
use crate::device::hub::sockets::Sockets;
use crate::device::hub::{self, Hub, MOST_PORTS};
use crate::device::remote::Remote;
use crate::device::serial::Serial;
use crate::device::storage::Storage;
use crate::physical::{self, Filter, Physical};
use crate::usb::Speed;

/// The kinds.
pub(crate) const KINDS: [&str; 9] =
    ["storage", "kbd", "mouse", "tablet", "hub", "serial", "audio", "gadget-zero", "host"];

/// The option that names storage, whose unit has keys of its own.
const STORAGE: &str = "--device storage";
/// Storage's medium where it is a physical unit.
pub(super) const PASS_THROUGH: &str = "passthrough";
/// The keys of storage that are not its unit's.
pub(super) const OWN: [&str; 2] = ["media", "speed"];

/// The keys of a kind. `None`: it has others, and says so itself.
pub(super) fn keys(kind: &str) -> Option<&'static str> {
    match kind {
        "storage" => None,
        "hub" => Some("port, speed, ports"),
        "serial" => Some("port, speed, pty, unix, server"),
        "audio" => Some(audio::KEYS),
        "gadget-zero" => Some("port, speed, mode"),
        "host" => Some("port, match"),
        _ => Some("port, speed"),
    }
}

/// A device, and what reaches it otherwise than by the bus.
pub(super) struct Made {
    pub(super) device: Box<dyn Device>,
    /// A hub's ports, and how many.
    pub(super) hub: Option<(Arc<Sockets>, usize)>,
    pub(super) input: Option<Input>,
}

fn emulated<F: Function + 'static>(function: F, speed: Speed) -> Box<dyn Device> {
    Box::new(Emulated::new(function, speed))
}

/// Makes the device, on what is `passed` or on what it opens.
pub(super) fn make(text: &Text, passed: Option<Passed>) -> Result<Made, DeviceError> {
    let speed = speed(text)?;
    let failed = |error: io::Error| DeviceError::Host(text.whole.clone(), error);
    if text.kind == "host" {
        let filter = filter(text)?;
        let physical = match passed {
            Some(Passed::Slot(slot)) => Physical::in_slot(slot),
            Some(other) => Physical::passed(one(text, other)?.into()),
            None => Physical::passed(physical::open(&filter).map_err(failed)?),
        };
        let broken = |error| DeviceError::Physical(text.whole.clone(), error);
        let device = Box::new(Remote::new(physical.map_err(broken)?));
        return Ok(Made { device, hub: None, input: None });
    }
    if text.kind == "audio" {
        let opened = match passed {
            None => audio::open(text)?,
            Some(Passed::Streams(opened)) => opened,
            Some(Passed::Descriptors(fds)) => {
                audio::on_files(text, fds.into_iter().map(File::from).collect())?
            }
            Some(Passed::Slot(_)) => return Err(DeviceError::Descriptor(text.whole.clone())),
        };
        let wrong = |error| DeviceError::Audio(text.whole.clone(), error);
        let device = emulated(Audio::new(speed, opened).map_err(wrong)?, speed);
        return Ok(Made { device, hub: None, input: None });
    }
    let passed = passed.map(|passed| one(text, passed)).transpose()?;
    if passed.is_some() && !matches!(text.kind.as_str(), "storage" | "serial") {
        return Err(DeviceError::Descriptor(text.whole.clone()));
    }
    let alone = |device| Made { device, hub: None, input: None };
    Ok(match text.kind.as_str() {
        "storage" => alone(emulated(storage(text, passed)?, speed)),
        "kbd" => {
            let keyboard = Keyboard::new(speed).map_err(failed)?;
            let input = Some(Input::Keyboard(keyboard.input()));
            Made { input, ..alone(emulated(keyboard, speed)) }
        }
        "mouse" => {
            let mouse = Mouse::new(speed).map_err(failed)?;
            let input = Some(Input::Mouse(mouse.input()));
            Made { input, ..alone(emulated(mouse, speed)) }
        }
        "tablet" => {
            let tablet = Tablet::new(speed).map_err(failed)?;
            let input = Some(Input::Tablet(tablet.input()));
            Made { input, ..alone(emulated(tablet, speed)) }
        }
        "hub" => {
            let ports = ports(text)?;
            let hub = Hub::new(speed, ports).map_err(failed)?;
            let sockets = Some((hub.sockets(), ports));
            Made { hub: sockets, ..alone(emulated(hub, speed)) }
        }
        "serial" => {
            let serial = Serial::new(speed, lines::peer(text, passed)?).map_err(failed)?;
            alone(emulated(serial, speed))
        }
        "gadget-zero" => {
            let mode = match text.get("mode") {
                None | Some("source-sink") => Mode::SourceSink(Pattern::Zeroes),
                Some("loopback") => Mode::Loopback,
                Some(_) => {
                    let whole = text.whole.clone();
                    return Err(DeviceError::Value(whole, "mode", "source-sink or loopback"));
                }
            };
            alone(emulated(GadgetZero::new(speed, mode).map_err(failed)?, speed))
        }
        _ => return Err(DeviceError::Kind(text.whole.clone())),
    })
}

/// The descriptor, where one is passed and nothing else.
fn one(text: &Text, passed: Passed) -> Result<OwnedFd, DeviceError> {
    let mut fds = match passed {
        Passed::Descriptors(fds) => fds.into_iter(),
        Passed::Streams(_) | Passed::Slot(_) => Vec::new().into_iter(),
    };
    match (fds.next(), fds.next()) {
        (Some(fd), None) => Ok(fd),
        _ => Err(DeviceError::OneDescriptor(text.whole.clone())),
    }
}

/// Which of the host's devices is meant.
pub(super) fn filter(text: &Text) -> Result<Filter, DeviceError> {
    let filter = text.get("match").and_then(Filter::parse);
    filter.ok_or_else(|| DeviceError::Value(text.whole.clone(), "match", Filter::WANTED))
}

fn ports(text: &Text) -> Result<usize, DeviceError> {
    let Some(value) = text.get("ports") else { return Ok(hub::PORTS) };
    let number = value.parse().ok().filter(|number| (1..=MOST_PORTS).contains(number));
    let wrong = || DeviceError::Value(text.whole.clone(), "ports", "a number from 1 to 8");
    number.ok_or_else(wrong)
}

fn storage(text: &Text, passed: Option<OwnedFd>) -> Result<Storage, DeviceError> {
    let opened = unit(text)?.open(passed.map(File::from))?;
    let placed = opened.place(&mut Addresses::default())?;
    let bus = Bus::default();
    bus.place(placed.address, placed.unit);
    let made = Storage::new(bus, &serial(&text.portless()));
    made.map_err(|error| DeviceError::Host(text.whole.clone(), error))
}

/// The unit of a storage device; nothing is opened yet.
pub(super) fn unit(text: &Text) -> Result<Unit, DeviceError> {
    let kind = match text.get("media") {
        None | Some("disk") => Kind::Disk,
        Some("cdrom") => Kind::Cdrom,
        Some(PASS_THROUGH) => Kind::PassThrough,
        Some(_) => {
            let wanted = "disk, cdrom or passthrough";
            return Err(DeviceError::Value(text.whole.clone(), "media", wanted));
        }
    };
    Ok(Unit::parse_for(STORAGE, kind, &text.pairs(&OWN, false))?)
}

/// A serial number that is the same whenever the device is made again: 16 hexadecimal digits.
fn serial(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("{:016X}", hasher.finish())
}
