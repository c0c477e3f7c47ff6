//! Long steps: run on the host, their output in a log, a sign of life on the terminal.

use std::fs::{self, File};
use std::io::{IsTerminal, Write, stderr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::Error;
use crate::error::{Context, tail};
use crate::process::spawn;

/// A program run on the host, and what to call that on the terminal.
#[derive(Debug)]
pub struct Step {
    what: String,
    log: PathBuf,
}

impl Step {
    /// A step named `what`, whose program's output is appended to the file `log`.
    pub fn new(what: impl Into<String>, log: impl Into<PathBuf>) -> Step {
        Step { what: what.into(), log: log.into() }
    }

    /// Runs the program to its end; an exit status other than 0 is an error with the log's end.
    pub fn run(self, mut command: Command) -> Result<(), Error> {
        let open = || File::options().create(true).append(true).open(&self.log);
        let log = open().context(|| format!("cannot write the log {}", self.log.display()))?;
        let copy = log.try_clone().context(|| format!("cannot share {}", self.log.display()))?;
        command.stdin(Stdio::null()).stdout(log).stderr(copy);
        let status = during(&self.what, || spawn(command)?.wait());
        let status = status.context(|| format!("cannot run: {}", self.what))?;
        if status.success() {
            return Ok(());
        }
        let text = fs::read(&self.log).unwrap_or_default();
        let log = tail(&String::from_utf8_lossy(&text), 30);
        Err(Error::Failed { what: self.what, status, log })
    }
}

/// Says on the terminal what is being done, and for how long, while `work` works; of what takes
/// less than a second it says nothing.
pub fn during<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let (end, ended) = channel::<()>();
    let terminal = stderr().is_terminal();
    let interval = Duration::from_secs(if terminal { 1 } else { 15 });
    let report = move || {
        let mut next = Duration::from_secs(1);
        while ended.recv_timeout(next) == Err(RecvTimeoutError::Timeout) {
            show(what, started, terminal, false);
            next = interval;
        }
        if started.elapsed() >= Duration::from_secs(1) {
            show(what, started, terminal, true);
        }
    };
    thread::scope(|scope| {
        scope.spawn(report);
        let result = work();
        drop(end);
        result
    })
}

/// On a terminal one line is written over; elsewhere each is new.
fn show(what: &str, started: Instant, terminal: bool, end: bool) {
    let seconds = started.elapsed().as_secs();
    // A sign of life that can't be shown is no reason to stop.
    let _ = match (terminal, end) {
        (true, false) => write!(stderr(), "\r  {what} … {seconds} s"),
        (true, true) => writeln!(stderr(), "\r  {what}: {seconds} s   "),
        (false, false) => writeln!(stderr(), "  {what} … {seconds} s"),
        (false, true) => writeln!(stderr(), "  {what}: done after {seconds} s"),
    };
}
