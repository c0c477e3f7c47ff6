//! A process beside the one that serves, which is in no sandbox: it opens what of the host the other one
//! needs, and passes it by descriptor.
//!
//! The serving process may have been taken over by a guest: a broker takes nothing from it but a byte, which
//! can mean only what the command line allowed before.

use std::ffi::CStr;
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid};

/// Descriptors in a message at most.
pub const FDS: usize = 64;

/// One end of a channel to or from a broker: a message is a byte, and descriptors.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// What came.
#[derive(Debug)]
pub struct Message {
    /// What it is.
    pub byte: u8,
    /// What came with it.
    pub fds: Vec<OwnedFd>,
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Channel {
    /// Both ends.
    ///
    /// # Errors
    /// The host refuses.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let (one, other) = socketpair(AddressFamily::UNIX, kind, flags, None)?;
        Ok((Self(one), Self(other)))
    }

    /// Sends a message; waits until there is room for it.
    ///
    /// # Errors
    /// The other end is closed; or more than [`FDS`] descriptors.
    pub fn send(&self, byte: u8, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.put(byte, fds, SendFlags::empty())
    }

    /// Sends a message, if there is room for it (`true`).
    ///
    /// # Errors
    /// As of [`send`](Self::send).
    pub fn try_send(&self, byte: u8, fds: &[BorrowedFd<'_>]) -> io::Result<bool> {
        match self.put(byte, fds, SendFlags::DONTWAIT) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            sent => sent.map(|()| true),
        }
    }

    fn put(&self, byte: u8, fds: &[BorrowedFd<'_>], flags: SendFlags) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = flags | SendFlags::NOSIGNAL;
        sendmsg(&self.0, &[IoSlice::new(&[byte])], &mut control, flags)?;
        Ok(())
    }

    /// Waits for a message.
    ///
    /// # Errors
    /// The other end is closed.
    pub fn receive(&self) -> io::Result<Message> {
        Ok(self.take(RecvFlags::empty())?)
    }

    /// A message, if one has come.
    ///
    /// # Errors
    /// The other end is closed.
    pub fn try_receive(&self) -> io::Result<Option<Message>> {
        match self.take(RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            other => Ok(Some(other?)),
        }
    }

    fn take(&self, flags: RecvFlags) -> Result<Message, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        let message = recvmsg(&self.0, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
        if message.bytes == 0 {
            return Err(Errno::PIPE);
        }
        let whole = !message.flags.contains(ReturnFlags::CTRUNC);
        let rights = control.drain().filter_map(|part| match part {
            RecvAncillaryMessage::ScmRights(rights) if whole => Some(rights),
            _ => None,
        });
        let fds = rights.flatten().collect();
        let [byte] = byte;
        Ok(Message { byte, fds })
    }
}

/// A broker, as whoever started it sees it: its descriptor becomes readable when it has ended.
#[derive(Debug)]
pub struct Process {
    pub(crate) pid: Pid,
    pub(crate) fd: OwnedFd,
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A broker that is to live as long as the program: its supervisor starts another when it was killed, but not when
/// it has ended by itself.
pub struct Lasting {
    /// The one that runs.
    pub process: Process,
    /// Starts another.
    pub again: Box<dyn FnMut() -> io::Result<Process>>,
}

impl fmt::Debug for Lasting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lasting").field("process", &self.process).finish_non_exhaustive()
    }
}

/// Forks a broker that is called `name`, before any thread is started: it keeps the standard streams and the
/// descriptors `kept`, does `work`, and ends. It leads a process group, which has what it starts, too.
///
/// # Errors
/// The host refuses.
pub fn start(name: &CStr, kept: &[RawFd], work: impl FnOnce()) -> io::Result<Process> {
    // SAFETY: this process has one thread (the caller's promise), so the child finds every lock free; it
    // never returns from here.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // What it is called does not matter to it.
            let _ = rustix::thread::set_name(name);
            let _ = rustix::process::setpgid(None, None); // a child of ours: nothing forbids it
            block_signals();
            close_others(kept);
            work();
            // SAFETY: it ends this process, without what belongs to the other one.
            unsafe { libc::_exit(0) }
        }
        pid => {
            let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::Other)?;
            match pidfd_open(pid, PidfdFlags::empty()) {
                Ok(fd) => Ok(Process { pid, fd }),
                Err(error) => {
                    // Nobody would know of it; it cannot be anybody else's, since it was not waited for.
                    let _ = kill_process(pid, Signal::KILL);
                    let _ = waitpid(Some(pid), WaitOptions::empty());
                    Err(error.into())
                }
            }
        }
    }
}

/// A terminal's Ctrl-C and a service manager's SIGTERM are for the program, with which it ends. They are blocked,
/// not ignored, which programs that it starts would be, too. And a terminal that stops who writes to it from the
/// background would stop this process.
fn block_signals() {
    // SAFETY: an all-zero set is valid and is emptied first; all pointers outlive their calls.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        libc::sigaddset(&raw mut set, libc::SIGTTOU);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
}

/// Closes all descriptors but these and the standard ones: others listen and connect there.
fn close_others(kept: &[RawFd]) {
    let mut kept: Vec<u32> = kept.iter().filter_map(|&fd| u32::try_from(fd).ok()).collect();
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept.into_iter().chain([u32::MAX]) {
        if let Some(last) = fd.checked_sub(1).filter(|last| *last >= first) {
            // SAFETY: nothing in this process uses them any more.
            unsafe { libc::close_range(first, last, 0) };
        }
        first = fd.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_broker_passes_descriptors_and_ends_with_its_channel() {
        let (ours, theirs) = Channel::pair().unwrap();
        let (reader, writer) = io::pipe().unwrap();
        let kept = [theirs.as_fd().as_raw_fd(), writer.as_raw_fd()];
        let work = || {
            while let Ok(message) = theirs.receive() {
                let _ = theirs.send(message.byte + 1, &[writer.as_fd()]);
            }
        };
        start(c"test-broker", &kept, work).unwrap();
        drop(theirs);
        drop(writer);
        ours.send(6, &[]).unwrap();
        let message = ours.receive().unwrap();
        assert_eq!((message.byte, message.fds.len()), (7, 1));
        assert!(ours.try_receive().unwrap().is_none());
        drop((ours, message));
        // Closed in all processes: the broker has ended.
        assert_eq!(io::read_to_string(reader).unwrap(), "");
    }
}
