//! The streams that the command line names, each with what of the host is behind it.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::card::StreamConfig;
use crate::card::port::Direction;
use crate::host::Host;
use crate::host::file::{Player, Recorder};
use crate::host::helper::process::{HelperError, Helpers, Wanted};
use crate::host::loopback::{self, Loopback};
use crate::host::null::Null;
use crate::host::tone::Tone;
use crate::options::{Backend, Stream};

/// Why a stream can't be had.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// A file can't be opened, or is none.
    #[error("{option} {stream}: {path} cannot be used: {error}")]
    File {
        /// Which option.
        option: &'static str,
        /// What the stream is called.
        stream: String,
        /// The file.
        path: PathBuf,
        /// What the host said.
        error: io::Error,
    },
    /// The host's sound system.
    #[error("{option} {stream}: {error}")]
    Helper {
        /// Which option.
        option: &'static str,
        /// What the stream is called.
        stream: String,
        /// Why it can't be had.
        error: HelperError,
    },
    /// A cable with three ends, or one.
    #[error("{option} {stream}: a loopback joins one --playback with one --capture")]
    Loopback {
        /// Which option.
        option: &'static str,
        /// What the stream is called.
        stream: String,
    },
    /// Two streams have one name.
    #[error("{option} {stream}: another stream is called so: give them names, by name=")]
    Name {
        /// Which option.
        option: &'static str,
        /// What both are called.
        stream: String,
    },
}

/// A stream, and its end of the host.
pub type Opened = (StreamConfig, Box<dyn Host>);

fn option(stream: &Stream) -> &'static str {
    match stream.config.direction() {
        Direction::Playback => "--playback",
        Direction::Capture => "--capture",
    }
}

/// How far who listens may be, unless it is said.
const LATENCY: Duration = Duration::from_millis(10);

/// Opens all that the streams need. What needs a helper has one then.
///
/// # Errors
/// See [`StreamError`].
pub fn open(
    playback: &[Stream],
    capture: &[Stream],
    helpers: &mut Helpers,
) -> Result<Vec<Opened>, StreamError> {
    let mut opened: Vec<Opened> = Vec::new();
    // Ends of cables that nobody has yet, by which way they go.
    let mut ends: HashMap<(&str, Direction), Loopback> = HashMap::new();
    for stream in playback.iter().chain(capture) {
        let Stream { config, backend, latency } = stream;
        let (option, name) = (option(stream), config.name.clone());
        if opened.iter().any(|(other, _)| other.name == name) {
            return Err(StreamError::Name { option, stream: name });
        }
        let direction = config.direction();
        let host: Box<dyn Host> = match backend {
            Backend::Null => Box::new(Null::default()),
            Backend::Tone => Box::new(Tone::default()),
            Backend::File(kind, path) => {
                let failed = |error| {
                    let (stream, path) = (name.clone(), path.clone());
                    StreamError::File { option, stream, path, error }
                };
                match direction {
                    Direction::Playback => {
                        let mut options = File::options();
                        let file = options.read(true).write(true).create(true).truncate(true);
                        let file = file.open(path).map_err(failed)?;
                        Box::new(Recorder::new(file, *kind))
                    }
                    Direction::Capture => {
                        let player = File::open(path).and_then(|file| Player::new(file, *kind));
                        Box::new(player.map_err(failed)?)
                    }
                }
            }
            Backend::System(kind, target) => {
                let wanted = Wanted {
                    kind: *kind,
                    direction,
                    target: target.clone(),
                    name: name.clone(),
                    latency: latency.unwrap_or(LATENCY),
                };
                let near = helpers.add(&wanted);
                let failed = |error| StreamError::Helper { option, stream: name, error };
                Box::new(near.map_err(failed)?)
            }
            Backend::Loopback(cable) => {
                let known = playback.iter().filter(|other| other.backend == *backend).count();
                if known != 1 {
                    return Err(StreamError::Loopback { option, stream: name });
                }
                if direction == Direction::Playback {
                    let (near, far) = loopback::cable();
                    ends.insert((cable, Direction::Capture), far);
                    Box::new(near)
                } else {
                    let end = ends.remove(&(cable.as_str(), direction));
                    Box::new(end.ok_or(StreamError::Loopback { option, stream: name })?)
                }
            }
        };
        opened.push((config.clone(), host));
    }
    Ok(opened)
}
