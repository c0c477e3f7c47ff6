//! What all clients are told.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::message;

/// Events that wait for a client at most: one that does not read misses what is more.
const WAITING: usize = 256;

/// Tells all clients of something, and knows what they may ask: whether a VMM is connected.
/// Never blocks; costs next to nothing without clients.
#[derive(Clone, Default)]
pub struct Events {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    outboxes: Mutex<Vec<Arc<Outbox>>>,
    /// How many there are.
    count: AtomicUsize,
    connected: AtomicBool,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("clients", &self.shared.count).finish_non_exhaustive()
    }
}

impl Events {
    /// An event, with its data, made only if somebody is there to be told.
    pub fn send(&self, name: &str, data: impl FnOnce() -> Value) {
        if self.shared.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let line: Arc<[u8]> = message::event(name, &data()).into();
        for outbox in self.outboxes().iter() {
            outbox.put(Arc::clone(&line));
        }
    }

    /// A VMM has connected, or gone.
    pub(crate) fn set_connected(&self, connected: bool) {
        self.shared.connected.store(connected, Ordering::Relaxed);
        let name = if connected { "VMM_CONNECTED" } else { "VMM_DISCONNECTED" };
        self.send(name, || json!({}));
    }

    pub(super) fn is_connected(&self) -> bool {
        self.shared.connected.load(Ordering::Relaxed)
    }

    fn outboxes(&self) -> MutexGuard<'_, Vec<Arc<Outbox>>> {
        self.shared.outboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn subscribe(&self, outbox: &Arc<Outbox>) {
        let mut outboxes = self.outboxes();
        outboxes.push(Arc::clone(outbox));
        self.shared.count.store(outboxes.len(), Ordering::Release);
    }

    pub(super) fn unsubscribe(&self, outbox: &Arc<Outbox>) {
        let mut outboxes = self.outboxes();
        outboxes.retain(|other| !Arc::ptr_eq(other, outbox));
        self.shared.count.store(outboxes.len(), Ordering::Release);
    }
}

/// Events on their way to one client.
pub(super) struct Outbox {
    lines: Mutex<VecDeque<Arc<[u8]>>>,
    wake: EventFd,
}

impl Outbox {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { lines: Mutex::default(), wake: EventFd::new(EFD_NONBLOCK)? })
    }

    /// Readable while there is something to take.
    pub(super) fn fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    fn put(&self, line: Arc<[u8]>) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() >= WAITING {
            log::debug!("a control client does not read its events");
            return;
        }
        lines.push_back(line);
        drop(lines);
        if let Err(error) = self.wake.write(1) {
            log::error!("a control client's thread cannot be woken: {error}");
        }
    }

    pub(super) fn take(&self) -> VecDeque<Arc<[u8]>> {
        let _ = self.wake.read(); // several may have been put since
        std::mem::take(&mut self.lines.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
