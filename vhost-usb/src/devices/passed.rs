//! What a device stands on is opened by who may, and passed to a process in its sandbox.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::SocketType;
use rustix::net::sockopt::socket_type;

use super::text::Text;
use super::{DeviceError, kinds};
use crate::physical;
use crate::physical::broker::Slot;

/// What a device stands on, opened by another process.
#[derive(Debug)]
pub enum Passed {
    /// A file, a socket, or a device of the host's.
    Descriptor(OwnedFd),
    /// Devices of the host's, as they come and go.
    Slot(Slot),
}

/// Opens what a device stands on, where it does; and its text, as another process understands it.
///
/// # Errors
/// It is no device's text, or the host refuses.
pub fn open(text: &str) -> Result<(String, Option<OwnedFd>), DeviceError> {
    let text = Text::parse(text)?;
    match text.kind.as_str() {
        "storage" => {
            let unit = kinds::unit(&text)?;
            let file = unit.open_file()?;
            let own = text.pairs(&kinds::OWN, true);
            let port = text.port.as_ref().map(|port| format!("port={port}"));
            let parts = [Some(text.kind.clone()), port, Some(own), Some(unit.text())];
            let parts = parts.into_iter().flatten().filter(|part| !part.is_empty());
            Ok((parts.collect::<Vec<_>>().join(","), file.map(OwnedFd::from)))
        }
        "serial" => {
            let stream = connect(&text)?;
            Ok((text.whole, Some(stream.into())))
        }
        "host" => {
            let file = physical::open(&kinds::filter(&text)?);
            let file = file.map_err(|error| DeviceError::Host(text.whole.clone(), error))?;
            Ok((text.whole, Some(file.into())))
        }
        _ => Ok((text.whole, None)),
    }
}

/// Connects to the socket that a serial port's text names.
pub(super) fn connect(text: &Text) -> Result<UnixStream, DeviceError> {
    const WANTED: &str = "the path of a socket that listens";
    let whole = || text.whole.clone();
    let path = text.get("unix").ok_or_else(|| DeviceError::Value(whole(), "unix", WANTED))?;
    UnixStream::connect(path).map_err(|error| DeviceError::Host(whole(), error))
}

/// Whatever was passed by somebody else.
pub(super) fn check_stream(fd: &impl AsFd) -> io::Result<()> {
    match socket_type(fd) {
        Ok(SocketType::STREAM) => Ok(()),
        _ => Err(io::Error::other("what is passed is no stream socket")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_understood_elsewhere() {
        let file = tempfile::Builder::new().prefix("a,b").tempfile().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let path = file.path().display().to_string().replace(',', ",,");
        let (text, opened) =
            open(&format!("storage,file={path},port=2.1,readonly=on,speed=full")).unwrap();
        assert!(opened.is_some());
        assert_eq!(text, format!("storage,port=2.1,speed=full,file={path},readonly=on"));
        let (text, opened) = open("kbd,port=1").unwrap();
        assert_eq!((text.as_str(), opened.is_none()), ("kbd,port=1", true));
        assert!(matches!(open("serial"), Err(DeviceError::Value(..))));
    }
}
