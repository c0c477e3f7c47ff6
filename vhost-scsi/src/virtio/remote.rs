//! How others reach a request worker.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::tmf::Order;

/// How others reach a request worker.
pub(super) struct Remote {
    mail: Mutex<Vec<Arc<Order>>>,
    /// There is something to look at. The worker asks here at each turn, which the event would make
    /// a system call.
    news: AtomicBool,
    wake: EventFd,
}

impl Remote {
    pub(super) fn new() -> io::Result<Self> {
        let wake = EventFd::new(EFD_NONBLOCK)?;
        Ok(Self { mail: Mutex::default(), news: AtomicBool::new(false), wake })
    }

    /// Written to when there is something to look at.
    pub(super) fn event(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    pub(super) fn take_orders(&self) -> Vec<Arc<Order>> {
        std::mem::take(&mut *self.mail.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Hands over an order of task management.
    pub(super) fn order(&self, order: Arc<Order>) {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner).push(order);
        self.wake();
    }

    /// Units came or went, or a gate opened: what waits is to be looked at again.
    pub(super) fn refresh(&self) {
        self.wake();
    }

    fn wake(&self) {
        if self.news.swap(true, Ordering::AcqRel) {
            return; // nobody has looked since
        }
        if let Err(error) = self.wake.write(1) {
            log::error!("a request worker cannot be woken: {error}");
        }
    }

    pub(super) fn take_news(&self) -> bool {
        self.news.load(Ordering::Relaxed) && self.news.swap(false, Ordering::AcqRel)
    }
}
