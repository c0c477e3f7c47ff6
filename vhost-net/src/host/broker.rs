//! What the broker of this program opens: the host's side of the card, at first and each time that it was
//! lost. It lives as long as the program, however often the serving process is started again: so a TAP
//! interface that it made stays, and so does passt. One that is killed is followed by another, which has the
//! interface still, and starts a passt of its own.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use vhost_runtime::broker::{self, Channel, Lasting, Process};

use super::datagram;
use super::passt::{Passt, PasstError};
use super::place::{Place, is_readable};
use super::tap::{self, Tap, TapError};

/// What the serving process says: it has just begun, or what it was given is of no use any more.
pub(super) const FIRST: u8 = 1;
pub(super) const GONE: u8 = 2;
/// What it is told: here is the host's side, or there is none now.
const HERE: u8 = 3;
const NONE: u8 = 4;
/// It is asked once more what it has not: whom it asked before was killed.
pub(super) const AGAIN: u8 = 5;

/// How often it is tried to have again what was lost.
const PAUSE: Duration = Duration::from_millis(500);

/// Where frames go.
#[derive(Debug)]
pub enum Backend {
    /// An interface that is opened by name.
    Tap(Tap),
    /// An interface that is open.
    TapFds(Vec<OwnedFd>),
    /// A peer of a stream.
    Stream(Place),
    /// A peer of datagrams.
    Datagram(datagram::Peer),
    /// passt, of our own.
    User(Passt),
}

/// Why the host's side can't be had.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// An interface.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// A peer.
    #[error("--stream {place}: nobody can be reached there: {error}")]
    Stream {
        /// Where.
        place: Place,
        /// What the host said.
        error: io::Error,
    },
    /// A peer of datagrams.
    #[error(transparent)]
    Datagram(#[from] datagram::PeerError),
    /// passt.
    #[error(transparent)]
    Passt(#[from] PasstError),
    /// It was killed before it had begun.
    #[error("the process that opens the host's side was killed")]
    Killed,
    /// No broker can be started.
    #[error("no process can be started: {0}")]
    Broker(io::Error),
}

impl Backend {
    /// Opens it. What takes long is given up when `called` becomes readable.
    fn open(&mut self, called: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, HostError> {
        match self {
            Self::Tap(tap) => Ok(tap.open()?),
            Self::TapFds(fds) => {
                fds.iter().try_for_each(tap::check)?;
                Ok(std::mem::take(fds))
            }
            Self::Stream(place) => match place.connect(called) {
                Ok(socket) => Ok(vec![socket]),
                Err(error) => Err(HostError::Stream { place: place.clone(), error }),
            },
            Self::Datagram(peer) => Ok(vec![peer.connect()?]),
            Self::User(passt) => Ok(vec![passt.connect(called)?]),
        }
    }

    /// Opens again what was lost, if there is something.
    fn open_again(&mut self, called: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, HostError> {
        match self {
            // Whoever took it away does not want another.
            Self::Tap(tap) if !tap.exists() => Ok(Vec::new()),
            _ => self.open(called),
        }
    }

    /// Leaves nothing behind.
    fn clean_up(&mut self) {
        match self {
            Self::Datagram(peer) => peer.remove(),
            Self::User(passt) => passt.end(),
            Self::Tap(_) | Self::TapFds(_) | Self::Stream(_) => {}
        }
    }

    /// A stream is one serving process's: what another one has sent of it, or not, nobody knows.
    fn is_kept(&self) -> bool {
        matches!(self, Self::Tap(_) | Self::TapFds(_) | Self::Datagram(_))
    }
}

/// The host's side, open, with a broker that opens it again.
#[derive(Debug)]
pub struct Started {
    /// How many queues it has.
    pub queues: usize,
    /// The serving process's channel.
    pub channel: Channel,
    /// For the supervisor.
    pub broker: Lasting,
}

/// Opens the host's side, and starts the process that opens it again. Before any thread is started.
///
/// # Errors
/// See [`HostError`].
pub fn start(mut backend: Backend) -> Result<Started, HostError> {
    let (ours, channel) = Channel::pair().map_err(HostError::Broker)?;
    // passt is to be the broker's own child.
    let is_later = matches!(backend, Backend::User(_));
    let open = if is_later { Vec::new() } else { backend.open(ours.as_fd())? };
    let queues = open.len().max(1);
    let mut broker = Broker { backend, open, channel: ours, begun: Instant::now() };
    let process = broker.start(Broker::begin);
    let process = process.inspect_err(|_| broker.backend.clean_up()).map_err(HostError::Broker)?;
    if !broker.backend.is_kept() {
        broker.open.clear(); // the broker's alone
    }
    let mut fds =
        [channel.as_fd(), process.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    let there = poll(&mut fds, None).is_ok()
        && matches!(channel.try_receive(), Ok(Some(message)) if message.byte == HERE);
    if !there {
        return Err(match broker.backend {
            Backend::User(_) => PasstError::Silent.into(),
            _ => HostError::Killed,
        });
    }
    let again = Box::new(move || broker.start(Broker::take_over));
    Ok(Started { queues, channel, broker: Lasting { process, again } })
}

/// What the broker has. Whoever starts it has the same, and with that starts another when it is killed.
struct Broker {
    backend: Backend,
    open: Vec<OwnedFd>,
    channel: Channel,
    /// When something was opened last.
    begun: Instant,
}

impl Broker {
    /// Starts the process. It begins with `begin`, which has it go on or not.
    fn start(&mut self, begin: impl FnOnce(&mut Self) -> bool) -> io::Result<Process> {
        let fds = self.open.iter().map(AsRawFd::as_raw_fd);
        let kept: Vec<RawFd> = fds.chain([self.channel.as_fd().as_raw_fd()]).collect();
        broker::start(c"net-broker", &kept, || {
            if begin(self) {
                self.run();
            }
            self.backend.clean_up();
        })
    }

    /// Is the first one.
    fn begin(&mut self) -> bool {
        if self.open.is_empty() {
            match self.backend.open(self.channel.as_fd()) {
                Ok(open) => self.open = open,
                Err(error) => {
                    // Else nobody is there any more whom it would be of use to.
                    if let Ok(false) = is_readable(self.channel.as_fd(), Duration::ZERO) {
                        log::error!("{error}");
                    }
                    return false;
                }
            }
        }
        self.channel.send(HERE, &[]).is_ok()
    }

    /// Takes the place of one that was killed, with what that one had at first: the serving process has it still,
    /// or what came after it.
    fn take_over(&mut self) -> bool {
        if !matches!(self.backend, Backend::Datagram(_)) && !self.has_interface() {
            self.open.clear();
        }
        self.begun = Instant::now(); // so that what comes of it is heard before anything is opened
        self.channel.try_send(AGAIN, &[]).is_ok()
    }

    /// An interface is open, which was not taken away.
    fn has_interface(&self) -> bool {
        let is_interface = matches!(self.backend, Backend::Tap(_) | Backend::TapFds(_));
        is_interface && !self.open.is_empty() && self.open.iter().all(tap::is_there)
    }

    fn run(&mut self) {
        loop {
            let owes = match self.wait() {
                // What takes long is not waited for: it comes when it is there.
                Ok(FIRST) if self.answer() => true,
                Ok(byte) => {
                    if byte != FIRST && !self.has_interface() {
                        self.open.clear();
                    }
                    // A peer that hangs up at once is not kept busy.
                    let pause = PAUSE.checked_sub(self.begun.elapsed()).unwrap_or_default();
                    match is_readable(self.channel.as_fd(), pause) {
                        Ok(asked) => asked,
                        Err(_) => return,
                    }
                }
                Err(_) => return,
            };
            if !owes && !self.keep_trying() {
                return;
            }
        }
    }

    fn wait(&self) -> io::Result<u8> {
        loop {
            match self.channel.receive() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return Ok(other?.byte),
            }
        }
    }

    /// Tells what there is. `false`: nothing, which is owed.
    fn answer(&mut self) -> bool {
        let there = !self.open.is_empty();
        let fds: Vec<BorrowedFd<'_>> = self.open.iter().map(AsFd::as_fd).collect();
        // Who does not listen any more is followed by another who asks.
        let _ = self.channel.try_send(if there { HERE } else { NONE }, &fds);
        if !self.backend.is_kept() {
            self.open.clear();
        }
        there
    }

    /// Tries until it has what is owed, or somebody asks. `false`: nobody is there any more.
    fn keep_trying(&mut self) -> bool {
        let (mut refusal, mut times) = (None, 0u32);
        loop {
            if self.open.is_empty() {
                if matches!(self.backend, Backend::TapFds(_)) {
                    log::warn!("--tap-fd: it cannot be opened from here, start the program again");
                    return true;
                }
                let why = match self.backend.open_again(self.channel.as_fd()) {
                    Ok(open) => {
                        self.open = open;
                        None
                    }
                    Err(error) => Some(error.to_string()),
                };
                // Once, and nothing that passes: whoever makes an interface uses it for a moment.
                times = if why == refusal { times.saturating_add(1) } else { 1 };
                refusal = why;
                if let (Some(why), 2) = (&refusal, times) {
                    log::warn!("{why}");
                }
            }
            if !self.open.is_empty() {
                self.begun = Instant::now();
                self.answer();
                return true;
            }
            match is_readable(self.channel.as_fd(), PAUSE) {
                Ok(false) => {}
                Ok(true) => return true,
                Err(_) => return false,
            }
        }
    }
}
