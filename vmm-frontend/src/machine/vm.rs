//! What KVM has of the machine: processors' table, memory, the interrupt controllers and the PIT.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicU32, Ordering};

use kvm_bindings::{
    KVM_MEM_READONLY, KVM_PIT_SPEAKER_DUMMY, kvm_irqchip, kvm_pit_config, kvm_pit_state2,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VmFd};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion, MmapRegion, VolatileMemory};

use super::layout;
use crate::frontend::memory::Memory;

/// Why the host gives no virtual machine.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// There is no KVM.
    #[error(
        "/dev/kvm is not there: enable virtualization in the firmware's settings, and load kvm_intel or kvm_amd"
    )]
    NoKvm,
    /// The user may not use it.
    #[error("/dev/kvm: permission denied; users of the group kvm have it (usermod -aG kvm USER)")]
    NoPermission,
    /// KVM is too old, or built without something.
    #[error("/dev/kvm lacks {0}; Linux 5.10 or newer has it")]
    Lacks(&'static str),
    /// KVM refused something.
    #[error("{what}: {source}")]
    Kvm {
        /// What was tried.
        what: &'static str,
        /// What KVM said.
        source: kvm_ioctls::Error,
    },
}

/// Gives an error of KVM its context.
pub(crate) fn kvm(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> VmError {
    move |source| VmError::Kvm { what, source }
}

/// What is used of KVM, and must be there.
const NEEDED: [(Cap, &str); 7] = [
    (Cap::Irqchip, "its interrupt controllers (KVM_CAP_IRQCHIP)"),
    (Cap::Pit2, "its timer (KVM_CAP_PIT2)"),
    (Cap::Irqfd, "interrupts by descriptor (KVM_CAP_IRQFD)"),
    (Cap::Ioeventfd, "notifications by descriptor (KVM_CAP_IOEVENTFD)"),
    (Cap::SignalMsi, "message-signalled interrupts (KVM_CAP_SIGNAL_MSI)"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
];

/// Opens /dev/kvm, and sees whether it has all that is needed.
///
/// # Errors
/// See [`VmError`].
pub fn open() -> Result<Kvm, VmError> {
    let kvm = Kvm::new().map_err(|source| match std::io::Error::from(source).kind() {
        ErrorKind::NotFound => VmError::NoKvm,
        ErrorKind::PermissionDenied => VmError::NoPermission,
        _ => VmError::Kvm { what: "/dev/kvm cannot be opened", source },
    })?;
    if kvm.get_api_version() != 12 {
        return Err(VmError::Lacks("KVM's API 12"));
    }
    match NEEDED.iter().find(|(capability, _)| !kvm.check_extension(*capability)) {
        Some((_, name)) => Err(VmError::Lacks(name)),
        None => Ok(kvm),
    }
}

/// A virtual machine with its memory, and without processors yet.
#[derive(Debug)]
pub struct Vm {
    fd: VmFd,
    memory: Memory,
    rom: Option<MmapRegion>,
    /// Slots of memory that KVM was told of.
    slots: AtomicU32,
}

impl Vm {
    /// Makes one.
    ///
    /// # Errors
    /// See [`VmError`].
    pub fn new(kvm_device: &Kvm, memory: Memory) -> Result<Self, VmError> {
        let fd = kvm_device.create_vm().map_err(kvm("no virtual machine can be made"))?;
        let pages = layout::KVM_PAGES;
        fd.set_identity_map_address(pages).map_err(kvm("KVM_SET_IDENTITY_MAP_ADDR"))?;
        let tss = usize::try_from(pages.saturating_add(4096)).unwrap_or(usize::MAX);
        fd.set_tss_address(tss).map_err(kvm("KVM_SET_TSS_ADDR"))?;
        fd.create_irq_chip().map_err(kvm("KVM_CREATE_IRQCHIP"))?;
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        fd.create_pit2(pit).map_err(kvm("KVM_CREATE_PIT2"))?;
        for (slot, region) in (0..).zip(memory.space().iter()) {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: `memory` lives as long as the machine and is never unmapped before; what a
            // guest does to it is seen only through volatile accesses.
            unsafe { fd.set_user_memory_region(region) }
                .map_err(kvm("KVM_SET_USER_MEMORY_REGION"))?;
        }
        let slots = u32::try_from(memory.space().num_regions()).unwrap_or(u32::MAX);
        Ok(Self { fd, memory, rom: None, slots: slots.into() })
    }

    /// Adds memory that a guest can't write to, and that device processes don't get: whole pages,
    /// which end at 4 GiB, as firmware does.
    ///
    /// # Errors
    /// See [`VmError`].
    pub fn add_rom(&mut self, content: &[u8]) -> Result<(), VmError> {
        if !self.fd.check_extension(Cap::ReadonlyMem) {
            return Err(VmError::Lacks("memory that cannot be written (KVM_CAP_READONLY_MEM)"));
        }
        let lacks = |_| VmError::Lacks("memory for the firmware");
        let rom = MmapRegion::<()>::new(content.len()).map_err(lacks)?;
        rom.as_volatile_slice().copy_from(content);
        let size = content.len() as u64;
        let region = kvm_userspace_memory_region {
            slot: self.slot(),
            flags: KVM_MEM_READONLY,
            guest_phys_addr: layout::ABOVE.saturating_sub(size),
            memory_size: size,
            userspace_addr: rom.as_ptr() as u64,
        };
        // SAFETY: the mapping is kept as long as the machine, and nobody writes to it.
        unsafe { self.fd.set_user_memory_region(region) }
            .map_err(kvm("KVM_SET_USER_MEMORY_REGION"))?;
        self.rom = Some(rom);
        Ok(())
    }

    /// A number for memory that is not the machine's.
    pub(super) fn slot(&self) -> u32 {
        self.slots.fetch_add(1, Ordering::Relaxed)
    }

    /// Its descriptor.
    #[must_use]
    pub fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// Its memory.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }
}

/// What the interrupt controllers and the PIT are doing.
pub struct Chips {
    controllers: [kvm_irqchip; 3],
    pit: kvm_pit_state2,
}

impl Chips {
    /// Of a machine that does not run.
    ///
    /// # Errors
    /// See [`VmError`].
    pub fn save(vm: &VmFd) -> Result<Self, VmError> {
        let mut controllers =
            [0, 1, 2].map(|chip_id| kvm_irqchip { chip_id, ..Default::default() });
        for chip in &mut controllers {
            vm.get_irqchip(chip).map_err(kvm("KVM_GET_IRQCHIP"))?;
        }
        Ok(Self { controllers, pit: vm.get_pit2().map_err(kvm("KVM_GET_PIT2"))? })
    }

    /// Gives it to a machine that does not run.
    ///
    /// # Errors
    /// See [`VmError`].
    pub fn restore(&self, vm: &VmFd) -> Result<(), VmError> {
        for chip in &self.controllers {
            vm.set_irqchip(chip).map_err(kvm("KVM_SET_IRQCHIP"))?;
        }
        vm.set_pit2(&self.pit).map_err(kvm("KVM_SET_PIT2"))
    }
}

impl std::fmt::Debug for Chips {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chips").finish_non_exhaustive()
    }
}
