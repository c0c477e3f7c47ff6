//! What clients changed outlives the process: the supervisor keeps it for the one that is started in
//! its place.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use serde::{Deserialize, Serialize};
use vhost_runtime::supervisor::Kept;

use super::{Add, Manager};
use crate::scsi::target::{Address, LUNS};
use crate::units::{self, Unit, UnitError};

/// Something that was done to a unit.
#[derive(Serialize, Deserialize)]
pub(super) enum Change {
    /// It was added; its file comes along.
    Added(Add),
    /// It was removed, whether the command line has it or not.
    Removed,
    /// This medium was loaded; its file comes along.
    Loaded(String),
    /// The medium was taken out.
    Ejected,
}

#[derive(Serialize, Deserialize)]
struct Record<C> {
    target: u8,
    lun: u16,
    change: C,
}

impl Change {
    /// A later change takes the place of an earlier one with the same key.
    fn key(&self, Address { target, lun }: Address) -> String {
        match self {
            Self::Added(_) | Self::Removed => format!("unit {target}:{lun}"),
            Self::Loaded(_) | Self::Ejected => format!("medium {target}:{lun}"),
        }
    }

    fn is_of_medium(&self) -> bool {
        matches!(self, Self::Loaded(_) | Self::Ejected)
    }
}

impl Manager {
    /// Keeps a change. The client's wish was carried out, whether it can be kept or not.
    pub(super) fn keep(&self, change: &Change, address: Address, file: Option<&File>) {
        let Address { target, lun } = address;
        let failed = |error: &dyn std::error::Error| {
            log::warn!("target {target} lun {lun}: a restart would undo this: {error}");
        };
        if !change.is_of_medium()
            && let Err(error) = self.keeper.forget(&Change::Ejected.key(address))
        {
            failed(&error);
        }
        let fds: Vec<_> = file.iter().map(|file| file.as_fd()).collect();
        match serde_json::to_vec(&Record { target, lun, change }) {
            Ok(record) => {
                if let Err(error) = self.keeper.keep(&change.key(address), &record, &fds) {
                    failed(&error);
                }
            }
            Err(error) => failed(&error),
        }
    }

    /// Does again what was done before the process was started again. What makes no sense is left
    /// out: a guest may have had a hand in it.
    pub fn restore(&self, kept: Vec<Kept>) {
        let records = kept.into_iter().filter_map(|kept| {
            let record: Record<Change> = serde_json::from_slice(&kept.description).ok()?;
            (record.lun < LUNS).then_some((record, kept.fds))
        });
        let (media, units): (Vec<_>, Vec<_>) =
            records.partition(|(record, _)| record.change.is_of_medium());
        for (Record { target, lun, change }, fds) in units.into_iter().chain(media) {
            if let Err(error) = self.again(Address { target, lun }, change, fds) {
                log::error!("target {target} lun {lun} is not as it was: {error}");
            }
        }
    }

    fn again(&self, at: Address, change: Change, fds: Vec<OwnedFd>) -> Result<(), UnitError> {
        let passed = fds.into_iter().next().map(File::from);
        match change {
            Change::Removed | Change::Added(_) if self.controller.remove(at) => {
                self.addresses().free(at);
            }
            _ => {}
        }
        match change {
            Change::Removed => {}
            Change::Added(add) => {
                let (kind, text) = add.parts();
                let text = format!("{text},target={},lun={}", at.target, at.lun);
                self.add(Unit::parse(kind, &text)?.open(passed)?)?;
            }
            Change::Loaded(text) => {
                let (path, medium) = units::medium(&text, passed)?;
                if self.controller.load(at, medium, true).is_ok()
                    && let Some(description) = self.addresses().get_mut(at)
                {
                    description.path = Some(path);
                }
            }
            Change::Ejected => {
                if self.controller.eject(at, true).is_ok()
                    && let Some(description) = self.addresses().get_mut(at)
                {
                    description.path = None;
                }
            }
        }
        Ok(())
    }
}
