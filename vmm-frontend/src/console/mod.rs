//! What a guest's serial port and console ports are connected to on the host.
//!
//! - [`Spec`]: what an option says;
//! - [`Endpoint`]: the open end, which takes output and gives input without ever blocking;
//! - [`Client`]: the guest's device at the other side.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

mod client;
mod end;
mod endpoint;
mod escape;
mod open;
mod spec;
mod terminal;

pub use client::Client;
pub use endpoint::Endpoint;
pub use open::OpenError;
pub use spec::{Spec, SpecError};
