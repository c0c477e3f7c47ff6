//! What a guest is made of.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use super::channel::{Channel, broken};
use super::slot::Slot;
use super::{Guest, Qmp, log, socket};
use crate::error::Context;
use crate::{Error, Kernel, Machine, Process, Version, spawn};

/// What QEMU says when it fails so.
const ASSERTION: &str = "iotlb_to_section: Assertion";

/// How the guest reaches its root filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// A virtio-blk disk of QEMU's own, whose changes are thrown away.
    VirtioBlk,
    /// A disk that the test attaches, with a copy of [`Machine::root_image`] on it.
    Attached,
}

/// A vhost-user SCSI controller, served by another process.
#[derive(Debug, Clone)]
pub struct VhostUserScsi {
    socket: PathBuf,
    queues: u16,
    packed: bool,
    reconnect: Option<Duration>,
}

impl VhostUserScsi {
    /// A controller behind `socket`, with one request queue.
    pub fn new(socket: impl Into<PathBuf>) -> VhostUserScsi {
        VhostUserScsi { socket: socket.into(), queues: 1, packed: false, reconnect: None }
    }

    /// The number of request queues.
    pub fn queues(mut self, queues: u16) -> VhostUserScsi {
        self.queues = queues;
        self
    }

    /// Offers packed virtqueues.
    pub fn packed(mut self) -> VhostUserScsi {
        self.packed = true;
        self
    }

    /// Has QEMU connect again at this interval when the connection is lost (QEMU 10.0 or newer).
    pub fn reconnect(mut self, interval: Duration) -> VhostUserScsi {
        self.reconnect = Some(interval);
        self
    }
}

/// Settings of a guest, then its start.
#[derive(Debug, Clone)]
pub struct Builder {
    version: Version,
    kernel: Kernel,
    memory: u32,
    cpus: u32,
    root: Root,
    append: String,
    folder: Option<PathBuf>,
    controllers: Vec<VhostUserScsi>,
    arguments: Vec<OsString>,
    incoming: bool,
    boot_limit: Duration,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder {
            version: Version::Backports,
            kernel: Kernel::Backports,
            memory: 1024,
            cpus: 2,
            root: Root::VirtioBlk,
            append: String::new(),
            folder: None,
            controllers: Vec::new(),
            arguments: Vec::new(),
            incoming: false,
            boot_limit: Duration::from_secs(180),
        }
    }
}

impl Builder {
    /// Which QEMU runs it.
    pub fn qemu(mut self, version: Version) -> Builder {
        self.version = version;
        self
    }

    /// Which kernel it boots.
    pub fn kernel(mut self, kernel: Kernel) -> Builder {
        self.kernel = kernel;
        self
    }

    /// Its memory in MiB, always in a shared memfd, as vhost-user needs it.
    pub fn memory(mut self, mebibytes: u32) -> Builder {
        self.memory = mebibytes;
        self
    }

    /// The number of its CPUs.
    pub fn cpus(mut self, cpus: u32) -> Builder {
        self.cpus = cpus;
        self
    }

    /// How it reaches its root filesystem.
    pub fn root(mut self, root: Root) -> Builder {
        self.root = root;
        self
    }

    /// Adds to the kernel's command line.
    pub fn append(mut self, words: &str) -> Builder {
        self.append.push(' ');
        self.append.push_str(words);
        self
    }

    /// Shares a folder of the host with the guest, at /job there. Such a guest can't be migrated.
    pub fn shared_folder(mut self, folder: impl Into<PathBuf>) -> Builder {
        self.folder = Some(folder.into());
        self
    }

    /// Adds a vhost-user SCSI controller.
    pub fn vhost_user_scsi(mut self, controller: VhostUserScsi) -> Builder {
        self.controllers.push(controller);
        self
    }

    /// Adds an argument for QEMU.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Builder {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments for QEMU.
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Builder {
        self.arguments.extend(arguments.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Makes it the destination of a live migration, to be told where from by QMP's
    /// `migrate-incoming`: it does not boot, and shares the slot of the guest that it becomes.
    pub fn incoming(mut self) -> Builder {
        self.incoming = true;
        self
    }

    /// How long it may take to boot.
    pub fn boot_limit(mut self, limit: Duration) -> Builder {
        self.boot_limit = limit;
        self
    }

    /// Starts it, and waits until it runs scripts. Waits first while two other guests run, be it
    /// in other processes. Once more, if QEMU itself fails: its TCG has been seen to, as its memory map changes.
    pub fn boot(self) -> Result<Guest, Error> {
        match self.try_boot() {
            Err(error @ Error::Ended { .. }) if error.to_string().contains(ASSERTION) => {
                eprintln!("{error}\nonce more:");
                self.try_boot()
            }
            other => other,
        }
    }

    fn try_boot(&self) -> Result<Guest, Error> {
        let machine = Machine::ensure()?;
        let mut command = Machine::qemu(self.version)?.system();
        let slot = if self.incoming { None } else { Some(Slot::take()?) };
        let folder = tempfile::Builder::new().prefix("lab-").tempdir();
        let folder = folder.context(|| "cannot make a temporary folder".into())?;
        let path = folder.path();

        self.describe(&machine, &mut command);
        self.connect(path, &mut command);
        let output = File::create(path.join("qemu")).and_then(|log| Ok((log.try_clone()?, log)));
        let (stdout, stderr) = output.context(|| format!("cannot write in {}", path.display()))?;
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let mut qemu = spawn(command).context(|| "cannot start QEMU".into())?;

        let (channel, qmp) = self.open(path, &mut qemu).map_err(|error| explain(error, path))?;
        Ok(Guest {
            qemu: Mutex::new(qemu),
            channel: Mutex::new(channel),
            qmp: Mutex::new(qmp),
            folder,
            _slot: slot,
        })
    }

    /// Boots it with a shell on this terminal, until that ends.
    pub fn shell(self) -> Result<(), Error> {
        let machine = Machine::ensure()?;
        let mut command = Machine::qemu(self.version)?.system();
        self.append("lab.shell").describe(&machine, &mut command);
        command.args(["-serial", "mon:stdio"]);
        let status = command.status().context(|| "cannot start QEMU".into())?;
        match status.success() {
            true => Ok(()),
            false => Err(Error::Failed { what: "QEMU".into(), status, log: String::new() }),
        }
    }

    fn describe(&self, machine: &Machine, command: &mut Command) {
        let Builder { memory, cpus, .. } = self;
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", &cpus.to_string()]);
        command.args(["-m", &format!("{memory}M"), "-machine", "pc,memory-backend=ram"]);
        command.arg("-object");
        command.arg(format!("memory-backend-memfd,id=ram,size={memory}M,share=on"));
        command.args(["-display", "none", "-nodefaults", "-no-user-config", "-no-reboot"]);

        let mut append = format!("console=ttyS0 panic=-1 quiet{}", self.append);
        if let Some(folder) = &self.folder {
            append.push_str(" lab.folder");
            let options = "mount_tag=job,security_model=none";
            command.arg("-virtfs").arg(option("local,path=", folder, options));
        }
        command.arg("-kernel").arg(machine.kernel(self.kernel));
        command.arg("-initrd").arg(machine.initrd(self.kernel));
        command.arg("-append").arg(append);
        if self.root == Root::VirtioBlk {
            let options = "format=raw,if=virtio,snapshot=on";
            command.arg("-drive").arg(option("file=", &machine.root_image(), options));
        }
        for (number, controller) in self.controllers.iter().enumerate() {
            let VhostUserScsi { socket, queues, packed, reconnect } = controller;
            let mut options = "server=off".to_owned();
            if let Some(interval) = reconnect {
                options.push_str(&format!(",reconnect-ms={}", interval.as_millis()));
            }
            let start = format!("socket,id=vhost{number},path=");
            command.arg("-chardev").arg(option(&start, socket, &options));
            let packed = if *packed { "on" } else { "off" };
            command.arg("-device").arg(format!(
                "vhost-user-scsi-pci,id=scsi{number},chardev=vhost{number},num_queues={queues},\
                 packed={packed}"
            ));
        }
        command.args(&self.arguments);
    }

    /// The sockets and files by which the lab reaches the guest.
    fn connect(&self, folder: &Path, command: &mut Command) {
        for name in ["channel", "qmp"] {
            let start = format!("socket,id={name},path=");
            let path = socket(folder, name);
            command.arg("-chardev").arg(option(&start, &path, "server=on,wait=off"));
        }
        command.args(["-mon", "chardev=qmp,mode=control"]);
        command.args(["-device", "virtio-serial-pci"]);
        command.args(["-device", "virtserialport,chardev=channel,name=lab"]);
        command.arg("-serial").arg(option("file:", &folder.join("console"), ""));
        // What processors did before a reset that nobody can explain.
        command.args(["-d", "cpu_reset", "-D"]).arg(folder.join("resets"));
        if self.incoming {
            command.args(["-incoming", "defer"]);
        }
    }

    fn open(&self, folder: &Path, qemu: &mut Process) -> Result<(Channel, Qmp), Error> {
        let mut connect = |name| {
            let stream = connect(&socket(folder, name), qemu);
            stream.map_err(|source| broken("starting QEMU", CONNECT, source))
        };
        let mut channel = Channel::new(connect("channel")?);
        let qmp = Qmp::new(connect("qmp")?)?;
        if !self.incoming {
            channel.wait_ready(self.boot_limit)?;
        }
        Ok((channel, qmp))
    }
}

/// How long QEMU may take to listen on its sockets.
const CONNECT: Duration = Duration::from_secs(60);

fn connect(path: &Path, qemu: &mut Process) -> io::Result<UnixStream> {
    let end = Instant::now() + CONNECT;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(_) if Instant::now() < end => {}
            Err(error) => return Err(error),
        }
        if let Some(status) = qemu.try_wait()? {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, status.to_string()));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn explain(mut error: Error, folder: &Path) -> Error {
    if let Error::Ended { log: text, .. } | Error::Timeout { log: text, .. } = &mut error {
        *text = log(folder);
    }
    error
}

/// An option of QEMU's with a path in it, whose commas are written twice.
pub(super) fn option(start: &str, path: &Path, end: &str) -> OsString {
    let path = path.display().to_string().replace(',', ",,");
    let comma = if end.is_empty() { "" } else { "," };
    format!("{start}{path}{comma}{end}").into()
}
