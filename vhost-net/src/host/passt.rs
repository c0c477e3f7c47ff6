//! passt, which gives a guest the host's network without any set-up or privilege: it is started here, and ends
//! with this program.

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Signal, set_parent_process_death_signal};
use vhost_runtime::program::private_folder;

use super::place::{Place, is_readable};

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum PasstError {
    /// It is not installed.
    #[error("--user: passt is not installed (Debian's package passt), or not in PATH")]
    Missing,
    /// It can't be started.
    #[error("--user: passt cannot be started: {0}")]
    Start(io::Error),
    /// It ended, or did not listen in time.
    #[error("--user: passt does not serve, which it has said why above")]
    Silent,
}

const PROGRAM: &str = "passt";
/// How long it may take until it listens.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);

/// A passt of our own, and the folder with its socket.
#[derive(Debug)]
pub struct Passt {
    folder: PathBuf,
    child: Option<Child>,
    /// Further arguments.
    arguments: Vec<String>,
}

impl Passt {
    /// One that is not started yet, with further arguments of its own.
    ///
    /// # Errors
    /// It is not installed, or there is no place for its socket.
    pub fn new(arguments: Vec<String>) -> Result<Self, PasstError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&path).any(|folder| folder.join(PROGRAM).is_file()) {
            return Err(PasstError::Missing);
        }
        let folder = private_folder("vhost-net").map_err(PasstError::Start)?;
        Ok(Self { folder, child: None, arguments })
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("passt.sock")
    }

    fn spawn(&mut self) -> Result<(), PasstError> {
        let mut command = Command::new(PROGRAM);
        command.arg("--foreground").arg("--quiet").arg("--socket").arg(self.socket());
        command.args(&self.arguments).stdin(Stdio::null());
        // SAFETY: it makes a system call alone.
        unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::TERM))?)) };
        // In the broker's process group: of a terminal's signals it gets none, and it ends with a broker that is
        // killed, even where its user is another and the kernel does not see to that.
        self.child = Some(command.spawn().map_err(PasstError::Start)?);
        Ok(())
    }

    /// Connects to it, and starts it again first if it has ended; gives up when `called` becomes readable.
    ///
    /// # Errors
    /// See [`PasstError`].
    pub fn connect(&mut self, called: BorrowedFd<'_>) -> Result<OwnedFd, PasstError> {
        let ended = self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
        if ended {
            self.spawn()?;
        }
        let place = Place::Unix(self.socket());
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Ok(socket) = place.connect(called) {
                return Ok(socket);
            }
            let child = self.child.as_mut();
            if child.is_some_and(|child| matches!(child.try_wait(), Ok(Some(_))))
                || !matches!(is_readable(called, PAUSE), Ok(false))
            {
                break;
            }
        }
        Err(PasstError::Silent)
    }
}

impl Passt {
    /// Ends it, and leaves nothing behind.
    pub(super) fn end(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            log::debug!("{}: not removed: {error}", self.folder.display());
        }
    }
}
