//! Packages of the Python package index, for what is a Python program among the peers.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::error::Context;
use crate::{Error, Machine, Step, Tool, ensure_tools};

/// Python with a package, `name==version`, which is installed where nothing but the lab sees it.
///
/// # Errors
/// It can't be installed.
pub fn python(package: &str) -> Result<Command, Error> {
    let folder = Machine::dir().join("python");
    fs::create_dir_all(&folder).context(|| format!("cannot make {}", folder.display()))?;
    let log = folder.join("log");
    let tools = [("python3", "python3"), ("pip3", "python3-pip")];
    ensure_tools(&tools.map(|(program, package)| Tool { program, package }), &log)?;
    let place = folder.join(package);
    if !place.exists() {
        install(package, &place, &log)?;
    }
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", place).env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(python)
}

/// All of it, or nothing.
fn install(package: &str, place: &PathBuf, log: &PathBuf) -> Result<(), Error> {
    let new = tempfile::tempdir_in(Machine::dir().join("python"));
    let new = new.context(|| "cannot make a temporary folder".into())?.keep();
    let mut pip = Command::new("pip3");
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--target"]).arg(&new);
    pip.arg(package);
    Step::new(format!("installing {package}"), log).run(pip)?;
    match fs::rename(&new, place) {
        // Another test has been quicker.
        Err(_) if place.exists() => fs::remove_dir_all(&new),
        result => result,
    }
    .context(|| format!("cannot make {}", place.display()))
}
