//! The lab: a throw-away Linux machine that end-to-end tests boot under QEMU's TCG.
//!
//! ```no_run
//! # fn main() -> Result<(), lab::Error> {
//! let guest = lab::Guest::builder().cpus(2).boot()?;
//! let seen = guest.run("lsscsi --brief")?.stdout_if_ok()?;
//! # Ok(()) }
//! ```
//!
//! The machine (root filesystem, kernel, initrd, and three versions of QEMU) is built by apt and
//! mmdebstrap when something first needs it, and kept under [`Machine::dir`].

mod bench;
mod cd;
mod conformance;
pub mod driver;
mod error;
mod guest;
mod host;
mod machine;
pub mod net;
pub mod pipewire;
mod process;
mod progress;
mod python;
mod scsi;
mod spread;
pub mod tiny;
pub mod usbtest;

pub use bench::{benchmark, wanted};
pub use cd::make_cd;
pub use conformance::Conformance;
pub use error::Error;
pub use guest::{
    Builder, Guest, Host, Nested, Output, Qmp, Root, Shell, Task, VhostUserScsi, VmmGuest,
};
pub use host::{Tool, cargo, ensure_libraries, ensure_tools, program, workspace};
pub use machine::{Dpdk, Kernel, Machine, Qemu, Spice, Version};
pub use process::{Process, children, memory, serving, spawn, spawn_listening};
pub use progress::{Step, during};
pub use python::python;
pub use scsi::{Scsi, make};
pub use spread::Spread;
