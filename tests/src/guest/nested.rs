//! A guest that is a host itself: it has physical units (to itself), a vhost-scsi process that
//! passes them through, and a guest of its own, or two. TCG's CPU has AMD's virtualization, so KVM works.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::builder::option;
use super::channel::Channel;
use super::{Builder, Guest, Output, SCRIPT, Task, lock};
use crate::error::Context;
use crate::{Error, Kernel, Machine, Step, program};

/// How long either guest may take to boot.
const BOOT: Duration = Duration::from_secs(600);
const SOCKET: &str = "/run/scsi.sock";

/// What the port of a guest's guest, and its files in `/run`, are called: of the first, and of one beside it.
const NAMES: [&str; 2] = ["beside", "nested"];

/// What runs scripts: a guest, or a guest's guest.
pub trait Shell {
    /// Runs a bash script as root, for at most `limit` (whole seconds).
    ///
    /// # Errors
    /// The guest can't be reached. What the script says is in its output.
    fn run_within(&self, limit: Duration, script: &str) -> Result<Output, Error>;

    /// Runs a bash script as root, for at most 2 minutes.
    ///
    /// # Errors
    /// As [`run_within`](Self::run_within).
    fn run(&self, script: &str) -> Result<Output, Error> {
        self.run_within(SCRIPT, script)
    }
}

impl Shell for Guest {
    fn run_within(&self, limit: Duration, script: &str) -> Result<Output, Error> {
        Guest::run_within(self, limit, script)
    }
}

/// A guest that can be a host.
#[derive(Debug)]
pub struct Host {
    guest: Guest,
    folder: TempDir,
    /// Names that no guest of its own has.
    free: Mutex<Vec<&'static str>>,
}

impl Host {
    /// Boots it with 2 GiB of memory, and with what `more` adds.
    ///
    /// # Errors
    /// It does not boot, or vhost-scsi can't be built.
    pub fn boot(more: impl FnOnce(Builder) -> Builder) -> Result<Host, Error> {
        let folder = tempfile::Builder::new().prefix("lab-").tempdir();
        let folder = folder.context(|| "cannot make a temporary folder".into())?;
        let machine = Machine::ensure()?;
        let shared = folder.path().join("shared");
        fs::create_dir(&shared).context(|| format!("cannot make {}", shared.display()))?;
        let programs = [
            "vhost-scsi",
            "vhost-usb",
            "vhost-net",
            "vhost-sound",
            "vhost-sound-alsa",
            "vmm-frontend",
        ];
        let programs = programs.map(|name| Ok((program(name)?, String::from(name))));
        let kernels = Kernel::ALL.map(|kernel| Ok((machine.kernel(kernel), vmlinuz(kernel))));
        let initrds = Kernel::ALL.map(|kernel| Ok((machine.initrd(kernel), initrd(kernel))));
        for file in programs.into_iter().chain(kernels).chain(initrds) {
            let (from, name) = file?;
            let copying = || format!("cannot copy {}", from.display());
            fs::copy(&from, shared.join(name)).context(copying)?;
        }
        // The root filesystem of the guest's guest: the same again, as a disk of its own.
        let root = option("file=", &machine.root_image(), "format=raw,if=virtio,snapshot=on");
        let mut builder = Guest::builder()
            .memory(2048)
            // With two, it or its guest of four has had a triple fault now and then.
            .cpus(1)
            .shared_folder(&shared)
            .args(["-drive".into(), root])
            .args(["-device", "virtio-serial-pci,id=ports"]);
        for name in NAMES {
            let start = format!("socket,id={name},path=");
            let socket = option(&start, &channel(folder.path(), name), "server=on,wait=off");
            let port = format!("virtserialport,bus=ports.0,chardev={name},name={name}");
            builder = builder.args(["-chardev".into(), socket, "-device".into(), port.into()]);
        }
        let guest = more(builder.boot_limit(BOOT)).boot()?;
        guest.run("modprobe kvm_amd && [ -c /dev/kvm ]")?.stdout_if_ok()?;
        Ok(Host { guest, folder, free: Mutex::new(NAMES.to_vec()) })
    }

    /// Shares a folder of the lab's with it, at `/job/NAME` there.
    ///
    /// # Errors
    /// It can't be copied.
    pub fn share(&self, folder: &Path, name: &str) -> Result<(), Error> {
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(folder).arg(self.folder.path().join("shared").join(name));
        Step::new(format!("sharing {name}"), Machine::dir().join("copy.log")).run(copy)
    }

    /// Runs a test of such a guest, and again, at most twice, if its machine was reset meanwhile
    /// without a word of its kernel: nothing that runs in the guest is known to do that.
    ///
    /// # Errors
    /// The test's, or the third reset.
    pub fn test(test: impl Fn() -> Result<(), Error>) -> Result<(), Error> {
        for _ in 0..2 {
            match test() {
                Err(error @ Error::Reset { .. }) => eprintln!("{error}\nonce more:"),
                other => return other,
            }
        }
        test()
    }

    /// The guest itself.
    pub fn guest(&self) -> &Guest {
        &self.guest
    }

    /// Starts vhost-scsi there, and waits until it listens.
    ///
    /// # Errors
    /// It ends at once; the error has what it said.
    pub fn serve(&self, arguments: &str) -> Result<Task, Error> {
        let serve = format!("exec /job/vhost-scsi --socket-path {SOCKET} {arguments}");
        self.guest.run(&format!("rm -f {SOCKET}"))?;
        let task = self.guest.start(&serve)?;
        let wait =
            format!("for i in $(seq 50); do [ -S {SOCKET} ] && exit; sleep 0.1; done; exit 1");
        match self.guest.run(&wait)?.status {
            0 => Ok(task),
            _ => Err(task.wait(&self.guest, Duration::ZERO)?.into_error()),
        }
    }

    /// Boots its guest, with one CPU and 512 MiB, on the controller that [`serve`](Self::serve)
    /// started.
    ///
    /// # Errors
    /// It does not boot.
    pub fn boot_guest(&self) -> Result<Nested<'_>, Error> {
        self.boot_qemu_guest(SCSI)
    }

    /// Boots its guest by QEMU, with one CPU and 512 MiB, and these arguments more.
    ///
    /// # Errors
    /// It does not boot.
    pub fn boot_qemu_guest(&self, arguments: &str) -> Result<Nested<'_>, Error> {
        self.boot_by(&format!("{} {arguments}", qemu("/run/$name.qmp")))
    }

    /// Boots its guest by vmm-frontend, from the root filesystem on a disk of a vhost-scsi process
    /// that it starts, with these words more for the kernel, and these arguments for the VMM, which
    /// may put the serial port elsewhere than where [`Nested::console`] reads.
    ///
    /// # Errors
    /// It does not boot.
    pub fn boot_vmm_guest(
        &self,
        kernel: Kernel,
        append: &str,
        arguments: &str,
    ) -> Result<Nested<'_>, Error> {
        let (vmlinuz, initrd) = (vmlinuz(kernel), initrd(kernel));
        let script = DIRECT.replace("VMLINUZ", &vmlinuz).replace("INITRD", &initrd);
        let script = script.replace("APPEND", append);
        let serial = if arguments.contains("--serial") { "" } else { SERIAL };
        self.boot_by(&format!("{VMM} {script} {serial} {arguments}"))
    }

    /// Boots its guest by vmm-frontend and firmware, from a disk, with these arguments for the VMM.
    ///
    /// # Errors
    /// It does not boot.
    pub fn boot_vmm_disk(&self, arguments: &str) -> Result<Nested<'_>, Error> {
        self.boot_by(&format!("{VMM} {SERIAL} {arguments}"))
    }

    /// Says something to its guest's VMM, whose control socket is `/run/vmm.qmp`: calls in Python,
    /// `qmp(command, awaited)`, each of which waits until something that is awaited is said.
    ///
    /// # Errors
    /// It is not said.
    pub fn tell(&self, calls: &str) -> Result<(), Error> {
        self.guest.run(&format!("{TELL}{calls}\nEND"))?.stdout_if_ok().map(drop)
    }

    pub(crate) fn boot_by(&self, script: &str) -> Result<Nested<'_>, Error> {
        let free = lock(&self.free).pop();
        let name = free.ok_or_else(|| io::Error::from(io::ErrorKind::AddrInUse));
        let name = name.context(|| "two guests run already".into())?;
        let booted = self.boot_as(name, script);
        if booted.is_err() {
            self.give_back(name);
        }
        booted
    }

    fn boot_as(&self, name: &'static str, script: &str) -> Result<Nested<'_>, Error> {
        let path = channel(self.folder.path(), name);
        let stream = UnixStream::connect(&path);
        let stream = stream.context(|| format!("cannot connect to {}", path.display()))?;
        let mut channel = Channel::new(stream);
        let vmm = self.guest.start(&format!("name={name}\n{PORT}{script}"))?;
        if let Err(error) = self.wait_ready(&mut channel, &vmm) {
            let said = vmm.wait(&self.guest, Duration::ZERO)?;
            let console = self.guest.run(&format!("tail -30 {}", console(name)))?.stdout();
            eprintln!("{}{}{console}", said.stdout(), said.stderr());
            return Err(error);
        }
        let qmp = format!("/run/{name}.qmp");
        Ok(Nested { host: self, name, channel: Mutex::new(channel), vmm, qmp })
    }

    /// Ends a guest of its own, and lets another have the name. Without the host it has ended anyway.
    fn give_back(&self, name: &'static str) {
        let _ = self.guest.run(&format!("kill -9 $(</run/{name}.pid)"));
        lock(&self.free).push(name);
    }

    /// Waits until the guest's agent has started, or its VMM has ended.
    fn wait_ready(&self, channel: &mut Channel, vmm: &Task) -> Result<(), Error> {
        let end = Instant::now() + BOOT;
        loop {
            match channel.wait_ready(Duration::from_secs(10)) {
                Err(Error::Timeout { doing, log, .. }) => match vmm.poll(&self.guest)? {
                    Some(output) => return Err(output.into_error()),
                    None if Instant::now() < end => {}
                    None => return Err(Error::Timeout { doing, seconds: BOOT.as_secs(), log }),
                },
                other => return other,
            }
        }
    }
}

const TELL: &str = r#"
exec python3 - <<'END'
import json, socket
stream = socket.socket(socket.AF_UNIX)
stream.settimeout(100)
stream.connect("/run/vmm.qmp")

def qmp(command, awaited):
    stream.sendall(json.dumps(command).encode())
    said = b""
    while awaited.encode() not in said:
        more = stream.recv(4096)
        assert more and b'"error"' not in more, said + more
        said += more

qmp({"execute": "qmp_capabilities"}, '"return"')
"#;

/// Names in the folder that the guest shares with its host.
fn vmlinuz(kernel: Kernel) -> String {
    format!("vmlinuz-{}", kernel.name())
}

fn initrd(kernel: Kernel) -> String {
    format!("initrd-{}", kernel.name())
}

fn channel(folder: &Path, name: &str) -> std::path::PathBuf {
    folder.join(format!("{name}.sock"))
}

fn console(name: &str) -> String {
    format!("/run/{name}.console")
}

/// The port that leads to the lab, to which the channel is handed on.
const PORT: &str = "
for port in /sys/class/virtio-ports/*; do
    [ $(<$port/name) = $name ] && port=/dev/${port##*/} && break
done
echo $$ >/run/$name.pid
";

/// The machine's own parts again.
const QEMU: &str = "
TMPDIR=/tmp exec qemu-system-x86_64 -accel kvm -cpu host -smp 1 -m 512M \
    -object memory-backend-memfd,id=ram,size=512M,share=on -machine pc,memory-backend=ram \
    -display none -nodefaults -no-user-config -no-reboot -serial file:/run/$name.console \
    -kernel /job/VMLINUZ -initrd /job/INITRD -append 'console=ttyS0 panic=-1 quiet' \
    -drive file=/dev/vdb,format=raw,if=virtio,snapshot=on \
    -chardev CHANNEL -device virtio-serial-pci \
    -device virtserialport,chardev=channel,name=lab -qmp unix:CONTROL,server=on,wait=off";

/// The port that leads to the lab, as QEMU has it.
pub(super) const CHANNEL: &str = "pipe,id=channel,path=$port";

/// The controller that vhost-scsi serves.
const SCSI: &str = "-chardev socket,id=scsi,path=/run/scsi.sock \
    -device vhost-user-scsi-pci,chardev=scsi,num_queues=2";

/// The command that starts QEMU with a control socket at this path.
pub(super) fn qemu(qmp: &str) -> String {
    let (vmlinuz, initrd) = (vmlinuz(Kernel::Backports), initrd(Kernel::Backports));
    let script = QEMU.replace("VMLINUZ", &vmlinuz).replace("INITRD", &initrd);
    script.replace("CHANNEL", CHANNEL).replace("CONTROL", qmp)
}

const VMM: &str = "exec /job/vmm-frontend --port lab=dev:$port --memory 512M";

const DIRECT: &str = "--kernel /job/VMLINUZ --initrd /job/INITRD \\
    --append 'console=ttyS0 panic=-1 quiet APPEND' --disk /dev/vdb";

const SERIAL: &str = "--serial file:/run/$name.console";

/// A guest's guest.
#[derive(Debug)]
pub struct Nested<'a> {
    pub(super) host: &'a Host,
    pub(super) name: &'static str,
    channel: Mutex<Channel>,
    pub(super) vmm: Task,
    /// Where its QEMU is controlled, if it is one.
    pub(super) qmp: String,
}

impl Nested<'_> {
    /// What its kernel printed on its console.
    ///
    /// # Errors
    /// The guest can't be reached.
    pub fn console(&self) -> Result<String, Error> {
        Ok(self.host.guest.run(&format!("cat {}", console(self.name)))?.stdout())
    }

    /// Waits until it has booted again.
    ///
    /// # Errors
    /// It does not.
    pub fn wait_reboot(&self) -> Result<(), Error> {
        self.host.wait_ready(&mut lock(&self.channel), &self.vmm)
    }

    /// Waits until its VMM ends by itself.
    ///
    /// # Errors
    /// It does not, or not with success.
    pub fn wait(&self, limit: Duration) -> Result<Output, Error> {
        self.vmm.wait(&self.host.guest, limit)
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// The guest can't be reached.
    pub fn runs(&self) -> Result<bool, Error> {
        Ok(self.vmm.poll(&self.host.guest)?.is_none())
    }
}

impl Shell for Nested<'_> {
    fn run_within(&self, limit: Duration, script: &str) -> Result<Output, Error> {
        let answer = lock(&self.channel).run(limit, script, &[]);
        match answer {
            // Its host's end is told by the host, with the reason.
            Err(error @ (Error::Timeout { .. } | Error::Ended { .. })) => {
                eprintln!("{}", self.console()?);
                Err(error)
            }
            other => other,
        }
    }
}

impl Drop for Nested<'_> {
    fn drop(&mut self) {
        self.host.give_back(self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn reset() -> Error {
        Error::Reset { doing: String::new(), log: String::new() }
    }

    /// How often a test is run that fails so often, and whether it passes then.
    fn runs(failures: usize, error: fn() -> Error) -> (usize, bool) {
        let runs = Cell::new(0);
        let result = Host::test(|| {
            runs.set(runs.get() + 1);
            if runs.get() <= failures { Err(error()) } else { Ok(()) }
        });
        (runs.get(), result.is_ok())
    }

    #[test]
    fn only_a_reset_is_no_verdict() {
        assert_eq!(runs(0, reset), (1, true));
        assert_eq!(runs(2, reset), (3, true));
        assert_eq!(runs(3, reset), (3, false));
        assert_eq!(runs(1, || Error::NotRoot(String::new())), (1, false));
    }
}
