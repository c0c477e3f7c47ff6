//! What clients changed outlives the process: the supervisor keeps it for the one that is started in its
//! place.

use std::os::fd::{BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};
use vhost_runtime::supervisor::Kept;

use super::Control;
use crate::devices::passed::Passed;
use crate::devices::{DeviceError, Path};

/// Something that was done to a port.
#[derive(Serialize, Deserialize)]
pub(super) enum Change {
    /// This was plugged in; what it stands on comes along.
    Added(String),
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
            if let Change::Added(text) = change
                && let Err(error) = self.again(&path, &text, fds)
            {
                log::error!("port {path} is not as it was: {error}");
            }
        }
    }

    fn again(&self, path: &Path, text: &str, fds: Vec<OwnedFd>) -> Result<(), DeviceError> {
        let text = format!("{text},port={path}");
        self.devices.plug(&text, fds.into_iter().next().map(Passed::Descriptor)).map(drop)
    }
}
