//! Drivers of devices, without a guest: tests and benchmarks send requests to a device process
//! through these.

mod block;
mod net;
mod scsi;
mod slots;
pub mod sound;

use std::time::Duration;

pub use block::{Block, BlockDone, BlockQueue, BlockRequest};
pub use net::{NET_HEADER, NetDriver, NetFrame, NetOptions, NetPair};
pub use scsi::{
    Answer, Command, Data, Done, Event, Initiator, InitiatorOptions, Lun, ScsiQueue, TaskManagement,
};
pub use slots::{Slots, Space};

/// How long a request may take before it counts as lost.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
