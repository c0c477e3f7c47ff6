//! What every device program does alike: QEMU's "Backend program conventions" (vhost-user.rst), and
//! systemd's.
//!
//! - [`ProgramArgs`], [`ProgramError`]: its options, and why it can't serve;
//! - [`Socket`]: where the VMM comes from;
//! - [`Shutdown`]: what ends it;
//! - [`serve`]: one VMM after the other;
//! - [`start_logging`]: what it says meanwhile.

mod logging;
mod serve;
mod shutdown;
mod socket;

use std::io::{self, Write};
use std::os::fd::RawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::ExitCode;

pub use logging::start_logging;
pub use serve::serve;
pub use shutdown::{Shutdown, Stop, wait};
pub use socket::{Place, Socket};

/// Options that every device program has.
#[derive(Clone, Debug, clap::Args)]
pub struct ProgramArgs {
    /// Listen on this Unix socket for the VMM
    #[arg(long, value_name = "PATH", conflicts_with = "fd")]
    pub socket_path: Option<PathBuf>,

    /// Use this open socket, listening or connected
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub fd: Option<RawFd>,

    /// Listen on this Unix socket for control commands (QMP)
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,

    /// Print what this program is and can do, as JSON, and exit
    #[arg(long)]
    pub print_capabilities: bool,

    /// Serve confined, and started again after a crash; or not, in one plain process, to debug
    #[arg(long, value_name = "on|off", value_enum, default_value_t, hide_possible_values = true)]
    pub sandbox: Confinement,

    /// Log more; twice for debugging (or set RUST_LOG)
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// Whether a program is confined and watched while it serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Confinement {
    /// In a sandbox, under a supervisor.
    #[default]
    On,
    /// Neither: one process, for debuggers.
    Off,
}

/// Why a program can't serve.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// Nobody could connect.
    #[error("no socket: give --socket-path PATH, or --fd N")]
    NoSocket,
    /// The socket can't be made.
    #[error("{option} {path}: cannot listen there: {error}")]
    Listen {
        /// Which option.
        option: &'static str,
        /// Where.
        path: PathBuf,
        /// What the host said.
        error: io::Error,
    },
    /// Somebody listens there already.
    #[error("{0} {1}: another process listens there, choose another path")]
    InUse(&'static str, PathBuf),
    /// What is there is not a socket.
    #[error("{0} {1}: there is a file that is not a socket, remove it or choose another path")]
    NotASocket(&'static str, PathBuf),
    /// Where sockets are to be.
    #[error("{0} {1}: there is no such folder, make it first")]
    NoFolder(&'static str, PathBuf),
    /// The folder that a socket is to be in is missing.
    #[error("{option} {path}: there is no folder {folder}, make it first")]
    NoParent {
        /// Which option.
        option: &'static str,
        /// Where the socket is to be.
        path: PathBuf,
        /// What is missing.
        folder: PathBuf,
    },
    /// Two sockets are to be in one place.
    #[error(
        "{option} {path}: this path is given twice, to {first} before: each socket needs its own"
    )]
    Twice {
        /// Which option.
        option: &'static str,
        /// Where.
        path: PathBuf,
        /// Which option named it before.
        first: &'static str,
    },
    /// Not a socket, or one that nobody can be at.
    #[error("--fd {fd}: not an open Unix stream socket, listening or connected: {error}")]
    Fd {
        /// Which.
        fd: RawFd,
        /// What the host said.
        error: io::Error,
    },
    /// It died at once, time after time.
    #[error(
        "it was killed by signal {signal} {times} times before a VMM was served, look for the cause with --sandbox=off"
    )]
    Crashes {
        /// The last time's.
        signal: i32,
        /// How often.
        times: u32,
    },
    /// It died, and can't be started again: the VMM's connection is gone with it.
    #[error("it was killed by signal {0} while it served --fd, and cannot be started again")]
    Killed(i32),
    /// It can't be confined.
    #[error(transparent)]
    Sandbox(#[from] crate::sandbox::SandboxError),
    /// The host refuses something that every program needs.
    #[error("{what}: {error}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// What the host said.
        error: io::Error,
    },
}

/// What a program was asked for can't be printed.
#[derive(Debug, thiserror::Error)]
#[error("what was asked for cannot be printed: {0}")]
pub struct PrintError(#[from] io::Error);

/// Prints what a program was asked for to standard output, which need not be there any more: `println!` would panic.
///
/// # Errors
/// It can't be written; not that its reader has gone.
pub fn print(text: &str) -> Result<(), PrintError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // Who reads it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => Ok(printed?),
    }
}

/// A program's `main`: says in one sentence why it could not do what it was started for.
pub fn main<F: std::fmt::Display>(
    name: &str,
    start: impl FnOnce() -> Result<ExitCode, F>,
) -> ExitCode {
    start().unwrap_or_else(|failure| {
        // The status tells it, where nobody can be told why: `eprintln!` would panic.
        let _ = writeln!(io::stderr(), "{name}: {failure}");
        ExitCode::FAILURE
    })
}

/// A device program's `main`: as [`main`], but `--print-capabilities` says that the program is a device of this
/// type, as management programs want to know, whatever else is asked of it (vhost-user.rst, "Backend program
/// conventions").
pub fn device_main<F: std::fmt::Display>(
    name: &str,
    device: &str,
    start: impl FnOnce() -> Result<ExitCode, F>,
) -> ExitCode {
    if !std::env::args_os().skip(1).any(|argument| argument == "--print-capabilities") {
        return main(name, start);
    }
    main(name, || print(&format!("{{\n  \"type\": \"{device}\"\n}}\n")).map(|()| ExitCode::SUCCESS))
}

/// A new folder for sockets, which only this user can enter: `NAME-PID-…` in XDG_RUNTIME_DIR, or where temporary
/// files are.
///
/// # Errors
/// It can't be made.
pub fn private_folder(name: &str) -> io::Result<PathBuf> {
    let base = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_dir());
    let base = base.unwrap_or_else(std::env::temp_dir);
    for attempt in 0..100 {
        let folder = base.join(format!("{name}-{}-{attempt}", std::process::id()));
        match std::fs::DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => return Ok(folder),
            // Of a process that was killed.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Lets a process open as many files as its hard limit allows: each image takes some.
///
/// # Errors
/// The host refuses.
pub fn raise_file_limit() -> Result<(), ProgramError> {
    let failed = || ProgramError::Host {
        what: "the limit of open files cannot be raised",
        error: io::Error::last_os_error(),
    };
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` outlives the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(failed());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(failed());
    }
    Ok(())
}
