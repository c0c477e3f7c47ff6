//! What control clients can do: `--control PATH`.
//!
//! | command | what it does |
//! |---|---|
//! | `input-send-event` | keys, buttons and motions, as QEMU's |

use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};
use vhost_runtime::control::{Arguments, Commands, ControlError, parse};

use crate::devices::Devices;
use crate::devices::inputs::Event;

/// The commands.
pub struct Control {
    devices: Arc<Devices>,
}

pub(crate) const NAMES: [&str; 1] = ["input-send-event"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SendEvent {
    events: Vec<Event>,
}

impl Control {
    /// Those of these devices.
    #[must_use]
    pub fn new(devices: Arc<Devices>) -> Self {
        Self { devices }
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
        fds: Vec<OwnedFd>,
    ) -> Result<Value, ControlError> {
        if !fds.is_empty() {
            return Err(ControlError::Message(format!("{name} takes no descriptors")));
        }
        match name {
            "input-send-event" => {
                let SendEvent { events } = parse(arguments)?;
                self.devices.inputs.send(&events).map_err(ControlError::failed)?;
                Ok(json!({}))
            }
            _ => Err(ControlError::CommandNotFound(name.to_owned())),
        }
    }
}
