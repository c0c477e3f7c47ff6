//! A thin KVM VMM whose devices are processes of their own.

pub mod boot;
pub mod confinement;
pub mod console;
pub mod control;
pub mod cpu;
pub mod frontend;
pub mod launcher;
mod lock;
pub mod machine;
pub mod manual;
pub mod options;
pub mod pci;
pub mod reactor;
pub mod usb;
pub mod virtio;
pub mod vmm;
