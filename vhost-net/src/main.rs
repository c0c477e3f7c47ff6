//! `vhost-net`: network cards in a process of their own.

mod ctl;

use std::collections::HashSet;
use std::fmt::Display;
use std::hash::Hash;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;
use std::sync::Arc;

use vhost_net::confinement;
use vhost_net::control::Manager;
use vhost_net::frame::Mac;
use vhost_net::host::broker::{self, Backend, HostError, Started};
use vhost_net::host::datagram::Peer;
use vhost_net::host::passt::Passt;
use vhost_net::host::side::Side;
use vhost_net::host::switch::Switch;
use vhost_net::host::tap::{self, Tap, TapError};
use vhost_net::host::{Kind, passt};
use vhost_net::options::{CardArgs, Duplex, Options, Verb};
use vhost_net::virtio::card::{Backing, Card, Settings};
use vhost_runtime::arguments::{self, ArgumentError};
use vhost_runtime::broker::{Channel, Lasting};
use vhost_runtime::control::{self, Events};
use vhost_runtime::program::{self, Confinement, ProgramError, Shutdown, Socket};
use vhost_runtime::sandbox::Sandbox;
use vhost_runtime::supervisor::{self, Link, Role};

use ctl::CtlError;

/// Pairs of queues of a card at most.
const QUEUES: u16 = 64;

/// Pairs of queues, where nobody says how many: a guest has no use for more than it has processors.
fn queues() -> u16 {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u16::try_from(processors).unwrap_or(QUEUES).min(QUEUES)
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Arguments(#[from] ArgumentError),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Ctl(#[from] CtlError),
    #[error("--queues {0}: {1} has one pair of queues")]
    Queues(u16, &'static str),
    #[error("--switch: a switch has two ports at least")]
    Lonely,
    #[error("{0} {1}: it is there twice, and can be of one alone")]
    Twice(&'static str, String),
    #[error("the card cannot be made: {0}")]
    Card(std::io::Error),
}

impl From<passt::PasstError> for Failure {
    fn from(error: passt::PasstError) -> Self {
        HostError::from(error).into()
    }
}

fn main() -> ExitCode {
    program::device_main("vhost-net", "net", start)
}

fn start() -> Result<ExitCode, Failure> {
    let options: Options = arguments::read()?;
    match &options.verb {
        Some(Verb::Ctl(args)) => Ok(ctl::run(args).map(|()| ExitCode::SUCCESS)?),
        None => run(&options),
    }
}

fn run(options: &Options) -> Result<ExitCode, Failure> {
    let inherited = options.backend.tap_fd.iter().copied().chain(options.program.fd);
    let mut sandbox = Sandbox::new(inherited);
    program::start_logging(options.program.verbose);
    program::raise_file_limit()?;
    // Before anything is started that is of no use without them.
    let mut vmms = if options.backend.switch.is_empty() {
        vec![Socket::from_args(&options.program)?]
    } else {
        let ports = options.backend.switch.iter();
        ports.map(|port| Socket::listen("--switch", &port.path, false)).collect::<Result<_, _>>()?
    };
    let name = vmms.first().map(|vmm| name(options, vmm)).unwrap_or_default();
    let mut clients = control::Listener::from_args(&options.program)?;
    let (host, broker) = Host::open(options)?;
    let shutdown = Shutdown::new()?;
    let mut sockets: Vec<&mut Socket> = vmms.iter_mut().collect();
    sockets.extend(clients.as_mut().map(control::Listener::socket));
    let link = match supervisor::start(&mut sockets, &shutdown, options.program.sandbox, broker)? {
        Role::Serve(link) => link,
        Role::Ended(code) => return Ok(ExitCode::from(code)),
    };

    let events = Events::default();
    let served = host.cards(options, name, &events, &link, &shutdown).map_err(Failure::Card)?;
    let Some(Served { cards, side }) = served else { return Ok(ExitCode::SUCCESS) };
    if options.program.sandbox == Confinement::On {
        let has_tap = options.backend.tap.is_some() || !options.backend.tap_fd.is_empty();
        confinement::allow(&mut sandbox, has_tap);
        sandbox.enter().map_err(ProgramError::from)?;
    }
    // Confined already: whoever had this kept may have been taken over by a guest.
    let kept = link.kept();
    cards.iter().for_each(|card| card.restore(&kept));
    if let (Some(side), [card]) = (&side, cards.as_slice()) {
        let card = Arc::clone(card);
        side.watch(Box::new(move |there| card.host_changed(there))).map_err(Failure::Card)?;
    }
    link.ready(&mut sockets)?;
    if let Some(clients) = &clients {
        let program = control::Program { name: "vhost-net", version: env!("CARGO_PKG_VERSION") };
        let manager = Arc::new(Manager::new(cards.clone()));
        clients.serve(program, manager, &events, &shutdown)?;
    }
    serve(&vmms, &cards, &shutdown, &events, &link)?;
    Ok(ExitCode::SUCCESS)
}

/// Serves each card at its socket, each on a thread of its own.
fn serve(
    vmms: &[Socket],
    cards: &[Arc<Card>],
    shutdown: &Shutdown,
    events: &Events,
    link: &Link,
) -> Result<(), ProgramError> {
    std::thread::scope(|scope| {
        let served = vmms.iter().zip(cards).map(|(socket, card)| {
            let stop = shutdown.stop();
            scope.spawn(move || {
                let ended = program::serve(socket, shutdown, events, link, card);
                // If one fails, none is left behind.
                if let (Err(_), Ok(stop)) = (&ended, stop) {
                    stop.ask();
                }
                ended
            })
        });
        let served: Vec<_> = served.collect();
        served.into_iter().try_for_each(|thread| {
            let lost = |_| ProgramError::Host {
                what: "a thread that served a card has ended",
                error: std::io::ErrorKind::Other.into(),
            };
            thread.join().map_err(lost)?
        })
    })
}

/// The cards, and what of the host they stand on.
struct Served {
    cards: Vec<Arc<Card>>,
    side: Option<Arc<Side>>,
}

/// Where frames go, open.
enum Host {
    Broker { kind: Kind, pairs: u16, mac: Option<Mac>, channel: Option<Channel> },
    Switch,
}

impl Host {
    fn open(options: &Options) -> Result<(Self, Option<Lasting>), Failure> {
        let backend = &options.backend;
        let descriptors = backend.tap_fd.iter().chain(&options.program.fd);
        unique("--tap-fd", descriptors.copied())?;
        unique("--switch, the address", backend.switch.iter().filter_map(|port| port.mac))?;
        let wanted = options.card.queues;
        let mut mac = None;
        let one_pair = |what| match wanted {
            Some(wanted @ 2..) => Err(Failure::Queues(wanted, what)),
            _ => Ok(()),
        };
        let (kind, opened) = if let Some(name) = &backend.tap {
            mac = tap::guest_address(name);
            (
                Kind::Tap,
                Backend::Tap(Tap { name: name.clone(), queues: wanted.unwrap_or_else(queues) }),
            )
        } else if !backend.tap_fd.is_empty() {
            let fds = backend.tap_fd.iter().map(|fd| take(*fd)).collect::<Result<Vec<_>, _>>();
            let fds = fds.map_err(HostError::from)?;
            mac = tap::guest_address(&tap::name_of_all(&fds).map_err(HostError::from)?);
            (Kind::Tap, Backend::TapFds(fds))
        } else if let Some(place) = &backend.stream {
            one_pair("a stream")?;
            (Kind::Stream, Backend::Stream(place.clone()))
        } else if let Some(path) = &backend.datagram {
            one_pair("a socket of datagrams")?;
            (Kind::Datagram, Backend::Datagram(Peer::new(path)))
        } else if let Some(arguments) = &backend.user {
            one_pair("a stream")?;
            let arguments = arguments.split_whitespace().map(str::to_owned).collect();
            (Kind::Stream, Backend::User(Passt::new(arguments)?))
        } else if backend.switch.len() < 2 {
            return Err(Failure::Lonely);
        } else {
            return Ok((Self::Switch, None));
        };
        let Started { queues, channel, broker } = broker::start(opened)?;
        let pairs = u16::try_from(queues).unwrap_or(QUEUES).min(QUEUES);
        let pairs = wanted.map_or(pairs, |wanted| wanted.min(pairs));
        Ok((Self::Broker { kind, pairs, mac, channel: Some(channel) }, Some(broker)))
    }

    /// The cards, and what of the host they stand on. `None`: the program is to end.
    fn cards(
        self,
        options: &Options,
        name: String,
        events: &Events,
        link: &Link,
        shutdown: &Shutdown,
    ) -> std::io::Result<Option<Served>> {
        let card = |name: String, mac: Option<Mac>, pairs, backing| {
            let mac = mac.unwrap_or_else(|| Mac::of_name(&name));
            let settings = settings(&options.card, name, mac, pairs);
            Arc::new(Card::new(settings, backing, events.clone(), link.keeper()))
        };
        match self {
            Self::Broker { kind, pairs, mac, channel } => {
                let channel = channel.ok_or(std::io::ErrorKind::NotConnected)?;
                let Some(side) = Side::new(kind, channel, shutdown)? else { return Ok(None) };
                let side = Arc::new(side);
                let backing = Backing::Host(kind, Arc::clone(&side));
                let cards = vec![card(name, options.card.mac.or(mac), pairs, backing)];
                Ok(Some(Served { cards, side: Some(side) }))
            }
            Self::Switch => {
                let ports = &options.backend.switch;
                let pairs = options.card.queues.unwrap_or_else(queues);
                let switch = Switch::new(ports.len(), pairs)?;
                let cards = ports.iter().enumerate().map(|(number, port)| {
                    let backing = Backing::Switch(Arc::clone(&switch), number);
                    card(port.path.display().to_string(), port.mac, pairs, backing)
                });
                Ok(Some(Served { cards: cards.collect(), side: None }))
            }
        }
    }
}

/// What the only card is called, and what its address is made of: its interface, or where its VMM connects.
fn name(options: &Options, vmm: &Socket) -> String {
    match (&options.backend.tap, vmm.path()) {
        (Some(tap), _) => tap.clone(),
        (None, Some(path)) => path.display().to_string(),
        (None, None) => String::from("net0"),
    }
}

fn settings(args: &CardArgs, name: String, mac: Mac, pairs: u16) -> Settings {
    let speed = args.speed.map(|speed| (speed, args.duplex == Duplex::Full));
    let (mtu, off) = (args.mtu, args.features.unwrap_or_default());
    Settings { name, mac, mtu, pairs, speed, off }
}

/// What each is to have for itself.
fn unique<T: Eq + Hash + Display + Copy>(
    option: &'static str,
    values: impl Iterator<Item = T>,
) -> Result<(), Failure> {
    let mut seen = HashSet::new();
    for value in values {
        if !seen.insert(value) {
            return Err(Failure::Twice(option, value.to_string()));
        }
    }
    Ok(())
}

/// Takes a descriptor that whoever started us has passed.
fn take(fd: RawFd) -> Result<OwnedFd, TapError> {
    // SAFETY: F_GETFD only asks.
    if fd <= 2 || unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(TapError::Fd { fd, error: std::io::Error::from_raw_os_error(libc::EBADF) });
    }
    // SAFETY: it is open, and whoever started us gave it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
