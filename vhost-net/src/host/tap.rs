//! A TAP or macvtap interface of the host's (Linux, Documentation/networking/tuntap.rst): frames go in and out
//! with virtio's header before them, and the host does what is left to be done in them.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use vhost_runtime::sandbox::Call;

use super::interface;
use crate::frame::Mac;
use crate::frame::offload::Accepted;

/// The character device by which TAP interfaces are made and opened.
const CLONE: &str = "/dev/net/tun";
/// How long the processes of a program that was killed may take to follow it, and how often that is seen.
const DYING: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);

/// Why an interface can't be had.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The kernel has no such names.
    #[error(
        "--tap {0}: an interface's name has 1 to 15 bytes, without slash, colon, % and space, and is not . or .."
    )]
    Name(String),
    /// There is no driver, or no permission for it.
    #[error("--tap {name}: {device} cannot be opened: {error}")]
    Device {
        /// The interface.
        name: String,
        /// What could not be opened.
        device: PathBuf,
        /// What the host said.
        error: io::Error,
    },
    /// It is another user's, or can't be made.
    #[error(
        "--tap {name}: this user may not use or make it; root can by: ip tuntap add dev {name} mode tap multi_queue user {user}"
    )]
    Permission {
        /// The interface.
        name: String,
        /// The user's number.
        user: u32,
    },
    /// Another process has it.
    #[error("--tap {0}: another process uses it")]
    Busy(String),
    /// There is no TAP interface of that name, but something else.
    #[error("--tap {name}: it is no TAP or macvtap interface: {error}")]
    Kind {
        /// The interface.
        name: String,
        /// What the host said.
        error: io::Error,
    },
    /// Of two interfaces.
    #[error(
        "--tap-fd {fd}: it is a queue of {name}, and those before are of {first}: give those of one"
    )]
    Other {
        /// Which.
        fd: i32,
        /// Whose it is.
        name: String,
        /// Whose those before are.
        first: String,
    },
    /// One queue for two pairs.
    #[error("--tap-fd {0}: it is the same queue as one before: open the interface once for each")]
    Same(i32),
    /// Not a TAP's.
    #[error("--tap-fd {fd}: no open TAP or macvtap interface: {error}")]
    Fd {
        /// Which.
        fd: i32,
        /// What the host said.
        error: io::Error,
    },
}

/// What an interface of this name is opened with.
#[derive(Clone, Debug)]
pub struct Tap {
    /// The interface's name.
    pub name: String,
    /// Queues at most: an interface may have one alone.
    pub queues: u16,
}

impl Tap {
    /// Opens all its queues, of which the first is in use; makes it if there is none.
    ///
    /// # Errors
    /// See [`TapError`].
    pub fn open(&self) -> Result<Vec<OwnedFd>, TapError> {
        if !is_name(&self.name) {
            return Err(TapError::Name(self.name.clone()));
        }
        if let Some(device) = macvtap(&self.name) {
            return self.open_macvtap(&device);
        }
        let end = Instant::now().checked_add(DYING);
        loop {
            match self.open_tap() {
                Err(TapError::Busy(_)) if end.is_some_and(|end| Instant::now() < end) => {
                    std::thread::sleep(PAUSE);
                }
                other => return other,
            }
        }
    }

    fn open_tap(&self) -> Result<Vec<OwnedFd>, TapError> {
        let name = &self.name;
        if self.is_used_beside(0) {
            return Err(TapError::Busy(name.clone()));
        }
        let multi_queue = self.queues > 1;
        let first = match self.attach(multi_queue) {
            // It is there, and of the other kind.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.attach(!multi_queue).map(|file| (file, !multi_queue))
            }
            other => other.map(|file| (file, multi_queue)),
        };
        let (first, multi_queue) = first.map_err(|error| self.refused(error))?;
        if self.is_used_beside(1) {
            return Err(TapError::Busy(name.clone())); // since it was looked at
        }
        let first = OwnedFd::from(first);
        // Of an interface of which somebody has a queue that is not in use, the kernel leaves this as it is.
        if let Err(TapError::Fd { error, .. }) = request_of(&first) {
            return Err(TapError::Kind { name: name.clone(), error });
        }
        let wanted = if multi_queue { self.queues } else { 1 };
        let mut queues = vec![first];
        for _ in 1..wanted {
            let next = self.attach(true).map_err(|error| self.refused(error))?;
            set_attached(next.as_fd(), false).map_err(|error| self.refused(error))?;
            queues.push(next.into());
        }
        Ok(queues)
    }

    /// Whether there is an interface of this name.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.index() != 0
    }

    /// Its number; 0 if there is none of this name.
    fn index(&self) -> u32 {
        let name = CString::new(self.name.as_str()).unwrap_or_default();
        // SAFETY: the name is a C string, which outlives the call.
        unsafe { libc::if_nametoindex(name.as_ptr()) }
    }

    /// More than so many of its queues are in use. The kernel lets several processes have some of one interface, of
    /// which each then has a part of the frames.
    fn is_used_beside(&self, own: u32) -> bool {
        let index = self.index();
        index != 0 && interface::queues_in_use(index).is_ok_and(|used| used > Some(own))
    }

    fn attach(&self, multi_queue: bool) -> io::Result<File> {
        let file = open(CLONE.as_ref()).map_err(|error| {
            // Told from what the interface itself answers by its kind.
            io::Error::new(io::ErrorKind::NotFound, error)
        })?;
        // SAFETY: an ifreq is plain data; all zeroes is a valid one.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(self.name.bytes()) {
            *to = from.cast_signed();
        }
        let kind = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        let flags = if multi_queue { kind | libc::IFF_MULTI_QUEUE } else { kind };
        // The flags are bits of 16, of which the last is the sign.
        request.ifr_ifru.ifru_flags = i16::from_ne_bytes(low_half(flags));
        // SAFETY: `request` is an ifreq, as TUNSETIFF takes, and outlives the call.
        match unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } {
            0 => Ok(file),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn refused(&self, error: io::Error) -> TapError {
        let name = self.name.clone();
        if error.kind() == io::ErrorKind::NotFound {
            return TapError::Device { name, device: CLONE.into(), error };
        }
        match error.raw_os_error() {
            Some(libc::EPERM) => {
                TapError::Permission { name, user: rustix::process::geteuid().as_raw() }
            }
            Some(libc::EBUSY) => TapError::Busy(name),
            _ => TapError::Kind { name, error },
        }
    }

    fn open_macvtap(&self, device: &str) -> Result<Vec<OwnedFd>, TapError> {
        let path = PathBuf::from(format!("/dev/{device}"));
        let mut queues = Vec::new();
        for _ in 0..self.queues {
            let failed = |error| {
                let (name, device) = (self.name.clone(), path.clone());
                TapError::Device { name, device, error }
            };
            let file = open(&path).map_err(failed)?;
            queues.push(prepare_macvtap(file).map_err(failed)?);
        }
        Ok(queues)
    }
}

/// Whether an interface may be called so (Linux, `dev_valid_name`). Of a per cent sign the kernel would make a number.
fn is_name(name: &str) -> bool {
    let odd = |c: char| matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control();
    (1..=15).contains(&name.len()) && !matches!(name, "." | "..") && !name.contains(odd)
}

/// The address that a macvtap interface hands frames on for, but for those of groups: its guest should have it.
#[must_use]
pub fn guest_address(name: &str) -> Option<Mac> {
    macvtap(name)?;
    std::fs::read_to_string(format!("/sys/class/net/{name}/address")).ok()?.trim().parse().ok()
}

/// What the interface is called whose queues these descriptors are.
///
/// # Errors
/// One is none, or without what is needed, or another's, or the same queue as one before.
pub fn name_of_all(fds: &[OwnedFd]) -> Result<String, TapError> {
    let mut name = String::new();
    for (number, fd) in fds.iter().enumerate() {
        let bytes = request_of(fd)?.ifr_name.map(libc::c_char::cast_unsigned);
        let bytes: Vec<u8> = bytes.into_iter().take_while(|byte| *byte != 0).collect();
        let this = String::from_utf8_lossy(&bytes).into_owned();
        if number > 0 && this != name {
            let fd = fd.as_raw_fd();
            return Err(TapError::Other { fd, name: this, first: name });
        }
        name = this;
        let before = fds.get(..number).unwrap_or_default();
        if before.iter().any(|other| is_same(fd, other)) {
            return Err(TapError::Same(fd.as_raw_fd()));
        }
    }
    Ok(name)
}

/// Both are one open file (kcmp(2)); where that can't be asked, they are taken for two.
fn is_same(one: &OwnedFd, other: &OwnedFd) -> bool {
    const KCMP_FILE: libc::c_int = 0;
    let own = std::process::id();
    // SAFETY: kcmp only compares.
    unsafe {
        libc::syscall(libc::SYS_kcmp, own, own, KCMP_FILE, one.as_raw_fd(), other.as_raw_fd()) == 0
    }
}

fn low_half(flags: libc::c_int) -> [u8; 2] {
    let [low, high, ..] = flags.to_le_bytes();
    u16::from_le_bytes([low, high]).to_ne_bytes()
}

fn open(path: &std::path::Path) -> io::Result<File> {
    let nonblocking = libc::O_NONBLOCK | libc::O_CLOEXEC;
    OpenOptions::new().read(true).write(true).custom_flags(nonblocking).open(path)
}

/// The device of a macvtap interface.
fn macvtap(name: &str) -> Option<String> {
    let mut entries = std::fs::read_dir(format!("/sys/class/net/{name}/macvtap")).ok()?;
    entries.find_map(|entry| entry.ok()?.file_name().into_string().ok())
}

/// A macvtap is an interface's from the start, but without a header.
fn prepare_macvtap(file: File) -> io::Result<OwnedFd> {
    // SAFETY: as in `attach`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = i16::from_ne_bytes(low_half(flags));
    // SAFETY: as in `attach`.
    match unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } {
        0 => Ok(file.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Checks that a descriptor that was passed is an interface's, with a header, and has it not block.
///
/// # Errors
/// [`TapError::Fd`].
pub fn check(fd: &OwnedFd) -> Result<(), TapError> {
    request_of(fd)?;
    let failed =
        |error: rustix::io::Errno| TapError::Fd { fd: fd.as_raw_fd(), error: error.into() };
    rustix::io::ioctl_fionbio(fd, true).map_err(failed)
}

/// Whether the interface is there whose queue this is: it may have been taken away.
#[must_use]
pub fn is_there(queue: &OwnedFd) -> bool {
    request_of(queue).is_ok()
}

/// How the interface behind a descriptor was opened.
fn request_of(fd: &OwnedFd) -> Result<libc::ifreq, TapError> {
    let failed = |error| TapError::Fd { fd: fd.as_raw_fd(), error };
    // SAFETY: as in `attach`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: TUNGETIFF fills an ifreq, which outlives the call.
    if unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &raw mut request) } != 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    // SAFETY: the kernel has filled the flags in, which are plain data anyway.
    let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
    let needed = libc::IFF_TAP | libc::IFF_VNET_HDR | libc::IFF_NO_PI;
    if flags & needed != needed {
        let what = "it was opened without IFF_TAP, IFF_VNET_HDR or IFF_NO_PI";
        return Err(failed(io::Error::other(what)));
    }
    Ok(request)
}

/// `TUNSETOFFLOAD`'s flags (if_tun.h).
const CSUM: u32 = 0x01;
const TSO4: u32 = 0x02;
const TSO6: u32 = 0x04;
const TSO_ECN: u32 = 0x08;
const UFO: u32 = 0x10;
const USO4: u32 = 0x20;
const USO6: u32 = 0x40;

/// Says what the interface may leave to be done in frames that are read from it.
///
/// # Errors
/// The kernel does not know one of them, or the interface is gone.
pub fn set_offload(tap: BorrowedFd<'_>, accepted: &Accepted) -> io::Result<()> {
    let mut flags: u32 = 0;
    // Without checksums the kernel takes none of the others.
    if accepted.checksum {
        let Accepted { tso4, tso6, ecn, ufo, uso, .. } = *accepted;
        flags |= CSUM;
        for (on, flag) in [
            (tso4, TSO4),
            (tso6, TSO6),
            (ecn && (tso4 || tso6), TSO_ECN),
            (ufo, UFO),
            (uso, USO4 | USO6),
        ] {
            flags |= if on { flag } else { 0 };
        }
    }
    // SAFETY: TUNSETOFFLOAD takes a number.
    match unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the kernel cuts UDP into datagrams (from Linux 6.2 on).
#[must_use]
pub fn knows_datagrams(tap: &impl AsFd) -> bool {
    let all = Accepted { checksum: true, uso: true, ..Accepted::default() };
    let known = set_offload(tap.as_fd(), &all).is_ok();
    // What was there before is not known; a driver says what it takes before it is sent anything.
    known && set_offload(tap.as_fd(), &Accepted::default()).is_ok()
}

/// Says how long the header before each frame is.
///
/// # Errors
/// The interface is gone.
pub fn set_header(tap: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // SAFETY: TUNSETVNETHDRSZ reads an int, which outlives the call.
    match unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const bytes) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the host use this queue for frames that it sends, or not.
///
/// # Errors
/// The interface is gone; or it has one queue, which is always used, or it is so already.
pub fn set_attached(queue: BorrowedFd<'_>, attached: bool) -> io::Result<()> {
    // SAFETY: an ifreq is plain data; all zeroes is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let flags = if attached { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
    request.ifr_ifru.ifru_flags = i16::from_ne_bytes(low_half(flags));
    // SAFETY: TUNSETQUEUE reads an ifreq, which outlives the call.
    match unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETQUEUE, &raw const request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What a process that uses an interface asks of the kernel.
#[must_use]
pub fn calls() -> [Call; 4] {
    let ioctl = |request: libc::c_ulong| Call::ioctl(u32::try_from(request).unwrap_or(0));
    [libc::TUNGETIFF, libc::TUNSETOFFLOAD, libc::TUNSETVNETHDRSZ, libc::TUNSETQUEUE].map(ioctl)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_interface_has_are_told() {
        for right in ["t", "tap0", "br-lan.7", "fifteen-bytes-x", "..."] {
            assert!(is_name(right), "{right}");
        }
        for wrong in ["", ".", "..", "a/b", "a:b", "a b", "a\t", "tap%d", "sixteen-bytes-xx"] {
            assert!(!is_name(wrong), "{wrong}");
        }
    }
}
