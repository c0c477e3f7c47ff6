//! The host: what must be installed on it, and where things are.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::error::Context;
use crate::{Error, Machine, Step};

/// A program that the host must have, and the Debian package that has it.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    /// The program's name; or a file's path, if it is no program.
    pub program: &'static str,
    /// The package's name.
    pub package: &'static str,
}

/// The workspace's root folder.
pub fn workspace() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests)
}

/// Cargo's target folder.
pub(crate) fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace().join(dir),
        None => workspace().join("target"),
    }
}

/// What the helpers of vhost-sound are built with, where Debian 12 has it.
const LIBRARIES: [Tool; 4] = [
    Tool { program: "pkg-config", package: "pkg-config" },
    Tool { program: "/usr/lib/x86_64-linux-gnu/pkgconfig/alsa.pc", package: "libasound2-dev" },
    Tool {
        program: "/usr/lib/x86_64-linux-gnu/pkgconfig/libpipewire-0.3.pc",
        package: "libpipewire-0.3-dev",
    },
    Tool { program: "/usr/lib/llvm-14/lib/libclang.so", package: "libclang-14-dev" },
];

/// Installs the libraries that the whole workspace is built with.
pub fn ensure_libraries() -> Result<(), Error> {
    ensure_tools(&LIBRARIES, &lab()?.join("libraries.log"))
}

/// The lab's folder, which this may be the first to need.
fn lab() -> Result<PathBuf, Error> {
    let lab = Machine::dir();
    fs::create_dir_all(&lab).context(|| format!("cannot make the folder {}", lab.display()))?;
    Ok(lab)
}

/// A program of this workspace, as it ships: built, if need be, in the release profile, once by
/// each process that asks.
pub fn program(name: &str) -> Result<PathBuf, Error> {
    static BUILT: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let binary = target().join("release").join(name);
    if built.contains(name) {
        return Ok(binary);
    }
    let mut build = cargo();
    build.args(["build", "--release", "--package", package(name)]);
    if name.starts_with("vhost-sound-") {
        ensure_libraries()?;
    }
    Step::new(format!("building {name}"), lab()?.join("build.log")).run(build)?;
    built.insert(name.to_owned());
    Ok(binary)
}

/// The package that has a program: most are called as theirs is.
fn package(program: &str) -> &str {
    program.strip_suffix("-spice").unwrap_or(program)
}

/// Cargo, at the workspace's root.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// Installs by apt what is missing of `tools`; `log` gets apt's output.
pub fn ensure_tools(tools: &[Tool], log: &Path) -> Result<(), Error> {
    let missing: Vec<_> =
        tools.iter().filter(|tool| !installed(tool.program)).map(|tool| tool.package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    // SAFETY: geteuid(2) has no arguments and can't fail.
    if unsafe { libc::geteuid() } != 0 {
        return Err(Error::NotRoot(missing.join(" ")));
    }
    let mut update = Command::new("apt-get");
    update.args(["-q", "update"]);
    Step::new("apt-get update", log).run(update)?;
    let mut install = Command::new("apt-get");
    install.env("DEBIAN_FRONTEND", "noninteractive");
    install.args(["-q", "-y", "--no-install-recommends", "install"]).args(&missing);
    Step::new(format!("installing {}", missing.join(", ")), log).run(install)
}

fn installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    // A library's path is absolute, and so all that is left of a joined one.
    env::split_paths(&path).chain(sbin).any(|dir| dir.join(program).is_file())
}
