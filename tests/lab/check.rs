//! `cargo lab test` and `cargo lab soak`: stages, each run to its end, and a line that sums up.

use std::process::Command;
use std::time::{Duration, Instant};

use lab::{Error, cargo, ensure_libraries};

use crate::{build, fuzz, words};

/// Every target's share of `cargo lab test`.
const BRIEFLY: Duration = Duration::from_secs(10);
/// Every target's share of `cargo lab soak`.
const LONG: Duration = Duration::from_secs(600);

/// All stages' results, in one line at the end.
struct Summary {
    started: Instant,
    stages: Vec<(&'static str, bool)>,
}

impl Summary {
    fn start() -> Summary {
        Summary { started: Instant::now(), stages: Vec::new() }
    }

    fn stage(&mut self, name: &'static str, arguments: &[&str]) -> Result<(), Error> {
        let mut command = cargo();
        command.args(arguments);
        self.stages.push((name, succeeds(name, command)?));
        Ok(())
    }

    fn fuzz(&mut self, each: Duration) -> Result<(), Error> {
        self.stages.push(("fuzzing", fuzz::run_all(each)?));
        Ok(())
    }

    /// Whether all went well.
    fn end(self, what: &str) -> bool {
        let stages = self.stages.iter();
        let stages =
            stages.map(|(name, ok)| format!("{name} {}", if *ok { "ok" } else { "FAILED" }));
        let stages: Vec<_> = stages.collect();
        let time = words(self.started.elapsed());
        println!("\nlab {what}: {} ({time})", stages.join(", "));
        self.stages.iter().all(|(_, ok)| *ok)
    }
}

pub(crate) fn test() -> Result<bool, Error> {
    let mut summary = Summary::start();
    build()?;
    summary.stage("format", &["fmt", "--all", "--check"])?;
    fuzz::ensure_compiler()?;
    ensure_libraries()?;
    let lints = ["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"];
    summary.stage("lints", &lints)?;
    summary.stage("tests", &["test", "--workspace", "--no-fail-fast"])?;
    summary.fuzz(BRIEFLY)?;
    Ok(summary.end("test"))
}

pub(crate) fn soak() -> Result<bool, Error> {
    let mut summary = Summary::start();
    build()?;
    ensure_libraries()?;
    let soaks = ["test", "--workspace", "--no-fail-fast", "--", "--ignored", "--nocapture"];
    summary.stage("soaks", &soaks)?;
    summary.fuzz(LONG)?;
    Ok(summary.end("soak"))
}

/// Runs a command on this terminal; false if it ends with a failure.
pub(crate) fn succeeds(what: &str, mut command: Command) -> Result<bool, Error> {
    eprintln!("lab: {what}");
    let status = command.status();
    let status =
        status.map_err(|source| Error::Io { what: format!("cannot start {what}"), source })?;
    Ok(status.success())
}
