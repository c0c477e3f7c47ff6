//! What a device implements to be served over vhost-user.

use std::error::Error;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use crate::inflight::Region;
use crate::queue::Queue;
use crate::session::Frontend;
use crate::state::StateError;

/// A device: its control plane. Called by the session, one call at a time, never by a queue's worker.
pub trait Device: Send + Sync + 'static {
    /// What serves this device's queues.
    type Worker: QueueWorker;

    /// Its name in device state and logs, as that of its program.
    fn name(&self) -> &'static str;

    /// How many virtqueues it has.
    fn queues(&self) -> u16;

    /// Descriptors that a queue may have: a power of two.
    fn queue_size(&self) -> u16;

    /// Doublewords that it shares with the frontend, which keeps them for the next process: a device whose
    /// [registers](crate::registers) are read without a message.
    fn shared_words(&self) -> usize {
        0
    }

    /// The region with these doublewords, before the first ring starts; or it is given back.
    fn set_region(&self, _region: Option<Arc<Region>>) {}

    /// Its own feature bits; the runtime adds those of the rings and of the transport.
    fn features(&self) -> u64;

    /// Each queue's requests are completed in the order in which they were taken (VIRTIO_F_IN_ORDER).
    /// The driver is told of every one all the same: to skip some is allowed (virtio 1.2, 2.7.9 and
    /// 2.8.8), but says of those that all their buffers were written.
    fn completes_in_order(&self) -> bool {
        false
    }

    /// Feature bits of the rings' that are not to be offered.
    fn unwanted_features(&self) -> u64 {
        0
    }

    /// The driver accepted these.
    fn set_features(&self, features: u64);

    /// Its whole configuration space, as it is now.
    fn config(&self) -> Vec<u8>;

    /// The driver writes to the configuration space, `bytes` at `offset`.
    ///
    /// # Errors
    /// These bytes are not writable, or not with this value.
    fn set_config(&self, offset: u32, bytes: &[u8]) -> Result<(), ConfigError>;

    /// The number of the worker that serves `queue`. Queues with the same number share a thread.
    fn worker_of(&self, queue: u16) -> u16;

    /// Makes worker `number`, on the thread where it will stay.
    ///
    /// # Errors
    /// A host resource is missing.
    fn worker(self: Arc<Self>, number: u16) -> io::Result<Self::Worker>;

    /// The first ring is about to start, and the record of requests under way is not new: the driver
    /// goes on with a device that it knows, whatever became of the process that served it.
    fn goes_on(&self) {}

    /// The first of the device's rings is started where a driver begins, before [`activate`](Self::activate): whatever
    /// there was of another one is over. Not every frontend sends RESET_DEVICE when the guest is reset.
    fn begins(&self) {}

    /// The first ring is about to start: take what the guest's data needs (locks, metadata).
    ///
    /// # Errors
    /// It can't be had; the ring does not start.
    fn activate(&self) -> Result<(), Box<dyn Error + Send + Sync>>;

    /// A ring is to stop, and somebody waits for its last request: what would take long is ended early.
    /// Until [`ring_stopped`](Self::ring_stopped).
    fn ring_stops(&self) {}

    /// It has stopped.
    fn ring_stopped(&self) {}

    /// The last ring has stopped: make everything durable and give locks back.
    fn deactivate(&self);

    /// The driver reset the device.
    fn reset(&self);

    /// Its state beyond the rings, for another process to go on with. No ring runs.
    ///
    /// # Errors
    /// It can't be read.
    fn save(&self) -> Result<serde_json::Value, StateError>;

    /// Takes another process's state. No ring runs.
    ///
    /// # Errors
    /// It does not fit this device, as configured.
    fn load(&self, state: serde_json::Value) -> Result<(), StateError>;

    /// A frontend is connected; it can be told of configuration changes until it goes.
    fn connected(&self, frontend: Frontend);
}

/// The driver wrote what it must not.
#[derive(Debug, thiserror::Error)]
#[error("configuration space: {length} bytes at {offset:#x} cannot be written so")]
pub struct ConfigError {
    /// Where, in bytes.
    pub offset: u32,
    /// How many bytes.
    pub length: usize,
}

/// How much of what there is to do was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// All requests that there were, or all that are wanted now: the driver kicks for the next.
    All,
    /// Not all: the others come in the next round, after this one's completions were told.
    Some,
    /// As many as are wanted: the driver need not kick for more until the worker itself
    /// [asks for it](Queue::enable_kicks).
    Enough,
}

/// What serves some of a device's queues: it lives on one thread, which must never block.
pub trait QueueWorker {
    /// Descriptors that make a [`turn`](Self::turn) each time that they become readable, or are
    /// written to again: they need not be read. The same for all its life.
    fn events(&self) -> Vec<RawFd>;

    /// Requests may have become available: take them, or as many as should begin together.
    fn process(&mut self, queue: &mut Queue) -> Taken;

    /// Requests may be available in a started queue that is not enabled any more, which are to have no
    /// effect (vhost-user, "Ring states"): by default they wait until it is again.
    fn discard(&mut self, _queue: &mut Queue) {}

    /// It is worth while to look for the next request for a moment, before it is slept for its kick.
    fn hurries(&self) -> bool {
        true
    }

    /// A started queue is enabled now, or no more.
    fn enabled(&mut self, _index: usize, _enabled: bool) {}

    /// Called once in each round, after all queues were processed or an event came: submit what was
    /// gathered, and complete what is done. [`Taken::Some`]: there is more to do in the next round.
    fn turn(&mut self, queues: &mut Queues) -> Taken;

    /// The queue is to stop: end what waits for the host's goodwill. It has stopped when
    /// [`in_flight`](Self::in_flight) is 0.
    fn stop(&mut self, queue: &mut Queue);

    /// Requests taken from queue `index` and not completed.
    fn in_flight(&self, index: usize) -> usize;
}

/// The started queues of one worker.
#[derive(Debug, Default)]
pub struct Queues {
    queues: Vec<Queue>,
}

impl FromIterator<Queue> for Queues {
    fn from_iter<I: IntoIterator<Item = Queue>>(queues: I) -> Self {
        Self { queues: queues.into_iter().collect() }
    }
}

impl Queues {
    pub(crate) fn get(&self, index: usize) -> Option<&Queue> {
        self.queues.iter().find(|queue| queue.index() == index)
    }

    /// The queue of this number, if it is started.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut Queue> {
        self.queues.iter_mut().find(|queue| queue.index() == index)
    }

    /// All of them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Queue> {
        self.queues.iter_mut()
    }

    pub(crate) fn insert(&mut self, queue: Queue) {
        self.remove(queue.index());
        self.queues.push(queue);
    }

    pub(crate) fn remove(&mut self, index: usize) -> Option<Queue> {
        let place = self.queues.iter().position(|queue| queue.index() == index)?;
        Some(self.queues.swap_remove(place))
    }
}
