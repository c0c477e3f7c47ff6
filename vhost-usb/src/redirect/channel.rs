//! The connection to the other side of a redirection: made here, and again when it has ended, or waited for.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, connect, socket_with,
    sockopt,
};
use vhost_runtime::sandbox::Sandbox;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::timerfd::TimerFd;

/// How long to wait before a host that was not there is tried again, or another one is let in: guests are to
/// see that a device was plugged out, and a host that says nonsense is not to fill the log with it.
const PAUSE: Duration = Duration::from_secs(1);

/// Where the other side is, or where it is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP port, by all addresses of its host.
    Tcp(Vec<SocketAddr>),
}

/// Why there is no such place.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// It does not say where.
    #[error("it must begin with unix:PATH or tcp:HOST:PORT")]
    Where,
    /// The host's name is unknown.
    #[error(transparent)]
    Host(#[from] io::Error),
}

impl Place {
    /// From `unix:PATH` or `tcp:HOST:PORT`. Names are looked up now: later there is nobody to ask.
    ///
    /// # Errors
    /// See [`PlaceError`].
    pub fn parse(text: &str) -> Result<Self, PlaceError> {
        match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(path.into())),
            Some(("tcp", address)) if address.contains(':') => {
                Ok(Self::Tcp(address.to_socket_addrs()?.collect()))
            }
            _ => Err(PlaceError::Where),
        }
    }

    /// A socket that listens there.
    ///
    /// # Errors
    /// It can't.
    pub fn listen(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Unix(path) => listen(path).map(OwnedFd::from),
            Self::Tcp(addresses) => TcpListener::bind(addresses.as_slice()).map(OwnedFd::from),
        }
    }

    /// A socket that is connected to there.
    ///
    /// # Errors
    /// Nobody is there.
    pub fn connect(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Unix(path) => UnixStream::connect(path).map(OwnedFd::from),
            Self::Tcp(addresses) => TcpStream::connect(addresses.as_slice()).map(OwnedFd::from),
        }
    }

    /// Lets a program connect there again and again, from within its sandbox.
    pub fn allow(&self, sandbox: &mut Sandbox) {
        match self {
            Self::Unix(_) => sandbox.connects(),
            Self::Tcp(addresses) => {
                addresses.iter().for_each(|address| sandbox.connects_tcp(address.port()));
            }
        }
    }
}

/// What came of a look at the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// It is as it was.
    Same,
    /// It has been made.
    Connected,
}

struct Stream {
    file: File,
    /// It is being connected.
    pending: bool,
    /// What the other side says is waited for.
    reading: bool,
    /// Room for what is to be said is waited for.
    full: bool,
    armed: EventSet,
}

/// How there comes to be a connection.
enum Way {
    Connect(Place),
    Listen(OwnedFd),
    /// There was one; there is to be no other.
    Nothing,
}

/// The connection, or the way to it.
pub struct Channel {
    way: Way,
    /// Readable when there is something to do.
    epoll: Epoll,
    /// The listener is waited for.
    listens: bool,
    timer: TimerFd,
    /// When to connect, or let in.
    next: Instant,
    /// How often that was tried: each address has its turn.
    tries: usize,
    stream: Option<Stream>,
}

/// Whoever was connected there has gone while nobody looked.
fn has_left(fd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::RDHUP)];
    poll(&mut fds, Some(&Timespec::default())) == Ok(1)
}

fn is_tcp(fd: &OwnedFd) -> bool {
    matches!(sockopt::socket_domain(fd), Ok(AddressFamily::INET | AddressFamily::INET6))
}

/// A Unix socket that listens. One of that name on which nobody listens any more is replaced: a process that
/// was killed has left it.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            match UnixStream::connect(path) {
                Err(refused) if refused.kind() == ErrorKind::ConnectionRefused => {}
                _ => return Err(error),
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        other => other,
    }
}

impl Channel {
    /// A way to connect to that place, or to wait there.
    ///
    /// # Errors
    /// It can't be waited there.
    pub fn new(place: Place, serves: bool) -> io::Result<Self> {
        Self::by(if serves { Way::Listen(place.listen()?) } else { Way::Connect(place) })
    }

    /// The connection that another process has made, and no other after that; or one after the other, if it
    /// is a socket that listens.
    ///
    /// # Errors
    /// It is no such socket.
    pub fn passed(fd: OwnedFd) -> io::Result<Self> {
        if sockopt::socket_type(&fd)? != SocketType::STREAM {
            return Err(io::Error::other("what is passed is no stream socket"));
        }
        if sockopt::socket_acceptconn(&fd)? {
            return Self::by(Way::Listen(fd));
        }
        rustix::io::ioctl_fionbio(&fd, true)?;
        let mut this = Self::by(Way::Nothing)?;
        // Whether it is connected is seen at the first look, as with one that is made here.
        this.adopt(fd, true);
        this.arm()?;
        Ok(this)
    }

    fn by(way: Way) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let mut timer = TimerFd::new().map_err(io::Error::from)?;
        if let Way::Listen(listener) = &way {
            rustix::io::ioctl_fionbio(listener, true)?;
        }
        epoll.ctl(ControlOperation::Add, timer.as_raw_fd(), EpollEvent::new(EventSet::IN, 0))?;
        timer.reset(Duration::from_nanos(1), None).map_err(io::Error::from)?;
        Ok(Self { way, epoll, listens: false, timer, next: Instant::now(), tries: 0, stream: None })
    }

    /// Readable when there is something to do.
    #[must_use]
    pub fn event(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// Connects, or sees whether somebody has.
    ///
    /// # Errors
    /// The connection is of no more use.
    pub fn look(&mut self) -> io::Result<Look> {
        match &mut self.stream {
            Some(stream) if stream.pending => {
                let mut events = [EpollEvent::default(); 2];
                // It can only fail by being interrupted, and is then still readable.
                let count = self.epoll.wait(0, &mut events).unwrap_or(0);
                let fd = stream.file.as_raw_fd();
                if !events.iter().take(count).any(|event| event.fd() == fd) {
                    return Ok(Look::Same);
                }
                match sockopt::socket_error(&stream.file)? {
                    Ok(()) => stream.pending = false,
                    Err(error) => {
                        log::debug!("redirection: nobody is there yet: {error}");
                        self.close();
                        return Ok(Look::Same);
                    }
                }
            }
            Some(_) => return Ok(Look::Same),
            None => self.open()?,
        }
        let connected = self.stream.as_ref().is_some_and(|stream| !stream.pending);
        self.arm()?;
        Ok(if connected { Look::Connected } else { Look::Same })
    }

    fn open(&mut self) -> io::Result<()> {
        if !self.is_time() {
            return Ok(());
        }
        if let Way::Listen(listener) = &self.way {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            return loop {
                match accept_with(listener, flags) {
                    Ok(fd) if has_left(&fd) => {}
                    Ok(fd) => {
                        self.adopt(fd, false);
                        break Ok(());
                    }
                    Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => break Ok(()),
                    Err(error) => break Err(error.into()),
                }
            };
        }
        self.pause();
        let Way::Connect(place) = &self.way else { return Ok(()) };
        self.tries = self.tries.wrapping_add(1);
        match connect_to(place, self.tries) {
            Ok((fd, pending)) => self.adopt(fd, pending),
            Err(error) => log::debug!("redirection: nobody is there yet: {error}"),
        }
        Ok(())
    }

    fn adopt(&mut self, fd: OwnedFd, pending: bool) {
        if is_tcp(&fd) {
            // Requests are small and are answered one by one; and a host may go without a word.
            for result in
                [sockopt::set_tcp_nodelay(&fd, true), sockopt::set_socket_keepalive(&fd, true)]
            {
                if let Err(error) = result {
                    log::debug!("redirection: {error}");
                }
            }
        }
        self.stream = Some(Stream {
            file: fd.into(),
            pending,
            reading: true,
            full: false,
            armed: EventSet::empty(),
        });
    }

    fn is_time(&self) -> bool {
        Instant::now() >= self.next
    }

    fn pause(&mut self) {
        self.next = Instant::now().checked_add(PAUSE).unwrap_or(self.next);
        if let Err(error) = self.timer.reset(PAUSE, None) {
            log::error!("redirection: a timer cannot be set: {error}");
        }
    }

    /// Somebody is connected.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| !stream.pending)
    }

    fn connected(&mut self) -> Option<&mut Stream> {
        self.stream.as_mut().filter(|stream| !stream.pending)
    }

    /// Whether what has been said is waited for; at first it is.
    ///
    /// # Errors
    /// The host refuses.
    pub fn set_reading(&mut self, reading: bool) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        stream.reading = reading;
        self.arm_stream()
    }

    /// Reads what there is; 0: the other side has closed the connection.
    ///
    /// # Errors
    /// There is nothing yet, or the connection is of no more use.
    pub fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.connected().ok_or(ErrorKind::WouldBlock)?.file.read(to)
    }

    /// Writes as much as can be, and waits for room for the rest.
    ///
    /// # Errors
    /// The connection is of no more use.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(stream) = self.connected() else { return Ok(0) };
        let mut done: usize = 0;
        loop {
            let rest = bytes.get(done..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            match stream.file.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => done = done.saturating_add(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        stream.full = done < bytes.len();
        self.arm_stream()?;
        Ok(done)
    }

    /// Writes as much as can be, and takes it out.
    pub(super) fn write(&mut self, output: &mut Vec<u8>) -> io::Result<()> {
        let done = self.send(output)?;
        output.drain(..done.min(output.len()));
        Ok(())
    }

    /// Ends the connection; there may be another one.
    pub fn close(&mut self) {
        // It leaves the set with its last descriptor.
        self.stream = None;
        self.pause();
        if let Err(error) = self.arm() {
            log::error!("redirection: nobody can connect any more: {error}");
        }
    }

    fn arm(&mut self) -> io::Result<()> {
        let wanted = self.stream.is_none() && self.is_time();
        if let Way::Listen(listener) = &self.way
            && wanted != self.listens
        {
            let event = EpollEvent::new(EventSet::IN, 0);
            let operation = if wanted { ControlOperation::Add } else { ControlOperation::Delete };
            self.epoll.ctl(operation, listener.as_raw_fd(), event)?;
            self.listens = wanted;
        }
        if self.stream.is_some() || self.listens || matches!(self.way, Way::Nothing) {
            self.timer.clear().map_err(io::Error::from)?;
        }
        self.arm_stream()
    }

    fn arm_stream(&mut self) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let mut events = EventSet::empty();
        events.set(EventSet::IN, stream.reading && !stream.pending);
        events.set(EventSet::OUT, stream.full || stream.pending);
        if events == stream.armed {
            return Ok(());
        }
        let operation = match (stream.armed.is_empty(), events.is_empty()) {
            (true, _) => ControlOperation::Add,
            // Otherwise it would tell, again and again, that the other side has gone.
            (false, true) => ControlOperation::Delete,
            (false, false) => ControlOperation::Modify,
        };
        let fd = stream.file.as_raw_fd();
        let data = u64::try_from(fd).unwrap_or(0);
        self.epoll.ctl(operation, fd, EpollEvent::new(events, data))?;
        stream.armed = events;
        Ok(())
    }
}

/// A socket that is connected, or is being so.
fn connect_to(place: &Place, tries: usize) -> io::Result<(OwnedFd, bool)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (fd, result) = match place {
        Place::Unix(path) => {
            let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            let result = connect(fd.as_fd(), &SocketAddrUnix::new(path.as_path())?);
            (fd, result)
        }
        Place::Tcp(addresses) => {
            let number = tries.checked_rem(addresses.len()).unwrap_or(0);
            let address = addresses.get(number).ok_or(ErrorKind::AddrNotAvailable)?;
            let family = match address {
                SocketAddr::V4(_) => AddressFamily::INET,
                SocketAddr::V6(_) => AddressFamily::INET6,
            };
            let fd = socket_with(family, SocketType::STREAM, flags, None)?;
            let result = connect(fd.as_fd(), address);
            (fd, result)
        }
    };
    match result {
        Ok(()) => Ok((fd, false)),
        Err(Errno::INPROGRESS) => Ok((fd, true)),
        Err(error) => Err(error.into()),
    }
}
