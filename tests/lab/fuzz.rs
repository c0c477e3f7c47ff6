//! The fuzz targets: every binary target of the workspace whose source is under `tests/fuzz/`.
//!
//! A target takes libFuzzer's option `-max_total_time=SECONDS`, and ends with a failure when it
//! has found something.

use std::path::Path;
use std::time::Duration;

use lab::{Error, cargo, workspace};
use serde_json::Value;

use crate::check::succeeds;

/// Runs each target for a time, one after the other; false if one failed, or there is none.
pub(crate) fn run_all(each: Duration) -> Result<bool, Error> {
    let time = format!("-max_total_time={}", each.as_secs());
    let targets = targets()?;
    let mut ok = !targets.is_empty();
    if !ok {
        eprintln!("lab: no fuzz target under tests/fuzz");
    }
    for Target { package, name } in targets {
        let mut run = cargo();
        run.args(["run", "--quiet", "--release", "--package", &package, "--bin", &name]);
        run.args(["--", &time]);
        ok &= succeeds(&name, run)?;
    }
    Ok(ok)
}

struct Target {
    package: String,
    name: String,
}

fn targets() -> Result<Vec<Target>, Error> {
    let metadata = cargo().args(["metadata", "--no-deps", "--format-version=1"]).output();
    let listed = metadata.and_then(|output| Ok(serde_json::from_slice::<Value>(&output.stdout)?));
    let metadata = listed.map_err(|source| Error::Io {
        what: "cannot list the workspace's targets".into(),
        source,
    })?;

    let folder = workspace().join("tests/fuzz");
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for package in list(&metadata["packages"]) {
        for target in list(&package["targets"]) {
            let is_binary = list(&target["kind"]).iter().any(|kind| kind == "bin");
            if is_binary && Path::new(&text(&target["src_path"])).starts_with(&folder) {
                found.push(Target { package: text(&package["name"]), name: text(&target["name"]) });
            }
        }
    }
    Ok(found)
}
