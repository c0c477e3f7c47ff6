//! `cargo lab demo`: a disk and a CD in a process of their own, seen by a Debian guest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use lab::{Error, Guest, Machine, Shell, Step, Version, VhostUserScsi, VmmGuest};
use lab::{during, make_cd, program, spawn_listening};

use crate::words;

/// What is typed into the guest, if the disk is `/dev/sda`.
const SCRIPT: [&str; 8] = [
    "uname -sr",
    "lsscsi --size",
    "lsblk --output NAME,SIZE,TYPE,RO,MODEL /dev/sda /dev/sr0",
    "sg_inq /dev/sda",
    "mkdir -p /mnt/disk /mnt/cd && mount /dev/sda /mnt/disk && mount -o ro /dev/sr0 /mnt/cd",
    "grep . /mnt/*/hello.txt",
    "dd if=/dev/zero of=/mnt/disk/zeroes bs=1M count=32 conv=fsync",
    "fio --name=verify --filename=/mnt/disk/verify --size=16M --rw=randwrite --bs=4k --iodepth=16 \
     --ioengine=libaio --direct=1 --verify=crc32c --output-format=terse --terse-version=3 |
     cut -d ';' -f 3,5,8,47,49 | sed 's/^/job;error;read IOPS;write KiB;write IOPS\\n/'",
];

pub(crate) fn run() -> Result<(), Error> {
    let started = Instant::now();
    let folder = Machine::dir().join("demo");
    make_folder(&folder)?;
    let log = folder.join("log");
    for name in ["vhost-scsi", "vmm-frontend"] {
        program(name)?;
    }
    Machine::ensure()?;
    Machine::qemu(Version::Backports)?;

    let (disk, cd) = (make_disk(&folder, &log)?, folder.join("cd.iso"));
    make_cd(&folder.join("cd"), &cd, &log)?;
    match during("trying whether KVM boots a stock kernel", VmmGuest::can_boot)? {
        true => by_vmm_frontend(&disk, &cd)?,
        false => by_qemu(&folder.join("scsi.sock"), &disk, &cd)?,
    }
    println!("\nlab demo: done in {}", words(started.elapsed()));
    Ok(())
}

fn by_vmm_frontend(disk: &Path, cd: &Path) -> Result<(), Error> {
    println!(
        "$ {} --kernel vmlinuz --initrd initrd --memory 1G --cpus 2 --disk root.qcow2 --disk disk.img \
         --cdrom cd.iso",
        program("vmm-frontend")?.display()
    );
    let arguments = ["--disk".as_ref(), disk.as_os_str(), "--cdrom".as_ref(), cd.as_os_str()];
    let guest = during("booting Debian on it", || VmmGuest::boot(arguments))?;
    // The root filesystem's disk is the first.
    type_into(&guest, 1)?;
    guest.shut_down()
}

fn by_qemu(socket: &Path, disk: &Path, cd: &Path) -> Result<(), Error> {
    println!("This host's KVM boots no stock kernel: QEMU runs the guest, by emulation.");
    let mut serve = Command::new(program("vhost-scsi")?);
    println!("$ {} --socket-path … --disk disk.img --cdrom cd.iso", serve.get_program().display());
    serve.arg("--socket-path").arg(socket).arg("--disk").arg(disk).arg("--cdrom").arg(cd);
    let _device = spawn_listening(serve, socket)?;
    let controller = VhostUserScsi::new(socket).queues(2);
    let boot = || Guest::builder().vhost_user_scsi(controller).boot();
    let guest = during("booting Debian on it", boot)?;
    type_into(&guest, 0)?;
    guest.shut_down().map(drop)
}

/// Types the script, for the disk that is this target.
fn type_into(guest: &impl Shell, target: u8) -> Result<(), Error> {
    let find = format!("ls /sys/class/scsi_device/*:0:{target}:0/device/block");
    let name = guest.run(&find)?.stdout_if_ok()?;
    for command in SCRIPT {
        let command = command.replace("/dev/sda", &format!("/dev/{}", name.trim_end()));
        println!("\nguest# {command}");
        let output = guest.run(&command)?;
        print!("{}{}", output.stdout(), output.stderr());
        output.stdout_if_ok()?;
    }
    Ok(())
}

fn make_folder(folder: &Path) -> Result<(), Error> {
    let make = || {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder.join("disk"))?;
        fs::write(folder.join("disk/hello.txt"), "This file is on the disk.\n")?;
        fs::create_dir_all(folder.join("cd"))?;
        fs::write(folder.join("cd/hello.txt"), "This file is on the CD.\n")
    };
    make().map_err(|source| Error::Io { what: format!("cannot fill {}", folder.display()), source })
}

fn make_disk(folder: &Path, log: &Path) -> Result<PathBuf, Error> {
    let disk = folder.join("disk.img");
    let mut make = Command::new("mke2fs");
    make.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    make.args(["-q", "-t", "ext4", "-d"]).arg(folder.join("disk")).arg(&disk).arg("256M");
    Step::new("making a disk", log).run(make)?;
    Ok(disk)
}
