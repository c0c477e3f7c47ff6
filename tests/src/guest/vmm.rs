//! A guest that vmm-frontend boots on this host.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::channel::{Channel, Output};
use super::{Shell, lock, socket, text};
use crate::error::{Context, tail};
use crate::{Error, Kernel, Machine, Process, Step, Version, program, spawn};

/// How long a stock kernel may take to start, where it can: it needs a fraction of that.
const PROBE: Duration = Duration::from_secs(20);
/// How long the program may take to make its sockets, and the guest to boot.
const BOOT: Duration = Duration::from_secs(120);

/// A guest with two processors and 1 GiB of memory, which ends with this value.
#[derive(Debug)]
pub struct VmmGuest {
    process: Process,
    channel: Mutex<Channel>,
    folder: TempDir,
}

impl VmmGuest {
    /// Whether this host's KVM boots a stock kernel; not all do that have a `/dev/kvm`.
    ///
    /// # Errors
    /// That can't be tried.
    pub fn can_boot() -> Result<bool, Error> {
        if File::options().read(true).write(true).open("/dev/kvm").is_err() {
            return Ok(false);
        }
        let machine = Machine::ensure()?;
        let mut command = Command::new(program("vmm-frontend")?);
        kernel(&mut command, &machine, "panic=-1 rdinit=/busybox -- poweroff -f");
        command.args(["--memory", "256M", "--serial", "null"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let trying = || "cannot start vmm-frontend".into();
        let status = spawn(command).context(trying)?.wait_within(PROBE).context(trying)?;
        Ok(status.is_some_and(|status| status.success()))
    }

    /// Boots it from the root filesystem, whose changes are thrown away, with these arguments more.
    ///
    /// # Errors
    /// It does not boot.
    pub fn boot<A: AsRef<OsStr>>(
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<VmmGuest, Error> {
        let machine = Machine::ensure()?;
        program("vhost-scsi")?;
        let folder = tempfile::Builder::new().prefix("lab-").tempdir_in(Machine::dir());
        let folder = folder.context(|| "cannot make a temporary folder".into())?;
        let root = folder.path().join("root.qcow2");
        overlay(&machine.root_image(), &root)?;
        let socket = socket(folder.path(), "channel");

        let mut command = Command::new(program("vmm-frontend")?);
        kernel(&mut command, &machine, "console=ttyS0 panic=-1 quiet");
        command.args(["--memory", "1G", "--cpus", "2"]);
        command.arg("--serial").arg(spelled("file:", &folder.path().join("console")));
        command.arg("--port").arg(spelled("lab=unix:", &socket));
        command.arg("--disk").arg(spelled("", &root));
        command.args(arguments);
        let output = File::create(folder.path().join("vmm"));
        let output = output.context(|| "cannot write in a temporary folder".into())?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
        let mut process = spawn(command).context(|| "cannot start vmm-frontend".into())?;

        let ready = connect(&socket, &mut process).and_then(|mut channel| {
            channel.wait_ready(BOOT)?;
            Ok(channel)
        });
        match ready {
            Ok(channel) => Ok(VmmGuest { process, channel: Mutex::new(channel), folder }),
            Err(error) => Err(explain(error, folder.path())),
        }
    }

    /// Shuts it down in good order, and waits until the program has ended.
    ///
    /// # Errors
    /// It has not, or not with success.
    pub fn shut_down(mut self) -> Result<(), Error> {
        lock(&self.channel).end().map_err(|error| explain(error, self.folder.path()))?;
        let waiting = || "cannot wait for vmm-frontend".into();
        let log = log(self.folder.path());
        match self.process.wait_within(Duration::from_secs(30)).context(waiting)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(Error::Failed { what: "vmm-frontend".into(), status, log }),
            None => Err(Error::Timeout {
                doing: "waiting for vmm-frontend's end".into(),
                seconds: 30,
                log,
            }),
        }
    }
}

impl Shell for VmmGuest {
    fn run_within(&self, limit: Duration, script: &str) -> Result<Output, Error> {
        let answer = lock(&self.channel).run(limit, script, &[]);
        answer.map_err(|error| explain(error, self.folder.path()))
    }
}

fn kernel(command: &mut Command, machine: &Machine, append: &str) {
    command.arg("--kernel").arg(machine.kernel(Kernel::Backports));
    command.arg("--initrd").arg(machine.initrd(Kernel::Backports));
    command.args(["--append", append]);
}

/// A value of an option with a path in it, whose commas are written twice.
fn spelled(start: &str, path: &Path) -> String {
    format!("{start}{}", path.display().to_string().replace(',', ",,"))
}

/// An image that has what is written to another in its place.
fn overlay(base: &Path, image: &Path) -> Result<(), Error> {
    let mut create = Machine::qemu(Version::Backports)?.program("qemu-img");
    create.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(base).arg(image);
    Step::new("making an overlay", Machine::dir().join("copy.log")).run(create)
}

fn connect(path: &Path, process: &mut Process) -> Result<Channel, Error> {
    let doing = || "starting vmm-frontend".to_owned();
    let end = Instant::now() + BOOT;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(Channel::new(stream)),
            Err(_) if Instant::now() < end => {}
            Err(source) => return Err(Error::Ended { doing: doing(), source, log: String::new() }),
        }
        if let Some(status) = process.try_wait().context(doing)? {
            return Err(Error::Failed { what: doing(), status, log: String::new() });
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Adds what the program and the guest said.
fn explain(mut error: Error, folder: &Path) -> Error {
    if let Error::Ended { log: text, .. }
    | Error::Timeout { log: text, .. }
    | Error::Failed { log: text, .. } = &mut error
    {
        *text = log(folder);
    }
    error
}

fn log(folder: &Path) -> String {
    tail(&format!("{}\n{}", text(folder, "vmm"), text(folder, "console")), 30)
}
