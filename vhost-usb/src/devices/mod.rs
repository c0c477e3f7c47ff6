//! The devices that the command line and control clients name, and where they are plugged in.
//!
//! - [`text`]: how a device is written;
//! - [`kinds`]: what each kind is made of;
//! - [`lines`]: what a serial port is connected to;
//! - [`audio`]: what an audio device plays to and records from;
//! - [`passed`]: what a kind stands on, opened for a process that may not;
//! - [`inputs`]: where events for keyboards and pointers come in;
//! - [`redirections`]: devices that are elsewhere.

mod audio;
pub mod inputs;
mod kinds;
mod lines;
pub mod passed;
pub mod redirections;
mod text;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vhost_runtime::pty::LinkError;
use vhost_scsi::units::UnitError;

use crate::channel::place::Place;
use crate::controller::host::{Host, Socket};
use crate::device::Device;
use crate::device::audio::AudioError;
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
    /// A serial port leads nowhere, or to two places.
    #[error("--device {0}: it must have one of pty=LINK and unix=PATH")]
    Line(String),
    /// The link to its pseudo-terminal can't be made.
    #[error("--device {0}: pty=: {1}")]
    Link(String, LinkError),
    /// An audio device's streams are none that such a device can have.
    #[error("--device {0}: {1}")]
    Audio(String, AudioError),
    /// A stream is not written as it has to be.
    #[error("--device {0}: {1}")]
    Stream(String, String),
    /// What is played is heard nowhere, or what is heard is played nowhere.
    #[error("--device {0}: backend=loopback stands behind playback= and capture= both")]
    Loopback(String),
    /// A descriptor is passed that it has no use for.
    #[error("--device {0}: it takes no descriptor")]
    Descriptor(String),
    /// Several are.
    #[error("--device {0}: it takes one descriptor")]
    OneDescriptor(String),
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

/// Whether a device is plugged in at run time on what a client passes alone: who opens it here would open it
/// for whoever can connect.
#[must_use]
pub fn needs_descriptor(text: &str) -> bool {
    Text::parse(text).is_ok_and(|text| match text.kind.as_str() {
        "serial" => true,
        "audio" => audio::has_files(&text),
        _ => false,
    })
}

/// Whether a device's text names a physical unit, which needs more of the host than images do.
#[must_use]
pub fn is_pass_through(text: &str) -> bool {
    Text::parse(text).is_ok_and(|text| text.get("media") == Some(kinds::PASS_THROUGH))
}

/// Where a device's program connects to, whenever nobody is connected.
#[must_use]
pub fn connects_to(text: &str) -> Option<Place> {
    let text = Text::parse(text).ok().filter(|text| text.kind == "serial")?;
    lines::connects_to(&text)
}

/// Removes what a device has left in the host's file system, at the end of its program.
pub fn clean_up(text: &str) {
    if let Ok(text) = Text::parse(text)
        && text.kind == "serial"
    {
        lines::clean_up(&text);
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
mod tests;
