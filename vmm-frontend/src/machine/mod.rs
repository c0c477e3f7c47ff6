//! The machine: what KVM has, and the rest of a PC that a guest needs.

pub mod acpi;
pub mod bus;
pub mod layout;
