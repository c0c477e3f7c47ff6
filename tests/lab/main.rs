//! `cargo lab`: everything that a developer runs, on a Debian 12 with Rust and root.

mod check;
mod demo;
mod dist;
mod fuzz;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use lab::{Error, Guest, Machine, Version, cargo};

#[derive(Parser)]
#[command(name = "cargo lab", about = "Boot, demonstrate, test and measure the devices")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a generated disk and CD to a Debian guest, and show what it sees
    Demo,
    /// Run all tests: format, lints, unit and end-to-end tests, a brief run of the fuzzers
    Test,
    /// Run what takes long: the tests marked as ignored, and each fuzzer for ten minutes
    Soak,
    /// Measure the devices beside their peers
    Bench,
    /// Build the guest's root filesystem, and unpack all versions of QEMU, if not done yet
    Build,
    /// Make a tree of all that a package has: program, manual page, completions, units
    Dist,
    /// Boot the guest with a shell on this terminal (leave it with `exit`, or Ctrl-A X)
    Shell {
        /// More arguments for QEMU, after `--`
        #[arg(last = true)]
        qemu: Vec<String>,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Demo => demo::run().map(|()| true),
        Command::Test => check::test(),
        Command::Soak => check::soak(),
        Command::Bench => bench(),
        Command::Build => build().map(|()| true),
        Command::Dist => dist::run().map(|folder| {
            println!("{}", folder.display());
            true
        }),
        Command::Shell { qemu } => Guest::builder().args(qemu).shell().map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("lab: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Everything that guests need, so that no test has to build it silently.
fn build() -> Result<(), Error> {
    Machine::ensure()?;
    for version in Version::ALL {
        Machine::qemu(version)?;
    }
    Ok(())
}

fn bench() -> Result<bool, Error> {
    build()?;
    let mut bench = cargo();
    bench.args(["bench", "--package", "tests"]);
    check::succeeds("the benchmarks", bench)
}

/// "12 min 3 s"
fn words(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds} s"),
        (minutes, seconds) => format!("{minutes} min {seconds} s"),
    }
}
