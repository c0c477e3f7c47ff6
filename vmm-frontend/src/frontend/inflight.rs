//! The record of requests under way, which the frontend keeps for a device process that may die.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use rustix::fs::{SealFlags, fcntl_get_seals};
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserInflight;
use vhost_runtime::inflight::{Region, Shape};

use super::{Device, FrontendError, ProtocolFeatures};

/// An in-flight region, as the device process made it. The records of queues are only kept, never read.
pub struct Inflight {
    description: VhostUserInflight,
    file: File,
}

impl std::fmt::Debug for Inflight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflight").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Inflight {
    /// Asks the device process for a region for `queues` rings of at most `size` descriptors
    /// (GET_INFLIGHT_FD). `None`: it keeps no such record.
    ///
    /// # Errors
    /// See [`FrontendError`].
    pub fn new(device: &mut Device, queues: u16, size: u16) -> Result<Option<Self>, FrontendError> {
        if !device.protocol_features().contains(ProtocolFeatures::INFLIGHT_SHMFD) {
            return Ok(None);
        }
        let wanted = VhostUserInflight::new(0, 0, queues, size);
        let (description, file) =
            device.send("GET_INFLIGHT_FD", |messages| messages.get_inflight_fd(&wanted))?;
        Ok(Some(Self { description, file }))
    }

    /// One in its place, of another process, with nothing in it.
    ///
    /// # Errors
    /// See [`FrontendError`].
    pub fn renewed(&self, device: &mut Device) -> Result<Option<Self>, FrontendError> {
        let VhostUserInflight { num_queues, queue_size, .. } = self.description;
        Self::new(device, num_queues, queue_size)
    }

    /// Maps it, with so many doublewords behind the queues' records. `None`: it does not have them, or may
    /// be taken away from who reads it.
    pub fn region(&self, words: usize) -> Option<Arc<Region>> {
        let seals = fcntl_get_seals(&self.file).ok()?;
        if !seals.contains(SealFlags::SHRINK) {
            return None;
        }
        let VhostUserInflight { mmap_size, mmap_offset, num_queues, queue_size } = self.description;
        let shape = Shape { queues: num_queues, size: queue_size, words };
        Region::map(&self.file, shape, mmap_size, mmap_offset).ok()
    }

    /// Gives it to a device process, before the rings start (SET_INFLIGHT_FD).
    ///
    /// # Errors
    /// See [`FrontendError`].
    pub fn hand_over(&self, device: &mut Device) -> Result<(), FrontendError> {
        let fd = self.file.as_raw_fd();
        device.send("SET_INFLIGHT_FD", |messages| messages.set_inflight_fd(&self.description, fd))
    }
}
