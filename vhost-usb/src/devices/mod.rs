//! The devices that the command line names, and where they are plugged in.
//!
//! - [`text`]: how a device is written;
//! - [`kinds`]: what each kind is made of;
//! - [`inputs`]: where events for keyboards and pointers come in.

pub mod inputs;
mod kinds;
mod text;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use vhost_scsi::units::UnitError;

use crate::controller::host::Host;
use crate::device::hub::sockets::Sockets;
use crate::usb::Speed;
use inputs::Inputs;
pub(crate) use kinds::KINDS;
use kinds::Made;
use text::{Path, Text};

/// Hubs behind one another (USB 2.0, 4.1.1).
const TIERS: usize = 5;

/// Why there is no such device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Nobody knows it.
    #[error("--device {0}: there is no such kind, only {known}", known = KINDS.join(", "))]
    Kind(String),
    /// It has no such key.
    #[error("--device {0}: {1}= is unknown to it; there are {2}")]
    Key(String, String, &'static str),
    /// A key says what can't be.
    #[error("--device {0}: {1}= must be {2}")]
    Value(String, &'static str, &'static str),
    /// Its unit can't be had.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// The host refuses what it needs.
    #[error("--device {0}: {1}")]
    Host(String, io::Error),
    /// All ports are taken.
    #[error("--device {0}: all ports are taken, plug a hub into one: --device hub")]
    Full(String),
    /// There is no such port.
    #[error("--device {0}: there is no port {1}")]
    NoPort(String, Path),
    /// Something is there.
    #[error("--device {0}: port {1} is taken")]
    Taken(String, Path),
}

/// What is plugged in, beside the devices themselves.
#[derive(Default)]
pub struct Devices {
    /// Hubs, by where they are, with their ports that are taken.
    hubs: BTreeMap<Path, (Arc<Sockets>, Vec<bool>)>,
    /// Keyboards and pointers.
    pub inputs: Inputs,
}

impl Devices {
    /// Plugs in a device as its text describes it.
    ///
    /// # Errors
    /// See [`DeviceError`].
    pub fn plug(&mut self, host: &mut Host, text: &str) -> Result<(), DeviceError> {
        let text = Text::parse(text)?;
        let path = self.place(host, &text)?;
        let Made { device, hub, input } = kinds::make(&text)?;
        if let Some((sockets, ports)) = hub {
            self.hubs.insert(path.clone(), (sockets, vec![false; ports]));
        }
        if let Some(input) = input {
            self.inputs.add(input);
        }
        let (root, last) = (path.root(), path.last());
        match path.parent().and_then(|parent| self.hubs.get_mut(&parent)) {
            Some((sockets, taken)) => {
                sockets.plug(last, device);
                if let Some(taken) = taken.get_mut(last) {
                    *taken = true;
                }
            }
            None => {
                host.ports().plug(root, device);
            }
        }
        Ok(())
    }

    /// Where it is to be.
    fn place(&self, host: &mut Host, text: &Text) -> Result<Path, DeviceError> {
        let name = || text.whole.clone();
        let Some(path) = text.port.clone() else {
            let free = host.ports().free().ok_or_else(|| DeviceError::Full(name()))?;
            return Ok(Path::root_port(free));
        };
        let missing = || DeviceError::NoPort(name(), path.clone());
        if path.tiers() > TIERS.saturating_add(1) {
            return Err(missing());
        }
        let taken = match path.parent() {
            Some(parent) => {
                let (_, taken) = self.hubs.get(&parent).ok_or_else(missing)?;
                *taken.get(path.last()).ok_or_else(missing)?
            }
            None if path.root() < host.ports().len() => host.ports().device(path.root()).is_some(),
            None => return Err(missing()),
        };
        if taken { Err(DeviceError::Taken(name(), path)) } else { Ok(path) }
    }
}

/// The fastest that a device may signal, as its key `speed` says.
fn speed(text: &Text) -> Result<Speed, DeviceError> {
    match text.get("speed") {
        None | Some("high") => Ok(Speed::High),
        Some("full") => Ok(Speed::Full),
        Some(_) => Err(DeviceError::Value(text.whole.clone(), "speed", "full or high")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::host::Kind;

    fn plugged(texts: &[&str]) -> (Host, Devices, Result<(), String>) {
        let (mut host, mut devices) = (Host::new(Kind::default()), Devices::default());
        let mut all = texts.iter();
        let result = all.try_for_each(|text| devices.plug(&mut host, text));
        (host, devices, result.map_err(|error| error.to_string()))
    }

    fn said(texts: &[&str]) -> String {
        plugged(texts).2.err().unwrap_or_default()
    }

    #[test]
    fn devices_get_ports_in_order_or_as_they_want() {
        let texts =
            ["kbd", "mouse,port=3", "tablet", "hub,ports=2", "kbd,port=4.2", "hub,port=4.1"];
        let (mut host, devices, result) = plugged(&texts);
        assert_eq!(result, Ok(()));
        let taken: Vec<bool> = (0..6).map(|port| host.ports().device(port).is_some()).collect();
        assert_eq!(taken, [true, true, true, true, false, false]);
        assert_eq!(devices.hubs.len(), 2);
        assert_eq!(devices.inputs.count(), 4);
    }

    #[test]
    fn what_cannot_be_is_said() {
        let missing = "--device storage nowhere: cannot be opened for writing: No such file or \
                       directory (os error 2)";
        for (text, sentence) in [
            (
                "stick",
                "--device stick: there is no such kind, only storage, kbd, mouse, tablet, hub, \
                 serial, gadget-zero",
            ),
            (
                "kbd,colour=red",
                "--device kbd,colour=red: colour= is unknown to it; there are port, speed",
            ),
            ("kbd,speed=super", "--device kbd,speed=super: speed= must be full or high"),
            (
                "storage,file=x,media=tape",
                "--device storage,file=x,media=tape: media= must be disk or cdrom",
            ),
            ("storage,file=nowhere", missing),
            ("hub,ports=9", "--device hub,ports=9: ports= must be a number from 1 to 8"),
            ("kbd,port=7", "--device kbd,port=7: there is no port 7"),
            ("kbd,port=1.1", "--device kbd,port=1.1: there is no port 1.1"),
            (
                "kbd,port=0",
                "--device kbd,port=0: port= must be a port's number, as 2, or 2.1 behind a hub",
            ),
            (
                "gadget-zero,mode=x",
                "--device gadget-zero,mode=x: mode= must be source-sink or loopback",
            ),
            ("serial", "--device serial: unix= must be the path of a socket that listens"),
            (
                "serial,unix=/nowhere",
                "--device serial,unix=/nowhere: No such file or directory (os error 2)",
            ),
        ] {
            assert_eq!(said(&[text]), sentence);
        }
        assert_eq!(said(&["kbd", "mouse,port=1"]), "--device mouse,port=1: port 1 is taken");
        assert_eq!(
            said(&["hub", "kbd,port=1.4", "kbd,port=1.4"]),
            "--device kbd,port=1.4: port 1.4 is taken"
        );
        assert_eq!(
            said(&["kbd"; 7]),
            "--device kbd: all ports are taken, plug a hub into one: --device hub"
        );
        let hubs =
            ["hub", "hub,port=1.1", "hub,port=1.1.1", "hub,port=1.1.1.1", "hub,port=1.1.1.1.1"];
        assert_eq!(said(&hubs), "");
        let deep = "hub,port=1.1.1.1.1.1.1";
        assert_eq!(
            said(&[&hubs[..], &["hub,port=1.1.1.1.1.1", deep]].concat()),
            format!("--device {deep}: there is no port 1.1.1.1.1.1.1")
        );
    }
}
