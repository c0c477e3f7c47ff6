//! What the sandbox of this program must let it do.

use vhost_runtime::sandbox::{Call, Sandbox};

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

/// Lets the program run a machine.
pub fn allow(sandbox: &mut Sandbox) {
    sandbox.calls(CALLS.iter().copied());
    // Device processes are connected to again when they were replaced.
    sandbox.connects();
    // A processor's thread is taken out of the guest by a signal, and Ctrl-Z stops the program.
    sandbox.calls([
        Call::With(libc::SYS_tgkill, 0, std::process::id()),
        Call::With(libc::SYS_kill, 0, std::process::id()),
        Call::With(libc::SYS_kill, 0, 0),
    ]);
}
