//! A vhost-scsi process of a test's own.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::{Error, Process, VhostUserScsi, memory, program, serving, spawn_listening};

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

    /// The arguments that describe its units, for a process that a test starts itself.
    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// Resident memory of the supervisor and the process that serves, in KiB.
    pub fn resident(&self) -> Result<u64, Error> {
        let supervisor = self.process.as_ref().map(Process::id);
        let serving = supervisor.and_then(serving);
        supervisor.into_iter().chain(serving).map(resident).sum()
    }

    /// Kills the process that serves, by SIGKILL, and leaves the rest to its supervisor. Waits for its
    /// end: until then it may accept a connection.
    pub fn kill_serving(&self) -> Result<(), Error> {
        let serving = self.process.as_ref().and_then(|process| serving(process.id()));
        let pid = serving.and_then(|pid| libc::pid_t::try_from(pid).ok());
        // SAFETY: kill(2) takes two integers and touches no memory of ours; the supervisor starts a
        // process for one that dies, so that the id is of the one or of none.
        match pid.map(|pid| unsafe { libc::kill(pid, libc::SIGKILL) }) {
            Some(0) => {
                let gone = pid.map(|pid| PathBuf::from(format!("/proc/{pid}")));
                while gone.as_ref().is_some_and(|place| place.exists()) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(())
            }
            _ => Err(Error::Io {
                what: "no process serves".into(),
                source: ErrorKind::NotFound.into(),
            }),
        }
    }

    /// Starts it, or starts it again.
    pub fn start(mut self) -> Result<Scsi, Error> {
        self.restart()?;
        Ok(self)
    }

    /// Kills the process, if it runs, by SIGKILL, and starts another in its place.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.process = None;
        let mut command = Command::new(program("vhost-scsi")?);
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

    /// Kills the process by SIGKILL; [`restart`](Self::restart) starts another.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// The process has not ended.
    pub fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| matches!(process.try_wait(), Ok(None)))
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
        let mut command = Command::new(program("vhost-scsi")?);
        command.arg("ctl").arg("--control").arg(self.control()).args(words);
        let what = || format!("vhost-scsi ctl {words:?} does not start");
        command.output().map_err(|source| Error::Io { what: what(), source })
    }

    /// As a guest's controller.
    pub fn controller(&self) -> VhostUserScsi {
        VhostUserScsi::new(self.socket())
    }
}

fn resident(pid: u32) -> Result<u64, Error> {
    Ok(memory(pid, "VmRSS")?.unwrap_or(0))
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
