//! The VMMs, each with the same machine: one processor, 128 MiB, a disk by vhost-user.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lab::{Error, Process, make, spawn_listening};

use super::place::Place;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    VmmFrontend,
    Q35,
    Microvm,
}

/// What the device process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disk {
    Scsi,
    Blk,
}

/// A shell on the console is `/init`.
const APPEND: &str = "console=ttyS0 quiet panic=-1 rdinit=/busybox -- sh";
/// What the shell says first.
pub(crate) const PROMPT: &str = "/ # ";

impl Subject {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Subject::VmmFrontend => "vmm-frontend",
            Subject::Q35 => "QEMU q35",
            Subject::Microvm => "QEMU microvm",
        }
    }

    /// With the processor as `--cpu` and `-cpu` have it.
    pub(crate) fn command(
        self,
        place: &Place,
        cpu: &str,
        disk: Disk,
        socket: &Path,
    ) -> Result<Command, Error> {
        let mut command = match self {
            Subject::VmmFrontend => {
                let mut command = Command::new(&place.vmm_frontend);
                command.args(["--memory", "128M", "--cpus", "1", "--cpu", cpu]);
                command.args(["--append", APPEND, "--vhost-user"]);
                command.arg(format!("type={},socket={}", disk.name(), socket.display()));
                command.arg("--kernel").arg(&place.kernel).arg("--initrd").arg(&place.initrd);
                return Ok(command);
            }
            Subject::Q35 | Subject::Microvm => place.qemu()?,
        };
        let machine = match self {
            Subject::Microvm => "microvm,accel=kvm,pcie=on,memory-backend=ram",
            Subject::Q35 | Subject::VmmFrontend => "q35,accel=kvm,memory-backend=ram",
        };
        command.args(["-machine", machine, "-cpu", cpu, "-smp", "1", "-m", "128M"]);
        command.args(["-object", "memory-backend-memfd,id=ram,size=128M,share=on"]);
        command.args(["-display", "none", "-nodefaults", "-no-user-config", "-no-reboot"]);
        command.args(["-serial", "stdio", "-append", APPEND]);
        command.arg("-kernel").arg(&place.kernel).arg("-initrd").arg(&place.initrd);
        command.arg("-chardev").arg(format!("socket,id=disk,path={}", socket.display()));
        let options = "chardev=disk,num_queues=1".to_owned();
        command.arg("-device").arg(match disk {
            Disk::Scsi => format!("vhost-user-scsi-pci,{options}"),
            Disk::Blk => format!("vhost-user-blk-pci,{}", options.replace("num_", "num-")),
        });
        Ok(command)
    }
}

impl Disk {
    fn name(self) -> &'static str {
        match self {
            Disk::Scsi => "scsi",
            Disk::Blk => "blk",
        }
    }

    /// Starts a process that serves 64 MiB, and says where.
    pub(crate) fn start(self, place: &Place) -> Result<(Process, PathBuf), Error> {
        let file = place.folder.join("disk.img");
        make(&file, 64 << 20)?;
        self.start_on(place, &file)
    }

    /// Starts a process that serves the root filesystem.
    pub(crate) fn serve_root(self, place: &Place) -> Result<(Process, PathBuf), Error> {
        self.start_on(place, &place.root)
    }

    fn start_on(self, place: &Place, file: &Path) -> Result<(Process, PathBuf), Error> {
        let socket = place.folder.join("disk.sock");
        // Of the process before, if there was one.
        let _ = fs::remove_file(&socket);
        let process = spawn_listening(self.serve(place, file, &socket)?, &socket)?;
        Ok((process, socket))
    }

    fn serve(self, place: &Place, file: &Path, socket: &Path) -> Result<Command, Error> {
        let (file, socket) = (file.display(), socket.display());
        Ok(match self {
            Disk::Scsi => {
                let mut command = Command::new(&place.vhost_scsi);
                command.args([format!("--socket-path={socket}"), format!("--disk={file}")]);
                command
            }
            Disk::Blk => {
                let mut command = place.storage_daemon()?;
                command.arg("--blockdev").arg(format!("file,node-name=disk,filename={file}"));
                command.arg("--export").arg(format!(
                    "vhost-user-blk,id=e,node-name=disk,num-queues=1,\
                     addr.type=unix,addr.path={socket}"
                ));
                command
            }
        })
    }
}
