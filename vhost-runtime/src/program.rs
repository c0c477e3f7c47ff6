//! What every device program does alike: QEMU's "Backend program conventions" (vhost-user.rst), and
//! systemd's.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{self, SocketAddrUnix};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::control::Events;
use crate::device::Device;
use crate::session;
use crate::supervisor::Link;

/// Options that every device program has.
#[derive(Clone, Debug, clap::Args)]
pub struct ProgramArgs {
    /// Listen on this Unix socket for the VMM
    #[arg(long, value_name = "PATH", conflicts_with = "fd")]
    pub socket_path: Option<PathBuf>,

    /// Use this open socket, listening or connected
    #[arg(long, value_name = "N")]
    pub fd: Option<RawFd>,

    /// Listen on this Unix socket for control commands (QMP)
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,

    /// Print what this program is and can do, as JSON, and exit
    #[arg(long)]
    pub print_capabilities: bool,

    /// Serve confined, and started again after a crash; or not, in one plain process, to debug
    #[arg(long, value_name = "on|off", value_enum, default_value_t, hide_possible_values = true)]
    pub sandbox: Confinement,

    /// Log more; twice for debugging (or set RUST_LOG)
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// Whether a program is confined and watched while it serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Confinement {
    /// In a sandbox, under a supervisor.
    #[default]
    On,
    /// Neither: one process, for debuggers.
    Off,
}

/// Why a program can't serve.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// Nobody could connect.
    #[error("no socket: give --socket-path PATH, or --fd N")]
    NoSocket,
    /// The socket can't be made.
    #[error("{option} {path}: cannot listen there: {error}")]
    Listen {
        /// Which option.
        option: &'static str,
        /// Where.
        path: PathBuf,
        /// What the host said.
        error: io::Error,
    },
    /// Somebody listens there already.
    #[error("{0} {1}: another process listens there, choose another path")]
    InUse(&'static str, PathBuf),
    /// What is there is not a socket.
    #[error("{0} {1}: there is a file that is not a socket, remove it or choose another path")]
    NotASocket(&'static str, PathBuf),
    /// Not a socket.
    #[error("--fd {fd}: not an open Unix stream socket: {error}")]
    Fd {
        /// Which.
        fd: RawFd,
        /// What the host said.
        error: io::Error,
    },
    /// It died at once, time after time.
    #[error(
        "it was killed by signal {signal} {times} times before a VMM was served, look for the cause with --sandbox=off"
    )]
    Crashes {
        /// The last time's.
        signal: i32,
        /// How often.
        times: u32,
    },
    /// It died, and can't be started again: the VMM's connection is gone with it.
    #[error("it was killed by signal {0} while it served --fd, and cannot be started again")]
    Killed(i32),
    /// It can't be confined.
    #[error(transparent)]
    Sandbox(#[from] crate::sandbox::SandboxError),
    /// The host refuses something that every program needs.
    #[error("{what}: {error}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// What the host said.
        error: io::Error,
    },
}

/// Starts logging to standard error.
pub fn start_logging(verbose: u8) {
    let level = match verbose {
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level))
        .format_target(false)
        .init();
}

/// Lets a process open as many files as its hard limit allows: each image takes some.
///
/// # Errors
/// The host refuses.
pub fn raise_file_limit() -> Result<(), ProgramError> {
    let failed = || ProgramError::Host {
        what: "the limit of open files cannot be raised",
        error: io::Error::last_os_error(),
    };
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` outlives the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(failed());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(failed());
    }
    Ok(())
}

/// How long the process of a supervisor that was killed may take to follow it.
const DYING: Duration = Duration::from_secs(1);

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Where a socket is to be.
#[derive(Clone, Debug)]
pub struct Place {
    path: PathBuf,
    /// Which option named it.
    option: &'static str,
    /// Only the same user may connect.
    private: bool,
}

impl Place {
    fn failed(&self, error: impl Into<io::Error>) -> ProgramError {
        let (option, path) = (self.option, self.path.clone());
        ProgramError::Listen { option, path, error: error.into() }
    }

    fn check_free(&self) -> Result<Found, ProgramError> {
        let Self { path, option, .. } = self;
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                Err(ProgramError::NotASocket(option, path.clone()))
            }
            Ok(_) if is_served(path) => Err(ProgramError::InUse(option, path.clone())),
            Ok(_) => Ok(Found::LeftBehind),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
            Err(error) => Err(self.failed(error)),
        }
    }
}

/// Where the VMM comes from, or a client of the control interface.
#[derive(Debug)]
pub enum Socket {
    /// It connects; one after the other.
    Listening {
        /// The socket; one with a path listens only once it was [published](Self::publish).
        listener: UnixListener,
        /// Where it is, or will be.
        path: Option<Place>,
        /// It is there, and is removed when the program ends.
        published: bool,
    },
    /// It is connected, once.
    Connected(UnixStream),
    /// It was connected; another process has the connection.
    HandedOver,
}

impl Socket {
    /// Makes or takes the socket that the options name, or that systemd passes.
    ///
    /// # Errors
    /// See [`ProgramError`].
    pub fn from_args(args: &ProgramArgs) -> Result<Self, ProgramError> {
        if let Some(path) = &args.socket_path {
            return Self::listen("--socket-path", path, false);
        }
        if let Some(fd) = args.fd {
            return Self::from_fd(fd);
        }
        match listenfd::ListenFd::from_env().take_unix_listener(0) {
            Ok(Some(listener)) => Ok(Self::passed(listener)),
            Ok(None) => Err(ProgramError::NoSocket),
            Err(error) => Err(ProgramError::Host { what: "LISTEN_FDS: not a Unix socket", error }),
        }
    }

    fn passed(listener: UnixListener) -> Self {
        Self::Listening { listener, path: None, published: false }
    }

    /// A socket that will listen at `path`, which an option names.
    ///
    /// # Errors
    /// It could not.
    pub(crate) fn listen(
        option: &'static str,
        path: &Path,
        private: bool,
    ) -> Result<Self, ProgramError> {
        let place = Place { path: path.to_owned(), option, private };
        place.check_free()?;
        let failed = |error: Errno| place.failed(error);
        SocketAddrUnix::new(path).map_err(failed)?;
        let (family, kind) = (net::AddressFamily::UNIX, net::SocketType::STREAM);
        let socket =
            net::socket_with(family, kind, net::SocketFlags::CLOEXEC, None).map_err(failed)?;
        Ok(Self::Listening { listener: socket.into(), path: Some(place), published: false })
    }

    /// Lets others find the socket, now that they can be served.
    ///
    /// # Errors
    /// See [`ProgramError`].
    pub fn publish(&mut self) -> Result<(), ProgramError> {
        let Self::Listening { listener, path: Some(place), published } = self else {
            return Ok(());
        };
        if place.check_free()? == Found::LeftBehind {
            std::fs::remove_file(&place.path).map_err(|error| place.failed(error))?;
        }
        let address = SocketAddrUnix::new(&place.path).map_err(|error| place.failed(error))?;
        net::bind(&*listener, &address).map_err(|error| place.failed(error))?;
        *published = true;
        if place.private {
            // Nobody can connect before it listens.
            let owner_only = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(&place.path, owner_only)
                .map_err(|error| place.failed(error))?;
        }
        net::listen(&*listener, BACKLOG).map_err(|error| place.failed(error))
    }

    /// Closes a connection that another process serves; `false`: it is not one.
    pub(crate) fn hand_over(&mut self) -> bool {
        let connected = matches!(self, Self::Connected(_));
        if connected {
            *self = Self::HandedOver;
        }
        connected
    }

    /// Leaves the socket where it is when this is dropped: it is another process's to remove.
    pub(crate) fn disown(&mut self) {
        if let Self::Listening { path, .. } = self {
            *path = None;
        }
    }

    fn from_fd(fd: RawFd) -> Result<Self, ProgramError> {
        let option = |option| -> io::Result<libc::c_int> {
            let mut value: libc::c_int = 0;
            let mut length = size_of_val(&value) as libc::socklen_t;
            // SAFETY: `value` and `length` outlive the call and belong together.
            let result = unsafe {
                let value = (&raw mut value).cast();
                libc::getsockopt(fd, libc::SOL_SOCKET, option, value, &raw mut length)
            };
            if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
        };
        let failed = |error| ProgramError::Fd { fd, error };
        if option(libc::SO_DOMAIN).map_err(failed)? != libc::AF_UNIX
            || option(libc::SO_TYPE).map_err(failed)? != libc::SOCK_STREAM
        {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        }
        let listening = option(libc::SO_ACCEPTCONN).map_err(failed)? != 0;
        // SAFETY: it is open, and whoever started us gave it to us.
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(if listening { Self::passed(owned.into()) } else { Self::Connected(owned.into()) })
    }
}

/// What is where a socket is to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    /// A socket of a process that was killed.
    LeftBehind,
}

/// Whether a process listens there, and means to go on.
fn is_served(path: &Path) -> bool {
    let end = Instant::now().checked_add(DYING);
    while let Ok(stream) = UnixStream::connect(path) {
        let alive = socket_peercred(&stream).map_or(true, |peer| is_alive(peer.pid));
        if alive || end.is_none_or(|end| Instant::now() > end) {
            return true;
        }
        // A supervisor was killed, and the process that it started follows it.
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

/// `false`: it has ended, even if nobody has asked how.
fn is_alive(pid: Pid) -> bool {
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&Timespec::default())) == Ok(0),
        Err(error) => error != Errno::SRCH,
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Self::Listening { path: Some(Place { path, .. }), published: true, .. } = self
            && let Err(error) = std::fs::remove_file(&*path)
        {
            log::debug!("{}: not removed: {error}", path.display());
        }
    }
}

/// SIGTERM and SIGINT, as a descriptor, and whoever else wants the program to end; a process that is
/// forked gets its own signals from it.
#[derive(Debug)]
pub struct Shutdown {
    signals: OwnedFd,
    asked: EventFd,
}

/// Ends the program as SIGTERM does.
#[derive(Debug)]
pub struct Stop {
    asked: EventFd,
}

impl Stop {
    /// Asks it to end.
    pub fn ask(&self) {
        if let Err(error) = self.asked.write(1) {
            log::error!("the program cannot be asked to end: {error}");
        }
    }
}

impl AsFd for Shutdown {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }
}

impl Shutdown {
    /// Takes the signals. Before any thread is started: they inherit that it is blocked.
    ///
    /// # Errors
    /// The host refuses.
    pub fn new() -> Result<Self, ProgramError> {
        // SAFETY: an all-zero set is valid and is emptied first; all pointers outlive their calls.
        let fd = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGTERM);
            libc::sigaddset(&raw mut set, libc::SIGINT);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC)
        };
        if fd < 0 {
            let error = io::Error::last_os_error();
            return Err(ProgramError::Host { what: "signals cannot be taken", error });
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let signals = unsafe { OwnedFd::from_raw_fd(fd) };
        let asked = EventFd::new(EFD_NONBLOCK)
            .map_err(|error| ProgramError::Host { what: "no descriptor", error })?;
        Ok(Self { signals, asked })
    }

    /// For another thread to end the program.
    ///
    /// # Errors
    /// No descriptor can be had.
    pub fn stop(&self) -> io::Result<Stop> {
        Ok(Stop { asked: self.asked.try_clone()? })
    }

    /// Takes the signal that has come, so that the next one is noticed.
    pub(crate) fn take(&self) {
        let mut signal = [0; size_of::<libc::signalfd_siginfo>()];
        let _ = rustix::io::read(&self.signals, &mut signal); // whichever it is
    }
}

/// Serves the device to one VMM after the other, until SIGTERM, or until the only connection ends.
/// The sandbox has been entered, and the supervisor told that this is [ready](Link::ready).
///
/// # Errors
/// See [`ProgramError`].
pub fn serve<D: Device>(
    socket: &Socket,
    shutdown: &Shutdown,
    events: &Events,
    link: &Link,
    device: &Arc<D>,
) -> Result<(), ProgramError> {
    loop {
        let stream = match socket {
            Socket::Listening { listener, .. } => {
                if !wait(&[listener.as_raw_fd()], shutdown)? {
                    return Ok(());
                }
                match listener.accept() {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        log::warn!("a connection was not accepted: {error}");
                        continue;
                    }
                }
            }
            Socket::Connected(stream) => {
                stream.try_clone().map_err(|error| ProgramError::Host { what: "--fd", error })?
            }
            Socket::HandedOver => return Ok(()),
        };
        events.set_connected(true);
        link.attached();
        let ended = serve_connection(stream, shutdown, device);
        events.set_connected(false);
        let ended = ended?;
        if ended == Ended::Shutdown || matches!(socket, Socket::Connected(_)) {
            return Ok(());
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Frontend,
    Shutdown,
}

fn serve_connection<D: Device>(
    stream: UnixStream,
    shutdown: &Shutdown,
    device: &Arc<D>,
) -> Result<Ended, ProgramError> {
    log::info!("a VMM is connected");
    let host = |error| ProgramError::Host { what: "a connection cannot be served", error };
    let handle = stream.try_clone().map_err(host)?;
    let over = vmm_sys_util::eventfd::EventFd::new(0).map_err(host)?;
    let done = over.try_clone().map_err(host)?;
    let stopped = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let session = std::thread::Builder::new().name(String::from("session"));
        session
            .spawn_scoped(scope, || {
                match session::serve(stream, device) {
                    Ok(()) => log::info!("the VMM has disconnected"),
                    Err(_) if stopped.load(Ordering::Relaxed) => {}
                    Err(error) => log::error!("{error}"),
                }
                let _ = done.write(1);
            })
            .map_err(host)?;
        if wait(&[over.as_raw_fd()], shutdown)? {
            return Ok(Ended::Frontend);
        }
        stopped.store(true, Ordering::Relaxed);
        session::hang_up(&handle);
        Ok(Ended::Shutdown)
    })
}

/// Waits until one of `fds` is readable. `false`: the program is to end.
pub(crate) fn wait(fds: &[RawFd], shutdown: &Shutdown) -> Result<bool, ProgramError> {
    let ends = [shutdown.signals.as_raw_fd(), shutdown.asked.as_raw_fd()];
    let all = fds.iter().copied().chain(ends);
    let mut polls: Vec<libc::pollfd> =
        all.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
    loop {
        // SAFETY: the array outlives the call.
        let count = unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, -1) };
        if count >= 0 {
            return Ok(polls.iter().rev().take(ends.len()).all(|end| end.revents == 0));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(ProgramError::Host { what: "waiting failed", error });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> PathBuf {
        let folder = std::env::temp_dir().join(format!("program-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_socket_left_behind_is_replaced_but_no_other() {
        let path = folder().join("left");
        drop(UnixListener::bind(&path).unwrap());
        let listen = || Socket::listen("--socket-path", &path, false);
        let mut socket = listen().unwrap();
        assert!(UnixStream::connect(&path).is_err(), "nobody is served yet");
        socket.publish().unwrap();
        assert!(matches!(listen(), Err(ProgramError::InUse(..))));
        drop(socket);
        assert!(!path.exists(), "removed at the end");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(listen(), Err(ProgramError::NotASocket(..))));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_descriptor_is_asked_what_it_is() {
        use std::os::fd::IntoRawFd;
        let (one, _two) = UnixStream::pair().unwrap();
        assert!(matches!(Socket::from_fd(one.into_raw_fd()), Ok(Socket::Connected(_))));
        let listener = UnixListener::bind(folder().join("fd")).unwrap();
        assert!(matches!(Socket::from_fd(listener.into_raw_fd()), Ok(Socket::Listening { .. })));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(Socket::from_fd(file.as_raw_fd()).is_err());
        assert!(Socket::from_fd(9999).is_err());
    }
}
