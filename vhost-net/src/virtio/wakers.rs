//! Workers that are to look at what has changed.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use vmm_sys_util::eventfd::EventFd;

/// The events of all workers that there are.
#[derive(Debug, Default)]
pub(super) struct Wakers(Mutex<Vec<Weak<EventFd>>>);

impl Wakers {
    /// Wakes this one, too, as long as it is there.
    pub(super) fn add(&self, event: &Arc<EventFd>) {
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        events.retain(|event| event.strong_count() > 0);
        events.push(Arc::downgrade(event));
    }

    pub(super) fn wake(&self) {
        let events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for event in events.iter().filter_map(Weak::upgrade) {
            if let Err(error) = event.write(1) {
                log::error!("a worker cannot be woken: {error}");
            }
        }
    }
}
