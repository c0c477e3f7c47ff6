//! The device: features, configuration space, which worker serves which queue.

use std::error::Error;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vhost_runtime::device::{ConfigError, Device, QueueWorker, Queues, Taken};
use vhost_runtime::queue::Queue;
use vhost_runtime::session::Frontend;
use vhost_runtime::state::StateError;

use super::control::ControlWorker;
use super::controller::{Controller, VIRTIO_SCSI_F_CHANGE, VIRTIO_SCSI_F_HOTPLUG, release_all};
use super::layout::{CDB_SIZE, EVENT, SENSE_SIZE};
use super::request::RequestWorker;
use super::state;
use crate::scsi::target::LUNS;

/// Queue 0 is for control requests, queue 1 for events; then come the request queues.
const FIRST_REQUEST_QUEUE: u16 = 2;

/// Descriptors that a queue may have.
const QUEUE_SIZE: u16 = 1024;
/// Data segments in a request.
const SEG_MAX: u32 = 126;
/// Sectors of 512 bytes in a request.
const MAX_SECTORS: u32 = 0xffff;
/// Commands that a unit takes at once.
const COMMANDS_PER_LUN: u32 = 128;

impl Device for Controller {
    type Worker = Worker;

    fn name(&self) -> &'static str {
        "vhost-scsi"
    }

    fn queues(&self) -> u16 {
        self.options.queues.saturating_add(FIRST_REQUEST_QUEUE)
    }

    fn queue_size(&self) -> u16 {
        QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_SCSI_F_HOTPLUG | 1 << VIRTIO_SCSI_F_CHANGE
    }

    fn set_features(&self, features: u64) {
        self.features.store(features, Ordering::Relaxed);
    }

    /// `struct virtio_scsi_config` (virtio 1.2, 5.6.4).
    fn config(&self) -> Vec<u8> {
        let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let words = [
            u32::from(self.options.queues),
            SEG_MAX,
            MAX_SECTORS,
            COMMANDS_PER_LUN,
            size(EVENT),
            size(SENSE_SIZE),
            size(CDB_SIZE),
        ];
        let mut config: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        config.extend(0u16.to_le_bytes()); // max_channel
        config.extend(255u16.to_le_bytes()); // max_target
        config.extend(u32::from(LUNS).saturating_sub(1).to_le_bytes()); // max_lun
        config
    }

    /// `sense_size` and `cdb_size` may be written, with what they are.
    fn set_config(&self, offset: u32, bytes: &[u8]) -> Result<(), ConfigError> {
        let refused = ConfigError { offset, length: bytes.len() };
        let config = self.config();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        match config.get(start..).and_then(|rest| rest.get(..bytes.len())) {
            Some(now) if now == bytes => Ok(()),
            _ => Err(refused),
        }
    }

    fn worker_of(&self, queue: u16) -> u16 {
        // Control and event queue share a thread that no request keeps waiting.
        queue.saturating_sub(1)
    }

    fn worker(self: Arc<Self>, number: u16) -> io::Result<Worker> {
        Ok(match number {
            0 => Worker::Control(ControlWorker::new(self)?),
            _ => Worker::Request(Box::new(RequestWorker::new(self, number)?)),
        })
    }

    fn goes_on(&self) {
        // What this process has to tell a driver that it has served itself stays to be told.
        if !self.begun.load(Ordering::Relaxed) {
            self.bus.snapshot().iter().for_each(|(_, unit)| unit.goes_on());
        }
    }

    fn activate(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        let mut active = self.active();
        self.acquire_all()?;
        self.begun.store(true, Ordering::Relaxed);
        *active = true;
        Ok(())
    }

    fn ring_stops(&self) {
        self.bus.snapshot().iter().for_each(|(_, unit)| unit.interrupt(true));
    }

    fn ring_stopped(&self) {
        self.bus.snapshot().iter().for_each(|(_, unit)| unit.interrupt(false));
    }

    fn deactivate(&self) {
        let mut active = self.active();
        *active = false;
        self.bus.snapshot().iter().for_each(|(_, unit)| unit.out_of_use());
        let images: Vec<_> =
            self.bus.snapshot().iter().filter_map(|(_, unit)| unit.locked_image()).collect();
        release_all(&images);
        self.events.clear();
    }

    fn reset(&self) {
        for (_, unit) in self.bus.snapshot().iter() {
            unit.reset();
        }
    }

    fn save(&self) -> Result<serde_json::Value, StateError> {
        state::save(&self.bus.snapshot())
    }

    fn load(&self, state: serde_json::Value) -> Result<(), StateError> {
        state::load(&self.bus.snapshot(), state)
    }

    fn connected(&self, _frontend: Frontend) {
        // The configuration space never changes: what does is told by the event queue.
    }
}

/// One of the controller's workers.
pub enum Worker {
    /// Of the control and the event queue.
    Control(ControlWorker),
    /// Of a request queue.
    Request(Box<RequestWorker>),
}

impl QueueWorker for Worker {
    fn events(&self) -> Vec<RawFd> {
        match self {
            Self::Control(worker) => worker.events(),
            Self::Request(worker) => worker.events(),
        }
    }

    fn process(&mut self, queue: &mut Queue) -> Taken {
        match self {
            Self::Control(worker) => worker.process(queue),
            Self::Request(worker) => worker.process(queue),
        }
    }

    fn turn(&mut self, queues: &mut Queues) -> Taken {
        match self {
            Self::Control(worker) => worker.turn(queues),
            Self::Request(worker) => worker.turn(queues),
        }
        Taken::All
    }

    fn stop(&mut self, queue: &mut Queue) {
        match self {
            Self::Control(worker) => worker.stop(queue),
            Self::Request(worker) => worker.stop(queue),
        }
    }

    fn in_flight(&self, index: usize) -> usize {
        match self {
            Self::Control(worker) => worker.in_flight(index),
            Self::Request(worker) => worker.in_flight(index),
        }
    }
}
