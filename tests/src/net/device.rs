//! A vhost-net process of a test's own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use tempfile::TempDir;

use super::Namespace;
use crate::error::Context;
use crate::{Error, Process, memory, program, serving, spawn_listening};

/// A vhost-net process, with its sockets in a folder that goes with it.
#[derive(Debug)]
pub struct Net {
    folder: TempDir,
    arguments: Vec<String>,
    /// Cards of a switch; without, there is one.
    ports: Vec<PathBuf>,
    process: Option<Process>,
}

impl Net {
    /// A card that is not started yet, and does not say where its frames go.
    ///
    /// # Errors
    /// There is no place for its sockets.
    pub fn new() -> Result<Net, Error> {
        let folder = tempfile::Builder::new().prefix("net-").tempdir();
        let folder = folder.context(|| "cannot make a temporary folder".into())?;
        Ok(Net { folder, arguments: Vec::new(), ports: Vec::new(), process: None })
    }

    /// Cards of a switch, as many.
    ///
    /// # Errors
    /// There is no place for its sockets.
    pub fn switch(ports: usize) -> Result<Net, Error> {
        let mut net = Self::new()?;
        let path = |number| net.folder.path().join(format!("port{number}.sock"));
        net.ports = (0..ports).map(path).collect();
        let switch =
            net.ports.iter().flat_map(|path| ["--switch".into(), path.display().to_string()]);
        net.arguments.extend(switch);
        Ok(net)
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Net {
        self.arguments.push(argument.into());
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// It does not serve.
    pub fn start(mut self) -> Result<Net, Error> {
        self.run(self.command()?)?;
        Ok(self)
    }

    /// Starts it in a network of its own.
    ///
    /// # Errors
    /// It does not serve.
    pub fn start_in(mut self, network: &Namespace) -> Result<Net, Error> {
        let mut command = self.command()?;
        network.confine(&mut command)?;
        self.run(command)?;
        Ok(self)
    }

    /// The command that starts it.
    ///
    /// # Errors
    /// It can't be built.
    pub fn command(&self) -> Result<Command, Error> {
        let mut command = Command::new(program("vhost-net")?);
        if self.ports.is_empty() {
            command.arg("--socket-path").arg(self.socket());
        }
        command.arg("--control").arg(self.control()).args(&self.arguments);
        Ok(command)
    }

    fn run(&mut self, command: Command) -> Result<(), Error> {
        self.process = Some(spawn_listening(command, &self.socket())?);
        Ok(())
    }

    /// The number of the process that serves.
    ///
    /// # Errors
    /// There is none.
    pub fn serving(&self) -> Result<u32, Error> {
        let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let serving = self.process.as_ref().and_then(|process| serving(process.id()));
        serving.ok_or_else(missing).context(|| "no process serves".into())
    }

    /// Kills the process that serves, by SIGKILL, and leaves the rest to its supervisor.
    ///
    /// # Errors
    /// There is none.
    pub fn kill_serving(&self) -> Result<(), Error> {
        let serving = self.serving()?;
        let pid = libc::pid_t::try_from(serving).unwrap_or(0);
        // SAFETY: kill(2) takes two integers; the supervisor starts another process for one that dies, so
        // that the id is of this one or of none.
        if pid > 0 && unsafe { libc::kill(pid, libc::SIGKILL) } == 0 {
            while Path::new(&format!("/proc/{serving}")).exists() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    /// Resident memory of the process that serves, in KiB.
    ///
    /// # Errors
    /// There is none.
    pub fn resident(&self) -> Result<u64, Error> {
        Ok(memory(self.serving()?, "VmRSS")?.unwrap_or(0))
    }

    /// The process.
    pub fn process(&mut self) -> Option<&mut Process> {
        self.process.as_mut()
    }

    /// Where its sockets are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where its only card, or its first, is.
    pub fn socket(&self) -> PathBuf {
        self.ports.first().cloned().unwrap_or_else(|| self.folder.path().join("net.sock"))
    }

    /// Where a card of a switch is.
    pub fn port(&self, number: usize) -> &Path {
        &self.ports[number]
    }

    /// Where it listens for control commands.
    pub fn control(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    /// What `vhost-net ctl --json` answers when told `words`, which it must understand and be able to do.
    ///
    /// # Errors
    /// It does not, or answers what is no JSON.
    pub fn ctl(&self, words: &[&str]) -> Result<serde_json::Value, Error> {
        let doing = || format!("vhost-net ctl {words:?}");
        let output = self.try_ctl(words)?;
        let said = if output.status.success() { output.stdout } else { output.stderr };
        let answer = String::from_utf8_lossy(&said).into_owned();
        let parsed = serde_json::from_str(&answer).ok().filter(|_| output.status.success());
        parsed.ok_or(Error::Protocol { doing: doing(), answer })
    }

    /// How `vhost-net ctl --json` ends when told `words`.
    ///
    /// # Errors
    /// It does not start.
    pub fn try_ctl(&self, words: &[&str]) -> Result<Output, Error> {
        let mut command = Command::new(program("vhost-net")?);
        command.arg("ctl").arg("--control").arg(self.control()).arg("--json").args(words);
        command.output().context(|| format!("cannot start vhost-net ctl {words:?}"))
    }
}
