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

/// A pin. KVM lowers the line at the end of each interrupt, and tells; it is raised again then if
/// the function still asks for it.
#[derive(Debug)]
pub struct Pin {
    raised: Arc<AtomicBool>,
    assert: Arc<EventFd>,
    input: u32,
    interrupts: Interrupts,
    _resample: Watch,
}

impl Pin {
    /// One that is wired to an input of the I/O APIC.
    ///
    /// # Errors
    /// See [`IntxError`].
    pub fn new(interrupts: &Interrupts, reactor: &Reactor, input: u32) -> Result<Self, IntxError> {
        let assert = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        let resample = EventFd::new(EFD_NONBLOCK)?;
        let raised = Arc::new(AtomicBool::new(false));
        let again = {
            let (raised, assert) = (Arc::clone(&raised), Arc::clone(&assert));
            move || {
                if raised.load(Ordering::SeqCst) {
                    signal(&assert);
                }
            }
        };
        let watch = reactor.watch_event(&resample, Arc::new(again))?;
        interrupts.level(input, &assert, &resample)?;
        let interrupts = interrupts.clone();
        Ok(Self { raised, assert, input, interrupts, _resample: watch })
    }
}

impl Line for Pin {
    fn set(&self, high: bool) {
        if !self.raised.swap(high, Ordering::SeqCst) && high {
            signal(&self.assert);
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.interrupts.disconnect(self.input, &self.assert);
    }
}

/// An event's counter can't overflow before it is read, and KVM reads it at once.
fn signal(event: &EventFd) {
    let _ = event.write(1);
}
