//! A console of the host, plugged into a port.

use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};

use super::{Endpoint, Port};
use crate::console::{self, Client};
use crate::reactor::Reactor;

/// Connects a port to a [`console::Endpoint`].
pub struct Plug {
    endpoint: console::Endpoint,
    port: OnceLock<Port>,
}

impl fmt::Debug for Plug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Plug").field(&self.endpoint).finish()
    }
}

impl Plug {
    /// One without a port yet.
    #[must_use]
    pub fn new(endpoint: console::Endpoint) -> Arc<Self> {
        Arc::new(Self { endpoint, port: OnceLock::new() })
    }

    /// Joins both sides. Once.
    ///
    /// # Errors
    /// The host refuses.
    pub fn connect(self: &Arc<Self>, port: Port, reactor: &Reactor) -> io::Result<()> {
        self.port.get_or_init(|| port);
        let client: Arc<dyn Client> = Arc::clone(self) as Arc<dyn Client>;
        self.endpoint.attach(reactor, Arc::downgrade(&client))
    }
}

impl Endpoint for Plug {
    fn write(&self, bytes: &[u8]) -> usize {
        self.endpoint.write(bytes)
    }

    fn changed(&self) {
        self.endpoint.resume();
    }
}

impl Client for Plug {
    fn room(&self) -> usize {
        self.port.get().map_or(0, Port::wanted)
    }

    fn input(&self, data: &[u8]) {
        if let Some(port) = self.port.get() {
            // It takes as much as it wanted, unless the driver has gone since.
            let _ = port.input(data);
        }
    }

    fn writable(&self) {
        if let Some(port) = self.port.get() {
            port.room();
        }
    }

    fn connected(&self, there: bool) {
        if let Some(port) = self.port.get() {
            port.set_open(there);
        }
    }

    fn resized(&self, columns: u16, rows: u16) {
        if let Some(port) = self.port.get() {
            port.resize(columns, rows);
        }
    }
}
