//! A network of a test's own: interfaces in it are nobody else's, and go when nothing uses it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::panic;
use std::process::Command;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::Error;
use crate::error::Context;

/// A network namespace, which takes root to make. It ends with this value, if no process, socket or
/// TAP is in it.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// A new one, with nothing in it but the loopback interface.
    ///
    /// # Errors
    /// This process is not allowed to make one.
    pub fn new() -> Result<Namespace, Error> {
        // On a thread of its own, which alone leaves the network that it was in.
        let file = thread::scope(|scope| joined(scope.spawn(make)));
        let namespace = Namespace { file: file.context(|| "cannot make a network".into())? };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Does something in it, on a thread of its own. Sockets and TAPs stay in the network that they
    /// were made in.
    ///
    /// # Errors
    /// This process is not allowed to enter it.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let entered = || enter(&self.file).map(|()| work());
        let result = thread::scope(|scope| joined(scope.spawn(entered)));
        result.context(|| "cannot enter a network".into())
    }

    /// A command that is started in it.
    ///
    /// # Errors
    /// This process has no file descriptor left.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command, Error> {
        let mut command = Command::new(program);
        self.confine(&mut command)?;
        Ok(command)
    }

    /// Has a command be started in it.
    ///
    /// # Errors
    /// This process has no file descriptor left.
    pub fn confine(&self, command: &mut Command) -> Result<(), Error> {
        let file = self.file.try_clone().context(|| "cannot share a network".into())?;
        // SAFETY: the closure runs between fork and exec and calls only setns(2), which is
        // async-signal-safe, and allocates nothing.
        unsafe { command.pre_exec(move || enter(&file)) };
        Ok(())
    }

    /// Runs `ip` in it with these arguments, separated by blanks.
    ///
    /// # Errors
    /// It fails; the error has what it said.
    pub fn ip(&self, arguments: &str) -> Result<(), Error> {
        let mut ip = self.command("ip")?;
        let output = ip.args(arguments.split_whitespace()).output();
        let output = output.context(|| "cannot start ip".into())?;
        if output.status.success() {
            return Ok(());
        }
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(Error::Failed { what: format!("ip {arguments}"), status: output.status, log })
    }
}

fn make() -> io::Result<File> {
    // SAFETY: unshare(2) takes an integer; only this thread, which ends at once, is moved.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // Linux would send packets of its own from each interface.
    for which in ["all", "default"] {
        fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1")?;
    }
    File::open("/proc/thread-self/ns/net")
}

fn enter(file: &File) -> io::Result<()> {
    let network = Some(LinkNameSpaceType::Network);
    move_into_link_name_space(file.as_fd(), network).map_err(io::Error::from)
}

/// What a thread returned; if it panicked, so does this one.
fn joined<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked))
}
