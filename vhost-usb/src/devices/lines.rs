//! What a serial port is connected to.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, fstat, major, minor};
use rustix::net::sockopt::{socket_acceptconn, socket_type};
use rustix::net::{SocketAddrUnix, SocketType};
use vhost_runtime::pty;

use super::DeviceError;
use super::text::Text;
use crate::channel::connector::Connector;
use crate::channel::place::Place;
use crate::device::serial::peer::Peer;

/// What of the host's a serial port is connected to.
#[derive(Debug)]
enum Line {
    /// A pseudo-terminal, by a link to it.
    Terminal(PathBuf),
    /// A socket that listens.
    To(PathBuf),
    /// Whoever connects there.
    From(PathBuf),
}

fn line(text: &Text) -> Result<Line, DeviceError> {
    let whole = || text.whole.clone();
    let serves = match text.get("server") {
        None | Some("off") => false,
        Some("on") if text.get("unix").is_some() => true,
        Some(_) => {
            return Err(DeviceError::Value(whole(), "server", "on, beside unix=PATH, or off"));
        }
    };
    match (text.get("pty"), text.get("unix")) {
        (Some(""), None) => {
            Err(DeviceError::Value(whole(), "pty", "the path of a symbolic link to make"))
        }
        (Some(link), None) => Ok(Line::Terminal(link.into())),
        (None, Some("")) => Err(DeviceError::Value(whole(), "unix", "a socket's path")),
        (None, Some(path)) => {
            // It may be long before anybody uses it.
            let address = SocketAddrUnix::new(path);
            address.map_err(|error| DeviceError::Host(whole(), error.into()))?;
            Ok(if serves { Line::From(path.into()) } else { Line::To(path.into()) })
        }
        _ => Err(DeviceError::Line(whole())),
    }
}

/// Where the program connects to, again and again.
pub(super) fn connects_to(text: &Text) -> Option<Place> {
    match line(text).ok()? {
        Line::To(path) => Some(Place::Unix(path)),
        Line::Terminal(_) | Line::From(_) => None,
    }
}

/// Removes the link to a pseudo-terminal that is no more.
pub(super) fn clean_up(text: &Text) {
    if let Ok(Line::Terminal(link)) = line(text)
        && link.is_symlink()
        && let Err(error) = std::fs::remove_file(&link)
    {
        log::debug!("{}: not removed: {error}", link.display());
    }
}

/// What is passed to a process that may not open it.
pub(super) fn open(text: &Text) -> Result<OwnedFd, DeviceError> {
    let opened = match line(text)? {
        Line::Terminal(link) => return terminal(text, &link),
        Line::To(path) => UnixStream::connect(path).map(OwnedFd::from),
        Line::From(path) => Place::Unix(path).listen(),
    };
    opened.map_err(|error| DeviceError::Host(text.whole.clone(), error))
}

/// Who is at the other end of what is passed, or of what is opened here.
pub(super) fn peer(text: &Text, passed: Option<OwnedFd>) -> Result<Peer, DeviceError> {
    let peer = match (line(text)?, passed) {
        (Line::Terminal(link), None) => Peer::terminal(terminal(text, &link)?),
        (Line::Terminal(_), Some(fd)) => check_master(&fd).and_then(|()| Peer::terminal(fd)),
        (Line::To(path), None) => Connector::new(Place::Unix(path), false).map(Peer::Socket),
        (Line::To(_), Some(fd)) => check_stream(&fd, false).and_then(|()| Peer::stream(fd)),
        (Line::From(path), None) => Connector::new(Place::Unix(path), true).map(Peer::Socket),
        (Line::From(_), Some(fd)) => {
            check_stream(&fd, true).and_then(|()| Connector::on(fd)).map(Peer::Socket)
        }
    };
    peer.map_err(|error| DeviceError::Host(text.whole.clone(), error))
}

/// A pseudo-terminal's master; the link leads to the other end.
fn terminal(text: &Text, link: &Path) -> Result<OwnedFd, DeviceError> {
    let failed = |error| DeviceError::Host(text.whole.clone(), error);
    let (master, name) = pty::new().map_err(failed)?;
    pty::link(link, &name).map_err(|error| DeviceError::Link(text.whole.clone(), error))?;
    Ok(master)
}

/// Whatever was passed by somebody else.
fn check_stream(fd: &OwnedFd, listens: bool) -> io::Result<()> {
    let is_stream = socket_type(fd) == Ok(SocketType::STREAM);
    match is_stream.then(|| socket_acceptconn(fd)).transpose()? {
        Some(found) if found == listens => Ok(()),
        Some(true) => Err(io::Error::other("what is passed listens, which is for server=on")),
        Some(false) => Err(io::Error::other("what is passed does not listen")),
        None => Err(io::Error::other("what is passed is no stream socket")),
    }
}

fn check_master(fd: &OwnedFd) -> io::Result<()> {
    /// /dev/ptmx, and what is opened by it.
    const PTMX: (u32, u32) = (5, 2);
    let found = fstat(fd)?;
    let is_device = FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice;
    if is_device && (major(found.st_rdev), minor(found.st_rdev)) == PTMX {
        return Ok(());
    }
    Err(io::Error::other("what is passed is no pseudo-terminal's master"))
}
