//! Ports for devices that are elsewhere: `--redirect`.

use std::io;
use std::os::fd::OwnedFd;

use super::text::{PORT, Path};
use super::{Devices, PlaceError};
use crate::channel::Channel;
use crate::channel::place::{self, Place};
use crate::redirect::device::Redirect;
use crate::redirect::filter::{Filter, FilterError};

/// Why there is no such port.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// It does not say where the host is, or that is unknown.
    #[error("--redirect {0}: {1}")]
    Where(String, place::PlaceError),
    /// It has no such key.
    #[error("--redirect {0}: {1} is unknown to it; there are server, filter=RULES and port=N")]
    Key(String, String),
    /// It wants a port that can't be.
    #[error("--redirect {0}: port= must be {PORT}")]
    Port(String),
    /// Its filter is none.
    #[error("--redirect {0}: filter=: {1}")]
    Filter(String, FilterError),
    /// There is no place for it.
    #[error("--redirect {0}: {1}")]
    Place(String, PlaceError),
    /// The host can't be waited for there.
    #[error("--redirect {0}: {1}")]
    Host(String, io::Error),
}

/// A port's text.
#[derive(Debug)]
pub struct Redirection {
    /// As the user wrote it.
    whole: String,
    place: Place,
    serves: bool,
    filter: Option<Filter>,
    port: Option<Path>,
}

impl Redirection {
    /// From `unix:PATH` or `tcp:HOST:PORT`, and keys.
    ///
    /// # Errors
    /// See [`RedirectError`].
    pub fn parse(text: &str) -> Result<Self, RedirectError> {
        let whole = text.to_owned();
        let mut parts = text.split(',');
        let place = Place::parse(parts.next().unwrap_or_default());
        let place = place.map_err(|error| RedirectError::Where(whole.clone(), error))?;
        let mut this = Self { whole, place, serves: false, filter: None, port: None };
        let name = || text.to_owned();
        for part in parts {
            match part.split_once('=') {
                None if part == "server" => this.serves = true,
                Some(("filter", rules)) => {
                    let failed = |error| RedirectError::Filter(name(), error);
                    this.filter = Some(Filter::parse(rules).map_err(failed)?);
                }
                Some(("port", port)) => {
                    let port = Path::parse(port).ok_or_else(|| RedirectError::Port(name()))?;
                    this.port = Some(port);
                }
                _ => return Err(RedirectError::Key(name(), part.to_owned())),
            }
        }
        Ok(this)
    }

    /// Makes its connection, or the socket where it is waited for, for a process that may not.
    ///
    /// # Errors
    /// Nobody is there, or it can't be waited there.
    pub fn open(&self) -> Result<OwnedFd, RedirectError> {
        let opened = if self.serves { self.place.listen() } else { self.place.connected() };
        opened.map_err(|error| RedirectError::Host(self.whole.clone(), error))
    }

    /// Where it connects to, again and again.
    #[must_use]
    pub fn connects_to(&self) -> Option<&Place> {
        (!self.serves).then_some(&self.place)
    }
}

impl Devices {
    /// Plugs in what waits for a device that is elsewhere, on what was [opened](Redirection::open) by another
    /// process if that is `passed`.
    ///
    /// # Errors
    /// See [`RedirectError`].
    pub fn redirect(
        &self,
        redirection: Redirection,
        passed: Option<OwnedFd>,
    ) -> Result<Path, RedirectError> {
        let Redirection { whole, place, serves, filter, port } = redirection;
        let mut state = self.state();
        let path = state.place(port, self.roots());
        let path = path.map_err(|error| RedirectError::Place(whole.clone(), error))?;
        let failed = |error| RedirectError::Host(whole.clone(), error);
        let channel = match passed {
            Some(fd) => Channel::passed(fd),
            None => Channel::new(place, serves),
        };
        let channel = channel.map_err(failed)?;
        let what = format!("redirect {whole}");
        let device = Box::new(Redirect::new(whole.clone(), channel, filter));
        self.put(&mut state, &path, what, device, None).map_err(failed)?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::controller::host::{Host, Kind};

    fn devices() -> Devices {
        Devices::new(Arc::new(Mutex::new(Host::new(Kind::default()).unwrap())))
    }

    fn said(texts: &[&str]) -> String {
        let devices = devices();
        let mut all = texts.iter();
        let result = all.try_for_each(|text| {
            Redirection::parse(text).and_then(|it| devices.redirect(it, None)).map(drop)
        });
        result.err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn ports_are_waiting_though_nothing_is_there() {
        let devices = devices();
        devices.plug("hub,port=2", None).unwrap();
        for text in [
            "unix:/nowhere",
            "unix:/nowhere,port=2.1,filter=8:-1:-1:-1:1|-1:-1:-1:-1:0",
            "tcp:127.0.0.1:4000",
            "tcp:[::1]:4000",
        ] {
            devices.redirect(Redirection::parse(text).unwrap(), None).unwrap();
        }
        let mut host = devices.host();
        let taken: Vec<bool> = (0..5).map(|port| host.ports().is_taken(port)).collect();
        assert_eq!(taken, [true, true, true, true, false]);
        assert!(host.ports().device(0).is_none());
    }

    #[test]
    fn what_cannot_be_is_said() {
        let wrong_rule = "\"8\" is no rule; one is class:vendor:product:version:allow, each a \
                          number, or -1 for any";
        for (text, sentence) in [
            ("/path", "it must begin with unix:PATH or tcp:HOST:PORT"),
            ("tcp:host", "it must begin with unix:PATH or tcp:HOST:PORT"),
            ("unix:", "it must begin with unix:PATH or tcp:HOST:PORT"),
            ("tcp:127.0.0.1:x", "invalid port value"),
            ("unix:a,b=c", "b=c is unknown to it; there are server, filter=RULES and port=N"),
            ("unix:a,port=0", "port= must be a port's number, as 2, or 2.1 behind a hub"),
            ("unix:a,filter=8", &format!("filter=: {wrong_rule}")),
            ("unix:a,port=9", "there is no port 9"),
            ("unix:/nowhere/a,server", "No such file or directory (os error 2)"),
        ] {
            assert_eq!(said(&[text]), format!("--redirect {text}: {sentence}"));
        }
        assert_eq!(said(&["unix:a", "unix:b,port=1"]), "--redirect unix:b,port=1: port 1 is taken");
    }
}
