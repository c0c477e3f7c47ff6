//! What ends a program.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::ProgramError;

/// SIGTERM and SIGINT, as a descriptor, and whoever else wants the program to end; a process that is
/// forked gets its own signals from it.
#[derive(Debug)]
pub struct Shutdown {
    signals: OwnedFd,
    asked: EventFd,
}

/// Ends the program as SIGTERM does.
#[derive(Debug)]
pub struct Stop {
    asked: EventFd,
}

impl Stop {
    /// Asks it to end.
    pub fn ask(&self) {
        if let Err(error) = self.asked.write(1) {
            log::error!("the program cannot be asked to end: {error}");
        }
    }
}

impl AsFd for Shutdown {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }
}

impl Shutdown {
    /// Takes the signals. Before any thread is started: they inherit that it is blocked.
    ///
    /// # Errors
    /// The host refuses.
    pub fn new() -> Result<Self, ProgramError> {
        // SAFETY: an all-zero set is valid and is emptied first; all pointers outlive their calls.
        let fd = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGTERM);
            libc::sigaddset(&raw mut set, libc::SIGINT);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC)
        };
        if fd < 0 {
            let error = io::Error::last_os_error();
            return Err(ProgramError::Host { what: "signals cannot be taken", error });
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let signals = unsafe { OwnedFd::from_raw_fd(fd) };
        let asked = EventFd::new(EFD_NONBLOCK)
            .map_err(|error| ProgramError::Host { what: "no descriptor", error })?;
        Ok(Self { signals, asked })
    }

    /// For another thread to end the program.
    ///
    /// # Errors
    /// No descriptor can be had.
    pub fn stop(&self) -> io::Result<Stop> {
        Ok(Stop { asked: self.asked.try_clone()? })
    }

    /// Waits until the program is to end.
    ///
    /// # Errors
    /// Waiting failed.
    pub fn wait(&self) -> Result<(), ProgramError> {
        wait(&[], self).map(drop)
    }

    /// Takes the signal that has come, so that the next one is noticed.
    pub(crate) fn take(&self) {
        let mut signal = [0; size_of::<libc::signalfd_siginfo>()];
        let _ = rustix::io::read(&self.signals, &mut signal); // whichever it is
    }
}

/// Waits until one of `fds` is readable. `false`: the program is to end.
///
/// # Errors
/// Waiting failed.
pub fn wait(fds: &[RawFd], shutdown: &Shutdown) -> Result<bool, ProgramError> {
    let ends = [shutdown.signals.as_raw_fd(), shutdown.asked.as_raw_fd()];
    let all = fds.iter().copied().chain(ends);
    let mut polls: Vec<libc::pollfd> =
        all.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
    loop {
        // SAFETY: the array outlives the call.
        let count = unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, -1) };
        if count >= 0 {
            return Ok(polls.iter().rev().take(ends.len()).all(|end| end.revents == 0));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(ProgramError::Host { what: "waiting failed", error });
        }
    }
}
