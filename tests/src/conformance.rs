//! `iscsi-test-cu`, libiscsi's tests of a SCSI unit, run in a guest.

use std::time::Duration;

use crate::{Error, Shell};

/// What the tests say of one unit.
#[derive(Debug, Clone)]
pub struct Conformance {
    /// All that they printed.
    pub log: String,
}

impl Conformance {
    /// Runs a family of `tests` on a generic `device`, whose data they destroy, for at most `limit`.
    ///
    /// # Errors
    /// The guest can't be reached.
    pub fn test(
        guest: &impl Shell,
        limit: Duration,
        device: &str,
        tests: &str,
    ) -> Result<Conformance, Error> {
        let run = format!("iscsi-test-cu -t {tests} --dataloss -V {device} >/tmp/log 2>&1");
        guest.run_within(limit, &run)?; // its status tells nothing that the log does not
        Ok(Conformance { log: guest.run("cat /tmp/log")?.stdout_if_ok()? })
    }

    /// Test by test ("Suite/Test"): passed, failed, or skipped in part or as a whole.
    pub fn tests(&self) -> Vec<(String, &'static str)> {
        let mut suite = "";
        let mut tests: Vec<(String, &'static str)> = Vec::new();
        for line in self.log.lines() {
            if let Some(name) = line.strip_prefix("Suite: ") {
                suite = name.trim();
            } else if let Some(rest) = line.trim_start().strip_prefix("Test: ") {
                let name = rest.split(" ...").next().unwrap_or(rest);
                tests.push((format!("{suite}/{name}"), "passed"));
            }
            let Some((_, result)) = tests.last_mut() else { continue };
            if line.contains("[SKIPPED]") && *result == "passed" {
                *result = "skipped";
            } else if line.contains("FAILED") {
                *result = "failed";
            }
        }
        tests
    }

    /// The tests with this result.
    pub fn with(&self, wanted: &str) -> Vec<String> {
        let tests = self.tests().into_iter();
        tests.filter(|(_, result)| *result == wanted).map(|(name, _)| name).collect()
    }
}
