//! What a device stands on is opened by who may, and passed to a process in its sandbox.

use std::os::fd::OwnedFd;

use super::text::Text;
use super::{DeviceError, kinds, lines};
use crate::physical;
use crate::physical::broker::Slot;

/// What a device stands on, opened by another process.
#[derive(Debug)]
pub enum Passed {
    /// A file, a socket, a pseudo-terminal's master, or a device of the host's.
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
            let fd = lines::open(&text)?;
            Ok((text.whole, Some(fd)))
        }
        "host" => {
            let file = physical::open(&kinds::filter(&text)?);
            let file = file.map_err(|error| DeviceError::Host(text.whole.clone(), error))?;
            Ok((text.whole, Some(file.into())))
        }
        _ => Ok((text.whole, None)),
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
        assert!(matches!(open("serial"), Err(DeviceError::Line(_))));
    }
}
