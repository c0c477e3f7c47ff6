//! Why there is no machine.

use std::io;

use super::pages::PagesError;
use crate::boot::BootError;
use crate::cpu::selection::CpuError;
use crate::frontend::memory::MemoryError;
use crate::machine::bus::Occupied;
use crate::machine::stats::StatsError;
use crate::machine::vcpu::Report;
use crate::machine::vm::VmError;
use crate::pci::host::PciError;
use crate::pci::hotplug::SlotError;
use crate::pci::intx::IntxError;
use crate::virtio::pci::TransportError;
use crate::virtio::vhost_user::VhostUserError;

/// Why a machine can't be made, or can't go on.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    /// KVM.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// Its memory.
    #[error("--memory: {0}")]
    Memory(#[from] MemoryError),
    /// The host's pages that its memory is to be made of.
    #[error("--memory: {0}")]
    Pages(#[from] PagesError),
    /// Its processors' model.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// Its kernel.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A device's place.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// A device's slot.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// What KVM counts.
    #[error(transparent)]
    Stats(#[from] StatsError),
    /// A device's transport.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A device's interrupt pin.
    #[error(transparent)]
    Pin(#[from] IntxError),
    /// A device process.
    #[error("--vhost-user: {0}")]
    VhostUser(#[from] VhostUserError),
    /// Two things at one place.
    #[error(transparent)]
    Occupied(#[from] Occupied),
    /// The ACPI tables.
    #[error("the ACPI tables have no room: there are too many processors")]
    Tables,
    /// A processor can't go on.
    #[error("{0}")]
    Stopped(Report),
    /// The host refuses something.
    #[error("{what}: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// What the host said.
        source: io::Error,
    },
}

/// Gives an error of the host its context.
pub(super) fn host(what: &'static str) -> impl Fn(io::Error) -> VmmError {
    move |source| VmmError::Host { what, source }
}
