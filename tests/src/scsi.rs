//! A vhost-scsi process of a test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::Duration;

use crate::{Error, Process, VhostUserScsi, program, spawn_listening};

/// A vhost-scsi process, with its images in a folder that goes with it.
pub struct Scsi {
    folder: tempfile::TempDir,
    arguments: Vec<String>,
    process: Option<Process>,
}

impl Scsi {
    /// A controller that is not started yet.
    pub fn new() -> Result<Scsi, Error> {
        let folder = tempfile::Builder::new().prefix("scsi-").tempdir_in(scratch()?);
        let folder = folder.map_err(|source| Error::Io { what: "no folder".into(), source })?;
        Ok(Scsi { folder, arguments: Vec::new(), process: None })
    }

    /// Adds a disk of `size` zero bytes, with `options` (`,key=value…`).
    pub fn disk(mut self, size: u64, options: &str) -> Result<Scsi, Error> {
        let path = self.folder.path().join(format!("disk{}.img", self.arguments.len()));
        make(&path, size)?;
        self.arguments.extend(["--disk".into(), format!("{}{options}", path.display())]);
        Ok(self)
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl Into<String>) -> Scsi {
        self.arguments.push(argument.into());
        self
    }

    /// Serves the same images as another process.
    pub fn same_images_as(mut self, other: &Scsi) -> Scsi {
        self.arguments = other.arguments.clone();
        self
    }

    /// Resident memory of the process, in KiB.
    pub fn resident(&self) -> Result<u64, Error> {
        let id = self.process.as_ref().map_or(0, Process::id);
        let path = format!("/proc/{id}/status");
        let status = fs::read_to_string(&path)
            .map_err(|source| Error::Io { what: format!("cannot read {path}"), source })?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        Ok(number.unwrap_or(0))
    }

    /// Starts it, or starts it again.
    pub fn start(mut self) -> Result<Scsi, Error> {
        self.restart()?;
        Ok(self)
    }

    /// Kills the process, if it runs, by SIGKILL, and starts another in its place.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.process = None;
        let mut command = Command::new(built()?);
        command.arg("--socket-path").arg(self.socket());
        command.arg("--control").arg(self.control()).args(&self.arguments);
        self.process = Some(spawn_listening(command, &self.socket())?);
        Ok(())
    }

    /// Waits until it has ended: whether it did so within `limit`, and with success.
    pub fn wait(&mut self, limit: Duration) -> Result<bool, Error> {
        let Some(process) = &mut self.process else { return Ok(false) };
        let ended = process.wait_within(limit);
        let ended = ended.map_err(|source| Error::Io { what: "cannot wait".into(), source })?;
        Ok(ended.is_some_and(|status| status.success()))
    }

    /// Where its images are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("scsi.sock")
    }

    /// Where it listens for control commands.
    pub fn control(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    /// What `vhost-scsi ctl` prints when told `words`, which it must understand and be able to do.
    pub fn ctl(&self, words: &[&str]) -> Result<String, Error> {
        let output = self.try_ctl(words)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let answer = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(Error::Protocol { doing: format!("vhost-scsi ctl {words:?}"), answer })
    }

    /// How `vhost-scsi ctl` ends when told `words`.
    pub fn try_ctl(&self, words: &[&str]) -> Result<Output, Error> {
        let mut command = Command::new(built()?);
        command.arg("ctl").arg("--control").arg(self.control()).args(words);
        let what = || format!("vhost-scsi ctl {words:?} does not start");
        command.output().map_err(|source| Error::Io { what: what(), source })
    }

    /// As a guest's controller.
    pub fn controller(&self) -> VhostUserScsi {
        VhostUserScsi::new(self.socket())
    }
}

/// The program, built once.
fn built() -> Result<&'static Path, Error> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    match BUILT.get() {
        Some(path) => Ok(path),
        None => program("vhost-scsi").map(|path| BUILT.get_or_init(|| path).as_path()),
    }
}

/// A sparse file of this many bytes.
pub fn make(path: &Path, size: u64) -> Result<(), Error> {
    fs::File::create(path)
        .and_then(|file| file.set_len(size))
        .map_err(|source| Error::Io { what: format!("cannot make {}", path.display()), source })
}

/// Images are where O_DIRECT works, not in a tmpfs.
fn scratch() -> Result<PathBuf, Error> {
    let folder = crate::Machine::dir().join("scratch");
    fs::create_dir_all(&folder).map_err(|source| Error::Io {
        what: format!("cannot make {}", folder.display()),
        source,
    })?;
    Ok(folder)
}
