//! The virtio-scsi device (virtio 1.2, 5.6): a thin transport over the SCSI target.
//!
//! - [`controller`]: its units, and what it tells;
//! - [`device`]: features, configuration space, which worker serves which queue;
//! - [`layout`]: the bytes of requests and responses;
//! - [`request`]: the workers of the request queues; [`task`]: one command under way; [`remote`]:
//!   how others reach a worker;
//! - [`state`]: what moves with a guest to another process;
//! - [`control`]: the control queue, and the events that tell of units that come and go;
//! - [`tmf`]: task management functions.

mod control;
pub mod controller;
pub mod device;
pub mod layout;
mod remote;
mod request;
mod state;
mod task;
mod tmf;
