//! Where the other side of a connection is, or where it is waited for.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt,
};
use vhost_runtime::sandbox::Sandbox;

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

    /// Lets a program connect there again and again, from within its sandbox.
    pub fn allow(&self, sandbox: &mut Sandbox) {
        match self {
            Self::Unix(_) => sandbox.connects(),
            Self::Tcp(addresses) => {
                addresses.iter().for_each(|address| sandbox.connects_tcp(address.port()));
            }
        }
    }

    /// A socket that listens there.
    ///
    /// # Errors
    /// The host refuses, or somebody else listens there.
    pub fn listen(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Unix(path) => listen(path).map(OwnedFd::from),
            Self::Tcp(addresses) => TcpListener::bind(addresses.as_slice()).map(OwnedFd::from),
        }
    }

    /// A socket that is connected, or is being so: `true`. Each of the addresses has its turn.
    pub(super) fn connect(&self, tries: usize) -> io::Result<(OwnedFd, bool)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (fd, result) = match self {
            Self::Unix(path) => {
                let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
                let result = connect(fd.as_fd(), &SocketAddrUnix::new(path.as_path())?);
                (fd, result)
            }
            Self::Tcp(addresses) => {
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

    /// A socket that is connected.
    ///
    /// # Errors
    /// Nobody is there.
    pub fn connected(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Unix(path) => UnixStream::connect(path).map(OwnedFd::from),
            Self::Tcp(addresses) => TcpStream::connect(addresses.as_slice()).map(OwnedFd::from),
        }
    }
}

/// Has a TCP connection be quick, and its end noticed.
pub(super) fn prepare(fd: &OwnedFd) {
    if !matches!(sockopt::socket_domain(fd), Ok(AddressFamily::INET | AddressFamily::INET6)) {
        return;
    }
    // Requests are small and are answered one by one; and a host may go without a word.
    for result in [sockopt::set_tcp_nodelay(fd, true), sockopt::set_socket_keepalive(fd, true)] {
        if let Err(error) = result {
            log::debug!("a connection: {error}");
        }
    }
}

/// A Unix socket that listens. One of that name on which nobody listens any more is replaced: a process that
/// was killed has left it.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            // Anything else that has that name refuses connections too.
            let is_socket = std::fs::symlink_metadata(path)?.file_type().is_socket();
            match UnixStream::connect(path) {
                Err(refused) if refused.kind() == ErrorKind::ConnectionRefused && is_socket => {}
                _ => return Err(error),
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        other => other,
    }
}
