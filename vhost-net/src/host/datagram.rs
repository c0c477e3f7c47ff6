//! A peer to which each frame is a datagram of a Unix socket, as gvproxy's (`-listen-vfkit`) and vfkit's.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// What a peer of vfkit's waits for as the first datagram, and at no other time: it tells it where to answer. To
/// others it is a frame that is too short.
const HELLO: &[u8] = b"VFKT";

/// Bytes that may be under way: some of the longest frames.
const BUFFER: usize = 1 << 20;

/// Where the peer is, and where we are, which it must know to answer.
#[derive(Debug)]
pub struct Peer {
    path: PathBuf,
    own: PathBuf,
}

/// Why it can't be reached.
#[derive(Debug, thiserror::Error)]
#[error("--datagram {path}: nobody can be reached there: {error}")]
pub struct PeerError {
    path: PathBuf,
    error: io::Error,
}

impl Peer {
    /// The one whose socket is at `path`.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        let mut own = path.as_os_str().to_owned();
        own.push(format!(".vhost-net-{}", std::process::id()));
        Self { path: path.to_owned(), own: own.into() }
    }

    /// A socket that is connected to it, and whose own name is beside its.
    ///
    /// # Errors
    /// See [`PeerError`].
    pub fn connect(&self) -> Result<OwnedFd, PeerError> {
        self.try_connect().map_err(|error| {
            self.remove();
            PeerError { path: self.path.clone(), error }
        })
    }

    fn try_connect(&self) -> io::Result<OwnedFd> {
        self.remove();
        let socket = UnixDatagram::bind(&self.own)?;
        socket.connect(&self.path)?;
        // As far as the host allows.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, BUFFER);
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, BUFFER);
        socket.send(HELLO)?;
        Ok(socket.into())
    }

    /// Leaves nothing of ours where the peer is.
    pub(super) fn remove(&self) {
        match fs::remove_file(&self.own) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                log::debug!("{}: not removed: {error}", self.own.display());
            }
            _ => {}
        }
    }
}
