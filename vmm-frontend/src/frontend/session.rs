//! A device process, and whichever takes its place when it dies.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use vhost::vhost_user::message::VhostUserVirtioFeatures;
use vhost_runtime::inflight::Region;
use virtio_bindings::bindings::virtio_config::VIRTIO_F_RING_PACKED;
use vm_memory::{Bytes, GuestAddress};

use super::device::{Device, QueueSetup, Wanted};
use super::dirty_log::DirtyLog;
use super::inflight::Inflight;
use super::memory::Memory;
use super::ring::Ring;
use super::{Base, FrontendError, host};

const LOG_ALL: VhostUserVirtioFeatures = VhostUserVirtioFeatures::LOG_ALL;
/// Where a used ring has its index, in bytes.
const USED_INDEX: u64 = 2;
/// How often a socket is tried on which nobody listens yet.
const RETRY: Duration = Duration::from_millis(5);

/// A device that is served by one process after the other.
#[derive(Debug)]
pub struct Session {
    path: PathBuf,
    wanted: Wanted,
    device: Device,
    memory: Memory,
    inflight: Option<Inflight>,
    /// The features that are in use, which a later process must have too.
    features: u64,
    queues: BTreeMap<u16, QueueSetup>,
    /// Where packed rings go on, which have that nowhere in memory: as they were started or stopped
    /// last, if the driver goes on too.
    bases: BTreeMap<u16, Base>,
    /// The record is that of a driver that is gone.
    record_is_stale: bool,
    log: Option<Arc<DirtyLog>>,
}

impl Session {
    /// Connects, shares `memory`, and agrees on a record of requests under way in `queues` rings
    /// of at most `size` descriptors, if the device process keeps one.
    ///
    /// # Errors
    /// See [`FrontendError`].
    pub fn connect(
        path: &Path,
        wanted: Wanted,
        memory: &Memory,
        queues: u16,
        size: u16,
    ) -> Result<Self, FrontendError> {
        let mut session = Self::open(path, wanted, memory)?;
        session.begin(queues, size)?;
        Ok(session)
    }

    /// Connects, and does nothing more until [`begin`](Self::begin): the device can be asked
    /// before how many queues it has.
    ///
    /// # Errors
    /// See [`FrontendError`].
    pub fn open(path: &Path, wanted: Wanted, memory: &Memory) -> Result<Self, FrontendError> {
        let device = Device::connect(path, wanted)?;
        Ok(Self {
            path: path.to_owned(),
            wanted,
            features: device.features(),
            device,
            memory: memory.clone(),
            inflight: None,
            queues: BTreeMap::new(),
            bases: BTreeMap::new(),
            record_is_stale: false,
            log: None,
        })
    }

    /// Agrees on a record of requests, as [`connect`](Self::connect) does, and shares memory.
    ///
    /// # Errors
    /// See [`FrontendError`].
    pub fn begin(&mut self, queues: u16, size: u16) -> Result<(), FrontendError> {
        self.inflight = Inflight::new(&mut self.device, queues, size)?;
        if let Some(inflight) = &self.inflight {
            inflight.hand_over(&mut self.device)?;
        }
        self.device.set_memory(&self.memory)
    }

    /// The connection to the process that serves it now.
    pub fn device(&mut self) -> &mut Device {
        &mut self.device
    }

    /// A record of requests under way is kept: after [`reconnect`](Self::reconnect) none is lost
    /// or done twice. Without it [`Ring::offer_again`] is needed first.
    #[must_use]
    pub fn keeps_record(&self) -> bool {
        self.inflight.is_some()
    }

    /// The doublewords that the device process shares behind its record of requests.
    ///
    /// # Errors
    /// It keeps no record, or one that is too small.
    pub fn region(&self, words: usize) -> Result<Arc<Region>, FrontendError> {
        let lacks = || FrontendError::Lacks(String::from("a shared region of registers"));
        self.inflight.as_ref().ok_or_else(lacks)?.region(words).ok_or_else(lacks)
    }

    /// The guest's memory.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Shares other memory from now on.
    ///
    /// # Errors
    /// See [`FrontendError`].
    pub fn set_memory(&mut self, memory: &Memory) -> Result<(), FrontendError> {
        self.memory = memory.clone();
        self.device.set_memory(memory)
    }

    /// The driver uses these features, of those that the device process offered. If that is gone,
    /// the next one is told.
    ///
    /// # Errors
    /// See [`FrontendError`].
    pub fn set_features(&mut self, features: u64) -> Result<(), FrontendError> {
        let of_connection = VhostUserVirtioFeatures::PROTOCOL_FEATURES | LOG_ALL;
        let kept = self.device.features() & of_connection.bits();
        self.features = features | kept;
        self.device.set_features(self.features)
    }

    /// Starts a driver's ring. The device goes on behind the last request that it has completed.
    ///
    /// # Errors
    /// See [`FrontendError`].
    pub fn start(&mut self, queue: u16, ring: &Ring) -> Result<(), FrontendError> {
        self.bases.insert(queue, ring.base());
        self.start_queue(queue, QueueSetup::of(ring))
    }

    /// Starts a ring, where it stopped if it did, and the driver was not [forgotten](Self::forget) since.
    /// If the device process is gone, the next one does.
    ///
    /// # Errors
    /// See [`FrontendError`].
    pub fn start_queue(&mut self, queue: u16, setup: QueueSetup) -> Result<(), FrontendError> {
        let base = self.base(queue, &setup)?;
        let setup = self.queues.entry(queue).insert_entry(setup);
        self.device.start_queue(queue, setup.get(), base, &self.memory)
    }

    /// Stops a ring when its last request is done.
    ///
    /// # Errors
    /// See [`FrontendError`].
    pub fn stop(&mut self, queue: u16) -> Result<Base, FrontendError> {
        self.queues.remove(&queue);
        let base = self.device.stop_queue(queue)?;
        self.bases.insert(queue, base);
        Ok(base)
    }

    /// Stops all rings, each when its last request is done; none is started again by another
    /// process.
    ///
    /// # Errors
    /// See [`FrontendError`].
    pub fn stop_all(&mut self) -> Result<(), FrontendError> {
        let queues = std::mem::take(&mut self.queues);
        queues.keys().try_for_each(|queue| self.stop(*queue).map(drop))
    }

    /// The driver is gone, and the rings of the next one are new. `lost`: the process was gone already,
    /// so that the next one must not find what was under way.
    pub fn forget(&mut self, lost: bool) {
        self.bases.clear();
        self.record_is_stale |= lost;
    }

    /// Begins to log dirty pages, or ends it.
    ///
    /// # Errors
    /// See [`FrontendError`].
    pub fn set_log(&mut self, log: Option<Arc<DirtyLog>>) -> Result<(), FrontendError> {
        if let Some(log) = &log {
            self.device.set_log(log)?;
        }
        self.device.set_logging(log.is_some())?;
        self.features = self.device.features();
        self.log = log;
        Ok(())
    }

    /// Resets the device; all its rings have stopped then.
    ///
    /// # Errors
    /// See [`FrontendError`].
    pub fn reset(&mut self) -> Result<(), FrontendError> {
        self.device.reset()?;
        self.queues.clear();
        self.forget(false);
        Ok(())
    }

    /// Connects to the process that took the place of one that died, waiting for it at most
    /// `limit`, and tells it all that the old one knew. The rings run again, and what was under way
    /// in them is done by the new process.
    ///
    /// # Errors
    /// See [`FrontendError`]; it can be tried again.
    pub fn reconnect(&mut self, limit: Duration) -> Result<(), FrontendError> {
        let end = Instant::now() + limit;
        let mut device = loop {
            match Device::connect(&self.path, self.wanted) {
                Ok(device) => break device,
                Err(error) if Instant::now() >= end => return Err(error),
                Err(_) => std::thread::sleep(RETRY),
            }
        };
        let features = self.features;
        let missing = features & !device.features() & !LOG_ALL.bits();
        if missing != 0 {
            return Err(FrontendError::Lacks(format!("features {missing:#x}, which it had")));
        }
        if let Some(log) = &self.log {
            device.set_log(log)?;
        }
        if device.features() != features {
            device.set_features(features)?;
        }
        if self.record_is_stale
            && let Some(inflight) = &self.inflight
        {
            self.inflight = inflight.renewed(&mut device)?;
            self.record_is_stale = false;
        }
        if let Some(inflight) = &self.inflight {
            inflight.hand_over(&mut device)?;
        }
        device.set_memory(&self.memory)?;
        if self.inflight.is_none() {
            self.bases.clear(); // the rings were rewound
        }
        for (&queue, setup) in &self.queues {
            let base = self.base(queue, setup)?;
            device.start_queue(queue, setup, base, &self.memory)?;
            // The kick for what was added meanwhile went to nobody.
            setup.events.kick.write(1).map_err(host("a kick event cannot be written"))?;
        }
        self.device = device;
        Ok(())
    }

    fn base(&self, queue: u16, setup: &QueueSetup) -> Result<Base, FrontendError> {
        if self.features & 1 << VIRTIO_F_RING_PACKED != 0 {
            let base = self.bases.get(&queue).copied();
            return Ok(base.unwrap_or(Base::start(true)));
        }
        let address = GuestAddress(setup.layout.used.saturating_add(USED_INDEX));
        let index: Result<u16, _> = self.memory.space().load(address, Ordering::Acquire);
        let index = index.map_err(|_| FrontendError::Queue(queue))?;
        Ok(Base::Split(u16::from_le(index)))
    }
}
