//! The record of requests under way, which the frontend keeps for a device process that may die.

use std::fs::File;
use std::os::fd::AsRawFd;

use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserInflight;

use super::{Device, FrontendError, ProtocolFeatures};

/// An in-flight region, as the device process made it. It is only kept, never read.
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

    /// Gives it to a device process, before the rings start (SET_INFLIGHT_FD).
    ///
    /// # Errors
    /// See [`FrontendError`].
    pub fn hand_over(&self, device: &mut Device) -> Result<(), FrontendError> {
        let fd = self.file.as_raw_fd();
        device.send("SET_INFLIGHT_FD", |messages| messages.set_inflight_fd(&self.description, fd))
    }
}
