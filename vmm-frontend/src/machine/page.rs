//! A page that a device process shares, and that a guest may read without leaving itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    /// The guest can read it.
    shown: AtomicBool,
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
            shown: AtomicBool::new(false),
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
            userspace_addr: words.as_ptr().expose_provenance() as u64,
        };
        // SAFETY: as much of the region from there on is mapped (`new`), for as long as this shows it: when it
        // is dropped it hides the page, or leaves the region mapped for ever. The guest can only read it, and
        // everybody's accesses are atomic.
        unsafe { self.vm.fd().set_user_memory_region(region) }
            .map_err(kvm("KVM_SET_USER_MEMORY_REGION"))?;
        self.shown.store(address.is_some(), Ordering::SeqCst);
        Ok(())
    }

    /// Whether the guest can read it.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        self.shown.load(Ordering::SeqCst)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        if self.is_shown()
            && let Err(error) = self.show(None)
        {
            log::error!("a page cannot be hidden from the guest: {error}");
            std::mem::forget(Arc::clone(&self.region));
        }
    }
}
