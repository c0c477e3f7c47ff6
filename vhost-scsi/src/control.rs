//! What control clients can do with the controller: add, remove and resize units, change media, ask.

mod changes;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vhost_runtime::control::{Arguments, Commands, ControlError, parse, parse_none};
use vhost_runtime::supervisor::Keeper;

use self::changes::Change;
use crate::image::open::OpenError;
use crate::scsi::target::{Address, LUNS};
use crate::units::{self, Addresses, Kind, Opened, Placed, Unit, UnitError};
use crate::virtio::controller::Controller;

/// The controller's units, by the texts that describe them.
pub struct Manager {
    controller: Arc<Controller>,
    addresses: Mutex<Addresses>,
    keeper: Keeper,
}

const NAMES: [&str; 7] = [
    "unit-add",
    "unit-remove",
    "unit-resize",
    "medium-eject",
    "medium-load",
    "query-units",
    "query-stats",
];

/// One of the three, as on the command line.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
enum Add {
    Disk(String),
    Cdrom(String),
    PassThrough(String),
}

impl Add {
    fn parts(&self) -> (Kind, &str) {
        match self {
            Self::Disk(text) => (Kind::Disk, text),
            Self::Cdrom(text) => (Kind::Cdrom, text),
            Self::PassThrough(text) => (Kind::PassThrough, text),
        }
    }
}

/// A unit's address.
#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct At {
    target: u8,
    lun: u16,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resize {
    target: u8,
    lun: u16,
    /// In bytes; without, the size is read again.
    size: Option<u64>,
    /// It may become smaller.
    #[serde(default)]
    shrink: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Eject {
    target: u8,
    lun: u16,
    #[serde(default)]
    force: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Load {
    target: u8,
    lun: u16,
    /// PATH[,format=…]
    medium: String,
    #[serde(default)]
    force: bool,
}

impl Manager {
    /// Of a controller without units. What clients change is kept by `keeper`.
    #[must_use]
    pub fn new(controller: Arc<Controller>, keeper: Keeper) -> Self {
        Self { controller, addresses: Mutex::default(), keeper }
    }

    fn addresses(&self) -> MutexGuard<'_, Addresses> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a unit, before the guest runs or while it does.
    ///
    /// # Errors
    /// There is no address for it, or its image is locked by another process.
    pub fn add(&self, opened: Opened) -> Result<Address, UnitError> {
        let mut addresses = self.addresses();
        let Placed { address, unit, option, text } = opened.place(&mut addresses)?;
        match self.controller.add(address, unit) {
            Ok(true) => Ok(address),
            Ok(false) => Err(UnitError::Taken { option, text, address }),
            Err(error) => {
                addresses.free(address);
                Err(UnitError::Lock { option, text, error })
            }
        }
    }

    fn unit_add(&self, add: Add, passed: Option<File>) -> Result<Value, ControlError> {
        let copy =
            passed.as_ref().map(File::try_clone).transpose().map_err(ControlError::failed)?;
        let (kind, text) = add.parts();
        let opened = Unit::parse(kind, text).and_then(|unit| unit.open(passed));
        let address = self.add(opened.map_err(explain)?).map_err(explain)?;
        self.keep(&Change::Added(add), address, copy.as_ref());
        let Address { target, lun } = address;
        log::info!("target {target} lun {lun} was added");
        Ok(json!({ "target": target, "lun": lun }))
    }

    fn unit_remove(&self, At { target, lun }: At) -> Result<Value, ControlError> {
        let address = address(target, lun)?;
        let mut addresses = self.addresses();
        if !self.controller.remove(address) {
            return Err(missing(address));
        }
        addresses.free(address);
        drop(addresses);
        self.keep(&Change::Removed, address, None);
        log::info!("target {target} lun {lun} was removed");
        Ok(json!({}))
    }

    fn unit_resize(
        &self,
        Resize { target, lun, size, shrink }: Resize,
    ) -> Result<Value, ControlError> {
        let address = address(target, lun)?;
        // Held, so that the unit stays what it is.
        let mut addresses = self.addresses();
        let block = addresses.get_mut(address).ok_or_else(|| missing(address))?.block_size;
        if let Some(size) = size {
            self.check_size(address, size, block, shrink)?;
        }
        match self.controller.resize(address, size) {
            Ok(Some(size)) => Ok(json!({ "size": size })),
            Ok(None) => Err(failed(address, "it has no image whose size could change")),
            Err(error) if error.kind() == std::io::ErrorKind::Unsupported => {
                let why = "its size can only be changed from outside; resize it without SIZE then";
                Err(failed(address, why))
            }
            Err(error) => Err(failed(address, error)),
        }
    }

    fn check_size(
        &self,
        address: Address,
        size: u64,
        block: u32,
        shrink: bool,
    ) -> Result<(), ControlError> {
        let now = self.controller.bus().snapshot().unit(address).and_then(|unit| unit.image());
        let now = now.map_or(0, |image| image.len());
        if size == 0 || !size.is_multiple_of(u64::from(block)) {
            let why = format!("{size} bytes are no whole number of {block} byte blocks");
            return Err(failed(address, why));
        }
        if size < now && !shrink {
            let why = format!(
                "it has {now} bytes; that it becomes smaller, and loses data, must be said (shrink)"
            );
            return Err(failed(address, why));
        }
        Ok(())
    }

    fn medium_eject(&self, Eject { target, lun, force }: Eject) -> Result<Value, ControlError> {
        let address = address(target, lun)?;
        let mut addresses = self.addresses();
        self.controller.eject(address, force).map_err(|error| failed(address, error))?;
        if let Some(description) = addresses.get_mut(address) {
            description.path = None;
        }
        self.keep(&Change::Ejected, address, None);
        Ok(json!({}))
    }

    fn medium_load(&self, load: Load, passed: Option<File>) -> Result<Value, ControlError> {
        let address = address(load.target, load.lun)?;
        let copy =
            passed.as_ref().map(File::try_clone).transpose().map_err(ControlError::failed)?;
        let (path, medium) = units::medium(&load.medium, passed).map_err(explain)?;
        let mut addresses = self.addresses();
        self.controller
            .load(address, medium, load.force)
            .map_err(|error| failed(address, error))?;
        if let Some(description) = addresses.get_mut(address) {
            description.path = Some(path);
        }
        self.keep(&Change::Loaded(load.medium), address, copy.as_ref());
        Ok(json!({}))
    }

    fn query_units(&self) -> Value {
        let addresses = self.addresses();
        let snapshot = self.controller.bus().snapshot();
        let units = addresses.iter().filter_map(|(address, description)| {
            let unit = snapshot.unit(address)?;
            let image = unit.image();
            Some(json!({
                "target": address.target,
                "lun": address.lun,
                "kind": description.kind.name(),
                "path": description.path,
                "size": image.as_ref().map(|image| image.len()),
                "read-only": image.as_ref().map(|image| image.read_only()),
                "block-size": Some(description.block_size).filter(|&size| size > 0),
                "tray-open": unit.cd().map(|cd| cd.is_open()),
                "statistics": unit.statistics().counts(),
            }))
        });
        units.collect()
    }

    fn query_stats(&self) -> Value {
        let snapshot = self.controller.bus().snapshot();
        let units = snapshot.iter().map(|(Address { target, lun }, unit)| {
            json!({ "target": target, "lun": lun, "statistics": unit.statistics().counts() })
        });
        units.collect()
    }
}

impl Commands for Manager {
    fn names(&self) -> &'static [&'static str] {
        &NAMES
    }

    fn execute(
        &self,
        name: &str,
        arguments: Arguments,
        fds: Vec<OwnedFd>,
    ) -> Result<Value, ControlError> {
        let mut fds = fds.into_iter().map(File::from);
        let passed = fds.next();
        let wanted = usize::from(matches!(name, "unit-add" | "medium-load"));
        if fds.len().saturating_add(usize::from(passed.is_some())) > wanted {
            let what = format!("{name} takes at most {wanted} descriptors");
            return Err(ControlError::Message(what));
        }
        match name {
            "unit-add" => self.unit_add(parse(arguments)?, passed),
            "unit-remove" => self.unit_remove(parse(arguments)?),
            "unit-resize" => self.unit_resize(parse(arguments)?),
            "medium-eject" => self.medium_eject(parse(arguments)?),
            "medium-load" => self.medium_load(parse(arguments)?, passed),
            "query-units" => parse_none(&arguments).map(|()| self.query_units()),
            "query-stats" => parse_none(&arguments).map(|()| self.query_stats()),
            _ => Err(ControlError::CommandNotFound(name.to_owned())),
        }
    }
}

fn address(target: u8, lun: u16) -> Result<Address, ControlError> {
    let address = Address { target, lun };
    if lun < LUNS { Ok(address) } else { Err(missing(address)) }
}

fn missing(Address { target, lun }: Address) -> ControlError {
    ControlError::NotFound(format!("{target}:{lun}: there is no such unit"))
}

fn failed(Address { target, lun }: Address, why: impl std::fmt::Display) -> ControlError {
    ControlError::failed(format!("{target}:{lun}: {why}"))
}

/// A sandboxed process may not open what a client names.
fn explain(error: UnitError) -> ControlError {
    match error {
        UnitError::Open { error: OpenError::Open { .. }, .. } => ControlError::failed(format!(
            "{error}; where this process may not open it, pass a descriptor, or use vhost-scsi ctl"
        )),
        _ => ControlError::failed(error),
    }
}
