//! What a device stands on is opened by who may, and passed to a process in its sandbox.

use std::os::fd::OwnedFd;

use vhost_sound::streams::Opened;

use super::text::Text;
use super::{DeviceError, audio, kinds, lines};
use crate::physical;
use crate::physical::broker::Slot;

/// What a device stands on, opened by another process.
#[derive(Debug)]
pub enum Passed {
    /// Files, a socket, a pseudo-terminal's master, or a device of the host's.
    Descriptors(Vec<OwnedFd>),
    /// What is played to and recorded from.
    Streams(Vec<Opened>),
    /// Devices of the host's, as they come and go.
    Slot(Slot),
}

impl Passed {
    /// What a client has passed, if anything.
    #[must_use]
    pub fn descriptors(fds: Vec<OwnedFd>) -> Option<Self> {
        (!fds.is_empty()).then_some(Self::Descriptors(fds))
    }
}

/// Opens what a device stands on that is opened once, and by none that takes a serving process's place: what
/// was played to a file stays there.
///
/// # Errors
/// It is no device's text, or the host refuses.
pub fn open_once(text: &str) -> Result<Option<Passed>, DeviceError> {
    let text = Text::parse(text)?;
    let is_audio = text.kind == "audio";
    is_audio.then(|| audio::open(&text).map(Passed::Streams)).transpose()
}

/// Opens what a device stands on, where it does; and its text, as another process understands it.
///
/// # Errors
/// It is no device's text, or the host refuses.
pub fn open(text: &str) -> Result<(String, Vec<OwnedFd>), DeviceError> {
    let text = Text::parse(text)?;
    match text.kind.as_str() {
        "storage" => {
            let unit = kinds::unit(&text)?;
            let file = unit.open_file()?;
            let own = text.pairs(&kinds::OWN, true);
            let port = text.port.as_ref().map(|port| format!("port={port}"));
            let parts = [Some(text.kind.clone()), port, Some(own), Some(unit.text())];
            let parts = parts.into_iter().flatten().filter(|part| !part.is_empty());
            Ok((parts.collect::<Vec<_>>().join(","), file.map(OwnedFd::from).into_iter().collect()))
        }
        "serial" => {
            let fd = lines::open(&text)?;
            Ok((text.whole, vec![fd]))
        }
        "audio" => {
            let files = audio::open_files(&text)?.into_iter().map(OwnedFd::from).collect();
            Ok((text.whole, files))
        }
        "host" => {
            let file = physical::open(&kinds::filter(&text)?);
            let file = file.map_err(|error| DeviceError::Host(text.whole.clone(), error))?;
            Ok((text.whole, vec![file.into()]))
        }
        _ => Ok((text.whole, Vec::new())),
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
        assert_eq!(opened.len(), 1);
        assert_eq!(text, format!("storage,port=2.1,speed=full,file={path},readonly=on"));
        let (text, opened) = open("kbd,port=1").unwrap();
        assert_eq!((text.as_str(), opened.len()), ("kbd,port=1", 0));
        assert!(matches!(open("serial"), Err(DeviceError::Line(_))));
    }
}
