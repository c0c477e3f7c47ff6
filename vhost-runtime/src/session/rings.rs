//! A session's rings: what the frontend said of each, which run, and the workers that serve them.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::sync::Arc;

use virtio_bindings::bindings::virtio_config::VIRTIO_F_RING_PACKED;
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};
use vmm_sys_util::eventfd::EventFd;

use crate::device::Device;
use crate::inflight::Region;
use crate::memory::Memory;
use crate::queue::{Base, Queue, QueueError, RingSetup};
use crate::worker::{Kick, WorkerThread};

/// Why a ring does not start, or what was said of it is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum RingError {
    #[error("there is no queue {0}: the VMM was told of more than the device has")]
    Index(u32),
    #[error("queue {index} cannot have {size} descriptors")]
    Size { index: u32, size: u32 },
    #[error(
        "queue {index} has no base {base:#x}: only packed rings, which were not negotiated, have it"
    )]
    Base { index: u32, base: u32 },
    #[error("queue {0} has rings outside the memory table")]
    Address(u32),
    #[error("queue {0} runs and cannot be set up anew")]
    Running(u32),
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error("the device cannot start: {0}")]
    Activate(Box<dyn std::error::Error + Send + Sync>),
    #[error("a worker cannot start: {0}")]
    Worker(io::Error),
}

/// Addresses in the frontend's own address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
}

#[derive(Default)]
struct Ring {
    size: u16,
    addresses: Option<Addresses>,
    /// As the frontend says it: what it means depends on the ring's format.
    base: Option<u32>,
    call: Option<EventFd>,
    error: Option<EventFd>,
    enabled: bool,
    running: bool,
}

/// The driver chose packed rings.
fn packed(features: u64) -> bool {
    features & 1 << VIRTIO_F_RING_PACKED != 0
}

/// An event from the frontend. Non-blocking, whatever it really is: no worker waits for a peer.
fn event(file: File) -> EventFd {
    let fd = file.into_raw_fd();
    // SAFETY: `fd` is open: it was just taken out of its owner.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    // SAFETY: as above.
    if flags < 0 || unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) } < 0 {
        log::warn!("an event descriptor stays blocking: {}", io::Error::last_os_error());
    }
    // SAFETY: as above; the EventFd is its owner now.
    unsafe { EventFd::from_raw_fd(fd) }
}

fn duplicate(event: Option<&EventFd>) -> Option<EventFd> {
    event.and_then(|event| match event.try_clone() {
        Ok(copy) => Some(copy),
        Err(error) => {
            log::error!("an event cannot be duplicated: {error}");
            None
        }
    })
}

pub(super) struct Rings<D: Device> {
    device: Arc<D>,
    rings: Vec<Ring>,
    workers: HashMap<u16, WorkerThread>,
    active: bool,
}

impl<D: Device> Rings<D> {
    pub(super) fn new(device: Arc<D>) -> Self {
        let rings = (0..device.queues()).map(|_| Ring::default()).collect();
        Self { device, rings, workers: HashMap::new(), active: false }
    }

    fn ring(&mut self, index: u32) -> Result<&mut Ring, RingError> {
        let place = usize::try_from(index).map_err(|_| RingError::Index(index))?;
        self.rings.get_mut(place).ok_or(RingError::Index(index))
    }

    /// The thread that serves a running ring.
    fn worker(&self, index: u32) -> Option<(&WorkerThread, usize)> {
        let number = u16::try_from(index).ok()?;
        let place = usize::from(number);
        if !self.rings.get(place)?.running {
            return None;
        }
        self.workers.get(&self.device.worker_of(number)).map(|worker| (worker, place))
    }

    pub(super) fn any_running(&self) -> bool {
        self.rings.iter().any(|ring| ring.running)
    }

    pub(super) fn set_size(
        &mut self,
        index: u32,
        size: u32,
        features: u64,
    ) -> Result<(), RingError> {
        let any = packed(features); // virtio 1.2, 2.8.10.1
        let most = self.device.queue_size();
        let wrong = RingError::Size { index, size };
        let ring = self.ring(index)?;
        if ring.running {
            return Err(RingError::Running(index));
        }
        match u16::try_from(size) {
            Ok(size) if (size.is_power_of_two() || any && size > 0) && size <= most => {
                ring.size = size;
            }
            _ => return Err(wrong),
        }
        Ok(())
    }

    /// A running ring's addresses may be said again (to log its used ring), but not changed.
    pub(super) fn set_addresses(&mut self, index: u32, new: Addresses) -> Result<(), RingError> {
        let ring = self.ring(index)?;
        if ring.running && ring.addresses != Some(new) {
            return Err(RingError::Running(index));
        }
        ring.addresses = Some(new);
        Ok(())
    }

    pub(super) fn set_base(
        &mut self,
        index: u32,
        base: u32,
        features: u64,
    ) -> Result<(), RingError> {
        let ring = self.ring(index)?;
        if ring.running {
            return Err(RingError::Running(index));
        }
        Base::parse(base, packed(features)).ok_or(RingError::Base { index, base })?;
        ring.base = Some(base);
        Ok(())
    }

    pub(super) fn set_call(&mut self, index: u32, file: Option<File>) -> Result<(), RingError> {
        let ring = self.ring(index)?;
        ring.call = file.map(event);
        let copy = duplicate(ring.call.as_ref());
        if let Some((worker, place)) = self.worker(index) {
            worker.set_call(place, copy);
        }
        Ok(())
    }

    pub(super) fn set_error(&mut self, index: u32, file: Option<File>) -> Result<(), RingError> {
        let ring = self.ring(index)?;
        ring.error = file.map(event);
        let copy = duplicate(ring.error.as_ref());
        if let Some((worker, place)) = self.worker(index) {
            worker.set_error(place, copy);
        }
        Ok(())
    }

    pub(super) fn enable(&mut self, index: u32, enabled: bool) -> Result<(), RingError> {
        self.ring(index)?.enabled = enabled;
        if let Some((worker, place)) = self.worker(index) {
            worker.enable(place, enabled);
        }
        Ok(())
    }

    /// The kick event starts a ring, or replaces that of a running one.
    pub(super) fn set_kick(
        &mut self,
        index: u32,
        file: Option<File>,
        memory: &Arc<Memory>,
        inflight: Option<&Arc<Region>>,
        features: u64,
    ) -> Result<(), RingError> {
        let kick = file.map_or(Kick::Poll, |file| Kick::Event(event(file)));
        self.ring(index)?;
        if let Some((worker, place)) = self.worker(index) {
            worker.set_kick(place, kick);
            return Ok(());
        }
        let setup = self.setup(index, memory, features)?;
        let number = u16::try_from(index).map_err(|_| RingError::Index(index))?;
        if !self.active {
            if inflight.is_some_and(|region| region.is_in_use()) {
                self.device.goes_on();
            } else if number == 0 && setup.base.is_first() {
                self.device.begins();
            }
            self.device.activate().map_err(RingError::Activate)?;
            self.active = true;
        }
        let started = self.start(number, setup, kick, memory, inflight);
        if started.is_err() {
            self.deactivate_if_idle();
        }
        started
    }

    fn setup(
        &mut self,
        index: u32,
        memory: &Memory,
        features: u64,
    ) -> Result<RingSetup, RingError> {
        let ring = self.ring(index)?;
        let addresses = ring.addresses.ok_or(RingError::Address(index))?;
        let base = match ring.base {
            Some(base) => {
                Base::parse(base, packed(features)).ok_or(RingError::Base { index, base })?
            }
            None => Base::start(packed(features)),
        };
        let guest = |user| memory.guest_address(user).ok_or(RingError::Address(index));
        Ok(RingSetup {
            size: ring.size,
            descriptors: guest(addresses.descriptors)?,
            available: guest(addresses.available)?,
            used: guest(addresses.used)?,
            base,
            event_index: features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0,
            indirect: features & (1 << VIRTIO_RING_F_INDIRECT_DESC) != 0,
        })
    }

    fn start(
        &mut self,
        number: u16,
        setup: RingSetup,
        kick: Kick,
        memory: &Arc<Memory>,
        inflight: Option<&Arc<Region>>,
    ) -> Result<(), RingError> {
        let place = usize::from(number);
        let mut queue = Queue::start(place, setup, Arc::clone(memory), inflight)?;
        let worker_number = self.device.worker_of(number);
        if !self.workers.contains_key(&worker_number) {
            let worker =
                WorkerThread::spawn(&self.device, worker_number).map_err(RingError::Worker)?;
            self.workers.insert(worker_number, worker);
        }
        let Some(ring) = self.rings.get_mut(place) else {
            return Err(RingError::Index(number.into()));
        };
        queue.set_call(duplicate(ring.call.as_ref()));
        queue.set_error(duplicate(ring.error.as_ref()));
        ring.running = true;
        if let Some(worker) = self.workers.get(&worker_number) {
            worker.start(queue, kick, ring.enabled);
        }
        Ok(())
    }

    /// Stops a ring when its last request is completed, and returns its base.
    pub(super) fn stop(&mut self, index: u32) -> Result<u32, RingError> {
        let answer = self.worker(index).map(|(worker, place)| worker.stop(place));
        let stopped = answer.map(|answer| {
            self.device.ring_stops();
            let base = answer.recv();
            self.device.ring_stopped();
            base
        });
        let ring = self.ring(index)?;
        if let Some(base) = stopped {
            ring.running = false;
            // No answer: the worker is gone, and nobody knows more than the frontend does.
            if let Ok(base) = base {
                ring.base = Some(base.value());
            }
        }
        ring.call = None;
        ring.error = None;
        let base = ring.base.unwrap_or(0);
        self.deactivate_if_idle();
        Ok(base)
    }

    /// Stops all rings at once, and forgets what was said of them.
    pub(super) fn stop_all(&mut self) {
        let numbers = 0..u32::try_from(self.rings.len()).unwrap_or(0);
        let answers: Vec<_> = numbers
            .filter_map(|index| self.worker(index).map(|(worker, place)| worker.stop(place)))
            .collect();
        self.device.ring_stops();
        for answer in answers {
            let _ = answer.recv();
        }
        self.device.ring_stopped();
        self.rings.iter_mut().for_each(|ring| *ring = Ring::default());
        self.deactivate_if_idle();
    }

    fn deactivate_if_idle(&mut self) {
        if self.active && !self.any_running() {
            self.active = false;
            self.workers.clear();
            self.device.deactivate();
        }
    }

    pub(super) fn set_memory(&self, memory: &Arc<Memory>) {
        for worker in self.workers.values() {
            worker.set_memory(Arc::clone(memory));
        }
        self.sync();
    }

    /// Waits until every worker has done with what it did before now.
    pub(super) fn sync(&self) {
        self.workers.values().for_each(WorkerThread::sync);
    }

    /// Without VHOST_USER_F_PROTOCOL_FEATURES rings are enabled from the start.
    pub(super) fn enable_all(&mut self) {
        for index in 0..u32::try_from(self.rings.len()).unwrap_or(0) {
            if let Err(error) = self.enable(index, true) {
                log::error!("{error}");
            }
        }
    }
}
