//! What clients changed outlives the process: the supervisor keeps it for the one that is started in its
//! place.

use std::os::fd::{BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};
use vhost_runtime::supervisor::Kept;

use super::Control;
use crate::devices::passed::Passed;
use crate::devices::redirections::{RedirectError, Redirection};
use crate::devices::{DeviceError, Path};

/// Something that was done to a port.
#[derive(Serialize, Deserialize)]
pub(super) enum Change {
    /// This was plugged in; what it stands on comes along.
    Added(String),
    /// This waits for a device that is elsewhere, on what comes along.
    Redirected(String),
    /// It was taken out, whether the command line has it or not.
    Removed,
}

impl Control {
    /// Keeps a change. The client's wish was carried out, whether it can be kept or not.
    pub(super) fn keep(&self, path: &Path, change: &Change, fds: &[BorrowedFd<'_>]) {
        let kept = serde_json::to_vec(change).map_err(|error| error.to_string());
        let kept = kept.and_then(|record| {
            let kept = self.keeper.keep(&path.to_string(), &record, fds);
            kept.map_err(|error| error.to_string())
        });
        if let Err(error) = kept {
            log::warn!("port {path}: a restart would undo this: {error}");
        }
    }

    /// Does again what was done before the process was started again. What makes no sense is left out:
    /// a guest may have had a hand in it.
    pub fn restore(&self, kept: Vec<Kept>) {
        let changes = kept.into_iter().filter_map(|kept| {
            let change: Change = serde_json::from_slice(&kept.description).ok()?;
            Some((Path::parse(&kept.key)?, change, kept.fds))
        });
        let mut changes: Vec<_> = changes.collect();
        // Hubs come before what is behind them.
        changes.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        for (path, change, fds) in changes {
            self.devices.unplug(&path);
            let at = |text| format!("{text},port={path}");
            let again = match change {
                Change::Added(text) => self.plug_again(&at(text), fds).map_err(|it| it.to_string()),
                Change::Redirected(text) => self
                    .redirect_again(&at(text), fds.into_iter().next())
                    .map_err(|it| it.to_string()),
                Change::Removed => Ok(()),
            };
            if let Err(error) = again {
                log::error!("port {path} is not as it was: {error}");
            }
        }
    }

    fn plug_again(&self, text: &str, passed: Vec<OwnedFd>) -> Result<(), DeviceError> {
        self.devices.plug(text, Passed::descriptors(passed)).map(drop)
    }

    fn redirect_again(&self, text: &str, passed: Option<OwnedFd>) -> Result<(), RedirectError> {
        self.devices.redirect(Redirection::parse(text)?, passed).map(drop)
    }
}
