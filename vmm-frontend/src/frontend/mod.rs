//! vhost-user's other end, with the driver's side of the rings.
//!
//! [`Link`] is a device process that is watched, and connected to again. [`Session`] is what a VMM needs of a device process: it connects, shares memory, starts rings,
//! and takes all that up again with another process when one has died. [`Device`] is a single
//! connection, message by message. [`Ring`](ring::Ring) is a driver's virtqueue.

mod device;
mod dirty_log;
mod inflight;
mod link;
pub mod memory;
pub mod ring;
mod session;
mod watchdog;
mod wire;

use std::io;
use std::path::PathBuf;

pub use device::{Device, QueueSetup, Wanted};
pub use dirty_log::DirtyLog;
pub use inflight::Inflight;
pub use link::Link;
pub use session::Session;
pub use vhost::vhost_user::message::VhostUserProtocolFeatures as ProtocolFeatures;
pub use vhost_runtime::queue::Base;

/// What can go wrong with a device process.
#[derive(Debug, thiserror::Error)]
pub enum FrontendError {
    /// Nobody listens there.
    #[error("cannot connect to {path}: {source}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The device process refused a message, or is gone.
    #[error("{message}: {source}")]
    Message {
        /// The message.
        message: &'static str,
        /// What went wrong.
        source: vhost::Error,
    },
    /// The device process did not answer; the connection has ended.
    #[error("{message}: the device process does not answer within {seconds} seconds")]
    Silent {
        /// The message.
        message: &'static str,
        /// How long it had.
        seconds: u64,
    },
    /// The device process can't do what is needed.
    #[error("the device process lacks {0}")]
    Lacks(String),
    /// A ring does not lie in guest memory.
    #[error("queue {0} lies outside guest memory")]
    Queue(u16),
    /// A queue's base, or another number, is impossible.
    #[error("{message}: the answer {value:#x} is impossible")]
    Answer {
        /// The message.
        message: &'static str,
        /// What was answered.
        value: u64,
    },
    /// The host refused something.
    #[error("{what}: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// What the host said.
        source: io::Error,
    },
}

/// Gives an error of the host its context.
fn host(what: &'static str) -> impl Fn(io::Error) -> FrontendError {
    move |source| FrontendError::Host { what, source }
}
