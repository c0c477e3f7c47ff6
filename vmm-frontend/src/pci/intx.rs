//! A function's interrupt pin, level-triggered (PCI 3.0, 2.2.6).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::machine::irq::Interrupts;
use crate::machine::line::Line;
use crate::machine::vm::VmError;
use crate::reactor::{Reactor, Watch};

/// Why a pin can't be had.
#[derive(Debug, thiserror::Error)]
pub enum IntxError {
    /// The host refuses a descriptor.
    #[error("no interrupt pin can be made: {0}")]
    Host(#[from] io::Error),
    /// KVM refuses the connection.
    #[error(transparent)]
    Kvm(#[from] VmError),
}

/// Whether a function still asks for an interrupt.
pub type Pending = Arc<dyn Fn() -> bool + Send + Sync>;

/// A pin that is raised by writes to an event, whoever does that. KVM lowers the line at the end of
/// each interrupt, and tells; it is raised again then if the function still asks for it.
pub struct Request {
    pending: Pending,
    assert: Arc<EventFd>,
    resample: EventFd,
    input: u32,
    interrupts: Interrupts,
    connected: AtomicBool,
    _watch: Watch,
}

impl Request {
    /// One that is wired to an input of the I/O APIC.
    ///
    /// # Errors
    /// See [`IntxError`].
    pub fn new(
        interrupts: &Interrupts,
        reactor: &Reactor,
        input: u32,
        assert: Arc<EventFd>,
        pending: Pending,
    ) -> Result<Self, IntxError> {
        let resample = EventFd::new(EFD_NONBLOCK)?;
        let again = {
            let (assert, pending) = (Arc::clone(&assert), Arc::clone(&pending));
            move || {
                if pending() {
                    signal(&assert);
                }
            }
        };
        let watch = reactor.watch_event(&resample, Arc::new(again))?;
        let (interrupts, connected) = (interrupts.clone(), AtomicBool::new(false));
        let this = Self { pending, assert, resample, input, interrupts, connected, _watch: watch };
        this.connect()?;
        Ok(this)
    }

    /// Has KVM listen to the event.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn connect(&self) -> Result<(), VmError> {
        if self.connected.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let listens = self.interrupts.level(self.input, &self.assert, &self.resample);
        if let Err(error) = listens {
            self.connected.store(false, Ordering::SeqCst);
            return Err(error);
        }
        // What was asked for while nobody listened.
        if (self.pending)() {
            signal(&self.assert);
        }
        Ok(())
    }

    /// Has it do so no more: somebody else is to.
    pub fn disconnect(&self) {
        if self.connected.swap(false, Ordering::SeqCst) {
            self.interrupts.disconnect(self.input, &self.assert);
        }
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("input", &self.input).finish_non_exhaustive()
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.disconnect();
    }
}

/// A pin that this process raises.
#[derive(Debug)]
pub struct Pin {
    raised: Arc<AtomicBool>,
    request: Request,
}

impl Pin {
    /// One that is wired to an input of the I/O APIC.
    ///
    /// # Errors
    /// See [`IntxError`].
    pub fn new(interrupts: &Interrupts, reactor: &Reactor, input: u32) -> Result<Self, IntxError> {
        let raised = Arc::new(AtomicBool::new(false));
        let pending = {
            let raised = Arc::clone(&raised);
            Arc::new(move || raised.load(Ordering::SeqCst))
        };
        let assert = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        let request = Request::new(interrupts, reactor, input, assert, pending)?;
        Ok(Self { raised, request })
    }
}

impl Line for Pin {
    fn set(&self, high: bool) {
        if !self.raised.swap(high, Ordering::SeqCst) && high {
            signal(&self.request.assert);
        }
    }
}

/// An event's counter can't overflow before it is read, and KVM reads it at once.
fn signal(event: &EventFd) {
    let _ = event.write(1);
}
