//! What control clients can do: `--control PATH`.
//!
//! | command | what it does |
//! |---|---|
//! | `device-add` | plugs a device in; one that stands on files or a socket may be passed their descriptors |
//! | `redirect-add` | plugs in a port for a device that is elsewhere, with the connection or the socket
//! |                | that listens |
//! | `device-remove` | takes a device out, and with a hub all that is behind it |
//! | `query-devices` | what is plugged in, and where |
//! | `input-send-event` | keys, buttons and motions, as QEMU's |

mod changes;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::net::sockopt::socket_acceptconn;
use serde::Deserialize;
use serde_json::{Value, json};
use vhost_runtime::control::{Arguments, Commands, ControlError, parse, parse_none};
use vhost_runtime::supervisor::Keeper;

use crate::devices::inputs::Event;
use crate::devices::passed::Passed;
use crate::devices::redirections::Redirection;
use crate::devices::{self, Devices, Path};
use changes::Change;

/// The commands.
pub struct Control {
    devices: Devices,
    keeper: Keeper,
    /// Whoever changes something has it kept before another changes it again.
    changing: Mutex<()>,
}

pub(crate) const NAMES: [&str; 5] =
    ["device-add", "redirect-add", "device-remove", "query-devices", "input-send-event"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    /// As on the command line.
    device: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Redirect {
    /// As on the command line.
    redirect: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Remove {
    /// N[.N…]
    port: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SendEvent {
    events: Vec<Event>,
}

impl Control {
    /// Those of these devices. What clients change is kept by `keeper`.
    #[must_use]
    pub fn new(devices: Devices, keeper: Keeper) -> Self {
        Self { devices, keeper, changing: Mutex::default() }
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, Add { device }: Add, passed: Vec<OwnedFd>) -> Result<Value, ControlError> {
        if passed.is_empty() && devices::needs_descriptor(&device) {
            let what = "device-add takes a descriptor for a serial port, and for each file that is played to or \
                        recorded from, as vhost-usb ctl add passes";
            return Err(ControlError::Message(what.into()));
        }
        let _one_by_one = self.changing();
        let copies = passed.iter().map(OwnedFd::try_clone).collect::<Result<Vec<_>, _>>();
        let copies = copies.map_err(ControlError::failed)?;
        let path = self
            .devices
            .plug(&device, Passed::descriptors(passed))
            .map_err(ControlError::failed)?;
        let fds: Vec<_> = copies.iter().map(AsFd::as_fd).collect();
        self.keep(&path, &Change::Added(device), &fds);
        log::info!("port {path}: a device was plugged in");
        Ok(json!({ "port": path.to_string() }))
    }

    fn redirect(
        &self,
        Redirect { redirect }: Redirect,
        passed: Option<OwnedFd>,
    ) -> Result<Value, ControlError> {
        let _one_by_one = self.changing();
        let missing = || ControlError::Message("redirect-add takes one descriptor".into());
        let passed = passed.ok_or_else(missing)?;
        // What was said by a connection so far another process would not know: it ends with this one.
        let listens = socket_acceptconn(&passed).unwrap_or(false);
        let copy = listens.then(|| passed.try_clone()).transpose().map_err(ControlError::failed)?;
        let redirection = Redirection::parse(&redirect).map_err(ControlError::failed)?;
        let path =
            self.devices.redirect(redirection, Some(passed)).map_err(ControlError::failed)?;
        if let Some(copy) = copy {
            self.keep(&path, &Change::Redirected(redirect), &[copy.as_fd()]);
        }
        log::info!("port {path}: a port for a device that is elsewhere was plugged in");
        Ok(json!({ "port": path.to_string() }))
    }

    fn remove(&self, Remove { port }: Remove) -> Result<Value, ControlError> {
        let _one_by_one = self.changing();
        let missing = || ControlError::NotFound(format!("port {port}: nothing is plugged in"));
        let path = Path::parse(&port).ok_or_else(missing)?;
        let before = self.devices.list();
        if !self.devices.unplug(&path) {
            return Err(missing());
        }
        for (behind, _) in before.iter().filter(|(other, _)| path.leads_to(other)) {
            self.keep(behind, &Change::Removed, &[]);
        }
        log::info!("port {path}: a device was taken out");
        Ok(json!({}))
    }

    fn list(&self) -> Value {
        let devices = self.devices.list().into_iter();
        devices.map(|(port, text)| json!({ "port": port.to_string(), "device": text })).collect()
    }
}

impl Commands for Control {
    fn names(&self) -> &'static [&'static str] {
        &NAMES
    }

    fn execute(
        &self,
        name: &str,
        arguments: Arguments,
        mut fds: Vec<OwnedFd>,
    ) -> Result<Value, ControlError> {
        let most = match name {
            "device-add" => 2,
            "redirect-add" => 1,
            _ => 0,
        };
        if fds.len() > most {
            let what = format!("{name} takes at most {most} descriptors");
            return Err(ControlError::Message(what));
        }
        match name {
            "device-add" => self.add(parse(arguments)?, fds),
            "redirect-add" => self.redirect(parse(arguments)?, fds.pop()),
            "device-remove" => self.remove(parse(arguments)?),
            "query-devices" => parse_none(&arguments).map(|()| self.list()),
            "input-send-event" => {
                let SendEvent { events } = parse(arguments)?;
                self.devices.send(&events).map_err(ControlError::failed)?;
                Ok(json!({}))
            }
            _ => Err(ControlError::CommandNotFound(name.to_owned())),
        }
    }
}
