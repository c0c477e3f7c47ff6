//! Ends a connection whose other end does not answer: `vhost` waits for it for ever, and takes no
//! time-out of the socket's for an answer.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::confinement::{self, Role};
use crate::lock::lock;

/// A connection's watchdog, on a thread of its own.
#[derive(Debug)]
pub(super) struct Watchdog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    watch: Mutex<Watch>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Watch {
    deadline: Option<Instant>,
    /// A deadline has passed: the connection was ended.
    expired: bool,
    dropped: bool,
}

impl Watchdog {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let watched = Arc::clone(&shared);
        let thread = thread::Builder::new().name(String::from("watchdog"));
        let thread = thread.spawn(move || {
            confinement::restrict(Role::Messenger);
            watched.run();
            // Without effect if the other end has done so.
            let _ = stream.shutdown(Shutdown::Both);
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Does something that waits for an answer, for at most `limit`.
    pub(super) fn watch<T>(&self, limit: Duration, wait: impl FnOnce() -> T) -> T {
        self.shared.set(Some(Instant::now() + limit));
        let answer = wait();
        self.shared.set(None);
        answer
    }

    /// Whether a limit has passed.
    pub(super) fn has_expired(&self) -> bool {
        lock(&self.shared.watch).expired
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        lock(&self.shared.watch).dropped = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn set(&self, deadline: Option<Instant>) {
        lock(&self.watch).deadline = deadline;
        self.changed.notify_one();
    }

    /// Waits until a deadline passes, or nobody needs it any more.
    fn run(&self) {
        let mut watch = lock(&self.watch);
        while !watch.dropped {
            let Some(deadline) = watch.deadline else {
                watch = self.changed.wait(watch).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                watch.expired = true;
                return;
            }
            let woken = self.changed.wait_timeout(watch, left);
            watch = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn what_waits_too_long_is_ended_and_nothing_else() {
        let (mut stream, _silent) = UnixStream::pair().unwrap();
        let watchdog = Watchdog::new(stream.try_clone().unwrap()).unwrap();
        for _ in 0..3 {
            watchdog.watch(Duration::from_secs(3600), || ());
        }
        assert!(!watchdog.has_expired());
        let limit = Duration::from_millis(20);
        let read = watchdog.watch(limit, || stream.read(&mut [0]));
        assert_eq!((read.unwrap(), watchdog.has_expired()), (0, true));
    }

    #[test]
    fn a_connection_ends_with_its_watchdog() {
        let (stream, mut other) = UnixStream::pair().unwrap();
        drop(Watchdog::new(stream.try_clone().unwrap()).unwrap());
        assert_eq!(other.read(&mut [0]).unwrap(), 0);
    }
}
