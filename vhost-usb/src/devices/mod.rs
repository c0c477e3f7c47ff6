//! The devices that the command line and control clients name, and where they are plugged in.
//!
//! - [`text`]: how a device is written;
//! - [`kinds`]: what each kind is made of;
//! - [`passed`]: what a kind stands on, opened for a process that may not;
//! - [`inputs`]: where events for keyboards and pointers come in;
//! - [`redirections`]: devices that are elsewhere.

pub mod inputs;
mod kinds;
pub mod passed;
pub mod redirections;
mod text;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vhost_scsi::units::UnitError;

use crate::controller::host::{Host, Socket};
use crate::device::Device;
use crate::device::hub::sockets::Sockets;
use crate::physical::{Filter, PhysicalError};
use crate::usb::Speed;
use inputs::{Event, InputError, Inputs};
pub(crate) use kinds::KINDS;
use kinds::Made;
use passed::Passed;
pub use text::Path;
use text::Text;

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
    /// A device of the host's can't be used.
    #[error("--device {0}: {1}")]
    Physical(String, PhysicalError),
    /// A descriptor is passed that it has no use for.
    #[error("--device {0}: it takes no descriptor")]
    Descriptor(String),
    /// There is no place for it.
    #[error("--device {0}: {1}")]
    Place(String, PlaceError),
}

/// Why there is no place for a device.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// All ports are taken.
    #[error("all ports are taken, plug a hub into one: --device hub")]
    Full,
    /// There is no such port.
    #[error("there is no port {0}")]
    NoPort(Path),
    /// Something is there.
    #[error("port {0} is taken")]
    Taken(Path),
}

/// What is plugged in somewhere.
struct Plugged {
    /// Its text, wherever it is.
    what: String,
    /// A hub's ports, and how many.
    hub: Option<(Arc<Sockets>, usize)>,
}

/// All that is plugged in.
#[derive(Default)]
struct State {
    plugged: BTreeMap<Path, Plugged>,
    inputs: Inputs,
}

/// What is plugged into a host's ports, and into those of hubs.
pub struct Devices {
    host: Arc<Mutex<Host>>,
    /// Taken before the host.
    state: Mutex<State>,
}

impl Devices {
    /// None so far.
    #[must_use]
    pub fn new(host: Arc<Mutex<Host>>) -> Self {
        Self { host, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn host(&self) -> MutexGuard<'_, Host> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plugs in a device as its text describes it, before the guest runs or while it does; where it is.
    /// What it stands on is `passed`, or else opened here.
    ///
    /// # Errors
    /// See [`DeviceError`].
    pub fn plug(&self, text: &str, passed: Option<Passed>) -> Result<Path, DeviceError> {
        let text = Text::parse(text)?;
        let failed = |error| DeviceError::Place(text.whole.clone(), error);
        let mut state = self.state();
        let path = state.place(text.port.clone(), self.roots()).map_err(failed)?;
        let Made { device, hub, input } = kinds::make(&text, passed)?;
        let plugged = self.put(&mut state, &path, text.portless(), device, hub);
        plugged.map_err(|error| DeviceError::Host(text.whole.clone(), error))?;
        if let Some(input) = input {
            state.inputs.add(path.clone(), input);
        }
        Ok(path)
    }

    /// Plugs a device into a port that is free.
    fn put(
        &self,
        state: &mut State,
        path: &Path,
        what: String,
        device: Box<dyn Device>,
        hub: Option<(Arc<Sockets>, usize)>,
    ) -> io::Result<()> {
        if let Some(socket) = state.socket(path) {
            self.host().plug(socket, device)?;
            state.plugged.insert(path.clone(), Plugged { what, hub });
        }
        Ok(())
    }

    /// How many root ports there are.
    fn roots(&self) -> usize {
        self.host().ports().len()
    }

    /// Takes out what is plugged in somewhere, and with a hub all that is behind it. `false`: nothing is.
    pub fn unplug(&self, path: &Path) -> bool {
        let mut state = self.state();
        if !state.plugged.contains_key(path) {
            return false;
        }
        if let Some(socket) = state.socket(path) {
            self.host().unplug(socket);
        }
        state.plugged.retain(|other, _| !path.leads_to(other));
        state.inputs.remove(|other| path.leads_to(other));
        true
    }

    /// Sends events to keyboards and pointers: all of them, or none if one goes nowhere.
    ///
    /// # Errors
    /// See [`InputError`].
    pub fn send(&self, events: &[Event]) -> Result<(), InputError> {
        self.state().inputs.send(events)
    }

    /// Where devices are, with the texts that describe them, without their ports.
    #[must_use]
    pub fn list(&self) -> Vec<(Path, String)> {
        let state = self.state();
        let plugged = state.plugged.iter();
        plugged.map(|(path, plugged)| (path.clone(), plugged.what.clone())).collect()
    }
}

impl State {
    /// Where a device is to be, of so many root ports.
    fn place(&self, wanted: Option<Path>, roots: usize) -> Result<Path, PlaceError> {
        let Some(path) = wanted else {
            let mut paths = (0..roots).map(Path::root_port);
            return paths.find(|path| !self.plugged.contains_key(path)).ok_or(PlaceError::Full);
        };
        let ports = match path.parent().map(|parent| self.plugged.get(&parent)) {
            Some(Some(Plugged { hub: Some((_, ports)), .. })) => *ports,
            Some(_) => 0,
            None => roots,
        };
        if path.last() >= ports || path.tiers() > TIERS.saturating_add(1) {
            return Err(PlaceError::NoPort(path));
        }
        if self.plugged.contains_key(&path) { Err(PlaceError::Taken(path)) } else { Ok(path) }
    }

    /// What is plugged into at a path. `None`: no hub is there.
    fn socket(&self, path: &Path) -> Option<Socket<'_>> {
        let Some(parent) = path.parent() else { return Some(Socket::Root(path.root())) };
        let (sockets, _) = self.plugged.get(&parent)?.hub.as_ref()?;
        Some(Socket::Hub { root: path.root(), sockets, port: path.last() })
    }
}

/// Which of the host's devices a text means; `None`: it means none of those.
///
/// # Errors
/// See [`DeviceError`].
pub fn of_host(text: &str) -> Result<Option<Filter>, DeviceError> {
    let text = Text::parse(text)?;
    (text.kind == "host").then(|| kinds::filter(&text)).transpose()
}

/// Whether a device's text names a physical unit, which needs more of the host than images do.
#[must_use]
pub fn is_pass_through(text: &str) -> bool {
    Text::parse(text).is_ok_and(|text| text.get("media") == Some(kinds::PASS_THROUGH))
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
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::controller::host::Kind;

    fn plugged(texts: &[&str]) -> (Devices, Result<(), String>) {
        let host = Host::new(Kind::default()).unwrap();
        let devices = Devices::new(Arc::new(Mutex::new(host)));
        let mut all = texts.iter();
        let result = all.try_for_each(|text| devices.plug(text, None).map(drop));
        (devices, result.map_err(|error| error.to_string()))
    }

    fn said(texts: &[&str]) -> String {
        plugged(texts).1.err().unwrap_or_default()
    }

    fn ports(devices: &Devices) -> Vec<String> {
        devices.list().iter().map(|(path, _)| path.to_string()).collect()
    }

    #[test]
    fn devices_get_ports_in_order_or_as_they_want() {
        let texts =
            ["kbd", "mouse,port=3", "tablet", "hub,ports=2", "kbd,port=4.2", "hub,port=4.1"];
        let (devices, result) = plugged(&texts);
        assert_eq!(result, Ok(()));
        let taken: Vec<bool> =
            (0..6).map(|port| devices.host().ports().device(port).is_some()).collect();
        assert_eq!(taken, [true, true, true, true, false, false]);
        assert_eq!(ports(&devices), ["1", "2", "3", "4", "4.1", "4.2"]);
        assert_eq!(devices.list()[3].1, "hub,ports=2");
    }

    #[test]
    fn what_is_behind_a_hub_goes_with_it() {
        let (devices, result) =
            plugged(&["kbd", "hub", "kbd,port=2.2", "hub,port=2.1", "mouse,port=2.1.4"]);
        assert_eq!(result, Ok(()));
        let motion = [Event::Rel { axis: inputs::Axis::X, value: 1 }];
        assert_eq!(devices.send(&motion), Ok(()));
        let at = |text| Path::parse(text).unwrap();
        assert!(!devices.unplug(&at("2.3")) && !devices.unplug(&at("5")));
        assert!(devices.unplug(&at("2.1")));
        assert_eq!(ports(&devices), ["1", "2", "2.2"]);
        assert_eq!(devices.send(&motion), Err(InputError::Nobody("mouse")));
        assert!(devices.unplug(&at("2")));
        assert_eq!(ports(&devices), ["1"]);
        assert!(devices.host().ports().device(1).is_none());
        assert_eq!(devices.plug("tablet", None).unwrap(), at("2"));
        let missing = devices.plug("kbd,port=2.1", None).unwrap_err().to_string();
        assert_eq!(missing, "--device kbd,port=2.1: there is no port 2.1");
    }

    #[allow(clippy::unnecessary_wraps)]
    fn descriptor(fd: impl Into<OwnedFd>) -> Option<Passed> {
        Some(Passed::Descriptor(fd.into()))
    }

    #[test]
    fn descriptors_are_for_those_who_need_them() {
        let (devices, _) = plugged(&[]);
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let kept = theirs.try_clone().unwrap();
        devices.plug("serial,unix=/nowhere", descriptor(theirs)).unwrap();
        let error = devices.plug("kbd", descriptor(kept)).unwrap_err().to_string();
        assert_eq!(error, "--device kbd: it takes no descriptor");
        let file = tempfile::tempfile().unwrap();
        let error = devices.plug("serial,unix=/nowhere", descriptor(file)).unwrap_err();
        let said = "--device serial,unix=/nowhere: what is passed is no stream socket";
        assert_eq!(error.to_string(), said);
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let error = devices.plug("host,match=1234:5678", descriptor(socket)).unwrap_err();
        assert!(matches!(error, DeviceError::Physical(..)), "{error}");
        devices.plug("storage,file=/any,,where", descriptor(file)).unwrap();
        drop(ours);
    }

    #[test]
    fn what_cannot_be_is_said() {
        let missing = "--device storage nowhere: cannot be opened for writing: No such file or \
                       directory (os error 2)";
        for (text, sentence) in [
            (
                "stick",
                "--device stick: there is no such kind, only storage, kbd, mouse, tablet, hub, \
                 serial, gadget-zero, host",
            ),
            (
                "kbd,colour=red",
                "--device kbd,colour=red: colour= is unknown to it; there are port, speed",
            ),
            ("kbd,speed=super", "--device kbd,speed=super: speed= must be full or high"),
            (
                "storage,file=x,media=tape",
                "--device storage,file=x,media=tape: media= must be disk, cdrom or passthrough",
            ),
            (
                "storage,file=x,media=passthrough",
                "--device storage x: cannot be opened: No such file or directory (os error 2)",
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
            (
                "host,match=1",
                "--device host,match=1: match= must be VENDOR:PRODUCT in hexadecimal digits, \
                 BUS.ADDRESS, BUS-PORT[.PORT…], or class=CLASS in hexadecimal digits",
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
