//! Virtio devices, and how a guest reaches them.

pub mod console;
pub mod pci;
pub mod queue;
pub mod rng;
#[cfg(test)]
mod test_guest;
pub mod vhost_user;

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

/// A virtio device without its transport: one in this process, or a process of its own behind
/// vhost-user. One call at a time; none of them may wait for the guest.
pub trait Device: Send {
    /// Which kind of device it is (virtio 1.3, 5).
    fn id(&self) -> u16;

    /// The features that it offers, VERSION_1 among them.
    fn features(&self) -> u64;

    /// The most descriptors that each of its queues can have, a power of two, or 0 for a queue
    /// that is not there.
    fn queue_sizes(&self) -> &[u16];

    /// Reads its configuration space. What lies behind its end reads as zeroes.
    fn read_config(&mut self, offset: u32, data: &mut [u8]);

    /// Writes to its configuration space.
    fn write_config(&mut self, offset: u32, data: &[u8]);

    /// Changes whenever the configuration space does (virtio 1.3, 2.5.1).
    fn config_generation(&self) -> u8;

    /// Where to tell that the configuration space has changed.
    fn set_config_call(&mut self, call: Arc<EventFd>);

    /// The driver is ready (DRIVER_OK): serves these queues from now on, in the state that
    /// guest memory has them in.
    ///
    /// # Errors
    /// It can't, and needs a reset.
    fn start(&mut self, features: u64, queues: Vec<Queue>) -> Result<(), StartError>;

    /// Serves no queue any more, once this has returned; guest memory is touched no more. The
    /// device is as it was before the driver came, if `reset`; else `start` goes on.
    fn stop(&mut self, reset: bool);
}

/// Why a device can't be started.
pub type StartError = Box<dyn std::error::Error + Send + Sync>;

/// A queue as its driver set it up. Nothing of it was checked but the size.
#[derive(Clone, Debug)]
pub struct Queue {
    /// Its number.
    pub index: u16,
    /// Descriptors, a power of two unless the ring is a packed one.
    pub size: u16,
    /// Guest physical address of the descriptor table.
    pub descriptors: u64,
    /// Of the available ring, or of a packed ring's driver event suppression structure.
    pub available: u64,
    /// Of the used ring, or of a packed ring's device event suppression structure.
    pub used: u64,
    /// Written to when the driver has added to the available ring.
    pub kick: Arc<EventFd>,
    /// Written to when the device has added to the used ring.
    pub call: Arc<EventFd>,
}
