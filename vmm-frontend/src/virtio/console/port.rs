//! Where a port of the console device and what it is connected to on the host meet.

use std::fmt;
use std::sync::{Arc, Weak};

use super::Shared;

/// What a port is connected to on the host: a terminal, a socket, a guest agent's client.
///
/// It calls its [`Port`] from the reactor's thread. It holds no lock of its own then that it takes in
/// these methods, which are called from any thread.
pub trait Endpoint: Send + Sync {
    /// Takes what the guest wrote, without waiting; returns how many bytes of it. If not all, the
    /// rest comes again after [`Port::room`]. It must not call the port from here.
    fn write(&self, bytes: &[u8]) -> usize;

    /// [`Port::wanted`] is no longer 0, or [`Port::guest_open`] has changed.
    fn changed(&self);
}

/// A port, as its endpoint sees it. A clone is the same port; one whose device is gone takes nothing.
#[derive(Clone)]
pub struct Port {
    shared: Weak<Shared>,
    number: usize,
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Port").field(&self.number).finish()
    }
}

impl Port {
    pub(super) fn new(shared: &Arc<Shared>, number: usize) -> Self {
        Self { shared: Arc::downgrade(shared), number }
    }

    /// How many bytes of input the guest has room for, at least, before it is asked again. After
    /// 0, [`Endpoint::changed`] tells when to ask again.
    #[must_use]
    pub fn wanted(&self) -> usize {
        self.shared.upgrade().map_or(0, |shared| shared.state().wanted(self.number))
    }

    /// Gives the guest input; returns how many bytes it took. If not all, [`Endpoint::changed`] tells
    /// when it takes more. It takes what [`wanted`](Self::wanted) said, unless it was stopped since.
    #[must_use]
    pub fn input(&self, bytes: &[u8]) -> usize {
        self.shared.upgrade().map_or(0, |shared| shared.state().input(self.number, bytes))
    }

    /// The driver has opened the port.
    #[must_use]
    pub fn guest_open(&self) -> bool {
        self.shared.upgrade().is_some_and(|shared| shared.state().guest_open(self.number))
    }

    /// There is room again after [`Endpoint::write`] took less than all.
    pub fn room(&self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.state().output(self.number);
        }
    }

    /// Somebody is there at the host's end from now on, or nobody: what the guest writes is lost
    /// then. At first nobody is.
    pub fn set_open(&self, open: bool) {
        if let Some(shared) = self.shared.upgrade() {
            shared.state().set_open(self.number, open);
        }
    }

    /// The terminal's size, of which only a console takes notice.
    pub fn resize(&self, columns: u16, rows: u16) {
        if let Some(shared) = self.shared.upgrade() {
            shared.state().resize(self.number, columns, rows);
        }
    }
}
