//! The streams that the command line names, each with what of the host is behind it.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
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
    /// Two streams would write one file, or one would write what the other reads.
    #[error("{option} {stream}: another stream has {path} already")]
    Shared {
        /// Which option.
        option: &'static str,
        /// What the stream is called.
        stream: String,
        /// The file.
        path: PathBuf,
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
    open_all(playback, capture, Some(helpers)).map(|(opened, _)| opened)
}

/// Opens the files that the streams need, in their order, for [`on_files`] in another process.
///
/// # Errors
/// See [`StreamError`].
pub fn open_files(playback: &[Stream], capture: &[Stream]) -> Result<Vec<File>, StreamError> {
    open_all(playback, capture, None).map(|(_, files)| files)
}

/// Opens all that the streams need, and has another descriptor of each file, in their order.
fn open_all(
    playback: &[Stream],
    capture: &[Stream],
    helpers: Option<&mut Helpers>,
) -> Result<(Vec<Opened>, Vec<File>), StreamError> {
    let mut files = Vec::new();
    let mut open = |stream: &Stream, path: &Path| {
        let file = open_file(stream, path)?;
        files.push(file.try_clone().map_err(|error| failed(stream, path, error))?);
        Ok(file)
    };
    let opened = join(playback, capture, &mut open, helpers)?;
    // What is played replaces what was there, once all that is asked for can be had.
    let played = playback.iter().filter(|it| matches!(it.backend, Backend::File(..))).count();
    for file in files.iter().take(played) {
        // What has no length, as /dev/null, is empty.
        let _ = file.set_len(0);
    }
    Ok((opened, files))
}

/// Whoever reads or writes it must not have to wait.
fn check(file: &File) -> io::Result<()> {
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    match kind.is_fifo() || kind.is_socket() {
        true => Err(io::Error::other("it is a pipe or a socket, which would be waited for")),
        false => Ok(()),
    }
}

/// As [`open`], on files that were opened elsewhere, and perhaps used by a process before this one. Nothing else
/// of the host can be had then.
///
/// # Errors
/// See [`StreamError`].
pub fn on_files(
    playback: &[Stream],
    capture: &[Stream],
    files: Vec<File>,
) -> Result<Vec<Opened>, StreamError> {
    let mut files = files.into_iter();
    let mut passed = |stream: &Stream, path: &Path| {
        let missing = || failed(stream, path, io::Error::other("it was not passed"));
        let file = files.next().ok_or_else(missing)?;
        check(&file).map_err(|error| failed(stream, path, error))?;
        Ok(file)
    };
    join(playback, capture, &mut passed, None)
}

fn failed(stream: &Stream, path: &Path, error: io::Error) -> StreamError {
    let (option, path) = (option(stream), path.to_owned());
    StreamError::File { option, stream: stream.config.name.clone(), path, error }
}

/// Opens the file behind a stream.
fn open_file(stream: &Stream, path: &Path) -> Result<File, StreamError> {
    let mut options = File::options();
    // A pipe would be waited for before it is known to be one.
    options.read(true).custom_flags(libc::O_NONBLOCK);
    if stream.config.direction() == Direction::Playback {
        options.write(true).create(true).truncate(false);
    }
    let file = options.open(path).and_then(|file| check(&file).map(|()| file));
    file.map_err(|error| failed(stream, path, error))
}

/// Makes the hosts of all streams, on the files that `file` has for them.
fn join(
    playback: &[Stream],
    capture: &[Stream],
    file: &mut dyn FnMut(&Stream, &Path) -> Result<File, StreamError>,
    mut helpers: Option<&mut Helpers>,
) -> Result<Vec<Opened>, StreamError> {
    let mut opened: Vec<Opened> = Vec::new();
    // By what the host knows each file, and which way its samples go.
    let mut used: Vec<(u64, u64, Direction)> = Vec::new();
    // Ends of cables that nobody has yet, by which way they go.
    let mut loose: HashMap<(&str, Direction), Loopback> = HashMap::new();
    for stream in playback.iter().chain(capture) {
        let Stream { config, backend, latency, mixer } = stream;
        let (option, name) = (option(stream), config.name.clone());
        let mut config = config.clone();
        if opened.iter().any(|(other, _)| other.name == name) {
            return Err(StreamError::Name { option, stream: name });
        }
        let direction = config.direction();
        let host: Box<dyn Host> = match backend {
            Backend::Null => Box::new(Null::default()),
            Backend::Tone => Box::new(Tone::default()),
            Backend::File(kind, path) => {
                let file = file(stream, path)?;
                let about = file.metadata().map_err(|error| failed(stream, path, error))?;
                let (device, number) = (about.dev(), about.ino());
                // What is no file has no end, or no contents.
                let is_shared = about.is_file()
                    && used.iter().any(|(a, b, other)| {
                        let is_written = [*other, direction].contains(&Direction::Playback);
                        (*a, *b) == (device, number) && is_written
                    });
                if is_shared {
                    return Err(StreamError::Shared { option, stream: name, path: path.clone() });
                }
                used.push((device, number, direction));
                match direction {
                    Direction::Playback => Box::new(Recorder::new(file, *kind)),
                    Direction::Capture => {
                        let player = Player::new(file, *kind);
                        let player = player.and_then(|it| it.narrow(&mut config).map(|()| it));
                        Box::new(player.map_err(|error| failed(stream, path, error))?)
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
                    mixer: mixer.clone(),
                };
                let near = match helpers.as_deref_mut() {
                    Some(helpers) => helpers.add(&wanted),
                    None => Err(HelperError::Refused(String::from(
                        "it cannot be had later than at the start",
                    ))),
                };
                let failed = |error| StreamError::Helper { option, stream: name, error };
                Box::new(near.map_err(failed)?)
            }
            Backend::Loopback(cable) => {
                let ends = |all: &[Stream]| all.iter().filter(|it| it.backend == *backend).count();
                if (ends(playback), ends(capture)) != (1, 1) {
                    return Err(StreamError::Loopback { option, stream: name });
                }
                if direction == Direction::Playback {
                    let (near, far) = loopback::cable();
                    loose.insert((cable, Direction::Capture), far);
                    Box::new(near)
                } else {
                    let end = loose.remove(&(cable.as_str(), direction));
                    Box::new(end.ok_or(StreamError::Loopback { option, stream: name })?)
                }
            }
        };
        opened.push((config, host));
    }
    Ok(opened)
}
