//! What every device program does alike: QEMU's "Backend program conventions" (vhost-user.rst), and
//! systemd's.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::control::Events;
use crate::device::Device;
use crate::session;

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

    /// Log more; twice for debugging (or set RUST_LOG)
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
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

/// Where the VMM comes from.
#[derive(Debug)]
pub enum Socket {
    /// It connects; one after the other.
    Listening {
        /// The socket.
        listener: UnixListener,
        /// Where to remove it when the program ends.
        path: Option<PathBuf>,
    },
    /// It is connected, once.
    Connected(UnixStream),
}

impl Socket {
    /// Makes or takes the socket that the options name, or that systemd passes.
    ///
    /// # Errors
    /// See [`ProgramError`].
    pub fn from_args(args: &ProgramArgs) -> Result<Self, ProgramError> {
        if let Some(path) = &args.socket_path {
            return Self::listen("--socket-path", path);
        }
        if let Some(fd) = args.fd {
            return Self::from_fd(fd);
        }
        match listenfd::ListenFd::from_env().take_unix_listener(0) {
            Ok(Some(listener)) => Ok(Self::Listening { listener, path: None }),
            Ok(None) => Err(ProgramError::NoSocket),
            Err(error) => Err(ProgramError::Host { what: "LISTEN_FDS: not a Unix socket", error }),
        }
    }

    /// Listens at the path that an option names.
    pub(crate) fn listen(option: &'static str, path: &Path) -> Result<Self, ProgramError> {
        let failed = |error| ProgramError::Listen { option, path: path.to_owned(), error };
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(ProgramError::NotASocket(option, path.to_owned()));
            }
            Ok(_) if UnixStream::connect(path).is_ok() => {
                return Err(ProgramError::InUse(option, path.to_owned()));
            }
            // Left behind by a process that was killed.
            Ok(_) => std::fs::remove_file(path).map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        Ok(Self::Listening { listener, path: Some(path.to_owned()) })
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
        Ok(if listening {
            Self::Listening { listener: owned.into(), path: None }
        } else {
            Self::Connected(owned.into())
        })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Self::Listening { path: Some(path), .. } = self
            && let Err(error) = std::fs::remove_file(&*path)
        {
            log::debug!("{}: not removed: {error}", path.display());
        }
    }
}

/// SIGTERM and SIGINT, as a descriptor, and whoever else wants the program to end.
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
}

/// Serves the device to one VMM after the other, until SIGTERM, or until the only connection ends.
///
/// # Errors
/// See [`ProgramError`].
pub fn serve<D: Device>(
    socket: &Socket,
    shutdown: &Shutdown,
    events: &Events,
    device: &Arc<D>,
) -> Result<(), ProgramError> {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        log::debug!("systemd is not told: {error}");
    }
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
        };
        events.set_connected(true);
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
        let socket = Socket::listen("--socket-path", &path).unwrap();
        assert!(matches!(Socket::listen("--socket-path", &path), Err(ProgramError::InUse(..))));
        drop(socket);
        assert!(!path.exists(), "removed at the end");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(
            Socket::listen("--socket-path", &path),
            Err(ProgramError::NotASocket(..))
        ));
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
