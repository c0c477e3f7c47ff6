//! Capabilities, the network, and what other processes may see of this one.

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, UnshareFlags, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, unshare_unsafe,
};

use super::SandboxError;

bitflags::bitflags! {
    /// Privileges that a device may need while it serves (capabilities(7)).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Capabilities: u64 {
        /// CAP_SYS_RAWIO: SCSI commands other than the harmless ones.
        const RAW_IO = CapabilitySet::SYS_RAWIO.bits();
        /// CAP_SYS_ADMIN: SCSI resets.
        const ADMIN = CapabilitySet::SYS_ADMIN.bits();
    }
}

/// The highest capability that a kernel may have; CAP_LAST_CAP is 40 today.
const HIGHEST: u32 = 63;

/// Moves to a network of its own, with nothing in it, where the privileges are there to do so:
/// Landlock knows TCP alone on most kernels. Sockets that are open stay where they were.
pub(super) fn leave_network() {
    // SAFETY: NEWNET alone does not touch the table of descriptors.
    match unsafe { unshare_unsafe(UnshareFlags::NEWNET) } {
        Ok(()) => log::debug!("the network is left"),
        Err(error) => log::debug!("the network is not left: {error}"),
    }
}

/// Gives up all privileges but those, and the right to ever have others.
pub(super) fn drop_all_but(wanted: Capabilities) -> Result<(), SandboxError> {
    let failed = |what| move |error: Errno| SandboxError::new(what, error);
    set_no_new_privs(true).map_err(failed("no new privileges"))?;
    // The guest's memory is in this process: no core dump, no debugger of the same user.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("dumps"))?;
    for number in 0..=HIGHEST {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            // Past the last, or not privileged to: then there is none to lose either.
            Err(Errno::INVAL | Errno::PERM) => break,
            Err(error) => return Err(SandboxError::new("the bounding set", error)),
        }
    }
    match clear_ambient_capability_set() {
        Ok(()) | Err(Errno::INVAL) => {} // EINVAL: a kernel without them
        Err(error) => return Err(SandboxError::new("ambient capabilities", error)),
    }
    let held = capabilities(None).map_err(failed("capabilities"))?;
    let kept = held.effective & CapabilitySet::from_bits_retain(wanted.bits());
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).map_err(failed("capabilities"))
}
