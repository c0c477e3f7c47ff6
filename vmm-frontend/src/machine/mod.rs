//! The machine: what KVM has, and the rest of a PC that a guest needs.
//!
//! - [`layout`]: where things are;
//! - [`vm`], [`vcpu`], [`irq`], [`page`]: what KVM has of it; [`stats`]: what it counts;
//! - [`bus`]: who answers where; [`line`]: interrupt lines;
//! - [`rtc`], [`power`], [`reset`], [`serial`], [`debug_port`]: the devices of a PC's board;
//! - [`fw_cfg`]: what firmware is told;
//! - [`acpi`]: the tables that tell a guest of all this; [`linked`]: how they are placed.

pub mod acpi;
pub mod bus;
pub mod debug_port;
pub mod fw_cfg;
pub mod irq;
pub mod layout;
pub mod line;
pub mod linked;
pub mod page;
pub mod power;
pub mod reset;
pub mod rtc;
pub mod serial;
pub mod stats;
pub(crate) mod timer;
pub mod vcpu;
pub mod vm;
