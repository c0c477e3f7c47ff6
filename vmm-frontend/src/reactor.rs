//! One thread that waits for many descriptors: what the VMM does itself and what may not block.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{self, JoinHandle};

use crate::confinement::{self, Role};
use crate::lock::lock;
use rustix::event::epoll;
use rustix::io::Errno;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// What is done when a descriptor is ready. It must not block.
pub type Handler = Arc<dyn Fn() + Send + Sync>;

/// Waits for descriptors. A clone is the same reactor.
#[derive(Clone)]
pub struct Reactor(Arc<Shared>);

struct Shared {
    epoll: OwnedFd,
    watches: Mutex<Watches>,
}

#[derive(Default)]
struct Watches {
    next: u64,
    handlers: HashMap<u64, Handler>,
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor").field("epoll", &self.0.epoll).finish_non_exhaustive()
    }
}

/// Which readiness is waited for.
pub use rustix::event::epoll::EventFlags as Events;

/// Descriptors that are waited for at once, in one system call.
const BATCH: usize = 32;

impl Reactor {
    /// One that waits for nothing yet.
    ///
    /// # Errors
    /// The host has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self(Arc::new(Shared { epoll, watches: Mutex::default() })))
    }

    /// Calls `handler` on the reactor's thread whenever `fd` is ready, until what is returned is
    /// dropped. A call that is under way then is not waited for.
    ///
    /// # Errors
    /// The host refuses: a regular file, or too many watches.
    pub fn watch(&self, fd: impl AsFd, events: Events, handler: Handler) -> io::Result<Watch> {
        let fd = fd.as_fd().try_clone_to_owned()?;
        let number = {
            let mut watches = self.0.watches();
            watches.next += 1;
            let number = watches.next;
            watches.handlers.insert(number, handler);
            number
        };
        let watch = Watch { number, fd, reactor: Arc::downgrade(&self.0) };
        epoll::add(&self.0.epoll, &watch.fd, epoll::EventData::new_u64(number), events)?;
        Ok(watch)
    }

    /// Calls `handler` whenever `event` was written to, and its counter is zero again.
    ///
    /// # Errors
    /// The host refuses: too many watches, or no descriptor is left.
    pub fn watch_event(&self, event: &EventFd, handler: Handler) -> io::Result<Watch> {
        let own = event.try_clone()?;
        let fd = event.try_clone()?.into_raw_fd();
        // SAFETY: a fresh descriptor, which nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let handler = move || {
            // Another reader may have been quicker.
            if own.read().is_ok() {
                handler();
            }
        };
        self.watch(fd, Events::IN, Arc::new(handler))
    }

    /// Waits, and calls handlers, on a thread of its own until what is returned is dropped.
    ///
    /// # Errors
    /// The host has no descriptor or thread left.
    pub fn start(&self) -> io::Result<Running> {
        let end = EventFd::new(EFD_NONBLOCK)?;
        let ended = Arc::new(AtomicBool::new(false));
        let set = {
            let ended = Arc::clone(&ended);
            move || ended.store(true, Ordering::Relaxed)
        };
        let watch = self.watch_event(&end, Arc::new(set))?;
        let reactor = self.clone();
        let run = move || {
            confinement::restrict(Role::Reactor);
            if let Err(error) = reactor.run(|| !ended.load(Ordering::Relaxed)) {
                log::error!("waiting for descriptors failed: {error}");
            }
        };
        let thread = thread::Builder::new().name(String::from("reactor")).spawn(run)?;
        Ok(Running { thread: Some(thread), end, _watch: watch })
    }

    /// Waits, and calls handlers, until `go_on` says no; it is asked after each round.
    ///
    /// # Errors
    /// Waiting failed.
    pub fn run(&self, go_on: impl Fn() -> bool) -> io::Result<()> {
        let mut ready = Vec::with_capacity(BATCH);
        while go_on() {
            ready.clear();
            match epoll::wait(&self.0.epoll, rustix::buffer::spare_capacity(&mut ready), None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            for event in &ready {
                let number = event.data.u64();
                let handler = self.0.watches().handlers.get(&number).cloned();
                if let Some(handler) = handler {
                    handler();
                }
            }
        }
        Ok(())
    }
}

/// A reactor's thread. When this has been dropped, no handler is being called.
#[derive(Debug)]
pub struct Running {
    thread: Option<JoinHandle<()>>,
    end: EventFd,
    _watch: Watch,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It is written to this once.
        let _ = self.end.write(1);
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn watches(&self) -> std::sync::MutexGuard<'_, Watches> {
        lock(&self.watches)
    }
}

/// A descriptor that a reactor waits for.
pub struct Watch {
    number: u64,
    /// A descriptor of its own, so that the original may be closed first.
    fd: OwnedFd,
    reactor: Weak<Shared>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watch").field(&self.fd).finish()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(reactor) = self.reactor.upgrade() {
            reactor.watches().handlers.remove(&self.number);
            // It fails only for what was never added.
            let _ = epoll::delete(&reactor.epoll, &self.fd);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;
    use std::sync::mpsc;

    #[test]
    fn handlers_are_called_until_their_watch_ends() {
        let reactor = Reactor::new().unwrap();
        let events = [EventFd::new(EFD_NONBLOCK).unwrap(), EventFd::new(EFD_NONBLOCK).unwrap()];
        let calls = Arc::new(AtomicU32::new(0));
        let watch = |event: &EventFd, weight| {
            let calls = Arc::clone(&calls);
            let handler = move || {
                calls.fetch_add(weight, Ordering::Relaxed);
            };
            reactor.watch_event(event, Arc::new(handler)).unwrap()
        };
        let first = watch(&events[0], 1);
        let _second = watch(&events[1], 10);
        events[0].write(1).unwrap();
        events[1].write(1).unwrap();
        reactor.run(|| calls.load(Ordering::Relaxed) < 11).unwrap();
        drop(first);
        events[0].write(1).unwrap();
        events[1].write(1).unwrap();
        reactor.run(|| calls.load(Ordering::Relaxed) < 21).unwrap();
        assert_eq!(calls.load(Ordering::Relaxed), 21);
    }

    #[test]
    fn no_handler_is_being_called_when_the_thread_has_ended() {
        let reactor = Reactor::new().unwrap();
        let event = EventFd::new(EFD_NONBLOCK).unwrap();
        let (begun, begins) = mpsc::channel();
        let calls = Arc::new(AtomicU32::new(0));
        let handler = {
            let calls = Arc::clone(&calls);
            move || {
                begun.send(()).unwrap();
                // Long enough for the end to be asked for meanwhile, nearly always.
                thread::sleep(std::time::Duration::from_millis(20));
                calls.fetch_add(1, Ordering::Relaxed);
            }
        };
        let _watch = reactor.watch_event(&event, Arc::new(handler)).unwrap();
        let running = reactor.start().unwrap();
        event.write(1).unwrap();
        begins.recv().unwrap();
        drop(running);
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }
}
