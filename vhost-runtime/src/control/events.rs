//! What all clients are told.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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
    /// VMMs that are connected.
    connected: AtomicUsize,
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

    /// Waits until all that was sent has left, or until a client takes too long: a program that ends
    /// may say so before.
    pub fn flush(&self, patience: Duration) {
        let outboxes = self.outboxes().clone();
        for outbox in outboxes {
            if !outbox.wait_until_empty(patience) {
                log::debug!("a control client does not read its events");
            }
        }
    }

    /// One more VMM has connected, or has gone.
    pub fn set_connected(&self, connected: bool) {
        if connected {
            self.shared.connected.fetch_add(1, Ordering::Relaxed);
        } else {
            self.shared.connected.fetch_sub(1, Ordering::Relaxed);
        }
        let name = if connected { "VMM_CONNECTED" } else { "VMM_DISCONNECTED" };
        self.send(name, || json!({}));
    }

    pub(super) fn is_connected(&self) -> bool {
        self.shared.connected.load(Ordering::Relaxed) > 0
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
        outbox.close();
        self.shared.count.store(outboxes.len(), Ordering::Release);
    }
}

/// Events on their way to one client.
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    written: Condvar,
    wake: EventFd,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Arc<[u8]>>,
    /// Some were taken, and are being written.
    taken: bool,
}

impl Outbox {
    pub(super) fn new() -> io::Result<Self> {
        let (queue, written) = (Mutex::default(), Condvar::new());
        Ok(Self { queue, written, wake: EventFd::new(EFD_NONBLOCK)? })
    }

    /// Readable while there is something to take.
    pub(super) fn fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, line: Arc<[u8]>) {
        let mut queue = self.queue();
        if queue.lines.len() >= WAITING {
            log::debug!("a control client does not read its events");
            return;
        }
        queue.lines.push_back(line);
        drop(queue);
        if let Err(error) = self.wake.write(1) {
            log::error!("a control client's thread cannot be woken: {error}");
        }
    }

    /// What there is to write; what was taken before has been written.
    pub(super) fn take(&self) -> VecDeque<Arc<[u8]>> {
        let _ = self.wake.read(); // several may have been put since
        let mut queue = self.queue();
        let lines = std::mem::take(&mut queue.lines);
        queue.taken = !lines.is_empty();
        if !queue.taken {
            self.written.notify_all();
        }
        lines
    }

    /// Nobody takes any more.
    fn close(&self) {
        *self.queue() = Queue::default();
        self.written.notify_all();
    }

    fn wait_until_empty(&self, patience: Duration) -> bool {
        let waits = |queue: &mut Queue| queue.taken || !queue.lines.is_empty();
        let wait = self.written.wait_timeout_while(self.queue(), patience, waits);
        !wait.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}
