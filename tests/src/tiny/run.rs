//! Running tiny guests.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::Guest;
use crate::error::{Context, tail};
use crate::{Error, program, spawn};

/// How long a guest may run. Each needs a fraction of a second, but the host may be busy.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs a test that needs /dev/kvm. On a machine that has none it passes, and says that it saw
/// nothing: the guests of guests bring their own.
///
/// # Errors
/// The test's, or /dev/kvm is there and can't be used.
pub fn with_kvm(test: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
    match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => test(),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("not tested: /dev/kvm: {error}");
            Ok(())
        }
        Err(error) => Err(error).context(|| "/dev/kvm, which this test needs".into()),
    }
}

/// A `vmm-frontend` that runs a tiny guest.
#[derive(Debug)]
pub struct Machine {
    guest: Guest,
    memory: &'static str,
    arguments: Vec<String>,
}

/// How a machine ended, and what it said.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; `None`: a signal ended it.
    pub code: Option<i32>,
    /// What the guest wrote to its serial port.
    pub serial: String,
    /// What the program said.
    pub said: String,
}

impl Machine {
    /// With 16 MiB of memory, one processor, and no device that is not asked for.
    pub fn new(guest: Guest) -> Machine {
        Machine { guest, memory: "16M", arguments: Vec::new() }
    }

    /// With that much memory, as `--memory` takes it.
    pub fn memory(mut self, memory: &'static str) -> Machine {
        self.memory = memory;
        self
    }

    /// Adds arguments.
    pub fn args<A: ToString>(mut self, arguments: impl IntoIterator<Item = A>) -> Machine {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.to_string()));
        self
    }

    /// Runs it until the guest switches it off; gives what that said.
    ///
    /// # Errors
    /// It can't be started, or ends otherwise.
    pub fn serial(self) -> Result<String, Error> {
        let doing = format!("running the guest {}", self.guest.name);
        let ended = self.run()?;
        match ended.code {
            Some(0) => Ok(ended.serial),
            _ => Err(Error::Protocol { doing, answer: format!("{}{}", ended.serial, ended.said) }),
        }
    }

    /// Runs it until it ends.
    ///
    /// # Errors
    /// It can't be started, or does not end.
    pub fn run(self) -> Result<Ended, Error> {
        let mut command = Command::new(program("vmm-frontend")?);
        let folder = TempDir::new().context(|| "cannot make a temporary folder".into())?;
        let kernel = folder.path().join(self.guest.name);
        write(&kernel, &self.guest.kernel())?;
        command.arg("--kernel").arg(kernel).args(["--memory", self.memory]);
        command.args(["--rng", "off"]).args(self.arguments);
        run(command, self.guest.name)
    }
}

pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    fs::write(path, bytes).context(|| format!("cannot write {}", path.display()))
}

/// Runs a machine until it ends.
pub(super) fn run(mut command: Command, name: &str) -> Result<Ended, Error> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let running = || format!("running the guest {name}");
    let mut process = spawn(command).context(running)?;
    let serial = process.pipes().stdout.take().map(collect);
    let said = process.pipes().stderr.take().map(collect);
    let status = process.wait_within(LIMIT).context(running)?;
    drop(process);
    let serial = serial.map(finish).unwrap_or_default();
    let said = said.map(finish).unwrap_or_default();
    match status {
        Some(status) => Ok(Ended { code: ExitStatus::code(&status), serial, said }),
        None => Err(Error::Timeout {
            doing: running(),
            seconds: LIMIT.as_secs(),
            log: tail(&format!("{said}{serial}"), 40),
        }),
    }
}

type Collected = thread::JoinHandle<io::Result<Vec<u8>>>;

fn collect(mut pipe: impl Read + Send + 'static) -> Collected {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).map(|_| bytes)
    })
}

fn finish(collected: Collected) -> String {
    let bytes = collected.join().ok().and_then(Result::ok).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
