//! The way to a connection: it is made again and again, or waited for.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with, sockopt};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::timerfd::TimerFd;

use super::place::{Place, prepare};

/// How long to wait before a host that was not there is tried again, or another one is let in: guests are to
/// see that a device was plugged out, and a host that says nonsense is not to fill the log with it.
const PAUSE: Duration = Duration::from_secs(1);

/// How many that have come and gone are passed over before others have their turn.
const GONE: usize = 16;

enum Way {
    /// To connect there.
    To(Place),
    /// Who connects is let in.
    From(OwnedFd),
    /// There was one connection, and is to be no other.
    Given,
}

/// One connection at a time.
pub struct Connector {
    way: Way,
    /// Readable when there is something to do.
    epoll: Epoll,
    /// The listener is waited for.
    listens: bool,
    timer: TimerFd,
    /// When to connect, or let in.
    next: Instant,
    /// How often that was tried.
    tries: usize,
    /// It is being connected.
    pending: Option<OwnedFd>,
    /// There is a connection: nothing is to be done until it has ended.
    connected: bool,
}

/// Something was heard of a socket already.
fn is_so(fd: &OwnedFd, what: PollFlags) -> bool {
    let mut fds = [PollFd::new(fd, what)];
    poll(&mut fds, Some(&Timespec::default())) == Ok(1)
}

impl Connector {
    /// A way to connect to that place, or to wait there.
    ///
    /// # Errors
    /// It can't be waited there.
    pub fn new(place: Place, serves: bool) -> io::Result<Self> {
        match serves {
            true => Self::on(place.listen()?),
            false => Self::by(Way::To(place)),
        }
    }

    /// A way by a socket that listens already.
    ///
    /// # Errors
    /// The host refuses.
    pub fn on(listener: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&listener, true)?;
        Self::by(Way::From(listener))
    }

    /// A socket that is connected already: when that has ended, there is no other.
    ///
    /// # Errors
    /// The host refuses.
    pub fn once(connected: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&connected, true)?;
        let mut this = Self::by(Way::Given)?;
        // It is found at the first look, as one that is made here.
        let event = EpollEvent::new(EventSet::OUT, 0);
        this.epoll.ctl(ControlOperation::Add, connected.as_raw_fd(), event)?;
        prepare(&connected);
        this.pending = Some(connected);
        this.arm()?;
        Ok(this)
    }

    fn by(way: Way) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let mut timer = TimerFd::new().map_err(io::Error::from)?;
        epoll.ctl(ControlOperation::Add, timer.as_raw_fd(), EpollEvent::new(EventSet::IN, 0))?;
        timer.reset(Duration::from_nanos(1), None).map_err(io::Error::from)?;
        Ok(Self {
            way,
            epoll,
            listens: false,
            timer,
            next: Instant::now(),
            tries: 0,
            pending: None,
            connected: false,
        })
    }

    /// Readable when there is something to do.
    #[must_use]
    pub fn event(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// Connects, or sees whether somebody has: a socket that does not block.
    ///
    /// # Errors
    /// The host refuses, for now or for ever.
    pub fn look(&mut self) -> io::Result<Option<OwnedFd>> {
        if self.connected {
            return Ok(None);
        }
        let found = match self.pending.take() {
            Some(fd) => self.finish(fd)?,
            None => self.begin()?,
        };
        self.connected = found.is_some();
        self.arm()?;
        Ok(found)
    }

    fn finish(&mut self, fd: OwnedFd) -> io::Result<Option<OwnedFd>> {
        if !is_so(&fd, PollFlags::OUT) {
            self.pending = Some(fd);
            return Ok(None);
        }
        self.epoll.ctl(ControlOperation::Delete, fd.as_raw_fd(), EpollEvent::default())?;
        match sockopt::socket_error(&fd)? {
            Ok(()) => Ok(Some(fd)),
            Err(error) => {
                log::debug!("a connection: nobody is there yet: {error}");
                self.pause();
                Ok(None)
            }
        }
    }

    fn begin(&mut self) -> io::Result<Option<OwnedFd>> {
        if !self.is_time() {
            return Ok(None);
        }
        let place = match &self.way {
            Way::From(listener) => {
                let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                for _ in 0..GONE {
                    match accept_with(listener, flags) {
                        // It went while nobody looked.
                        Ok(fd) if is_so(&fd, PollFlags::RDHUP) => {}
                        Ok(fd) => {
                            prepare(&fd);
                            return Ok(Some(fd));
                        }
                        Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(None),
                        Err(error) => return Err(error.into()),
                    }
                }
                return Ok(None);
            }
            Way::To(place) => place,
            Way::Given => return Ok(None),
        };
        self.tries = self.tries.wrapping_add(1);
        let connecting = place.connect(self.tries).inspect(|(fd, _)| prepare(fd));
        self.pause();
        match connecting {
            Ok((fd, false)) => return Ok(Some(fd)),
            Ok((fd, true)) => {
                let event = EpollEvent::new(EventSet::OUT, 0);
                self.epoll.ctl(ControlOperation::Add, fd.as_raw_fd(), event)?;
                self.pending = Some(fd);
            }
            Err(error) => log::debug!("a connection: nobody is there yet: {error}"),
        }
        Ok(None)
    }

    /// The connection has ended; there may be another one.
    pub fn again(&mut self) {
        if let Some(fd) = self.pending.take() {
            let _ = self.epoll.ctl(ControlOperation::Delete, fd.as_raw_fd(), EpollEvent::default());
        }
        self.connected = false;
        self.pause();
        if let Err(error) = self.arm() {
            log::error!("a connection: nobody can connect any more: {error}");
        }
    }

    fn is_time(&self) -> bool {
        Instant::now() >= self.next
    }

    fn pause(&mut self) {
        self.next = Instant::now().checked_add(PAUSE).unwrap_or(self.next);
        if let Err(error) = self.timer.reset(PAUSE, None) {
            log::error!("a connection: a timer cannot be set: {error}");
        }
    }

    fn arm(&mut self) -> io::Result<()> {
        let idle = self.connected || self.pending.is_some();
        let wanted = !idle && self.is_time();
        if let Way::From(listener) = &self.way
            && wanted != self.listens
        {
            let event = EpollEvent::new(EventSet::IN, 0);
            let operation = if wanted { ControlOperation::Add } else { ControlOperation::Delete };
            self.epoll.ctl(operation, listener.as_raw_fd(), event)?;
            self.listens = wanted;
        }
        if idle || self.listens || matches!(self.way, Way::Given) {
            self.timer.clear().map_err(io::Error::from)?;
        }
        Ok(())
    }
}
