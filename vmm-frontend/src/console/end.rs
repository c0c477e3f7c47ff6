//! A descriptor of the host that is read or written without waiting.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat, open};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::reactor::{Events, Handler, Reactor, Watch};

/// One end of what a console is connected to.
#[derive(Debug)]
pub(super) struct End {
    fd: OwnedFd,
    is_socket: bool,
    /// Its flags as others who share it had them.
    flags: Option<OFlags>,
    watch: Option<Watch>,
}

impl End {
    /// One that nobody else has, and that does not block, or is a socket.
    pub(super) fn own(fd: OwnedFd) -> io::Result<Self> {
        let is_socket = FileType::from_raw_mode(fstat(&fd)?.st_mode) == FileType::Socket;
        Ok(Self { fd, is_socket, flags: None, watch: None })
    }

    /// One that this process was started with, and shares with others: they must not see that it is
    /// not to block.
    pub(super) fn shared(fd: BorrowedFd<'_>, access: OFlags) -> io::Result<Self> {
        let kind = FileType::from_raw_mode(fstat(fd)?.st_mode);
        // A file's position is shared too; it never blocks.
        if matches!(kind, FileType::RegularFile | FileType::Socket) {
            return Self::own(fd.try_clone_to_owned()?);
        }
        let again = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        if let Ok(own) = open(again, flags, Mode::empty()) {
            return Self::own(own);
        }
        // A terminal of another user.
        let mut end = Self::own(fd.try_clone_to_owned()?)?;
        let flags = fcntl_getfl(&end.fd)?;
        fcntl_setfl(&end.fd, flags | OFlags::NONBLOCK)?;
        end.flags = Some(flags);
        Ok(end)
    }

    /// Calls `handler` whenever it has become ready. A file always is.
    pub(super) fn watch(
        &mut self,
        reactor: &Reactor,
        events: Events,
        handler: Handler,
    ) -> io::Result<()> {
        match reactor.watch(&self.fd, events | Events::ET, handler) {
            Ok(watch) => self.watch = Some(watch),
            Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    pub(super) fn read(&self, data: &mut [u8]) -> Result<usize, Errno> {
        if self.is_socket {
            return recv(&self.fd, data, RecvFlags::DONTWAIT).map(|(count, _)| count);
        }
        rustix::io::read(&self.fd, data)
    }

    pub(super) fn write(&self, data: &[u8]) -> Result<usize, Errno> {
        if self.is_socket {
            return send(&self.fd, data, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
        rustix::io::write(&self.fd, data)
    }

    /// Nobody has the other end open.
    pub(super) fn is_hung_up(&self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::empty())];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|count| count > 0)
    }

    /// Waits until it can be written to, but not for long. `false`: it can't.
    pub(super) fn wait_writable(&self, most: Timespec) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::OUT)];
        poll(&mut fds, Some(&most)).is_ok_and(|count| count > 0)
    }
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if let Some(flags) = self.flags {
            // It did so before.
            let _ = fcntl_setfl(&self.fd, flags);
        }
    }
}
