//! A virtqueue as a device sees it: chains come out, completions go in.
//!
//! What the two formats of rings have in common is here; [`split`] and [`packed`] are the formats.

mod base;
mod descriptors;
mod packed;
mod split;

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use crate::chain::{Chain, ChainError};
use crate::inflight::Region;
use crate::memory::Memory;
pub use base::{Base, Position};
use packed::Packed;
use split::Split;

/// What is wrong with a ring: the guest's driver is broken, or the frontend set it up wrongly.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Sizes, alignment, or rings outside guest memory.
    #[error("queue {0} is not set up validly")]
    Invalid(usize),
    /// The driver made more available than the ring holds, or the ring is no longer mapped.
    #[error("more is available than the ring holds, or the ring is not guest memory")]
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
    /// Descriptors: a power of two in a split ring, at most 2^15.
    pub size: u16,
    /// Guest address of the descriptors.
    pub descriptors: u64,
    /// Guest address of the available ring, or of a packed ring's driver event suppression structure.
    pub available: u64,
    /// Guest address of the used ring, or of a packed ring's device event suppression structure.
    pub used: u64,
    /// Where to go on, and by that the ring's format.
    pub base: Base,
    /// VIRTIO_F_RING_EVENT_IDX is negotiated.
    pub event_index: bool,
    /// VIRTIO_F_RING_INDIRECT_DESC is negotiated.
    pub indirect: bool,
}

/// A started virtqueue.
#[derive(Debug)]
pub struct Queue {
    index: usize,
    format: Format,
    memory: Arc<Memory>,
    call: Option<EventFd>,
    error: Option<EventFd>,
    spare: Spare,
    /// Completions that the driver was not told yet.
    untold: bool,
    broken: bool,
}

#[derive(Debug)]
enum Format {
    Split(Split),
    Packed(Packed),
}

/// Does the same in either format.
macro_rules! in_format {
    ($queue:expr, $ring:ident => $does:expr) => {
        match &mut $queue.format {
            Format::Split($ring) => $does,
            Format::Packed($ring) => $does,
        }
    };
}

/// The places of completed requests, for the next ones.
#[derive(Debug, Default)]
struct Spare(Vec<Chain>);

impl Spare {
    fn get(&mut self, memory: &Arc<Memory>) -> Chain {
        self.0.pop().unwrap_or_else(|| Chain::empty(memory))
    }

    fn put(&mut self, memory: &Arc<Memory>, chain: Chain) {
        if chain.is_reusable(memory) {
            self.0.push(chain);
        }
    }
}

impl Queue {
    /// Starts a queue where its frontend says, or where a former process's record in the region says.
    ///
    /// # Errors
    /// The setup is invalid.
    pub fn start(
        index: usize,
        setup: RingSetup,
        memory: Arc<Memory>,
        region: Option<&Arc<Region>>,
    ) -> Result<Self, QueueError> {
        let number = u16::try_from(index).map_err(|_| QueueError::Invalid(index))?;
        let format = match setup.base {
            Base::Split(_) => {
                let record = region.and_then(|region| region.queue(number, setup.size));
                Format::Split(Split::start(index, &setup, &memory, record)?)
            }
            Base::Packed { .. } => {
                let record = region.and_then(|region| region.packed_queue(number, setup.size));
                if region.is_some() && record.is_none() {
                    log::warn!("queue {index}: the in-flight region has no room for its requests");
                }
                Format::Packed(Packed::start(index, &setup, &memory, record)?)
            }
        };
        Ok(Self {
            index,
            format,
            memory,
            call: None,
            error: None,
            spare: Spare::default(),
            untold: false,
            broken: false,
        })
    }

    /// Its number.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Where to go on, once everything taken is completed or given back.
    #[must_use]
    pub fn base(&self) -> Base {
        match &self.format {
            Format::Split(ring) => ring.base(),
            Format::Packed(ring) => ring.base(),
        }
    }

    /// Ends it, with everything taken completed; returns where to go on.
    pub(crate) fn close(mut self) -> Base {
        self.notify();
        in_format!(self, ring => ring.clear_record());
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
        self.spare = Spare::default();
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
        match in_format!(self, ring => ring.next(&self.memory, &mut self.spare)) {
            Ok(chain) => chain,
            Err(error) => {
                self.fail(&error);
                None
            }
        }
    }

    /// Puts a request that nothing was done with back where it was: the next to be taken is this one.
    /// Of several, the one that was taken last comes first; others that were taken later are not
    /// completed any more.
    pub fn give_back(&mut self, chain: Chain) {
        in_format!(self, ring => ring.give_back(&chain));
        self.spare.put(&self.memory, chain);
    }

    /// Gives a request back to the driver: `written` bytes of its writable buffers were written.
    /// The driver sees it after the next [`publish`](Self::publish) or [`notify`](Self::notify):
    /// it looks all the time whether there are more, so that each change of that costs both sides.
    pub fn complete(&mut self, chain: Chain, written: u32) {
        match in_format!(self, ring => ring.complete(&self.memory, &chain, written)) {
            Ok(()) => self.spare.put(&self.memory, chain),
            Err(error) => self.fail(&error),
        }
    }

    /// Lets the driver see all that is completed.
    pub fn publish(&mut self) {
        match in_format!(self, ring => ring.publish(&self.memory)) {
            Ok(some) => self.untold |= some,
            Err(error) => self.fail(&error),
        }
    }

    /// Lets the driver see all that is completed, and tells it, if it wants to be told.
    pub fn notify(&mut self) {
        self.publish();
        if !std::mem::take(&mut self.untold) {
            return;
        }
        match in_format!(self, ring => ring.driver_wants_notification(&self.memory)) {
            Ok(true) if self.call.is_none() => self.untold = true, // the call event may come yet
            Ok(true) => self.signal(),
            Ok(false) => {}
            Err(error) => self.fail(&error),
        }
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
        // An error is for whoever takes requests.
        !self.broken && in_format!(self, ring => ring.has_news(&self.memory)).unwrap_or(false)
    }

    /// Asks the driver to kick at new requests. `true` if some came since they were looked at last.
    pub fn enable_kicks(&mut self) -> bool {
        if self.broken {
            return false;
        }
        match in_format!(self, ring => ring.enable_kicks(&self.memory)) {
            Ok(news) => news,
            Err(error) => {
                self.fail(&error);
                false
            }
        }
    }

    /// All that was taken is completed.
    pub(crate) fn is_idle(&self) -> bool {
        match &self.format {
            Format::Split(ring) => ring.is_idle(),
            Format::Packed(ring) => ring.is_idle(),
        }
    }

    /// Tells the driver that it need not kick for now.
    pub fn disable_kicks(&mut self) {
        if !self.broken
            && let Err(error) = in_format!(self, ring => ring.disable_kicks(&self.memory))
        {
            self.fail(&error);
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
