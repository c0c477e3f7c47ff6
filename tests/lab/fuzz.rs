//! The fuzz targets: every binary target of the workspace whose source is under `tests/fuzz/`.
//!
//! All are built once, with coverage feedback, which needs no nightly toolchain: these are the
//! flags of `cargo fuzz run -s none`. Each target keeps a corpus in the lab's folder.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use lab::{Error, Machine, Step, Tool, cargo, ensure_tools, workspace};
use serde_json::Value;

/// What builds libFuzzer.
const COMPILER: [Tool; 1] = [Tool { program: "g++", package: "g++" }];
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                     -Cllvm-args=-sanitizer-coverage-pc-table \
                     -Cllvm-args=-sanitizer-coverage-trace-compares \
                     -Cllvm-args=-simplifycfg-branch-fold-threshold=0 --cfg fuzzing";
/// Targets that run at once.
const AT_ONCE: usize = 2;
/// Bytes of an input at most, seconds that one may take, and how fast inputs grow.
const OPTIONS: [&str; 4] = ["-max_len=2048", "-timeout=20", "-len_control=10", "-print_funcs=0"];

/// Installs what the fuzz targets are built with, which lints need too.
pub(crate) fn ensure_compiler() -> Result<(), Error> {
    ensure_tools(&COMPILER, &folder()?.join("apt.log"))
}

/// Runs each target for a time; false if one found something, or there is none.
pub(crate) fn run_all(each: Duration) -> Result<bool, Error> {
    let targets = targets()?;
    if targets.is_empty() {
        eprintln!("lab: no fuzz target under tests/fuzz");
        return Ok(false);
    }
    ensure_compiler()?;
    let folder = folder()?;
    let programs = build(&targets, &folder)?;

    let waiting = Mutex::new(VecDeque::from(targets));
    let (ok, failed) = (AtomicBool::new(true), Mutex::new(None));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let next = || waiting.lock().unwrap_or_else(|lock| lock.into_inner()).pop_front();
                while let Some(target) = next() {
                    match run(&programs.join(&target.name), &target.name, &folder, each) {
                        Ok(good) => drop(ok.fetch_and(good, Ordering::Relaxed)),
                        Err(error) => {
                            *failed.lock().unwrap_or_else(|lock| lock.into_inner()) = Some(error);
                        }
                    }
                }
            });
        }
    });
    match failed.into_inner().unwrap_or_else(|lock| lock.into_inner()) {
        Some(error) => Err(error),
        None => Ok(ok.into_inner()),
    }
}

/// Where corpora, findings and logs are kept.
fn folder() -> Result<PathBuf, Error> {
    let folder = Machine::dir().join("fuzz");
    make(&folder)?;
    Ok(folder)
}

fn make(folder: &Path) -> Result<(), Error> {
    fs::create_dir_all(folder)
        .map_err(|source| Error::Io { what: format!("cannot make {}", folder.display()), source })
}

/// Builds all targets; returns the folder that they are in.
fn build(targets: &[Target], folder: &Path) -> Result<PathBuf, Error> {
    let built = workspace().join("target/fuzz");
    let mut build = cargo();
    build.env("RUSTFLAGS", FLAGS).args(["build", "--profile", "fuzz"]);
    // With a target named, the flags are not those of build scripts.
    build.args(["--target", "host-tuple"]).arg("--target-dir").arg(&built);
    for Target { package, name } in targets {
        build.args(["--package", package, "--bin", name]);
    }
    Step::new("building the fuzz targets", folder.join("build.log")).run(build)?;
    Ok(built.join(format!("{}-unknown-linux-gnu", std::env::consts::ARCH)).join("fuzz"))
}

/// Runs one target; false if it found something.
fn run(program: &Path, name: &str, folder: &Path, time: Duration) -> Result<bool, Error> {
    let corpus = folder.join("corpus").join(name);
    let findings = folder.join("findings");
    make(&corpus)?;
    make(&findings)?;
    let prefix = findings.join(format!("{name}-"));
    let mut fuzzer = Command::new(program);
    fuzzer.current_dir(folder).args(OPTIONS);
    fuzzer.arg(format!("-max_total_time={}", time.as_secs()));
    fuzzer.arg(format!("-artifact_prefix={}", prefix.display())).arg(&corpus);
    let seeds = workspace().join("tests/fuzz/seeds").join(name);
    if seeds.is_dir() {
        fuzzer.arg(seeds); // read, and never written to
    }
    let output = fuzzer.stdin(Stdio::null()).output();
    let output =
        output.map_err(|source| Error::Io { what: format!("cannot run {name}"), source })?;
    let said = String::from_utf8_lossy(&output.stderr);
    let log = folder.join(format!("{name}.log"));
    fs::write(&log, &*said)
        .map_err(|source| Error::Io { what: format!("cannot write {}", log.display()), source })?;
    if output.status.success() {
        eprintln!("  {name}: {}", figures(&said));
        return Ok(true);
    }
    // A panic, else libFuzzer's own word for it: a time-out, say.
    let begins =
        |line: &&str| ["panicked at", "ERROR: libFuzzer"].iter().any(|at| line.contains(at));
    let what = said.lines().skip_while(|line| !begins(line)).take(3);
    let what: Vec<&str> = what.filter(|line| !line.starts_with("stack backtrace")).collect();
    let input = said.lines().find_map(|line| line.split_once("Test unit written to "));
    eprintln!("  {name}: FOUND {} ({})", what.join("\n    "), output.status);
    match input {
        Some((_, input)) => eprintln!("    again: {} {input}", program.display()),
        None => eprintln!("    no input was kept; all that it said: {}", log.display()),
    }
    Ok(false)
}

/// libFuzzer's last figures, in our words.
fn figures(said: &str) -> String {
    let line = said.lines().rev().find(|line| line.contains("DONE")).unwrap_or_default();
    let mut words = line.split_whitespace();
    let runs = words.next().unwrap_or_default().trim_start_matches('#');
    let words: Vec<&str> = words.collect();
    let after = |name: &str| {
        let place = words.iter().position(|word| *word == name);
        place.and_then(|place| words.get(place + 1)).copied().unwrap_or("?")
    };
    let (speed, edges, inputs) = (after("exec/s:"), after("cov:"), after("corp:"));
    format!("{runs} inputs, {speed} a second, {edges} edges covered, corpus {inputs}")
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
