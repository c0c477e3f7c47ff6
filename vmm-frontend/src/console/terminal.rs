//! The user's terminal: in raw mode while the machine runs, and as it was before at every other time.
//!
//! It is given back when it is dropped, when the process exits, panics or is ended by a signal, and
//! while the process is stopped (SIGTSTP).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Signal, getpgrp, getpid, kill_process};
use rustix::termios::{
    OptionalActions, OutputModes, Termios, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr,
};

/// A terminal.
#[derive(Debug)]
pub(super) struct Terminal {
    own: Own,
    signals: OwnedFd,
    /// It is in raw mode, or will be when the process is in the foreground again.
    raw: bool,
}

#[derive(Debug)]
struct Own {
    fd: OwnedFd,
    before: Termios,
}

impl Own {
    fn of(fd: impl AsFd) -> io::Result<Self> {
        Ok(Self { before: tcgetattr(&fd)?, fd: fd.as_fd().try_clone_to_owned()? })
    }

    fn make_raw(&self) -> io::Result<()> {
        if self.is_anothers() {
            return Ok(());
        }
        let mut raw = self.before.clone();
        raw.make_raw();
        // Line feeds of our own messages go to the line's start too; a guest sends both.
        raw.output_modes |= OutputModes::OPOST;
        Ok(tcsetattr(&self.fd, OptionalActions::Now, &raw)?)
    }

    fn restore(&self) {
        if !self.is_anothers() {
            // There is nobody to tell.
            let _ = tcsetattr(&self.fd, OptionalActions::Now, &self.before);
        }
    }

    /// Another job is in the foreground. A process in the background would be stopped if it changed
    /// the terminal, and has it no more to give back.
    fn is_anothers(&self) -> bool {
        tcgetpgrp(&self.fd).is_ok_and(|foreground| foreground != getpgrp())
    }
}

impl Terminal {
    /// A terminal, which stays as it is for now. Its signals are blocked in this thread and those that
    /// it starts: it has to be the only one yet.
    pub(super) fn open(fd: impl AsFd) -> io::Result<Self> {
        Ok(Self { own: Own::of(fd)?, signals: signals()?, raw: false })
    }

    /// Has it as it was before whenever the process ends.
    pub(super) fn restore_at_exit(&self) -> io::Result<()> {
        let own = Own::of(&self.own.fd)?;
        if SAVED.set(own).is_ok() {
            restore_at_exit()?;
        }
        Ok(())
    }

    /// Has it in raw mode from now on.
    pub(super) fn begin(&mut self) {
        if !std::mem::replace(&mut self.raw, true) {
            IS_RAW.store(true, Ordering::Release);
            self.go_on();
        }
    }

    /// Takes a signal: the terminal's size has changed, or the process is to stop, or goes on.
    pub(super) fn signal(&self) {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        if rustix::io::read(&self.signals, &mut info).is_err() {
            return;
        }
        // Its number is its first field.
        let [number, ..] = info;
        match i32::from(number) {
            libc::SIGTSTP => {
                self.own.restore();
                // It can't be refused; the next line is for when the process goes on.
                let _ = kill_process(getpid(), Signal::STOP);
                self.go_on();
            }
            libc::SIGCONT => self.go_on(),
            _ => {}
        }
    }

    fn go_on(&self) {
        if self.raw
            && let Err(error) = self.own.make_raw()
        {
            log::warn!("the terminal cannot be made raw: {error}");
        }
    }

    /// Columns and rows, if it knows them.
    pub(super) fn size(&self) -> Option<(u16, u16)> {
        let size = tcgetwinsize(&self.own.fd).ok()?;
        (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
    }
}

impl AsFd for Terminal {
    /// Readable when a signal has come.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if self.raw {
            self.own.restore();
            IS_RAW.store(false, Ordering::Release);
        }
    }
}

/// Blocks SIGTSTP, SIGCONT and SIGWINCH, and has them told by a descriptor.
fn signals() -> io::Result<OwnedFd> {
    // SAFETY: an all-zero set is valid and is emptied first; all pointers outlive their calls.
    let fd = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGTSTP, libc::SIGCONT, libc::SIGWINCH] {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The process's terminal, as it was.
static SAVED: OnceLock<Own> = OnceLock::new();
static IS_RAW: AtomicBool = AtomicBool::new(false);

/// Gives the terminal back. It does what a signal handler may do, and no more.
fn restore() {
    if IS_RAW.load(Ordering::Acquire)
        && let Some(own) = SAVED.get()
    {
        own.restore();
    }
}

extern "C" fn exits() {
    restore();
}

extern "C" fn is_ended(signal: libc::c_int) {
    restore();
    // SAFETY: it may be called by a signal handler. The default action is in place again.
    unsafe { libc::raise(signal) };
}

fn restore_at_exit() -> io::Result<()> {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        restore();
        report(info);
    }));
    // SAFETY: the function may be called at any time.
    if unsafe { libc::atexit(exits) } != 0 {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
        // SAFETY: all-zero actions are valid; all pointers outlive their calls; the handler does
        // what a handler may do.
        let result = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, std::ptr::null(), &raw mut action) != 0 {
                -1
            } else if action.sa_sigaction == libc::SIG_DFL {
                action = std::mem::zeroed();
                action.sa_sigaction = is_ended as *const () as usize;
                action.sa_flags = libc::SA_RESETHAND | libc::SA_RESTART;
                libc::sigaction(signal, &raw const action, std::ptr::null_mut())
            } else {
                0
            }
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
