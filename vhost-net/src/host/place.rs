//! Where a peer listens: `PATH`, or `HOST:PORT`.

use std::fmt;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use rustix::net::sockopt;

/// How long each of a host's addresses may take to answer.
const LIMIT: Duration = Duration::from_secs(2);

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
    /// Connects, to each of the host's addresses in turn.
    ///
    /// # Errors
    /// Nobody is there.
    pub fn connect(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Unix(path) => UnixStream::connect(path).map(OwnedFd::from),
            Self::Tcp(address) => {
                let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
                let mut connect = |address| match TcpStream::connect_timeout(&address, LIMIT) {
                    Ok(stream) => Some(stream),
                    Err(error) => {
                        last = error;
                        None
                    }
                };
                let stream = address.to_socket_addrs()?.find_map(&mut connect);
                let Some(stream) = stream else { return Err(last) };
                stream.set_nodelay(true)?;
                // A peer may go without a word.
                sockopt::set_socket_keepalive(&stream, true)?;
                Ok(stream.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
