//! What a program gives up before it reads the first byte of a guest.
//!
//! A guest that takes over the process finds: no file but those that are open ([`files`]), no network
//! ([`files`], [`privileges`]), no capability but those that were named and no way to a new one
//! ([`privileges`]), and only the system calls that serving takes ([`calls`]), or still fewer ([`thread`]).
//!
//! io_uring does its work in the kernel, where seccomp does not look: a process that may use it can
//! do by it what [`calls`] forbids (open, socket). Landlock, capabilities and the empty network
//! still hold there, which is why none of the layers stands alone.

mod calls;
mod files;
mod privileges;
mod thread;

use std::io;
use std::os::fd::RawFd;

pub use calls::Call;
pub use privileges::Capabilities;
pub use thread::ThreadFilter;

/// Why a program can't confine itself.
#[derive(Debug, thiserror::Error)]
#[error("the sandbox cannot be entered ({what}), or use --sandbox=off: {error}")]
pub struct SandboxError {
    what: &'static str,
    error: io::Error,
}

impl SandboxError {
    fn new(what: &'static str, error: impl Into<io::Error>) -> Self {
        Self { what, error: error.into() }
    }
}

/// What a program needs while it serves, beyond what the runtime does itself.
#[derive(Debug, Default)]
pub struct Sandbox {
    inherited: Vec<RawFd>,
    calls: Vec<Call>,
    capabilities: Capabilities,
    connects: bool,
    /// TCP ports that it connects to.
    ports: Vec<u16>,
}

impl Sandbox {
    /// Nothing is needed yet. To be called before the program opens anything: what is open now was
    /// inherited, and is closed when the sandbox is entered, except the standard streams, the
    /// sockets of systemd, and those of `keep`.
    #[must_use]
    pub fn new(keep: impl IntoIterator<Item = RawFd>) -> Self {
        let keep: Vec<RawFd> = keep.into_iter().collect();
        let passed = std::env::var("LISTEN_FDS").ok().and_then(|count| count.parse().ok());
        let first = 3_i32.saturating_add(passed.unwrap_or(0));
        let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
        let numbers: Vec<RawFd> = open
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|fd| *fd >= first && !keep.contains(fd))
            .collect();
        // The folder itself was among them, and is closed by now.
        let inherited = numbers.into_iter().filter(|&fd| is_open(fd)).collect();
        Self { inherited, ..Self::default() }
    }

    /// System calls that the device makes.
    pub fn calls(&mut self, calls: impl IntoIterator<Item = Call>) {
        self.calls.extend(calls);
    }

    /// It connects to Unix sockets, of whatever path: Landlock forbids that from Linux 7 on.
    pub fn connects(&mut self) {
        self.connects = true;
        self.calls([
            Call::With(libc::SYS_socket, 0, libc::AF_UNIX.cast_unsigned()),
            Call::Any(libc::SYS_connect),
        ]);
    }

    /// It connects to a TCP port, of whatever host: the network is not left then, and Landlock forbids
    /// other ports.
    pub fn connects_tcp(&mut self, port: u16) {
        self.ports.push(port);
        let family = |family: i32| Call::With(libc::SYS_socket, 0, family.cast_unsigned());
        self.calls([family(libc::AF_INET), family(libc::AF_INET6), Call::Any(libc::SYS_connect)]);
    }

    /// Privileges that its system calls take.
    pub fn capabilities(&mut self, capabilities: Capabilities) {
        self.capabilities |= capabilities;
    }

    /// Enters it, for ever. Before any thread is started, for Landlock and capabilities are a
    /// thread's own.
    ///
    /// # Errors
    /// See [`SandboxError`]. Landlock is used as far as the kernel has it; all else must succeed.
    pub fn enter(self) -> Result<(), SandboxError> {
        if threads() > 1 {
            let error = io::Error::other("threads run already");
            return Err(SandboxError::new("it is too late", error));
        }
        for fd in self.inherited {
            log::debug!("descriptor {fd}, inherited from who started the program, is closed");
            // SAFETY: it was open before this program opened anything: nothing here owns it.
            unsafe { libc::close(fd) };
        }
        if self.ports.is_empty() {
            privileges::leave_network();
        }
        let filters = calls::filters(&self.calls)?;
        files::restrict(self.connects, &self.ports)?;
        privileges::drop_all_but(self.capabilities)?;
        calls::restrict(&filters)
    }
}

fn is_open(fd: RawFd) -> bool {
    // SAFETY: F_GETFD only asks.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// Threads of this process; 1 where `/proc` is not there to tell.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

#[cfg(test)]
mod tests;
