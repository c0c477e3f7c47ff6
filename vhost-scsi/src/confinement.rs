//! What the sandbox of this program must let it do.

use vhost_runtime::sandbox::{Call, Capabilities, Sandbox};

use crate::image::engine::EngineKind;

/// Linux's requests that `libc` lacks (fs.h, sg.h).
const BLKDISCARD: u32 = 0x1277;
const BLKZEROOUT: u32 = 0x127f;
const BLKSSZGET: u32 = 0x1268;
const BLKPBSZGET: u32 = 0x127b;
const BLKGETSIZE64: u32 = 0x8008_1272;
const SG_SCSI_RESET: u32 = 0x2284;
const SG_IO: u32 = 0x2285;

/// Images: data, space, size, locks, and what is kept beside them.
const IMAGES: &[Call] = &[
    Call::Any(libc::SYS_preadv),
    Call::Any(libc::SYS_pwritev),
    Call::Any(libc::SYS_preadv2),
    Call::Any(libc::SYS_pwritev2),
    Call::Any(libc::SYS_fsync),
    Call::Any(libc::SYS_fdatasync),
    Call::Any(libc::SYS_fallocate),
    Call::Any(libc::SYS_ftruncate),
    Call::Any(libc::SYS_fgetxattr),
    Call::Any(libc::SYS_fsetxattr),
    Call::Any(libc::SYS_fremovexattr),
    Call::With(libc::SYS_fcntl, 1, libc::F_OFD_SETLK.cast_unsigned()),
    Call::With(libc::SYS_fcntl, 1, libc::F_OFD_GETLK.cast_unsigned()),
    Call::ioctl(BLKDISCARD),
    Call::ioctl(BLKZEROOUT),
    Call::ioctl(BLKSSZGET),
    Call::ioctl(BLKPBSZGET),
    Call::ioctl(BLKGETSIZE64),
];

const IO_URING: &[Call] = &[
    Call::Any(libc::SYS_io_uring_setup),
    Call::Any(libc::SYS_io_uring_enter),
    Call::Any(libc::SYS_io_uring_register),
];

const PASS_THROUGH: &[Call] = &[Call::ioctl(SG_IO), Call::ioctl(SG_SCSI_RESET)];

/// Lets the program serve images with this engine, and perhaps physical units: some from the
/// beginning, or such as control clients pass.
pub fn allow(sandbox: &mut Sandbox, engine: EngineKind, pass_through: bool, control: bool) {
    sandbox.calls(IMAGES.iter().copied());
    if engine != EngineKind::Threads {
        sandbox.calls(IO_URING.iter().copied());
    }
    if pass_through || control {
        sandbox.calls(PASS_THROUGH.iter().copied());
        // A reset interrupts this process's own threads in their calls.
        sandbox.calls([Call::With(libc::SYS_tgkill, 0, std::process::id())]);
    }
    if pass_through {
        // The kernel asks for RAW_IO at each command that is not on its short list, and for both at
        // a reset: not when the device is opened.
        sandbox.capabilities(Capabilities::RAW_IO | Capabilities::ADMIN);
    }
}
