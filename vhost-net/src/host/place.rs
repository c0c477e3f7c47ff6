//! Where a peer listens: `PATH`, or `HOST:PORT`.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::addr::SocketAddrArg;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

/// How long a peer may take to answer, and each of a host's addresses.
const LIMIT: Duration = Duration::from_secs(10);
const LIMIT_OF_EACH: Duration = Duration::from_secs(2);
/// How often a peer is tried that has no room now.
const PAUSE: Duration = Duration::from_millis(50);

/// Where a stream's peer listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP port.
    Tcp(String),
}

impl FromStr for Place {
    type Err = String;

    /// What has a slash is a path, what ends in a port is not.
    fn from_str(text: &str) -> Result<Self, String> {
        let is_port = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        match text.rsplit_once(':') {
            _ if text.is_empty() => Err(String::from("write it as PATH or HOST:PORT")),
            Some((host, port)) if !host.is_empty() && !text.contains('/') && is_port(port) => {
                match port.parse::<u16>() {
                    Ok(1..) => Ok(Self::Tcp(text.to_owned())),
                    _ => Err(format!("{port} is no port: those are 1 to 65535")),
                }
            }
            _ => Ok(Self::Unix(text.into())),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

impl Place {
    /// Connects, to each of the host's addresses in turn; gives up when `called` becomes readable.
    ///
    /// # Errors
    /// Nobody is there.
    pub fn connect(&self, called: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        match self {
            Self::Unix(path) => {
                reach(AddressFamily::UNIX, &SocketAddrUnix::new(path)?, LIMIT, called)
            }
            Self::Tcp(address) => {
                let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
                let mut connect = |address: SocketAddr| {
                    let family = match address {
                        SocketAddr::V4(_) => AddressFamily::INET,
                        SocketAddr::V6(_) => AddressFamily::INET6,
                    };
                    reach(family, &address, LIMIT_OF_EACH, called)
                        .map_err(|error| last = error)
                        .ok()
                };
                let stream = address.to_socket_addrs()?.find_map(&mut connect);
                let Some(stream) = stream else { return Err(last) };
                sockopt::set_tcp_nodelay(&stream, true)?;
                // A peer may go without a word.
                sockopt::set_socket_keepalive(&stream, true)?;
                Ok(stream)
            }
        }
    }
}

/// Connects a new socket, in so much time at most.
fn reach(
    family: AddressFamily,
    address: &impl SocketAddrArg,
    limit: Duration,
    called: BorrowedFd<'_>,
) -> io::Result<OwnedFd> {
    let begun = Instant::now();
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(family, SocketType::STREAM, flags, None)?;
    loop {
        let asked = net::connect(&socket, address);
        let left = limit.saturating_sub(begun.elapsed());
        let given_up = match asked {
            Ok(()) => break,
            Err(_) if left.is_zero() => return Err(io::ErrorKind::TimedOut.into()),
            // As many wait to be accepted as may, of which nobody tells.
            Err(Errno::AGAIN) => is_readable(called, left.min(PAUSE))?,
            Err(Errno::INPROGRESS | Errno::ALREADY) => {
                let mut fds =
                    [PollFd::new(&called, PollFlags::IN), PollFd::new(&socket, PollFlags::OUT)];
                let left = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
                match poll(&mut fds, Some(&left)) {
                    Ok(_) => fds.first().is_some_and(|called| !called.revents().is_empty()),
                    Err(Errno::INTR) => false,
                    Err(error) => return Err(error.into()),
                }
            }
            Err(Errno::INTR) => false,
            Err(error) => return Err(error.into()),
        };
        if given_up {
            return Err(io::ErrorKind::Interrupted.into());
        }
    }
    rustix::io::ioctl_fionbio(&socket, false)?;
    Ok(socket)
}

/// Waits until there is something to be read, or nobody is there any more who would write it; so long at most.
pub(super) fn is_readable(fd: BorrowedFd<'_>, limit: Duration) -> io::Result<bool> {
    let limit = Timespec::try_from(limit).map_err(|_| io::ErrorKind::InvalidInput)?;
    match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&limit)) {
        Ok(count) => Ok(count > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_path_is_told_from_an_address() {
        let unix = |path: &str| Ok(Place::Unix(path.into()));
        assert_eq!("/run/a.sock".parse(), unix("/run/a.sock"));
        assert_eq!("a.sock".parse(), unix("a.sock"));
        assert_eq!("/run/a:1".parse(), unix("/run/a:1"));
        assert_eq!("host:1".parse(), Ok(Place::Tcp(String::from("host:1"))));
        assert_eq!("[::1]:5000".parse(), Ok(Place::Tcp(String::from("[::1]:5000"))));
        assert_eq!("host:+1".parse(), unix("host:+1"));
        assert_eq!("./host:0".parse(), unix("./host:0"));
        for wrong in ["", "host:0", "host:65536", "host:99999999999999999999"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_peer_that_accepts_nobody_is_given_up_when_somebody_calls() {
        let path = std::env::temp_dir().join(format!("place-{}", std::process::id()));
        let flags = SocketFlags::CLOEXEC;
        let listener =
            net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        net::listen(&listener, 0).unwrap();
        let (called, caller) = std::io::pipe().unwrap();
        let place = Place::Unix(path.clone());
        let limited = |limit| {
            let address = SocketAddrUnix::new(&path).unwrap();
            reach(AddressFamily::UNIX, &address, limit, called.as_fd())
        };
        let _first = place.connect(called.as_fd()).unwrap();
        let error = limited(Duration::from_millis(100)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(caller);
        let error = place.connect(called.as_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
        std::fs::remove_file(&path).unwrap();
    }
}
