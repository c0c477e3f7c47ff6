//! DPDK's testpmd as a guest: a vhost-user frontend with a driver of its own.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tempfile::TempDir;

use crate::error::{Context, tail};
use crate::{Error, Machine, Process, Version, spawn};

/// What it says when it waits for a command.
const PROMPT: &str = "testpmd> ";
/// How long it may take to start, and to answer.
const LIMIT: Duration = Duration::from_secs(60);
/// Of what it said, an error has so many lines.
const LINES: usize = 30;
/// MiB of memory, all of which its buffers can use.
const MEMORY: &str = "256";
/// Its buffers, of 2 KiB until told otherwise.
const BUFFERS: &str = "8192";
/// The checksums of UDP and TCP, and TCP's segments together.
const RECEIVE_OFFLOADS: &str = "--rx-offloads=0x1c";
/// The same, and frames of more than one buffer.
const SEND_OFFLOADS: &str = "--tx-offloads=0x802c";

/// Settings of a testpmd, then its start.
#[derive(Debug)]
pub struct TestpmdBuilder {
    version: Version,
    socket: PathBuf,
    driver: String,
    queues: u16,
    mode: String,
    segment_size: Option<u16>,
    arguments: Vec<String>,
}

impl TestpmdBuilder {
    /// Whose DPDK it is.
    pub fn version(mut self, version: Version) -> Self {
        self.version = version;
        self
    }

    /// How many pairs of queues it has.
    pub fn queues(mut self, pairs: u16) -> Self {
        self.queues = pairs;
        self
    }

    /// Options of its driver (DPDK's net_virtio_user), separated by commas: `packed_vq=1`, `in_order=1`, `mrg_rxbuf=0`,
    /// `queue_size=1024`, `server=1`.
    pub fn driver(mut self, options: &str) -> Self {
        self.driver.push(',');
        self.driver.push_str(options);
        self
    }

    /// What it does with frames: `io`, `macswap`, `rxonly`, `txonly`, `flowgen` or `csum`.
    pub fn mode(mut self, mode: &str) -> Self {
        self.mode = mode.to_owned();
        self
    }

    /// Has its driver use all offloads: it takes frames of up to 64 KiB, and sends those of TCP back, with this
    /// segment size and without a checksum, instead of what [`mode`](Self::mode) says. The addresses of Ethernet
    /// become others.
    pub fn segments(mut self, size: u16) -> Self {
        self.segment_size = Some(size);
        // None of it can be set while the device runs.
        let segments = self.mode("csum").arg("--disable-device-start");
        segments.arg(RECEIVE_OFFLOADS).arg(SEND_OFFLOADS)
    }

    /// Adds an argument of testpmd's: `--mbuf-size=9728`.
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Starts it; it forwards nothing before [`Testpmd::start`].
    ///
    /// # Errors
    /// It ends, or is not ready within a minute; the error has what it said.
    pub fn launch(self) -> Result<Testpmd, Error> {
        let folder = tempfile::Builder::new().prefix("lab-").tempdir();
        let folder = folder.context(|| "cannot make a temporary folder".into())?;
        let mut command = self.command(folder.path())?;
        let terminal = open_terminal(&mut command).context(|| "cannot open a terminal".into())?;
        let process = spawn(command).context(|| "cannot start testpmd".into())?;
        let mut testpmd = Testpmd { process, terminal, _folder: folder };
        testpmd.answer("starting testpmd")?;
        if let Some(size) = self.segment_size {
            let set = format!("tso set {size} 0");
            let commands = ["csum set ip sw 0", "csum set tcp hw 0", &set, "port start 0"];
            let said: Result<String, Error> =
                commands.into_iter().map(|command| testpmd.command(command)).collect();
            let said = said?;
            if said.contains("Fail to configure") {
                return Err(Error::Protocol { doing: "setting its offloads".into(), answer: said });
            }
        }
        Ok(testpmd)
    }

    fn command(&self, folder: &Path) -> Result<Command, Error> {
        let testpmd = Machine::dpdk(self.version)?.testpmd();
        // It never sleeps: what it talks to goes first.
        let mut command = Command::new("nice");
        command.args(["-n", "19"]).arg(testpmd.get_program()).args(testpmd.get_args());
        // Where it puts the files by which other DPDK processes would find it.
        command.env("RUNTIME_DIRECTORY", folder);
        // One processor's thread for commands, one for frames, each wherever there is time.
        command.args(["--lcores", &format!("(0-1)@({})", processors()?)]);
        command.args(["--no-huge", "-m", MEMORY, "--no-pci", "--no-telemetry"]);
        let Self { socket, driver, queues, .. } = self;
        let path = socket.display();
        command.args(["--vdev", &format!("net_virtio_user0,path={path},queues={queues}{driver}")]);
        command.args(["--", "--interactive", "--forward-mode", &self.mode]);
        command.args([format!("--rxq={queues}"), format!("--txq={queues}")]);
        command.args(["--total-num-mbufs", BUFFERS]).args(&self.arguments);
        Ok(command)
    }
}

/// A running testpmd. It ends with this value.
#[derive(Debug)]
pub struct Testpmd {
    process: Process,
    terminal: File,
    _folder: TempDir,
}

/// What a port has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Frames received.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Frames that were not received since no buffer was there, or since something was wrong with them.
    pub not_received: u64,
    /// Frames sent.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Frames that could not be sent.
    pub not_sent: u64,
}

impl Testpmd {
    /// A guest at a vhost-user socket, under Debian 12's DPDK, with a pair of queues, that swaps the
    /// addresses of frames and sends them back.
    pub fn at(socket: impl Into<PathBuf>) -> TestpmdBuilder {
        TestpmdBuilder {
            version: Version::Bookworm,
            socket: socket.into(),
            driver: String::new(),
            queues: 1,
            mode: "macswap".into(),
            segment_size: None,
            arguments: Vec::new(),
        }
    }

    /// Has it forward what it is sent.
    ///
    /// # Errors
    /// It has ended, or its driver could not start the device.
    pub fn start(&mut self) -> Result<(), Error> {
        let said = self.command("start")?;
        match said.contains("packet forwarding - ports=1") {
            true => Ok(()),
            false => Err(Error::Protocol { doing: "starting to forward".into(), answer: said }),
        }
    }

    /// Types a command of testpmd's, and gives what it says: `start tx_first`, `stop`,
    /// `show port xstats 0`, `tso set 1448 0`.
    ///
    /// # Errors
    /// It has ended, or does not answer within a minute.
    pub fn command(&mut self, command: &str) -> Result<String, Error> {
        let doing = format!("telling testpmd: {command}");
        let typed = self.terminal.write_all(format!("{command}\n").as_bytes());
        typed.context(|| doing.clone())?;
        self.answer(&doing)
    }

    /// What its device has counted.
    ///
    /// # Errors
    /// It has ended, or says something else.
    pub fn statistics(&mut self) -> Result<Statistics, Error> {
        let said = self.command("show port stats 0")?;
        let count = |name: &str| {
            let number = said.split_once(name).and_then(|(_, rest)| rest.split_whitespace().next());
            number.and_then(|number| number.parse::<u64>().ok()).ok_or_else(|| Error::Protocol {
                doing: format!("reading testpmd's {name}"),
                answer: said.clone(),
            })
        };
        let not_received = ["RX-missed:", "RX-errors:", "RX-nombuf:"].map(&count);
        let not_received = not_received.into_iter().sum::<Result<u64, Error>>()?;
        Ok(Statistics {
            received: count("RX-packets:")?,
            received_bytes: count("RX-bytes:")?,
            not_received,
            sent: count("TX-packets:")?,
            sent_bytes: count("TX-bytes:")?,
            not_sent: count("TX-errors:")?,
        })
    }

    /// Has it stop its queues and end.
    ///
    /// # Errors
    /// It does not within a minute, or not with success.
    pub fn quit(mut self) -> Result<(), Error> {
        let what = || "testpmd's end".to_owned();
        self.terminal.write_all(b"quit\n").context(what)?;
        let (said, _) = self.read(None).context(what)?;
        match self.process.wait_within(LIMIT).context(what)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(Error::Failed { what: what(), status, log: tail(&said, LINES) }),
            None => Err(self.silent(&what(), &said)),
        }
    }

    /// What it says until it waits for a command.
    fn answer(&mut self, doing: &str) -> Result<String, Error> {
        let what = || doing.to_owned();
        match self.read(Some(PROMPT)).context(what)? {
            (said, true) => Ok(said),
            (said, false) => {
                match self.process.wait_within(Duration::from_secs(1)).context(what)? {
                    Some(status) => {
                        Err(Error::Failed { what: what(), status, log: tail(&said, LINES) })
                    }
                    None => Err(self.silent(doing, &said)),
                }
            }
        }
    }

    fn silent(&self, doing: &str, said: &str) -> Error {
        Error::Timeout { doing: doing.into(), seconds: LIMIT.as_secs(), log: tail(said, LINES) }
    }

    /// Reads until it has said `end`, has ended, or is silent for too long; and whether it has said it.
    fn read(&mut self, end: Option<&str>) -> io::Result<(String, bool)> {
        let until = Instant::now() + LIMIT;
        let mut said = Vec::new();
        let ended = loop {
            if end.is_some_and(|end| said.ends_with(end.as_bytes())) {
                break true;
            }
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            let mut files = [PollFd::new(&self.terminal, PollFlags::IN)];
            match poll(&mut files, Some(&left)) {
                Ok(0) => break false,
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let mut bytes = [0; 4096];
            match self.terminal.read(&mut bytes) {
                Ok(0) => break false,
                Ok(size) => said.extend(&bytes[..size]),
                // Nobody is at the other end any more.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => break false,
                Err(error) => return Err(error),
            }
        };
        Ok((String::from_utf8_lossy(&said).replace('\r', ""), ended))
    }
}

/// The numbers of the processors that this process may use, as a list.
fn processors() -> Result<String, Error> {
    let path = "/proc/self/status";
    let status = fs::read_to_string(path).context(|| format!("cannot read {path}"))?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    Ok(list.unwrap_or("0").trim().to_owned())
}

/// Has a command use a terminal, without which its output would come in an order of its own, and late;
/// returns the other end.
fn open_terminal(command: &mut Command) -> io::Result<File> {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&terminal)?;
    unlockpt(&terminal)?;
    let path = ptsname(&terminal, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let other = File::from(rustix::fs::open(&path, flags, Mode::empty())?);
    command.stdin(other.try_clone()?).stdout(other.try_clone()?).stderr(other);
    Ok(File::from(terminal))
}
