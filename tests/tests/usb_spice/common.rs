//! A display, clients on it, and the program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lab::{Error, Machine, Process, Spice, spawn, spawn_listening};
use tempfile::TempDir;

/// The program, where it listens, and who can connect to it.
pub(crate) struct Bench {
    pub(crate) folder: TempDir,
    spice: Spice,
}

impl Bench {
    pub(crate) fn new() -> Result<Self, Error> {
        let folder = tempfile::tempdir().unwrap();
        Ok(Self { folder, spice: Machine::spice()? })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program, which listens on a Unix socket.
    pub(crate) fn command(&self, arguments: &[&str]) -> Result<Command, Error> {
        let mut command = self.spice.server(&lab::program("vhost-usb-spice")?);
        command.arg("--unix").arg(self.path("spice")).args(arguments);
        Ok(command)
    }

    /// An address of this host's that is this process's alone.
    pub(crate) fn address() -> String {
        let [_, one, two, three] = std::process::id().to_be_bytes();
        format!("127.{one}.{two}.{three}")
    }

    /// Starts it, with these channels, for everybody.
    pub(crate) fn start(&self, arguments: &[&str], channels: &[String]) -> Result<Process, Error> {
        let mut command = self.command(&["--disable-ticketing"])?;
        command.args(arguments);
        command.args(channels.iter().flat_map(|channel| ["--channel", channel]));
        spawn_listening(command, &self.path("spice"))
    }

    /// A client of the Unix socket, with these arguments more, that redirects these CDs.
    pub(crate) fn client(&self, arguments: &[&str], cds: &[&Path]) -> Process {
        let uri = format!("--uri=spice+unix://{}", self.path("spice").display());
        self.spicy(&[&[uri.as_str()], arguments].concat(), cds)
    }

    /// A client of what the arguments say.
    pub(crate) fn spicy(&self, arguments: &[&str], cds: &[&Path]) -> Process {
        let mut command = self.spice.spicy();
        command.arg("--spice-usbredir-redirect-on-connect=-1,-1,-1,-1,0");
        command.args(cds.iter().map(|cd| format!("--spice-share-cd={}", cd.display())));
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        spawn(command).unwrap()
    }

    /// An image for a CD of which nobody reads much.
    pub(crate) fn blank(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        lab::make(&path, 1 << 20).unwrap();
        path
    }
}

/// Whether something is so within a while that is too long for a machine that is not overloaded.
pub(crate) fn soon(mut so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(60);
    while !so() {
        if Instant::now() > end {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    true
}

/// How many hundredths of a second a process has used.
pub(crate) fn used(process: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, fields) = text.rsplit_once(") ").unwrap();
    fields.split(' ').skip(11).take(2).map(|time| time.parse::<u64>().unwrap()).sum()
}
