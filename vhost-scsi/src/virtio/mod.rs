//! The virtio-scsi device (virtio 1.2, 5.6): a thin transport over the SCSI target.
//!
//! - [`device`]: features, configuration space, which worker serves which queue;
//! - [`layout`]: the bytes of requests and responses;
//! - [`request`]: the workers of the request queues;
//! - [`state`]: what moves with a guest to another process;
//! - [`control`]: task management, and the events that tell of units that come and go.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod control;
pub mod device;
pub mod layout;
mod request;
mod state;
mod tmf;
