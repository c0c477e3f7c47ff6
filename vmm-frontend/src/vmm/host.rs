//! What this host can give a guest's processors.

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, Msrs, kvm_msr_entry};
use kvm_ioctls::{Cap, Kvm};

use crate::cpu::host::{Capabilities, FEATURE_MSRS, Host, Native};
use crate::machine::vm::{VmError, kvm};

/// Asks KVM.
///
/// # Errors
/// It does not answer.
pub fn host(device: &Kvm) -> Result<Host, VmError> {
    let supported = device.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
    let supported = supported.map_err(kvm("KVM_GET_SUPPORTED_CPUID"))?;
    let capabilities = Capabilities {
        tsc_deadline: device.check_extension(Cap::TscDeadlineTimer),
        feature_msrs: feature_msrs(device)?,
        tsc_khz: tsc_khz(device)?,
        native: Native::read(),
    };
    Ok(Host::new(&supported, capabilities))
}

/// Those that KVM has.
fn feature_msrs(device: &Kvm) -> Result<Vec<(u32, u64)>, VmError> {
    let mut read = Vec::new();
    for index in FEATURE_MSRS {
        let entry = kvm_msr_entry { index, ..Default::default() };
        let mut msrs = Msrs::from_entries(&[entry]).map_err(|_| VmError::Lacks("memory"))?;
        if device.get_msrs(&mut msrs).is_ok_and(|count| count == 1) {
            read.extend(msrs.as_slice().iter().map(|msr| (msr.index, msr.data)));
        }
    }
    Ok(read)
}

/// The frequency of a guest's TSC, which only a processor tells.
fn tsc_khz(device: &Kvm) -> Result<Option<u32>, VmError> {
    let vm = device.create_vm().map_err(kvm("no virtual machine can be made"))?;
    let vcpu = vm.create_vcpu(0).map_err(kvm("KVM_CREATE_VCPU"))?;
    Ok(vcpu.get_tsc_khz().ok())
}
