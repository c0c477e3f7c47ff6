//! Opening what an option says, before the machine is started.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use vhost_runtime::program::{ProgramError, Socket};
use vhost_runtime::pty::{self, LinkError};

use super::end::End;
use super::endpoint::{Endpoint, Kind, Link};
use super::spec::Spec;
use super::terminal::Terminal;
use crate::reactor::Handler;

/// Why a console can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file can't be written.
    #[error("{option} file:{path}: cannot be written: {error}")]
    File {
        /// Which option.
        option: &'static str,
        /// Where.
        path: PathBuf,
        /// What the host said.
        error: io::Error,
    },
    /// The device can't be used.
    #[error("{option} dev:{path}: cannot be used: {error}")]
    Device {
        /// Which option.
        option: &'static str,
        /// Where.
        path: PathBuf,
        /// What the host said.
        error: io::Error,
    },
    /// No pseudo-terminal can be had.
    #[error("{option} pty: no pseudo-terminal can be had: {error}")]
    Pty {
        /// Which option.
        option: &'static str,
        /// What the host said.
        error: io::Error,
    },
    /// The link can't be made.
    #[error("{option} pty:{path}: {error}")]
    Link {
        /// Which option.
        option: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        error: LinkError,
    },
    /// Nobody could connect.
    #[error(transparent)]
    Socket(#[from] ProgramError),
    /// Standard input or output can't be used.
    #[error("{option} stdio: standard input or output cannot be used: {error}")]
    Stdio {
        /// Which option.
        option: &'static str,
        /// What the host said.
        error: io::Error,
    },
    /// Another console has it.
    #[error("{0} stdio: another option uses standard input and output already, choose pty or unix")]
    StdioTaken(&'static str),
    /// No descriptor is left.
    #[error("{option}: no console can be made: {error}")]
    Host {
        /// Which option.
        option: &'static str,
        /// What the host said.
        error: io::Error,
    },
}

impl Endpoint {
    /// Opens what `option` says; nothing, if it is off. Ctrl-A x on a terminal calls `quit`.
    ///
    /// It has to be done before other threads are started: they would take the terminal's signals.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(
        option: &'static str,
        spec: &Spec,
        quit: Handler,
    ) -> Result<Option<Self>, OpenError> {
        let (kind, input, output) = match spec {
            Spec::Off => return Ok(None),
            Spec::Null => (Kind::Plain, None, None),
            Spec::Stdio => {
                static TAKEN: AtomicBool = AtomicBool::new(false);
                if TAKEN.swap(true, Ordering::Relaxed) {
                    return Err(OpenError::StdioTaken(option));
                }
                stdio(quit).map_err(|error| OpenError::Stdio { option, error })?
            }
            Spec::File(path) => {
                let failed = |error| OpenError::File { option, path: path.clone(), error };
                (Kind::Plain, None, Some(file(path).map_err(failed)?))
            }
            Spec::Device(path) => {
                let failed = |error| OpenError::Device { option, path: path.clone(), error };
                let (input, output) = device(path).map_err(failed)?;
                (Kind::Plain, Some(input), Some(output))
            }
            Spec::Pty(path) => {
                let (end, other, name) = pty().map_err(|error| OpenError::Pty { option, error })?;
                let link = path.as_ref().map(|path| link(option, path, &name)).transpose()?;
                log::info!("{option} pty: {}", name.display());
                (Kind::Pty { _link: link }, Some(end), Some(other))
            }
            Spec::Unix(path) => {
                let mut socket = Socket::listen(option, path, true)?;
                socket.publish()?;
                (Kind::Socket(socket), None, None)
            }
        };
        let made = Self::new(option.to_owned(), kind, input, output);
        made.map(Some).map_err(|error| OpenError::Host { option, error })
    }
}

type Opened = (Kind, Option<End>, Option<End>);

fn stdio(quit: Handler) -> io::Result<Opened> {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let input = End::shared(stdin.as_fd(), OFlags::RDONLY)?;
    let output = End::shared(stdout.as_fd(), OFlags::WRONLY)?;
    let kind = if stdin.is_terminal() {
        let terminal = Terminal::open(&stdin)?;
        terminal.restore_at_exit()?;
        Kind::Terminal(terminal, quit)
    } else {
        Kind::Plain
    };
    Ok((kind, Some(input), Some(output)))
}

fn file(path: &Path) -> io::Result<End> {
    // A FIFO that nobody reads is an error then, and a terminal does not become ours.
    let how = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | how;
    End::own(open(path, flags, Mode::from_raw_mode(0o666))?)
}

/// A character device, for both directions.
fn device(path: &Path) -> io::Result<(End, End)> {
    let how = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = open(path, OFlags::RDWR | how, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&fd)?.st_mode) != FileType::CharacterDevice {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a character device"));
    }
    if let Ok(mut modes) = tcgetattr(&fd) {
        modes.make_raw();
        tcsetattr(&fd, OptionalActions::Now, &modes)?;
    }
    Ok((End::own(fd.try_clone()?)?, End::own(fd)?))
}

/// Both ends of the host's side, and the name of the other.
fn pty() -> io::Result<(End, End, PathBuf)> {
    let (host, name) = pty::new()?;
    Ok((End::own(host.try_clone()?)?, End::own(host)?, name))
}

fn link(option: &'static str, path: &Path, to: &Path) -> Result<Link, OpenError> {
    let failed = |error| OpenError::Link { option, path: path.to_owned(), error };
    pty::link(path, to).map_err(failed)?;
    Ok(Link(path.to_owned()))
}
