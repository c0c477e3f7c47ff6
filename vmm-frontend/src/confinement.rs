//! What the sandbox must let this program do, and each of its threads.

use std::sync::OnceLock;

use vhost_runtime::sandbox::{Call, Sandbox, SandboxError, ThreadFilter};

/// Requests to KVM: all of them have this type (kvm.h, KVMIO).
const KVM: Call = Call::Masked(libc::SYS_ioctl, 1, 0xff00, 0xae00);

/// Linux's requests that `libc` lacks (asm-generic/ioctls.h), which rustix prefers.
const TCGETS2: u32 = 0x802c_542a;
const TCSETS2: u32 = 0x402c_542b;
const TCSETSW2: u32 = 0x402c_542c;
const TCSETSF2: u32 = 0x402c_542d;

const CALLS: &[Call] = &[
    KVM,
    // The channel on which a device process speaks of its own accord.
    Call::With(libc::SYS_socketpair, 0, libc::AF_UNIX.cast_unsigned()),
    // The terminal.
    Call::ioctl(libc::TCGETS as u32),
    Call::ioctl(libc::TCSETS as u32),
    Call::ioctl(libc::TCSETSW as u32),
    Call::ioctl(libc::TCSETSF as u32),
    Call::ioctl(TCGETS2),
    Call::ioctl(TCSETS2),
    Call::ioctl(TCSETSW2),
    Call::ioctl(TCSETSF2),
    Call::ioctl(libc::TIOCGPGRP as u32),
    Call::ioctl(libc::TIOCGWINSZ as u32),
    Call::Any(libc::SYS_getpgid),
    #[cfg(target_arch = "x86_64")]
    Call::Any(libc::SYS_getpgrp),
    Call::Any(libc::SYS_signalfd4),
];

/// What only the main thread does, which makes the machine, and devices that are plugged in.
const BUILDING: &[Call] = &[
    Call::Any(libc::SYS_memfd_create),
    Call::Any(libc::SYS_ftruncate),
    Call::With(libc::SYS_fcntl, 1, libc::F_ADD_SEALS.cast_unsigned()),
    Call::Any(libc::SYS_signalfd4),
];

/// Connecting to device processes.
const CONNECTING: &[Call] =
    &[Call::Any(libc::SYS_socket), Call::Any(libc::SYS_connect), Call::Any(libc::SYS_socketpair)];

/// Sockets on which the program listens, and its terminal.
const CONSOLES: &[Call] = &[
    Call::Any(libc::SYS_accept4),
    Call::ioctl(libc::TCSETS as u32),
    Call::ioctl(libc::TCSETSW as u32),
    Call::ioctl(libc::TCSETSF as u32),
    Call::ioctl(TCSETS2),
    Call::ioctl(TCSETSW2),
    Call::ioctl(TCSETSF2),
    Call::Any(libc::SYS_kill),
];

const THREADS: &[Call] = &[Call::Any(libc::SYS_clone)];

/// A thread's work.
#[derive(Clone, Copy, Debug)]
pub enum Role {
    /// It runs a processor: it emulates what the guest asks for, and talks to device processes.
    Processor,
    /// It waits for descriptors: of timers, consoles, and interrupts.
    Reactor,
    /// It watches a device process, and connects to the next one.
    Watcher,
    /// It only waits for others, and tells.
    Messenger,
}

impl Role {
    /// What it never does.
    fn without(self) -> Vec<Call> {
        let parts: &[&[Call]] = match self {
            Self::Processor => &[BUILDING, CONNECTING, CONSOLES, THREADS],
            Self::Reactor => &[BUILDING, CONNECTING, THREADS],
            Self::Watcher => &[&[KVM], BUILDING, CONSOLES],
            Self::Messenger => &[&[KVM], BUILDING, CONNECTING, CONSOLES, THREADS],
        };
        parts.concat()
    }
}

/// The filters of threads, if the program is in its sandbox.
static FILTERS: OnceLock<Filters> = OnceLock::new();

#[derive(Debug)]
struct Filters {
    processor: ThreadFilter,
    reactor: ThreadFilter,
    watcher: ThreadFilter,
    messenger: ThreadFilter,
}

/// Enters the sandbox that lets the program run a machine.
///
/// # Errors
/// See [`SandboxError`].
pub fn enter(mut sandbox: Sandbox) -> Result<(), SandboxError> {
    sandbox.calls(CALLS.iter().copied());
    // Device processes are connected to again when they were replaced.
    sandbox.connects();
    sandbox.threads();
    // A processor's thread is taken out of the guest by a signal, and Ctrl-Z stops the program.
    sandbox.calls([
        Call::With(libc::SYS_tgkill, 0, std::process::id()),
        Call::With(libc::SYS_kill, 0, std::process::id()),
        Call::With(libc::SYS_kill, 0, 0),
    ]);
    let filter = |role: Role| ThreadFilter::without(&role.without());
    let filters = Filters {
        processor: filter(Role::Processor)?,
        reactor: filter(Role::Reactor)?,
        watcher: filter(Role::Watcher)?,
        messenger: filter(Role::Messenger)?,
    };
    sandbox.enter()?;
    // It is entered once.
    let _ = FILTERS.set(filters);
    Ok(())
}

/// Takes from this thread what its work does not need, if the program is in its sandbox.
pub fn restrict(role: Role) {
    let Some(filters) = FILTERS.get() else { return };
    let filter = match role {
        Role::Processor => &filters.processor,
        Role::Reactor => &filters.reactor,
        Role::Watcher => &filters.watcher,
        Role::Messenger => &filters.messenger,
    };
    if let Err(error) = filter.enter() {
        log::error!("a thread has all that the program may do: {error}");
    }
}
