//! A script that goes on in the guest while others run.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{Guest, Output};
use crate::Error;

/// A script running in a guest. After a live migration, ask the guest at the destination for it.
#[derive(Debug, Clone)]
pub struct Task {
    folder: String,
}

impl Task {
    pub(super) fn start(guest: &Guest, script: &str) -> Result<Task, Error> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = format!("/run/lab/task-{}-{number}", std::process::id());
        guest.run(&format!("mkdir {folder}"))?.stdout_if_ok()?;
        guest.push(&format!("{folder}/script"), 0o755, script.as_bytes())?;
        // The status appears when it is complete.
        let body = "bash script >out 2>err </dev/null; echo $? >status.new; mv status.new status";
        let start = format!("cd {folder}; setsid bash -c '{body}' >/dev/null 2>&1 &");
        guest.run(&start)?.stdout_if_ok()?;
        Ok(Task { folder })
    }

    /// What it left, if it has ended.
    pub fn poll(&self, guest: &Guest) -> Result<Option<Output>, Error> {
        let folder = &self.folder;
        let script = format!(
            "cd {folder}; [ -e status ] || exit 125; cat out; cat err >&2; exit $(<status)"
        );
        let output = guest.run(&script)?;
        Ok(Some(output).filter(|output| output.status != 125))
    }

    /// Waits until it has ended; with an output of status 124 if it still runs after `limit`.
    pub fn wait(&self, guest: &Guest, limit: Duration) -> Result<Output, Error> {
        let end = Instant::now() + limit;
        loop {
            if let Some(output) = self.poll(guest)? {
                return Ok(output);
            }
            if Instant::now() >= end {
                return Ok(Output { status: 124, stdout: Vec::new(), stderr: Vec::new() });
            }
            thread::sleep(Duration::from_millis(500));
        }
    }
}
