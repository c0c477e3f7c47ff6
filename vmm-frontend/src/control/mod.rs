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

use serde_json::{Value, json};
use vhost_runtime::control::{Arguments, Commands, ControlError, parse};

use crate::vmm::{Event, Machine, Status};

/// The commands, carried out on a machine, which its clients do not keep.
#[derive(Debug)]
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
}

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
        let machine = self.machine.upgrade();
        let machine = machine.ok_or_else(|| ControlError::failed("the machine has ended"))?;
        let machine = &*machine;
        match name {
            "query-cpu-model-expansion" => processors::expand(machine, parse(arguments)?),
            "query-stats" => statistics::query(machine, parse(arguments)?),
            "query-stats-schemas" => statistics::schemas(machine, parse(arguments)?),
            "device_add" => devices::add(machine, parse(arguments)?),
            "device_del" => devices::remove(machine, parse(arguments)?),
            _ => match arguments.keys().next() {
                None => plain(machine, name),
                Some(key) => Err(ControlError::Message(format!("Parameter '{key}' is unexpected"))),
            },
        }
    }
}
