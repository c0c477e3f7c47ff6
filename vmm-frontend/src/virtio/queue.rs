//! The device's side of a ring, for devices in this process: that of `vhost-runtime`, which trusts
//! no driver.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vhost_runtime::chain::Chain;
use vhost_runtime::dirty_log::DirtyLog;
use vhost_runtime::memory::{self, Memory, RegionSpec};
use vhost_runtime::queue::{Base, Queue, QueueError, RingSetup};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};
use vm_memory::{
    Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap,
};
use vmm_sys_util::eventfd::EventFd;

use super::StartError;
use crate::frontend::memory as guest;
use crate::reactor::{Handler, Reactor, Watch};

/// What every device in this process offers.
pub(super) const FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// Chains that a queue is served before others have their turn.
pub(super) const TURN: usize = 64;

/// Why devices in this process can't reach guest memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// No descriptor is left.
    #[error("guest memory cannot be shared")]
    Host(#[from] io::Error),
    /// The host refused.
    #[error(transparent)]
    Map(#[from] memory::MemoryError),
}

/// Guest memory for the devices in this process, which all share it: mapped once more, so that
/// what they write is logged while a migration asks for that.
///
/// # Errors
/// See [`MemoryError`].
pub fn memory(guest: &guest::Memory, log: Arc<DirtyLog>) -> Result<Arc<Memory>, MemoryError> {
    let spec = |region: &GuestRegionMmap| {
        // What is in no file is no memory that a device could write to: firmware, say.
        let offset = region.file_offset()?;
        let file = match offset.file().try_clone() {
            Ok(file) => file,
            Err(error) => return Some(Err(error)),
        };
        let guest = region.start_addr().raw_value();
        let size = region.len();
        Some(Ok(RegionSpec { guest, size, user: guest, offset: offset.start(), file }))
    };
    let table = guest.space().iter().filter_map(spec).collect::<io::Result<Vec<_>>>()?;
    Ok(Arc::new(Memory::new(table, log)?))
}

/// A queue that is served on the reactor.
#[derive(Debug)]
pub(super) struct Served {
    queue: Queue,
    kick: Arc<EventFd>,
    _kicked: Watch,
}

impl Served {
    /// Goes on where the used ring ends: what was taken from the ring before but not given back is
    /// taken again, so a device that keeps the order of a ring needs to remember no index.
    pub(super) fn start(
        setup: &super::Queue,
        features: u64,
        memory: &Arc<Memory>,
        reactor: &Reactor,
        kicked: Handler,
    ) -> Result<Self, StartError> {
        let index = usize::from(setup.index);
        let used = setup.used.checked_add(2).ok_or(QueueError::Invalid(index))?;
        let base: u16 = memory
            .space()
            .load(GuestAddress(used), Ordering::Acquire)
            .map_err(|_| QueueError::Invalid(index))?;
        let ring = RingSetup {
            size: setup.size,
            descriptors: setup.descriptors,
            available: setup.available,
            used: setup.used,
            base: Base::Split(u16::from_le(base)),
            event_index: features & 1 << VIRTIO_RING_F_EVENT_IDX != 0,
            indirect: features & 1 << VIRTIO_RING_F_INDIRECT_DESC != 0,
        };
        let mut queue = Queue::start(index, ring, Arc::clone(memory), None)?;
        queue.set_call(Some(setup.call.try_clone()?));
        let kick = Arc::clone(&setup.kick);
        let served = Self { queue, _kicked: reactor.watch_event(&kick, kicked)?, kick };
        // There may be chains already.
        served.serve_later();
        Ok(served)
    }

    /// The next chain. After `None` the driver kicks when there is one, unless it broke the rules.
    pub(super) fn pop(&mut self) -> Option<Chain> {
        let chain = self.queue.pop();
        if chain.is_some() || !self.queue.enable_kicks() {
            return chain;
        }
        let chain = self.queue.pop();
        if chain.is_none() {
            // An available index that goes to and fro must not keep anyone here.
            self.serve_later();
        }
        chain
    }

    /// Gives a chain back, with so many bytes written. The driver is told by
    /// [`notify`](Self::notify).
    pub(super) fn complete(&mut self, chain: Chain, written: usize) {
        // A chain has fewer than 2^32 bytes.
        self.queue.complete(chain, u32::try_from(written).unwrap_or(u32::MAX));
    }

    /// Tells the driver of what was given back, if it wants to be told.
    pub(super) fn notify(&mut self) {
        self.queue.notify();
    }

    /// Has the queue served again, after others.
    pub(super) fn serve_later(&self) {
        if let Err(error) = self.kick.write(1)
            && error.kind() != io::ErrorKind::WouldBlock
        {
            log::warn!("queue {} may stand still: {error}", self.queue.index());
        }
    }

    /// Stops serving it: its driver broke the rules.
    pub(super) fn fail(&mut self, what: &'static str) {
        self.queue.fail(&QueueError::Request(what));
    }
}
