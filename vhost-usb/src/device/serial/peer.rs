//! Who is at the host's side of a line, and how they come there.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmm_sys_util::timerfd::TimerFd;

use crate::channel::connector::Connector;

/// How often to see whether somebody has opened a pseudo-terminal: its master is told of bytes, and of
/// the last who closes it, but not of the first who opens it.
const PAUSE: Duration = Duration::from_secs(1);

/// One at a time is at the host's side.
pub enum Peer {
    /// Whoever is there from the beginning, until they go.
    Stream(Option<File>),
    /// Whoever connects, or is connected to.
    Socket(Connector),
    /// Whoever has a pseudo-terminal open.
    Terminal(Terminal),
}

impl Peer {
    /// By a stream that is connected. It is used without blocking, and so by all who share it.
    ///
    /// # Errors
    /// It can't be used without blocking.
    pub fn stream(stream: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&stream, true)?;
        Ok(Self::Stream(Some(stream.into())))
    }

    /// By a pseudo-terminal, whose master this is. It too is used without blocking.
    ///
    /// # Errors
    /// It can't be used without blocking, or the host refuses.
    pub fn terminal(master: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&master, true)?;
        let timer = TimerFd::new().map_err(io::Error::from)?;
        Ok(Self::Terminal(Terminal { master: master.into(), timer, is_wanted: false }))
    }

    /// Readable when it is worth while to look.
    pub(super) fn event(&self) -> Option<RawFd> {
        match self {
            Self::Stream(_) => None,
            Self::Socket(connector) => Some(connector.event()),
            Self::Terminal(terminal) => Some(terminal.timer.as_raw_fd()),
        }
    }

    /// Whoever has come since the last one went.
    pub(super) fn look(&mut self) -> io::Result<Option<File>> {
        match self {
            Self::Stream(file) => Ok(file.take()),
            Self::Socket(connector) => Ok(connector.look()?.map(File::from)),
            Self::Terminal(terminal) => terminal.look(),
        }
    }

    /// The one who was there has gone.
    pub(super) fn has_gone(&mut self) {
        match self {
            Self::Stream(_) => {}
            Self::Socket(connector) => connector.again(),
            Self::Terminal(terminal) => terminal.wait(),
        }
    }

    /// Whether the guest has the port open: else nobody is looked for who does not connect.
    pub(super) fn set_wanted(&mut self, wanted: bool) {
        if let Self::Terminal(terminal) = self {
            terminal.is_wanted = wanted;
            if !wanted {
                terminal.wait();
            }
        }
    }
}

/// A pseudo-terminal.
pub struct Terminal {
    master: File,
    /// When to look again.
    timer: TimerFd,
    is_wanted: bool,
}

impl Terminal {
    fn look(&mut self) -> io::Result<Option<File>> {
        let mut fds = [PollFd::new(&self.master, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default()))?;
        let [is] = fds.map(|fd| fd.revents());
        // Who has written and gone in the meantime was there too.
        if is.contains(PollFlags::HUP) && !is.contains(PollFlags::IN) {
            self.wait();
            return Ok(None);
        }
        self.timer.clear().map_err(io::Error::from)?;
        self.master.try_clone().map(Some)
    }

    fn wait(&mut self) {
        let set = match self.is_wanted {
            true => self.timer.reset(PAUSE, None),
            false => self.timer.clear(),
        };
        if let Err(error) = set {
            log::error!("a serial port: a timer cannot be set: {error}");
        }
    }
}
