//! Device state: which units there are, and what their initiator knows of each. The rest is in the
//! rings, or beside the images.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use vhost_runtime::state::StateError;

use crate::scsi::target::{Address, Snapshot};

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct State {
    version: u32,
    units: Vec<Unit>,
}

#[derive(Serialize, Deserialize)]
struct Unit {
    target: u8,
    lun: u16,
    device_type: u8,
    state: Value,
}

impl Unit {
    fn address(&self) -> Address {
        Address { target: self.target, lun: self.lun }
    }
}

pub(super) fn save(units: &Snapshot) -> Result<Value, StateError> {
    let units = units.iter().map(|(Address { target, lun }, unit)| {
        Ok(Unit { target, lun, device_type: unit.device_type().0, state: unit.save()? })
    });
    let units = units.collect::<Result<_, serde_json::Error>>()?;
    Ok(serde_json::to_value(State { version: VERSION, units })?)
}

/// All units fit, or none is changed.
pub(super) fn load(here: &Snapshot, state: Value) -> Result<(), StateError> {
    let State { version, units } = serde_json::from_value(state)?;
    let mismatch = |address: Address, what: &str| {
        let Address { target, lun } = address;
        StateError::Mismatch(format!("target {target} lun {lun} {what}"))
    };
    if version != VERSION {
        return Err(StateError::Mismatch(format!("version {version} is not known here")));
    }
    for unit in &units {
        let address = unit.address();
        match here.unit(address) {
            None => return Err(mismatch(address, "is missing here")),
            Some(found) if found.device_type().0 != unit.device_type => {
                return Err(mismatch(address, "is of another type here"));
            }
            Some(_) => {}
        }
    }
    let is_there = |address| units.iter().any(|unit| unit.address() == address);
    if let Some((address, _)) = here.iter().find(|&(address, _)| !is_there(address)) {
        return Err(mismatch(address, "is here, but not in the source"));
    }
    for unit in units {
        if let Some(found) = here.unit(unit.address()) {
            found.load(unit.state)?;
        }
    }
    Ok(())
}
