//! vhost-scsi in a stock guest.

use std::path::Path;
use std::process::Command;

use lab::{Error, Guest, Process, VhostUserScsi, program, spawn_listening};

/// A vhost-scsi process of the test's own, with its images in a folder that goes with it.
struct Scsi {
    folder: tempfile::TempDir,
    _process: Process,
}

impl Scsi {
    fn start(sizes: &[u64], options: &str, more: &[&str]) -> Result<Self, Error> {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("scsi.sock");
        let mut command = Command::new(program("vhost-scsi")?);
        command.arg("--socket-path").arg(&socket).args(more);
        for (number, &size) in sizes.iter().enumerate() {
            let path = folder.path().join(format!("disk{number}.img"));
            std::fs::File::create(&path).unwrap().set_len(size).unwrap();
            command.arg("--disk").arg(format!("{}{options}", path.display()));
        }
        let process = spawn_listening(command, &socket)?;
        Ok(Self { folder, _process: process })
    }

    fn socket(&self) -> impl AsRef<Path> + use<> {
        self.folder.path().join("scsi.sock")
    }
}

#[test]
fn a_guest_uses_a_disk() -> Result<(), Error> {
    let scsi = Scsi::start(&[256 << 20], ",serial=LAB1", &[])?;
    let controller = VhostUserScsi::new(scsi.socket().as_ref()).queues(2);
    let guest = Guest::builder().vhost_user_scsi(controller).boot()?;
    let seen = guest.run("lsscsi")?.stdout_if_ok()?;
    assert!(seen.contains("VHOST    VIRTUAL DISK"), "{seen}");
    guest
        .run(
            "mkfs.ext4 -q /dev/sda && mount /dev/sda /mnt && cp -r /usr/bin /mnt && sync && \
             diff -r /usr/bin /mnt/bin && fstrim -v /mnt && umount /mnt && fsck.ext4 -fn /dev/sda && \
             fio --name=v --filename=/dev/sda --size=64M --rw=randwrite --bs=4k --iodepth=32 \
             --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1",
        )?
        .stdout_if_ok()?;
    Ok(())
}
