//! A usbredir channel of SPICE's, joined to a socket of vhost-usb's. It knows nothing of the library.
//!
//! What is said by usbredir begins with a hello of both sides, so a client and vhost-usb stay together from
//! first to last: when one of them goes, the other's connection ends, and the channel is offered anew.

use std::io::{self, ErrorKind};
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use crate::channel::place::{Place, PlaceError};
use crate::channel::{Channel, Look};

/// How long a channel is not there that has lost one of its sides. A client that has its devices redirected
/// when they come must have seen that the old channel is closed, before it hears of the new one.
const PAUSE: Duration = Duration::from_secs(1);

/// Bytes that are read at once.
const PIECE: usize = 64 << 10;

/// Why there is no such port.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// It does not say where vhost-usb is, or that is unknown.
    #[error("--channel {0}: {1}")]
    Where(String, PlaceError),
    /// It has no such key.
    #[error("--channel {0}: {1} is unknown to it; there is server")]
    Key(String, String),
    /// It can't be waited there.
    #[error("--channel {0}: {1}")]
    Host(String, io::Error),
}

/// Where vhost-usb is, as the user wrote it.
#[derive(Debug)]
pub struct Way {
    whole: String,
    place: Place,
    serves: bool,
}

impl Way {
    /// From `unix:PATH` or `tcp:HOST:PORT`, and perhaps `,server`.
    ///
    /// # Errors
    /// See [`PortError`].
    pub fn parse(text: &str) -> Result<Self, PortError> {
        let whole = text.to_owned();
        let mut parts = text.split(',');
        let place = Place::parse(parts.next().unwrap_or_default());
        let place = place.map_err(|error| PortError::Where(whole.clone(), error))?;
        let mut serves = false;
        for part in parts {
            match part {
                "server" => serves = true,
                other => return Err(PortError::Key(whole, other.to_owned())),
            }
        }
        Ok(Self { whole, place, serves })
    }

    /// Where it connects to, again and again.
    #[must_use]
    pub fn connects_to(&self) -> Option<&Place> {
        (!self.serves).then_some(&self.place)
    }
}

/// Why both sides are parted.
#[derive(Debug, thiserror::Error)]
enum Over {
    #[error("the client has gone")]
    Client,
    #[error("vhost-usb has closed the connection")]
    Closed,
    #[error("the connection to vhost-usb is lost: {0}")]
    Lost(#[from] io::Error),
}

/// What a port is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// There is no such channel before then.
    Away(Instant),
    /// A client can open the channel.
    Offered,
    /// One has.
    Joined,
    /// The channel is to be closed, for it has lost one of its sides.
    Over,
}

/// A channel, and the way to vhost-usb.
pub struct Port {
    name: String,
    channel: Channel,
    state: State,
    /// The library has asked for what vhost-usb said.
    asked: bool,
    piece: Vec<u8>,
}

impl Port {
    /// One that is to be offered.
    ///
    /// # Errors
    /// It can't be waited for vhost-usb there.
    pub fn new(way: Way) -> Result<Self, PortError> {
        let Way { whole: name, place, serves } = way;
        let channel = Channel::new(place, serves);
        let channel = channel.map_err(|error| PortError::Host(name.clone(), error))?;
        let (state, piece) = (State::Away(Instant::now()), vec![0; PIECE]);
        Ok(Self { name, channel, state, asked: false, piece })
    }

    /// What it is at.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Readable when it is to have a turn. Of interest while it is joined.
    #[must_use]
    pub fn event(&self) -> RawFd {
        self.channel.event()
    }

    /// The library has the channel.
    pub fn offered(&mut self) {
        self.state = State::Offered;
    }

    /// The library does not have it any more.
    pub fn withdrawn(&mut self) {
        let now = Instant::now();
        self.state = State::Away(now.checked_add(PAUSE).unwrap_or(now));
    }

    /// A client has opened the channel.
    pub fn joined(&mut self) {
        if self.state != State::Offered {
            return;
        }
        self.state = State::Joined;
        self.turn();
        if self.state == State::Joined && !self.channel.is_connected() {
            log::info!("--channel {}: a client is there, and waits for vhost-usb", self.name);
        }
    }

    /// The client has closed the channel.
    pub fn left(&mut self) {
        self.part(&Over::Client);
    }

    fn part(&mut self, why: &Over) {
        if self.state != State::Joined {
            return;
        }
        log::info!("--channel {}: {why}", self.name);
        self.state = State::Over;
        self.channel.close();
    }

    /// Lets happen what can; `true`: the library may have something to write or to read.
    pub fn turn(&mut self) -> bool {
        if self.state != State::Joined {
            return false;
        }
        match self.channel.look() {
            Ok(Look::Connected) => log::info!("--channel {}: joined to vhost-usb", self.name),
            Ok(Look::Same) => {}
            Err(error) => self.part(&error.into()),
        }
        self.asked = false;
        self.state == State::Joined && self.channel.is_connected()
    }

    /// The library has had its turn. If it did not ask for what there is to read, its client takes nothing; when
    /// that does, the library asks by itself.
    pub fn after_turn(&mut self) {
        if !self.asked {
            self.set_reading(false);
        }
    }

    fn set_reading(&mut self, reading: bool) {
        if let Err(error) = self.channel.set_reading(reading) {
            self.part(&error.into());
        }
    }

    /// For the client, from vhost-usb: at most so many bytes. There will be a turn when there are more.
    pub fn read(&mut self, most: usize) -> &[u8] {
        let count = if self.state == State::Joined { self.fill(most) } else { 0 };
        self.piece.get(..count).unwrap_or_default()
    }

    fn fill(&mut self, most: usize) -> usize {
        self.asked = true;
        self.set_reading(true);
        let most = most.min(self.piece.len());
        let Some(to) = self.piece.get_mut(..most).filter(|to| !to.is_empty()) else { return 0 };
        let read = loop {
            match self.channel.read(to) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        match read {
            Ok(0) => self.part(&Over::Closed),
            Ok(count) => return count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => self.part(&error.into()),
        }
        0
    }

    /// From the client, for vhost-usb: so many bytes it takes. Fewer: there will be a turn when it takes more.
    pub fn write(&mut self, from: &[u8]) -> usize {
        if self.state != State::Joined {
            return 0;
        }
        self.channel.send(from).unwrap_or_else(|error| {
            self.part(&error.into());
            0
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};

    use tempfile::TempDir;
    use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

    use super::*;

    fn readable(fd: RawFd) -> bool {
        let epoll = Epoll::new().unwrap();
        epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, 0)).unwrap();
        epoll.wait(0, &mut [EpollEvent::default()]).unwrap() > 0
    }

    /// A port that a client has opened, and where it looks for vhost-usb.
    struct Bench {
        folder: TempDir,
        port: Port,
    }

    impl Bench {
        fn new(end: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("usb");
            let way = Way::parse(&format!("unix:{}{end}", path.display())).unwrap();
            assert_eq!(way.connects_to().is_some(), end.is_empty());
            let mut port = Port::new(way).unwrap();
            port.joined();
            assert!(matches!(port.state(), State::Away(_)), "it is not offered yet");
            port.offered();
            Self { folder, port }
        }

        fn path(&self) -> std::path::PathBuf {
            self.folder.path().join("usb")
        }

        /// Gives it turns, as the loop does, until something is so.
        fn until(&mut self, mut so: impl FnMut(&mut Port) -> bool) {
            let begun = Instant::now();
            while !so(&mut self.port) {
                assert!(begun.elapsed() < Duration::from_secs(20));
                if readable(self.port.event()) {
                    self.port.turn();
                    self.port.after_turn();
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn read(port: &mut Port) -> Vec<u8> {
        port.read(PIECE).to_vec()
    }

    #[test]
    fn bytes_go_both_ways_and_an_end_is_told() {
        let mut bench = Bench::new("");
        let listener = UnixListener::bind(bench.path()).unwrap();
        bench.port.joined();
        let (mut usb, _) = listener.accept().unwrap();
        assert_eq!(bench.port.write(b"hello"), 5);
        usb.read_exact(&mut [0; 5]).unwrap();
        assert_eq!(read(&mut bench.port), b"");
        usb.write_all(b"hello yourself").unwrap();
        assert!(bench.port.turn());
        assert_eq!(bench.port.read(6), b"hello ");
        assert_eq!(read(&mut bench.port), b"yourself");
        drop(usb);
        assert_eq!(read(&mut bench.port), b"");
        assert_eq!(bench.port.state(), State::Over);
        assert_eq!((bench.port.write(b"x"), bench.port.turn()), (0, false));
        bench.port.withdrawn();
        bench.port.left();
        assert!(matches!(bench.port.state(), State::Away(until) if until > Instant::now()));
    }

    #[test]
    fn a_client_that_goes_takes_the_connection_with_it() {
        let mut bench = Bench::new(",server");
        // One that came and went before there was a client, and one that stays.
        drop(UnixStream::connect(bench.path()).unwrap());
        let mut usb = UnixStream::connect(bench.path()).unwrap();
        usb.write_all(b"hello").unwrap();
        bench.port.joined();
        bench.until(|port| read(port) == b"hello");
        bench.port.left();
        assert_eq!(bench.port.state(), State::Over);
        assert_eq!(usb.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_client_waits_for_a_vhost_usb_that_is_not_there_yet() {
        let mut bench = Bench::new("");
        bench.port.joined();
        assert_eq!(bench.port.write(b"hello"), 0);
        assert_eq!(read(&mut bench.port), b"");
        let listener = UnixListener::bind(bench.path()).unwrap();
        bench.until(|port| port.write(b"hello") == 5);
        listener.accept().unwrap().0.read_exact(&mut [0; 5]).unwrap();
    }

    #[test]
    fn neither_side_is_sent_more_than_it_takes() {
        let mut bench = Bench::new(",server");
        let mut usb = UnixStream::connect(bench.path()).unwrap();
        bench.port.joined();
        let piece = [7; 64 << 10];
        let mut sent = 0;
        loop {
            let count = bench.port.write(&piece);
            sent += count;
            if count < piece.len() {
                break;
            }
        }
        bench.port.turn();
        bench.port.after_turn();
        assert!(!readable(bench.port.event()), "it waits, and does not spin");
        let mut all = vec![0; sent];
        usb.read_exact(&mut all).unwrap();
        assert!(readable(bench.port.event()), "there is room again");
        assert_eq!(bench.port.write(b"x"), 1);

        // A client that takes nothing: its side of the library does not read, until it comes by itself.
        usb.write_all(b"more").unwrap();
        assert!(bench.port.turn());
        assert_eq!(bench.port.read(1), b"m");
        bench.port.after_turn();
        assert!(readable(bench.port.event()));
        assert!(bench.port.turn());
        bench.port.after_turn();
        assert!(!readable(bench.port.event()));
        drop(usb);
        assert!(!readable(bench.port.event()));
        assert_eq!(read(&mut bench.port), b"ore");
        assert!(readable(bench.port.event()));
        assert_eq!(read(&mut bench.port), b"");
        assert_eq!(bench.port.state(), State::Over);
    }

    #[test]
    fn what_cannot_be_is_said() {
        for (text, sentence) in [
            ("/path", "it must begin with unix:PATH or tcp:HOST:PORT"),
            ("unix:", "it must begin with unix:PATH or tcp:HOST:PORT"),
            ("tcp:host", "it must begin with unix:PATH or tcp:HOST:PORT"),
            ("tcp:127.0.0.1:x", "invalid port value"),
            ("unix:a,client", "client is unknown to it; there is server"),
            ("unix:/nowhere/a,server", "No such file or directory (os error 2)"),
        ] {
            let port = Way::parse(text).and_then(Port::new).map(drop);
            assert_eq!(port.unwrap_err().to_string(), format!("--channel {text}: {sentence}"));
        }
        Port::new(Way::parse("tcp:[::1]:4000").unwrap()).unwrap();
    }
}
