//! A virtqueue (split ring) as a device sees it: chains come out, completions go in.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_bindings::bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue as Ring, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use crate::chain::{Chain, ChainError};
use crate::inflight::QueueRecord;
use crate::memory::Memory;

/// What is wrong with a ring: the guest's driver is broken, or the frontend set it up wrongly.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Sizes, alignment, or rings outside guest memory.
    #[error("queue {0} is not set up validly")]
    Invalid(usize),
    /// The driver made more available than the ring holds, or the ring is no longer mapped.
    #[error("the available ring's index is out of bounds")]
    Available,
    /// A chain is malformed.
    #[error("chain at descriptor {head}: {error}")]
    Chain {
        /// Index of its first descriptor.
        head: u16,
        /// What is wrong with it.
        error: ChainError,
    },
    /// The used ring can't be written.
    #[error("the used ring is not guest memory")]
    Used,
    /// A request without room for its response, say.
    #[error("{0}")]
    Request(&'static str),
}

/// Where a queue's rings lie and how far they are, as the frontend sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSetup {
    /// Descriptors: a power of two.
    pub size: u16,
    /// Guest address of the descriptor table.
    pub descriptors: u64,
    /// Guest address of the available ring.
    pub available: u64,
    /// Guest address of the used ring.
    pub used: u64,
    /// The available index to go on from.
    pub base: u16,
    /// VIRTIO_F_RING_EVENT_IDX is negotiated.
    pub event_index: bool,
    /// VIRTIO_F_RING_INDIRECT_DESC is negotiated.
    pub indirect: bool,
}

/// Bytes of an entry of the available ring, and of one of the used ring.
const HEAD: u64 = 2;
const USED_ELEMENT: u64 = 8;

/// Where an entry of `width` bytes is, behind the ring's flags and index (virtio 1.2, 2.7.6 and
/// 2.7.8). Behind the last one is the event index.
fn entry(ring: u64, number: u16, width: u64) -> GuestAddress {
    let offset = u64::from(number).saturating_mul(width).saturating_add(4);
    GuestAddress(ring.saturating_add(offset))
}

/// A started virtqueue.
#[derive(Debug)]
pub struct Queue {
    index: usize,
    ring: Ring,
    indirect: bool,
    memory: Arc<Memory>,
    call: Option<EventFd>,
    error: Option<EventFd>,
    record: Option<QueueRecord>,
    /// The places of completed requests, for the next ones.
    spare: Vec<Chain>,
    /// Requests that come before new ones: of a former process, or given back.
    again: VecDeque<u16>,
    /// The available index as last read.
    available: u16,
    /// The available index at the last look whether there are new requests.
    seen: u16,
    /// Heads that are in the used ring, past the index that the driver sees.
    unpublished: Vec<u16>,
    /// The used index when it was last decided whether to notify the driver.
    notified: u16,
    /// Completions that the driver was not told yet.
    untold: bool,
    broken: bool,
}

impl Queue {
    /// Starts a queue where its frontend says, or where a former process's record says.
    ///
    /// # Errors
    /// The setup is invalid.
    pub fn start(
        index: usize,
        setup: RingSetup,
        memory: Arc<Memory>,
        record: Option<QueueRecord>,
    ) -> Result<Self, QueueError> {
        let invalid = |_| QueueError::Invalid(index);
        let mut ring = Ring::new(setup.size).map_err(invalid)?;
        ring.try_set_desc_table_address(GuestAddress(setup.descriptors)).map_err(invalid)?;
        ring.try_set_avail_ring_address(GuestAddress(setup.available)).map_err(invalid)?;
        ring.try_set_used_ring_address(GuestAddress(setup.used)).map_err(invalid)?;
        ring.set_event_idx(setup.event_index);
        ring.set_ready(true);
        if !ring.is_valid(memory.space()) {
            return Err(QueueError::Invalid(index));
        }
        let used = ring
            .used_idx(memory.space(), Ordering::Acquire)
            .map_err(|_| QueueError::Invalid(index))?
            .0;
        let mut queue = Self {
            index,
            ring,
            indirect: setup.indirect,
            memory,
            call: None,
            error: None,
            record,
            spare: Vec::new(),
            again: VecDeque::new(),
            available: 0,
            seen: 0,
            unpublished: Vec::new(),
            notified: used,
            untold: false,
            broken: false,
        };
        let mut base = setup.base;
        if let Some(record) = &mut queue.record
            && let Some(under_way) = record.recover(used)
        {
            // What a former process took from the ring and did not complete lies between the used
            // index and the base. The frontend's own idea of the base may be where the driver is.
            base = used.wrapping_add(u16::try_from(under_way.len()).unwrap_or(0));
            queue.again = under_way.into();
        }
        queue.ring.set_next_avail(base);
        queue.ring.set_next_used(used);
        queue.available = base;
        queue.seen = base;
        Ok(queue)
    }

    /// Its number.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// The available index to go on from, once everything taken is completed or given back.
    #[must_use]
    pub fn base(&self) -> u16 {
        let back = u16::try_from(self.again.len()).unwrap_or(u16::MAX);
        self.ring.next_avail().wrapping_sub(back)
    }

    /// Ends it, with everything taken completed; returns the available index to go on from.
    pub(crate) fn close(mut self) -> u16 {
        self.notify();
        if let Some(record) = &mut self.record {
            record.clear();
        }
        self.base()
    }

    /// It stopped because its driver broke the rules.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Takes the memory table that requests from now on are parsed with.
    pub fn set_memory(&mut self, memory: Arc<Memory>) {
        self.memory = memory;
        self.spare.clear();
    }

    /// Takes the event by which the driver is told of completions, and tells it of those that it may
    /// not have been told of: a former process died in between, or signalled an event that the
    /// frontend has replaced. An interrupt for nothing is harmless, a missing one is not.
    pub fn set_call(&mut self, call: Option<EventFd>) {
        self.call = call;
        if self.call.is_some() {
            self.untold = false;
            self.signal();
        }
    }

    /// The guest's memory.
    #[must_use]
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Writes to the call event, whatever is in the ring: for a device whose interrupt it is.
    pub fn interrupt(&self) {
        self.signal();
    }

    /// Takes the event by which the frontend is told that the queue is broken.
    pub fn set_error(&mut self, error: Option<EventFd>) {
        self.error = error;
    }

    /// The next request. `None` when there is none, or the queue is broken.
    pub fn pop(&mut self) -> Option<Chain> {
        if self.broken {
            return None;
        }
        match self.try_pop() {
            Ok(chain) => chain,
            Err(error) => {
                self.fail(&error);
                None
            }
        }
    }

    fn try_pop(&mut self) -> Result<Option<Chain>, QueueError> {
        let head = match self.again.pop_front() {
            Some(head) => head,
            None => match self.next_head()? {
                Some(head) => head,
                None => return Ok(None),
            },
        };
        let table = self.ring.desc_table();
        let mut chain = self.spare.pop().unwrap_or_else(|| Chain::empty(&self.memory));
        chain
            .parse(table, self.ring.size(), head, self.indirect)
            .map_err(|error| QueueError::Chain { head, error })?;
        if let Some(record) = &mut self.record {
            record.begin(head);
        }
        Ok(Some(chain))
    }

    fn next_head(&mut self) -> Result<Option<u16>, QueueError> {
        let space = self.memory.space();
        let next = self.ring.next_avail();
        if next == self.available {
            let available =
                self.ring.avail_idx(space, Ordering::Acquire).map_err(|_| QueueError::Available)?.0;
            if available.wrapping_sub(next) > self.ring.size() {
                return Err(QueueError::Available);
            }
            if available == next {
                return Ok(None);
            }
            self.available = available;
            self.seen = available;
        }
        let address = entry(self.ring.avail_ring(), self.slot(next), HEAD);
        let head: u16 =
            space.load(address, Ordering::Relaxed).map_err(|_| QueueError::Available)?;
        self.ring.set_next_avail(next.wrapping_add(1));
        Ok(Some(u16::from_le(head)))
    }

    /// Puts a request that nothing was done with back where it was: the next to be taken is this one.
    /// Of several, the one that was taken last comes first; others that were taken later are not
    /// completed any more.
    pub fn give_back(&mut self, chain: Chain) {
        if let Some(record) = &mut self.record {
            record.undo(chain.head());
        }
        self.again.push_front(chain.head());
        self.reuse(chain);
    }

    fn reuse(&mut self, chain: Chain) {
        if chain.is_reusable(&self.memory) {
            self.spare.push(chain);
        }
    }

    /// Gives a request back to the driver: `written` bytes of its writable buffers were written.
    /// The driver sees it after the next [`publish`](Self::publish) or [`notify`](Self::notify):
    /// it reads the used index all the time, so that each change of it costs both sides.
    pub fn complete(&mut self, chain: Chain, written: u32) {
        let head = chain.head();
        let slot = self.slot(self.ring.next_used());
        let address = entry(self.ring.used_ring(), slot, USED_ELEMENT);
        // `struct virtq_used_elem`: le32 id, le32 len.
        let element = u64::from(head) | u64::from(written) << 32;
        if self.memory.space().write_obj(element.to_le(), address).is_err() {
            self.fail(&QueueError::Used);
            return;
        }
        self.ring.set_next_used(self.ring.next_used().wrapping_add(1));
        if let Some(record) = &mut self.record {
            record.finishing(head);
        }
        self.unpublished.push(head);
        self.reuse(chain);
    }

    /// Lets the driver see all that is completed.
    pub fn publish(&mut self) {
        if self.unpublished.is_empty() {
            return;
        }
        let used = self.ring.next_used();
        let address = GuestAddress(self.ring.used_ring().saturating_add(2));
        if self.memory.space().store(used.to_le(), address, Ordering::Release).is_err() {
            self.unpublished.clear();
            self.fail(&QueueError::Used);
            return;
        }
        if let Some(record) = &mut self.record {
            record.finished(&self.unpublished, used);
        }
        self.unpublished.clear();
        self.untold = true;
    }

    /// Lets the driver see all that is completed, and tells it, if it wants to be told.
    pub fn notify(&mut self) {
        self.publish();
        if !std::mem::take(&mut self.untold) {
            return;
        }
        match self.driver_wants_notification() {
            Ok(true) if self.call.is_none() => self.untold = true, // the call event may come yet
            Ok(true) => self.signal(),
            Ok(false) => {}
            Err(error) => self.fail(&error),
        }
    }

    fn driver_wants_notification(&mut self) -> Result<bool, QueueError> {
        // What was published comes before what the driver is found to want (virtio 1.2, 2.7.7.2).
        fence(Ordering::SeqCst);
        let space = self.memory.space();
        let used = self.ring.next_used();
        let notified = std::mem::replace(&mut self.notified, used);
        if self.ring.event_idx_enabled() {
            let address = entry(self.ring.avail_ring(), self.ring.size(), HEAD);
            let event: u16 =
                space.load(address, Ordering::Relaxed).map_err(|_| QueueError::Available)?;
            let event = u16::from_le(event);
            // Whether the index passed the one after which the driver wants to be told.
            let passed = used.wrapping_sub(event).wrapping_sub(1);
            return Ok(passed < used.wrapping_sub(notified));
        }
        let address = GuestAddress(self.ring.avail_ring());
        let flags: u16 =
            space.load(address, Ordering::Relaxed).map_err(|_| QueueError::Available)?;
        Ok(u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0)
    }

    fn signal(&self) {
        if let Some(call) = &self.call
            && let Err(error) = call.write(1)
            && error.kind() != std::io::ErrorKind::WouldBlock
        {
            log::warn!("queue {}: the driver cannot be notified: {error}", self.index);
        }
    }

    /// Some requests came since they were looked at last: what a device leaves in the ring on purpose
    /// does not count.
    pub(crate) fn has_news(&mut self) -> bool {
        match self.newest() {
            Ok(available) if !self.broken => self.is_news(available),
            _ => false, // an error is for whoever takes requests
        }
    }

    fn is_news(&mut self, available: u16) -> bool {
        available != std::mem::replace(&mut self.seen, available)
            && available != self.ring.next_avail()
    }

    /// Asks the driver to kick at new requests. `true` if some came since they were looked at last.
    pub fn enable_kicks(&mut self) -> bool {
        if self.broken {
            return false;
        }
        match self.try_enable_kicks() {
            Ok(available) => self.is_news(available) || !self.again.is_empty(),
            Err(error) => {
                self.fail(&error);
                false
            }
        }
    }

    /// Returns the available index after that. With the event index the driver kicks when it passes
    /// the one told here (virtio 1.2, 2.7.10): the newest one, since what was left in the ring on
    /// purpose has been passed already.
    fn try_enable_kicks(&mut self) -> Result<u16, QueueError> {
        if self.ring.event_idx_enabled() {
            let newest = self.newest()?;
            let event = entry(self.ring.used_ring(), self.ring.size(), USED_ELEMENT);
            let space = self.memory.space();
            space.store(newest.to_le(), event, Ordering::Relaxed).map_err(|_| QueueError::Used)?;
            fence(Ordering::SeqCst);
        } else {
            let space = self.memory.space();
            self.ring.enable_notification(space).map_err(|_| QueueError::Used)?;
        }
        self.newest()
    }

    /// The entry of a ring that an index of requests or completions stands for.
    fn slot(&self, index: u16) -> u16 {
        index.checked_rem(self.ring.size()).unwrap_or(0)
    }

    /// All that was taken is completed.
    pub(crate) fn is_idle(&self) -> bool {
        self.again.is_empty() && self.ring.next_avail() == self.ring.next_used()
    }

    /// The available index as it is now.
    fn newest(&self) -> Result<u16, QueueError> {
        let index = self.ring.avail_idx(self.memory.space(), Ordering::Acquire);
        index.map(|index| index.0).map_err(|_| QueueError::Available)
    }

    /// Tells the driver that it need not kick for now.
    pub fn disable_kicks(&mut self) {
        if !self.broken && self.ring.disable_notification(self.memory.space()).is_err() {
            self.fail(&QueueError::Used);
        }
    }

    /// Stops serving it until it is started anew, and tells the frontend.
    pub fn fail(&mut self, error: &QueueError) {
        log::error!("queue {} is broken until the driver resets it: {error}", self.index);
        self.broken = true;
        if let Some(event) = &self.error
            && let Err(error) = event.write(1)
        {
            log::warn!("queue {}: the frontend cannot be told: {error}", self.index);
        }
    }
}

#[cfg(test)]
mod tests;
