//! Notifications (virtio 1.2, 2.7.7 and 2.7.10; 2.8.10 in a packed ring): what the driver shows the
//! device, whether it kicks, and when it wants to be called.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Format, Ring, in_format};

/// The event descriptors of a ring.
#[derive(Clone, Debug)]
pub struct Events {
    /// To the device: there are requests.
    pub kick: Arc<EventFd>,
    /// To the driver: there are completions.
    pub call: Arc<EventFd>,
    /// To the driver: the ring is broken.
    pub error: Arc<EventFd>,
}

impl Events {
    /// Fresh ones.
    ///
    /// # Errors
    /// The host refuses.
    pub fn new() -> io::Result<Self> {
        let event = || EventFd::new(EFD_NONBLOCK).map(Arc::new);
        Ok(Self { kick: event()?, call: event()?, error: event()? })
    }
}

impl Ring {
    /// Shows the device what was added, and kicks it if it wants to be kicked.
    ///
    /// # Errors
    /// The kick event can't be written.
    pub fn publish(&mut self) -> io::Result<()> {
        if self.show() { self.kick() } else { Ok(()) }
    }

    /// Shows the device what was added, without a kick. `true`: it wants to be kicked.
    pub fn show(&mut self) -> bool {
        in_format!(&mut self.format, ring => ring.show())
    }

    /// Kicks the device, whether it wants to be kicked or not.
    ///
    /// # Errors
    /// The kick event can't be written.
    pub fn kick(&self) -> io::Result<()> {
        match self.events.kick.write(1) {
            // The counter is full of kicks that nobody has read.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            result => result,
        }
    }

    /// Tells the device that the driver looks for completions by itself.
    pub fn disable_calls(&mut self) {
        in_format!(&mut self.format, ring => ring.disable_calls());
    }

    /// Asks the device to tell of the next completion. `true`: there is one already.
    pub fn enable_calls(&mut self) -> bool {
        in_format!(&mut self.format, ring => ring.enable_calls())
    }

    /// Waits on the call event until there are completions; `false` if there are none after `limit`.
    ///
    /// # Errors
    /// The host refuses to wait.
    pub fn wait(&mut self, limit: Duration) -> io::Result<bool> {
        let end = Instant::now() + limit;
        let mut come = self.enable_calls();
        while !come {
            // The event may still be set for completions that were taken before it was looked at.
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            wait_readable(&self.events.call, left)?;
            let _ = self.events.call.read(); // the used index tells
            come = self.enable_calls();
        }
        self.disable_calls();
        Ok(come)
    }

    /// The device said that the ring is broken, since this was asked last.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.events.error.read().is_ok()
    }

    /// Waits until the device says that the ring is broken; `false` if it did not within `limit`.
    ///
    /// # Errors
    /// The host refuses to wait.
    pub fn wait_broken(&self, limit: Duration) -> io::Result<bool> {
        wait_readable(&self.events.error, limit)?;
        Ok(self.is_broken())
    }
}

fn wait_readable(event: &EventFd, limit: Duration) -> io::Result<()> {
    let mut poll = libc::pollfd { fd: event.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // Rounded up: a wait of nothing would be a busy loop.
    let limit = limit.as_nanos().div_ceil(1_000_000);
    let limit = libc::c_int::try_from(limit).unwrap_or(libc::c_int::MAX);
    // SAFETY: one pollfd, which outlives the call.
    if unsafe { libc::poll(&raw mut poll, 1, limit) } >= 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        error => Err(error),
    }
}
