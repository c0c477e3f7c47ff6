//! The whole machine: made of its settings, run, reset and ended.

mod error;
mod host;

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use kvm_ioctls::Kvm;

use crate::boot::{Kernel, Range, memory_map};
use crate::cpu::Cpu;
use crate::cpu::selection::Selection;
use crate::cpu::topology::Topology;
use crate::frontend::memory::{Memory, Pages};
use crate::machine::acpi;
use crate::machine::irq::Interrupts;
use crate::machine::layout;
use crate::machine::vcpu::{Buses, Report, Runner, Vcpu, gdt};
use crate::machine::vm::{self, Chips, Vm};
use crate::pci::host::{Host, Place};
use crate::reactor::Reactor;
use crate::virtio;
use crate::virtio::pci::{VirtioPci, Wiring};
pub use error::VmmError;
use vm_memory::{Bytes, GuestAddress};

/// What a machine is made of.
#[derive(Debug)]
pub struct Settings {
    /// Bytes of memory.
    pub memory: u64,
    /// What it is made of.
    pub pages: Pages,
    /// Its processors' model.
    pub cpu: Selection,
    /// How many, and how they are placed.
    pub topology: Topology,
}

/// What happens to a machine.
#[derive(Debug)]
pub enum Event {
    /// The guest switched it off.
    Off,
    /// The guest reset it.
    Reset,
    /// A processor can't go on.
    Stopped(Report),
    /// The user ends it.
    Quit,
}

/// A machine.
pub struct Vmm {
    vm: Arc<Vm>,
    runner: Runner,
    chips: Chips,
    kernel: Kernel,
    map: Vec<Range>,
    tables: Vec<u8>,
    pci: Arc<Host>,
    interrupts: Interrupts,
    reactor: Reactor,
    memory: Memory,
    buses: Arc<Buses>,
    events: (Sender<Event>, Receiver<Event>),
}
