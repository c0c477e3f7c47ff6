//! The console device (virtio 1.3, 5.3): a console, and named ports for programs in the guest.
//!
//! [`Console`] is the device, [`Port`] what an [`Endpoint`] on the host is connected to. Each queue
//! is served on the reactor, under one lock that a stop takes too.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod control;
mod line;
mod plug;
mod port;
mod state;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use vhost_runtime::memory::Memory;
use vmm_sys_util::eventfd::EventFd;

use super::queue::{FEATURES, Served};
use super::{Device, Queue, StartError};
use crate::lock::lock;
use crate::reactor::{Handler, Reactor};
use line::Line;
pub use plug::Plug;
pub use port::{Endpoint, Port};
use state::{Role, State};

/// VIRTIO_ID_CONSOLE.
const ID: u16 = 3;
/// VIRTIO_CONSOLE_F_SIZE: there is a size in the configuration space.
const F_SIZE: u64 = 1 << 0;
/// VIRTIO_CONSOLE_F_MULTIPORT: there are control queues, and ports other than the first.
const F_MULTIPORT: u64 = 1 << 1;
/// VIRTIO_CONSOLE_F_EMERG_WRITE: a console can be written to without a queue.
const F_EMERG_WRITE: u64 = 1 << 2;
/// Where `emerg_wr` is in the configuration space.
const EMERG_WRITE: u32 = 8;

/// Ports that a device can have: with two queues each, and two for control, 64 queues.
pub const MAX_PORTS: usize = 31;

/// Descriptors of a port's queue, and of a control queue. Drivers fill whole rings with buffers of a
/// page.
const DATA_SIZE: u16 = 64;
const CONTROL_SIZE: u16 = 32;

/// More ports than a device can have.
#[derive(Debug, thiserror::Error)]
#[error("a console device has up to {most} named ports, not {wanted}", most = MAX_PORTS - 1)]
pub struct TooManyPorts {
    wanted: usize,
}

/// The device.
///
/// One that has a console and no named port has just two queues, and its terminal's size in the
/// configuration space alone, where all drivers read it alike. So a console and named ports are better
/// two devices.
pub struct Console {
    features: u64,
    sizes: Vec<u16>,
    shared: Arc<Shared>,
}

struct Shared {
    reactor: Reactor,
    memory: Arc<Memory>,
    state: Mutex<State>,
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("queues", &self.sizes.len()).finish_non_exhaustive()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Console {
    /// A device that is served on `reactor`, and reaches the guest's `memory`: with a console, which
    /// is port 0, or without one, and ports from 1 on that programs in the guest find by their names.
    ///
    /// # Errors
    /// Too many ports.
    pub fn new(
        reactor: Reactor,
        memory: Arc<Memory>,
        console: Option<Arc<dyn Endpoint>>,
        named: Vec<(String, Arc<dyn Endpoint>)>,
    ) -> Result<Self, TooManyPorts> {
        if named.len() >= MAX_PORTS {
            return Err(TooManyPorts { wanted: named.len() });
        }
        let mut features = FEATURES;
        let mut sizes = vec![DATA_SIZE; 2];
        if console.is_some() {
            features |= F_SIZE | F_EMERG_WRITE;
        }
        if !named.is_empty() {
            features |= F_MULTIPORT;
            sizes.extend([CONTROL_SIZE; 2]);
            sizes.extend(named.iter().flat_map(|_| [DATA_SIZE; 2]));
        }
        let first = Line::new(String::new(), console);
        let others = named.into_iter().map(|(name, endpoint)| Line::new(name, Some(endpoint)));
        let state = State::new(std::iter::once(first).chain(others).collect());
        let shared = Arc::new(Shared { reactor, memory, state: Mutex::new(state) });
        Ok(Self { features, sizes, shared })
    }

    /// The port of this number, for its endpoint.
    #[must_use]
    pub fn port(&self, number: usize) -> Port {
        Port::new(&self.shared, number)
    }

    fn handler(&self, role: Role) -> Handler {
        let shared = Arc::downgrade(&self.shared);
        Arc::new(move || {
            if let Some(shared) = shared.upgrade() {
                let told = shared.state().serve(role);
                told.iter().for_each(|endpoint| endpoint.changed());
            }
        })
    }
}

impl Device for Console {
    fn id(&self) -> u16 {
        ID
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.sizes
    }

    fn read_config(&mut self, offset: u32, data: &mut [u8]) {
        data.fill(0);
        let config = self.shared.state().config();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (to, from) in data.iter_mut().zip(config.get(start..).unwrap_or_default()) {
            *to = *from;
        }
    }

    fn write_config(&mut self, offset: u32, data: &[u8]) {
        if let (EMERG_WRITE, Some(&byte)) = (offset, data.first()) {
            self.shared.state().emergency_write(byte);
        }
    }

    fn config_generation(&self) -> u8 {
        self.shared.state().generation()
    }

    fn set_config_call(&mut self, call: Arc<EventFd>) {
        self.shared.state().set_config_call(call);
    }

    fn start(&mut self, features: u64, queues: Vec<Queue>) -> Result<(), StartError> {
        let multiport = features & self.features & F_MULTIPORT != 0;
        // Held until the queues are in their places, for the handlers to find them there.
        let mut state = self.shared.state();
        let mut started = Vec::with_capacity(queues.len());
        for queue in &queues {
            let role = Role::of(queue.index);
            if multiport || role == Role::Input(0) || role == Role::Output(0) {
                let Shared { memory, reactor, .. } = self.shared.as_ref();
                let handler = self.handler(role);
                started.push((role, Served::start(queue, features, memory, reactor, handler)?));
            }
        }
        let told = state.start(multiport, started);
        drop(state);
        told.iter().for_each(|endpoint| endpoint.changed());
        Ok(())
    }

    fn stop(&mut self, reset: bool) {
        let told = self.shared.state().stop(reset);
        told.iter().for_each(|endpoint| endpoint.changed());
    }
}

#[cfg(test)]
mod tests;
