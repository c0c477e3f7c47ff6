//! What control clients can do with the machine: `--qmp PATH`, in QMP as QEMU's clients speak it.
//!
//! | command | what it does |
//! |---|---|
//! | `query-status`, `stop`, `cont` | whether it runs; stop it, let it go on |
//! | `system_powerdown`, `system_reset`, `quit` | the power button, a reset, the end |
//! | `query-cpu-definitions`, `query-cpu-model-expansion` | models: [`processors`] |
//! | `query-cpus-fast` | its processors |
//! | `query-stats`, `query-stats-schemas` | what KVM counts: [`statistics`] |
//! | `device_add`, `device_del`, `query-pci` | devices on its PCI bus: [`devices`] |
//!
//! Events: STOP, RESUME, POWERDOWN, RESET, SHUTDOWN, DEVICE_DELETED.

mod devices;
mod processors;
mod statistics;

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use vhost_runtime::control::{Arguments, Commands, ControlError, parse, parse_none};

use crate::vmm::{Event, Machine, Status};

/// The commands, carried out on a machine, which its clients do not keep; by default one that has
/// ended.
#[derive(Debug, Default)]
pub struct Control {
    machine: Weak<Machine>,
}

const NAMES: [&str; 14] = [
    "query-status",
    "stop",
    "cont",
    "system_powerdown",
    "system_reset",
    "quit",
    "query-cpu-definitions",
    "query-cpu-model-expansion",
    "query-cpus-fast",
    "query-stats",
    "query-stats-schemas",
    "device_add",
    "device_del",
    "query-pci",
];

impl Control {
    /// Those of a machine.
    #[must_use]
    pub fn new(machine: &Arc<Machine>) -> Self {
        Self { machine: Arc::downgrade(machine) }
    }

    /// Does something with the machine, once the arguments are read.
    fn with<T: DeserializeOwned>(
        &self,
        arguments: Arguments,
        then: impl FnOnce(&Machine, T) -> Result<Value, ControlError>,
    ) -> Result<Value, ControlError> {
        let wanted = parse(arguments)?;
        let machine = self.machine.upgrade();
        let machine = machine.ok_or_else(|| ControlError::failed("the machine has ended"))?;
        then(&machine, wanted)
    }
}

/// What a command takes that takes nothing.
#[derive(Deserialize)]
struct Nothing {}

/// A command without arguments.
fn plain(machine: &Machine, name: &str) -> Result<Value, ControlError> {
    match name {
        "query-status" => {
            let status = machine.status();
            let running = status == Status::Running;
            return Ok(json!({ "status": status.name(), "running": running }));
        }
        "stop" => machine.pause(),
        "cont" => machine.resume(),
        "system_powerdown" => machine.press_power_button(),
        "system_reset" => tell(machine, Event::Reset { by_guest: false }),
        "quit" => tell(machine, Event::Quit),
        "query-cpu-definitions" => return processors::definitions(machine),
        "query-cpus-fast" => return Ok(processors::all(machine)),
        "query-pci" => return Ok(devices::pci(machine)),
        _ => return Err(ControlError::CommandNotFound(name.to_owned())),
    }
    Ok(json!({}))
}

fn tell(machine: &Machine, event: Event) {
    // Nobody listens any more only if the machine ends.
    let _ = machine.teller().send(event);
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
            "query-cpu-model-expansion" => self.with(arguments, processors::expand),
            "query-stats" => self.with(arguments, statistics::query),
            "query-stats-schemas" => self.with(arguments, statistics::schemas),
            "device_add" => self.with(arguments, devices::add),
            "device_del" => self.with(arguments, devices::remove),
            _ => {
                parse_none(&arguments)?;
                self.with(arguments, |machine, Nothing {}| plain(machine, name))
            }
        }
    }
}
