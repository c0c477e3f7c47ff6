//! A page that a device process shares, and that a guest may read without leaving itself.

use std::sync::Arc;

use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::Cap;
use vhost_runtime::inflight::Region;

use super::vm::{Vm, VmError, kvm};

const SIZE: usize = 4096;

/// The page. What the guest writes there is no access to it: the machine's bus gets that.
#[derive(Debug)]
pub struct Page {
    vm: Arc<Vm>,
    slot: u32,
    region: Arc<Region>,
    /// Its first doubleword.
    first: usize,
}

impl Page {
    /// The page of a region that begins with that doubleword. `None`: that is none, or KVM can't show any.
    #[must_use]
    pub fn new(vm: &Arc<Vm>, region: &Arc<Region>, first: usize) -> Option<Self> {
        let words = region.words().get(first..first.checked_add(SIZE / 4)?)?;
        let is_page = words.as_ptr().addr().is_multiple_of(SIZE);
        (is_page && vm.fd().check_extension(Cap::ReadonlyMem)).then(|| Self {
            vm: Arc::clone(vm),
            slot: vm.slot(),
            region: Arc::clone(region),
            first,
        })
    }

    /// Lets the guest read it at that address, where nothing else is, or nowhere.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn show(&self, address: Option<u64>) -> Result<(), VmError> {
        let words = self.region.words().get(self.first..).unwrap_or_default();
        let region = kvm_userspace_memory_region {
            slot: self.slot,
            flags: KVM_MEM_READONLY,
            guest_phys_addr: address.unwrap_or(0),
            memory_size: if address.is_some() { SIZE as u64 } else { 0 },
            userspace_addr: words.as_ptr().addr() as u64,
        };
        // SAFETY: the region is mapped for as long as this is, which hides the page when it is dropped, and as
        // much of it from there on (`new`). The guest can only read it, and everybody's accesses are atomic.
        unsafe { self.vm.fd().set_user_memory_region(region) }
            .map_err(kvm("KVM_SET_USER_MEMORY_REGION"))
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // It fails if it was not shown.
        let _ = self.show(None);
    }
}
