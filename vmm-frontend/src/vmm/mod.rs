//! The whole machine: made of its settings, run, reset and ended.
//!
//! - [`assembly`]: how it is made;
//! - [`machine`](Machine): what can be done to it;
//! - [`counters`]: what KVM counts of it;
//! - [`host`]: what this host's processors can give;
//! - [`error`], [`pages`]: why there is no machine.

mod assembly;
mod counters;
mod error;
mod host;
mod machine;
mod pages;

pub use assembly::{Settings, memory};
pub use counters::Counters;
pub use error::VmmError;
pub use host::host;
pub use machine::{Event, Machine, Status};
pub use pages::PagesError;
