//! A connection that is made here, and again when it has ended, or waited for.
//!
//! - [`place`]: where the other side is;
//! - [`connector`]: how the connection comes about;
//! - [`Channel`]: what is said by it.

pub mod connector;
pub mod place;

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::net::{Shutdown, SocketType, shutdown, sockopt};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use connector::Connector;
use place::Place;

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
    /// What the other side says is waited for.
    reading: bool,
    /// Room for what is to be said is waited for.
    full: bool,
    armed: EventSet,
}

/// The connection, or the way to it.
pub struct Channel {
    connector: Connector,
    /// Readable when there is something to do.
    epoll: Epoll,
    stream: Option<Stream>,
}

impl Channel {
    /// A way to connect to that place, or to wait there.
    ///
    /// # Errors
    /// It can't be waited there.
    pub fn new(place: Place, serves: bool) -> io::Result<Self> {
        Self::by(Connector::new(place, serves)?)
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
        Self::by(match sockopt::socket_acceptconn(&fd)? {
            true => Connector::on(fd)?,
            false => Connector::once(fd)?,
        })
    }

    fn by(connector: Connector) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.ctl(ControlOperation::Add, connector.event(), EpollEvent::new(EventSet::IN, 0))?;
        Ok(Self { connector, epoll, stream: None })
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
        let Some(fd) = self.connector.look()? else { return Ok(Look::Same) };
        let file = fd.into();
        let armed = EventSet::empty();
        self.stream = Some(Stream { file, reading: true, full: false, armed });
        self.arm()?;
        Ok(Look::Connected)
    }

    /// Somebody is connected.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.stream.is_some()
    }

    /// Whether what has been said is waited for; at first it is.
    ///
    /// # Errors
    /// The host refuses.
    pub fn set_reading(&mut self, reading: bool) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        stream.reading = reading;
        self.arm()
    }

    /// Reads what there is; 0: the other side has closed the connection.
    ///
    /// # Errors
    /// There is nothing yet, or the connection is of no more use.
    pub fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.stream.as_mut().ok_or(ErrorKind::WouldBlock)?.file.read(to)
    }

    /// Writes as much as can be, and waits for room for the rest.
    ///
    /// # Errors
    /// The connection is of no more use.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(stream) = &mut self.stream else { return Ok(0) };
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
        self.arm()?;
        Ok(done)
    }

    /// Writes as much as can be, and takes it out.
    pub(crate) fn write(&mut self, output: &mut Vec<u8>) -> io::Result<()> {
        let done = self.send(output)?;
        output.drain(..done.min(output.len()));
        Ok(())
    }

    /// Ends the connection; there may be another one.
    pub fn close(&mut self) {
        if let Some(stream) = self.stream.take() {
            // Another process may have a descriptor of it: neither the set nor the other side would notice.
            if !stream.armed.is_empty() {
                let fd = stream.file.as_raw_fd();
                let _ = self.epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default());
            }
            let _ = shutdown(&stream.file, Shutdown::Both); // it may have ended by itself
        }
        self.connector.again();
    }

    fn arm(&mut self) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let mut events = EventSet::empty();
        events.set(EventSet::IN, stream.reading);
        events.set(EventSet::OUT, stream.full);
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
        self.epoll.ctl(operation, fd, EpollEvent::new(events, 0))?;
        stream.armed = events;
        Ok(())
    }
}
