//! The sockets of a program: made by path, passed by descriptor, or by systemd.

use std::collections::HashMap;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{self, SocketAddrUnix};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{ProgramArgs, ProgramError};

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

    /// It is made when all else is ready; that it can't be is known before.
    fn check_folder(&self) -> Result<(), ProgramError> {
        // A name alone is of the folder that the program is in.
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        match accessat(CWD, folder, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
            Ok(()) => Ok(()),
            Err(Errno::NOENT | Errno::NOTDIR) => {
                let (option, path, folder) = (self.option, self.path.clone(), folder.to_owned());
                Err(ProgramError::NoParent { option, path, folder })
            }
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
        /// What is there, if it is: it is removed when the program ends.
        published: Option<Inode>,
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
        Self::Listening { listener, path: None, published: None }
    }

    /// A socket that will listen at `path`, which an option names.
    ///
    /// # Errors
    /// It could not.
    pub fn listen(option: &'static str, path: &Path, private: bool) -> Result<Self, ProgramError> {
        let place = Place { path: path.to_owned(), option, private };
        place.check_free()?;
        place.check_folder()?;
        let failed = |error: Errno| place.failed(error);
        SocketAddrUnix::new(path).map_err(failed)?;
        let (family, kind) = (net::AddressFamily::UNIX, net::SocketType::STREAM);
        let socket =
            net::socket_with(family, kind, net::SocketFlags::CLOEXEC, None).map_err(failed)?;
        Ok(Self::Listening { listener: socket.into(), path: Some(place), published: None })
    }

    /// Checks that each of them has a path of its own, before one finds another where it is to be.
    pub(crate) fn check_apart(sockets: &[&mut Self]) -> Result<(), ProgramError> {
        let places = sockets.iter().filter_map(|socket| match socket {
            Self::Listening { path, .. } => path.as_ref(),
            Self::Connected(_) | Self::HandedOver => None,
        });
        let mut taken = HashMap::new();
        for Place { path, option, .. } in places {
            let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            if let Some(first) = taken.insert(absolute, *option) {
                return Err(ProgramError::Twice { option, path: path.clone(), first });
            }
        }
        Ok(())
    }

    /// Where it is, by whatever it was made: `None` if it has no name.
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        let address = match self {
            Self::Listening { path: Some(place), .. } => return Some(place.path.clone()),
            Self::Listening { listener, .. } => listener.local_addr(),
            Self::Connected(stream) => stream.local_addr(),
            Self::HandedOver => return None,
        };
        address.ok()?.as_pathname().map(Path::to_owned)
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
        *published = Inode::of(&place.path);
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
        if listening {
            return Ok(Self::passed(owned.into()));
        }
        let stream = UnixStream::from(owned);
        stream.peer_addr().map_err(failed)?; // which one that was never connected does not have
        Ok(Self::Connected(stream))
    }
}

/// What a path leads to: a socket that another program has made there since is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inode {
    device: u64,
    number: u64,
}

impl Inode {
    fn of(path: &Path) -> Option<Self> {
        let found = std::fs::symlink_metadata(path).ok()?;
        Some(Self { device: found.dev(), number: found.ino() })
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
    loop {
        let stream = match connect(path) {
            Ok(stream) => stream,
            // More wait to be accepted than can; or a socket of another kind, which cannot be asked.
            Err(error) => return matches!(error, Errno::AGAIN | Errno::PROTOTYPE),
        };
        let alive = socket_peercred(&stream).map_or(true, |peer| is_alive(peer.pid));
        if alive || end.is_none_or(|end| Instant::now() > end) {
            return true;
        }
        // A supervisor was killed, and the process that it started follows it.
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Connects, and does not wait.
fn connect(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = net::SocketFlags::CLOEXEC | net::SocketFlags::NONBLOCK;
    let socket = net::socket_with(net::AddressFamily::UNIX, net::SocketType::STREAM, flags, None)?;
    net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
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
        if let Self::Listening { path: Some(Place { path, .. }), published, .. } = self
            && published.is_some_and(|ours| Inode::of(path) == Some(ours))
            && let Err(error) = std::fs::remove_file(&*path)
        {
            log::debug!("{}: not removed: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, IntoRawFd};
    use std::os::unix::net::UnixDatagram;

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
        let _datagrams = UnixDatagram::bind(&path).unwrap();
        assert!(matches!(listen(), Err(ProgramError::InUse(..))));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(listen(), Err(ProgramError::NotASocket(..))));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_socket_that_another_made_there_stays() {
        let path = folder().join("another");
        let mut socket = Socket::listen("--socket-path", &path, false).unwrap();
        socket.publish().unwrap();
        std::fs::remove_file(&path).unwrap();
        let _another = UnixListener::bind(&path).unwrap();
        drop(socket);
        assert!(path.exists());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_socket_whose_connections_nobody_accepts_is_in_use() {
        let path = folder().join("full");
        let _ = std::fs::remove_file(&path);
        let mut socket = Socket::listen("--socket-path", &path, false).unwrap();
        socket.publish().unwrap();
        let waiting: Vec<_> = std::iter::from_fn(|| connect(&path).ok()).take(1000).collect();
        assert!((1..1000).contains(&waiting.len()));
        let another = Socket::listen("--socket-path", &path, false);
        assert!(matches!(another, Err(ProgramError::InUse(..))));
    }

    #[test]
    fn each_socket_has_a_path_of_its_own_in_a_folder_that_is_there() {
        let listen = |option, path: &str| Socket::listen(option, &folder().join(path), false);
        let mut sockets = [("--switch", "a"), ("--switch", "b"), ("--control", "./a")]
            .map(|(option, path)| listen(option, path).unwrap());
        let [one, other, same] = &mut sockets;
        assert!(Socket::check_apart(&[&mut *one, other]).is_ok());
        let said = Socket::check_apart(&[one, other, same]).unwrap_err().to_string();
        assert!(said.starts_with("--control ") && said.contains("twice, to --switch"), "{said}");
        let said = listen("--control", "nowhere/a").unwrap_err().to_string();
        assert!(said.ends_with("/nowhere, make it first"), "{said}");
    }

    #[test]
    fn a_descriptor_is_asked_what_it_is() {
        let (one, _two) = UnixStream::pair().unwrap();
        assert!(matches!(Socket::from_fd(one.into_raw_fd()), Ok(Socket::Connected(_))));
        let listener = UnixListener::bind(folder().join("fd")).unwrap();
        assert!(matches!(Socket::from_fd(listener.into_raw_fd()), Ok(Socket::Listening { .. })));
        let (family, kind) = (net::AddressFamily::UNIX, net::SocketType::STREAM);
        let neither = net::socket(family, kind, None).unwrap();
        let said = Socket::from_fd(neither.into_raw_fd()).unwrap_err().to_string();
        assert!(said.contains("not connected"), "{said}");
        let (one, two) = UnixStream::pair().unwrap();
        drop(two);
        assert!(matches!(Socket::from_fd(one.into_raw_fd()), Ok(Socket::Connected(_))));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(Socket::from_fd(file.as_raw_fd()).is_err());
        assert!(Socket::from_fd(9999).is_err());
    }
}
