//! All that a virtual processor has in its registers: to reset it, and to move it.

use kvm_bindings::{
    Msrs, Xsave, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd};

use crate::machine::vm::{VmError, kvm};

/// What of a processor's state depends on the host.
#[derive(Clone, Debug)]
pub struct Extent {
    /// The MSRs that KVM keeps.
    msrs: Vec<u32>,
    /// Bytes of the XSAVE area behind the first 4,096, in words.
    xsave: usize,
}

impl Extent {
    /// That of this host.
    ///
    /// # Errors
    /// See [`VmError`].
    pub fn new(device: &Kvm) -> Result<Self, VmError> {
        let msrs = device.get_msr_index_list().map_err(kvm("KVM_GET_MSR_INDEX_LIST"))?;
        let size = usize::try_from(device.check_extension_int(Cap::Xsave2)).unwrap_or(0);
        let xsave = size.saturating_sub(size_of::<kvm_xsave>()).div_ceil(size_of::<u32>());
        Ok(Self { msrs: msrs.as_slice().to_vec(), xsave })
    }
}

/// A processor's registers.
pub struct State {
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: Xsave,
    xcrs: kvm_xcrs,
    debugregs: kvm_debugregs,
    msrs: Vec<kvm_msr_entry>,
    lapic: kvm_lapic_state,
    events: kvm_vcpu_events,
    mp_state: kvm_mp_state,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("rip", &self.regs.rip).finish_non_exhaustive()
    }
}

impl State {
    /// Those of a processor that does not run.
    ///
    /// # Errors
    /// See [`VmError`].
    pub fn save(vcpu: &VcpuFd, extent: &Extent) -> Result<Self, VmError> {
        Ok(Self {
            mp_state: vcpu.get_mp_state().map_err(kvm("KVM_GET_MP_STATE"))?,
            regs: vcpu.get_regs().map_err(kvm("KVM_GET_REGS"))?,
            sregs: vcpu.get_sregs().map_err(kvm("KVM_GET_SREGS"))?,
            xsave: xsave(vcpu, extent)?,
            xcrs: vcpu.get_xcrs().map_err(kvm("KVM_GET_XCRS"))?,
            debugregs: vcpu.get_debug_regs().map_err(kvm("KVM_GET_DEBUGREGS"))?,
            msrs: msrs(vcpu, &extent.msrs)?,
            lapic: vcpu.get_lapic().map_err(kvm("KVM_GET_LAPIC"))?,
            events: vcpu.get_vcpu_events().map_err(kvm("KVM_GET_VCPU_EVENTS"))?,
        })
    }

    /// Gives them to a processor that does not run, of the same model on the same host.
    ///
    /// # Errors
    /// See [`VmError`].
    pub fn restore(&self, vcpu: &VcpuFd) -> Result<(), VmError> {
        vcpu.set_mp_state(self.mp_state).map_err(kvm("KVM_SET_MP_STATE"))?;
        vcpu.set_regs(&self.regs).map_err(kvm("KVM_SET_REGS"))?;
        vcpu.set_sregs(&self.sregs).map_err(kvm("KVM_SET_SREGS"))?;
        // SAFETY: the area was made as large as KVM said that it is.
        unsafe { vcpu.set_xsave2(&self.xsave) }.map_err(kvm("KVM_SET_XSAVE"))?;
        vcpu.set_xcrs(&self.xcrs).map_err(kvm("KVM_SET_XCRS"))?;
        vcpu.set_debug_regs(&self.debugregs).map_err(kvm("KVM_SET_DEBUGREGS"))?;
        for msr in &self.msrs {
            set_msr(vcpu, *msr)?;
        }
        vcpu.set_lapic(&self.lapic).map_err(kvm("KVM_SET_LAPIC"))?;
        vcpu.set_vcpu_events(&self.events).map_err(kvm("KVM_SET_VCPU_EVENTS"))
    }
}

fn xsave(vcpu: &VcpuFd, extent: &Extent) -> Result<Xsave, VmError> {
    let mut area = Xsave::new(extent.xsave).map_err(|_| VmError::Lacks("memory for XSAVE"))?;
    if extent.xsave == 0 {
        let legacy = vcpu.get_xsave().map_err(kvm("KVM_GET_XSAVE"))?;
        // SAFETY: the area's length is not changed.
        unsafe { area.as_mut_fam_struct() }.xsave = legacy;
    } else {
        // SAFETY: it is as large as KVM says that it is.
        unsafe { vcpu.get_xsave2(&mut area) }.map_err(kvm("KVM_GET_XSAVE2"))?;
    }
    Ok(area)
}

/// Those that can be read: some are listed that this processor has not.
fn msrs(vcpu: &VcpuFd, numbers: &[u32]) -> Result<Vec<kvm_msr_entry>, VmError> {
    let mut read = Vec::with_capacity(numbers.len());
    for &index in numbers {
        let mut one = one_msr(kvm_msr_entry { index, ..Default::default() })?;
        if vcpu.get_msrs(&mut one).map_err(kvm("KVM_GET_MSRS"))? == 1 {
            read.extend(one.as_slice());
        }
    }
    Ok(read)
}

fn set_msr(vcpu: &VcpuFd, msr: kvm_msr_entry) -> Result<(), VmError> {
    if vcpu.set_msrs(&one_msr(msr)?).map_err(kvm("KVM_SET_MSRS"))? != 1 {
        // Some can be read and not written; a guest could not have changed them either.
        log::debug!("MSR {:#x} cannot be set to {:#x}", msr.index, msr.data);
    }
    Ok(())
}

fn one_msr(msr: kvm_msr_entry) -> Result<Msrs, VmError> {
    Msrs::from_entries(&[msr]).map_err(|_| VmError::Lacks("memory for an MSR"))
}
