//! A guest: one QEMU, booted from the lab's machine, with a shell and a QMP socket; or one
//! vmm-frontend.

mod builder;
mod channel;
mod migration;
mod nested;
mod qmp;
mod slot;
mod task;
mod vmm;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::error::{Context, tail};
use crate::{Error, Process};

use channel::Channel;
use slot::Slot;

pub use builder::{Builder, Root, VhostUserScsi};
pub use channel::Output;
pub use nested::{Host, Nested, Shell};
pub use qmp::Qmp;
pub use task::Task;
pub use vmm::VmmGuest;

/// How long [`Guest::run`] lets a script run.
const SCRIPT: Duration = Duration::from_secs(120);

/// A running guest. It ends with this value, and with the process that booted it.
///
/// All methods take `&self`: tests may share a guest; its agent runs one script at a time.
#[derive(Debug)]
pub struct Guest {
    // Dropped in this order: QEMU ends before its folder goes and its slot is free.
    qemu: Mutex<Process>,
    channel: Mutex<Channel>,
    qmp: Mutex<Qmp>,
    folder: TempDir,
    _slot: Option<Slot>,
}

impl Guest {
    /// A guest with 2 CPUs and 1 GiB of memory, under the backported QEMU, until told otherwise.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Runs a bash script in the guest, as root, for at most 2 minutes.
    pub fn run(&self, script: &str) -> Result<Output, Error> {
        self.run_within(SCRIPT, script)
    }

    /// Runs a bash script in the guest for at most `limit` (whole seconds), after which it is
    /// killed and ends with status 124.
    pub fn run_within(&self, limit: Duration, script: &str) -> Result<Output, Error> {
        self.request(limit, script, &[])
    }

    /// Starts a bash script in the guest that goes on while other scripts run.
    pub fn start(&self, script: &str) -> Result<Task, Error> {
        Task::start(self, script)
    }

    /// Writes a file into the guest, with the permissions `mode`.
    pub fn push(&self, path: &str, mode: u32, data: &[u8]) -> Result<(), Error> {
        let script = format!("cat >'{path}' && chmod {mode:o} '{path}'");
        self.request(SCRIPT, &script, data)?.stdout_if_ok().map(drop)
    }

    /// Copies a file of the host into the guest, with its permissions.
    pub fn push_file(&self, from: &Path, path: &str) -> Result<(), Error> {
        let reading = || format!("cannot read {}", from.display());
        let data = fs::read(from).context(reading)?;
        let mode = fs::metadata(from).context(reading)?.permissions().mode() & 0o777;
        self.push(path, mode, &data)
    }

    /// Reads a file of the guest.
    pub fn pull(&self, path: &str) -> Result<Vec<u8>, Error> {
        let output = self.run(&format!("cat '{path}'"))?;
        match output.status {
            0 => Ok(output.stdout),
            _ => Err(output.into_error()),
        }
    }

    /// Sends QEMU a QMP command, and gives its `return` value.
    pub fn qmp(&self, command: &str, arguments: Value) -> Result<Value, Error> {
        let answer = lock(&self.qmp).execute(command, arguments);
        answer.map_err(|error| self.explain(error))
    }

    /// Waits for a QMP event (those that came before count), and gives its `data`.
    pub fn wait_event(&self, event: &str, limit: Duration) -> Result<Value, Error> {
        let data = lock(&self.qmp).wait_event(event, limit);
        data.map_err(|error| self.explain(error))
    }

    /// QEMU's process id.
    pub fn pid(&self) -> u32 {
        lock(&self.qemu).id()
    }

    /// What the guest's kernel printed on its console.
    pub fn console(&self) -> String {
        self.text("console")
    }

    /// Shuts the guest down in good order, and waits until QEMU has ended.
    pub fn shut_down(self) -> Result<ExitStatus, Error> {
        lock(&self.channel).end().map_err(|error| self.explain(error))?;
        self.wait_end(Duration::from_secs(30))
    }

    /// Waits until QEMU has ended by itself.
    pub fn wait_end(&self, limit: Duration) -> Result<ExitStatus, Error> {
        let ended =
            lock(&self.qemu).wait_within(limit).context(|| "cannot wait for QEMU".into())?;
        ended.ok_or_else(|| Error::Timeout {
            doing: "waiting for QEMU's end".into(),
            seconds: limit.as_secs(),
            log: self.log(),
        })
    }

    fn request(&self, limit: Duration, script: &str, input: &[u8]) -> Result<Output, Error> {
        let answer = lock(&self.channel).run(limit, script, input);
        answer.map_err(|error| self.explain(error))
    }

    /// Adds what QEMU and the guest said to an error that came of their silence.
    fn explain(&self, error: Error) -> Error {
        match error {
            Error::Ended { doing, source, .. } => self.explain_end(doing, source),
            Error::Timeout { doing, seconds, .. } => {
                Error::Timeout { doing, seconds, log: self.log() }
            }
            other => other,
        }
    }

    fn explain_end(&self, doing: String, source: io::Error) -> Error {
        // Its sockets close a moment before it has ended.
        let moment = Duration::from_secs(1);
        let Ok(Some(status)) = lock(&self.qemu).wait_within(moment) else {
            return Error::Ended { doing, source, log: self.log() };
        };
        let shutdown = lock(&self.qmp).wait_event("SHUTDOWN", moment).unwrap_or_default();
        let reason = shutdown["reason"].as_str().unwrap_or("no reason given");
        let log = format!("QEMU ended ({status}): {reason}\n{}", self.log());
        // A kernel that panics resets its machine itself, and says why.
        match reason == "guest-reset" && !self.console().contains("Kernel panic") {
            true => {
                let resets = tail(&self.text("resets"), RESET_LINES);
                Error::Reset { doing, log: format!("{log}\n{resets}") }
            }
            false => Error::Ended { doing, source, log },
        }
    }

    fn log(&self) -> String {
        log(self.folder.path())
    }

    fn text(&self, name: &str) -> String {
        text(self.folder.path(), name)
    }
}

/// Of what QEMU says of two processors' registers.
const RESET_LINES: usize = 90;

fn text(folder: &Path, name: &str) -> String {
    let bytes = fs::read(folder.join(name)).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The end of what a guest's QEMU and console said.
fn log(folder: &Path) -> String {
    tail(&format!("{}\n{}", text(folder, "qemu"), text(folder, "console")), 30)
}

/// A socket's path in a guest's folder.
fn socket(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.sock"))
}

/// A test that panicked with the lock held has said why; the others may go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
