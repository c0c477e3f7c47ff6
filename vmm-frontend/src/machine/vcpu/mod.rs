//! Virtual processors: how each begins, its thread, and what it does when the guest leaves KVM.
//!
//! - [`state`]: its registers, all of them;
//! - [`start`]: where the first one starts in a kernel;
//! - [`run`]: its thread;
//! - [`exit`]: accesses to ports and registers;
//! - [`report`]: what is told of one that can't go on.

mod exit;
mod report;
mod run;
pub mod start;
pub mod state;

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use super::stats::{Statistics, StatsError};
use super::vm::{Vm, VmError, kvm};
use crate::boot::Entry;
use crate::cpu::Cpu;
pub use report::Report;
pub use run::{Brake, Buses, Ended, Runner};
use state::{Extent, State};

/// A virtual processor that does not run.
#[derive(Debug)]
pub struct Vcpu {
    index: u32,
    fd: VcpuFd,
    /// Bytes of the memory that it shares with KVM.
    page: usize,
    /// As it was when it was made, which is how a reset leaves it.
    initial: State,
}

impl Vcpu {
    /// Makes the processor of that number, whose state has that extent.
    ///
    /// # Errors
    /// See [`VmError`].
    pub fn new(vm: &Vm, cpu: &Cpu, extent: &Extent, index: u32) -> Result<Self, VmError> {
        let id = u64::from(cpu.apic_id(index));
        let fd = vm.fd().create_vcpu(id).map_err(kvm("KVM_CREATE_VCPU"))?;
        let entries = cpu.entries(index).map_err(|_| VmError::Lacks("room for CPUID's leaves"))?;
        fd.set_cpuid2(&entries).map_err(kvm("KVM_SET_CPUID2"))?;
        for (index, data) in cpu.msrs() {
            let msr = kvm_msr_entry { index, data, ..Default::default() };
            let msrs = Msrs::from_entries(&[msr]).map_err(|_| VmError::Lacks("memory"))?;
            fd.set_msrs(&msrs).map_err(kvm("KVM_SET_MSRS"))?;
        }
        wire_lapic(&fd)?;
        let initial = State::save(&fd, extent)?;
        Ok(Self { index, fd, page: vm.fd().run_size(), initial })
    }

    /// What KVM counts of it.
    ///
    /// # Errors
    /// See [`StatsError`].
    pub fn statistics(&self) -> Result<Statistics, StatsError> {
        Statistics::of(&self.fd)
    }

    /// Puts it back to where it was when it was made; the first one starts at `entry`, the others
    /// wait for it.
    ///
    /// # Errors
    /// See [`VmError`].
    pub fn reset(&self, entry: Option<Entry>) -> Result<(), VmError> {
        self.initial.restore(&self.fd)?;
        match entry {
            Some(entry) if self.index == 0 => self.enter(entry),
            _ => Ok(()),
        }
    }

    fn enter(&self, entry: Entry) -> Result<(), VmError> {
        let mut sregs = self.fd.get_sregs().map_err(kvm("KVM_GET_SREGS"))?;
        start::enter(&mut sregs, entry.mode);
        self.fd.set_sregs(&sregs).map_err(kvm("KVM_SET_SREGS"))?;
        let mut regs = self.fd.get_regs().map_err(kvm("KVM_GET_REGS"))?;
        regs.rip = entry.address.into();
        regs.rbx = entry.ebx.into();
        regs.rsi = entry.esi.into();
        regs.rflags = 2;
        self.fd.set_regs(&regs).map_err(kvm("KVM_SET_REGS"))
    }
}

/// LINT0 is the PICs' interrupt and LINT1 the NMI, as firmware leaves them (MP 1.4, 3.6.2.1).
fn wire_lapic(vcpu: &VcpuFd) -> Result<(), VmError> {
    const LVT_LINT0: usize = 0x350;
    const LVT_LINT1: usize = 0x360;
    const EXT_INT: i8 = 0x7;
    const NMI: i8 = 0x4;
    let mut lapic = vcpu.get_lapic().map_err(kvm("KVM_GET_LAPIC"))?;
    for (register, mode) in [(LVT_LINT0, EXT_INT), (LVT_LINT1, NMI)] {
        if let Some(bytes) = lapic.regs.get_mut(register..register + 4) {
            bytes.copy_from_slice(&[0, mode, 0, 0]);
        }
    }
    vcpu.set_lapic(&lapic).map_err(kvm("KVM_SET_LAPIC"))
}
