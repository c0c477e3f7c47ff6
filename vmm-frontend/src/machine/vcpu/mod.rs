//! Virtual processors: how each begins, its thread, and what it does when the guest leaves KVM.
//!
//! - [`state`]: its registers, all of them;
//! - [`run`]: its thread;
//! - [`exit`]: accesses to ports and registers;
//! - [`report`]: what is told of one that can't go on.

mod exit;
mod report;
mod run;
pub mod state;

use kvm_bindings::{Msrs, kvm_msr_entry, kvm_segment};
use kvm_ioctls::VcpuFd;

use super::layout;
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

    /// 32-bit protected mode with flat segments, as both boot protocols want it.
    fn enter(&self, entry: Entry) -> Result<(), VmError> {
        const PROTECTION_ENABLE: u64 = 1;
        let mut sregs = self.fd.get_sregs().map_err(kvm("KVM_GET_SREGS"))?;
        sregs.cs = flat(CODE, 0xb);
        let data = flat(DATA, 0x3);
        (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
        // A busy 32-bit TSS (Intel SDM 3, 26.3.1.2), which is not in the table: nobody loads it.
        sregs.tr = kvm_segment { type_: 0xb, present: 1, limit: 0x67, ..Default::default() };
        sregs.gdt.base = layout::GDT;
        sregs.gdt.limit = (size_of_val(&gdt()) - 1) as u16;
        sregs.cr0 |= PROTECTION_ENABLE;
        self.fd.set_sregs(&sregs).map_err(kvm("KVM_SET_SREGS"))?;
        let mut regs = self.fd.get_regs().map_err(kvm("KVM_GET_REGS"))?;
        regs.rip = entry.address.into();
        regs.rbx = entry.ebx.into();
        regs.rsi = entry.esi.into();
        regs.rflags = 2;
        self.fd.set_regs(&regs).map_err(kvm("KVM_SET_REGS"))
    }
}

/// Selectors that Linux's protocol names (boot.rst, "32-bit boot protocol").
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;

/// The table that those are in, to be at [`layout::GDT`]: flat code and data of 32 bits.
#[must_use]
pub fn gdt() -> [u64; 4] {
    [0, 0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff]
}

fn flat(selector: u16, type_: u8) -> kvm_segment {
    kvm_segment {
        selector,
        type_,
        limit: u32::MAX,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
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
