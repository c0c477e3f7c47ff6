//! A full disk of the host: an error, or a wait that ends well, or by task management, or with the
//! ring.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command as Program;
use std::time::Duration;

use lab::driver::{Command, Data, Initiator, InitiatorOptions, TaskManagement};
use lab::{Error, Qmp, Scsi};
use serde_json::json;

use crate::common::{DISK, clear_attention, write16};

const MINUTE: Duration = Duration::from_secs(60);
const ABORTED: u8 = 2;
const BUSY: u8 = 8;
/// More than what is left of the host's disk.
const LARGE: usize = 1 << 20;
const BLOCKS: u32 = (LARGE / 512) as u32;

/// A disk of the host with room for 2 MiB, filled to three quarters.
struct Full {
    folder: tempfile::TempDir,
}

impl Full {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mount = ["-t", "tmpfs", "-o", "size=2M", "full"];
        assert!(Program::new("mount").args(mount).arg(folder.path()).status().unwrap().success());
        let full = Self { folder };
        fs::write(full.filler(), vec![1; 3 << 19]).unwrap();
        full
    }

    fn filler(&self) -> PathBuf {
        self.folder.path().join("filler")
    }

    /// A controller with a disk of 8 MiB there.
    fn controller(&self, werror: &str) -> Result<(Scsi, Initiator), Error> {
        let image = self.folder.path().join("disk.img");
        lab::make(&image, 8 << 20)?;
        let disk = format!("{},werror={werror}", image.display());
        let scsi = Scsi::new()?.arg("--disk").arg(disk).start()?;
        let data = LARGE as u32;
        let options = InitiatorOptions { data, depth: 4, ..InitiatorOptions::default() };
        let mut initiator = Initiator::connect(&scsi.socket(), options)?;
        clear_attention(&mut initiator, DISK)?.good();
        Ok((scsi, initiator))
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        let _ = Program::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}

static BYTES: [u8; LARGE] = [7; LARGE];

/// Sends a write for which there is no room, and sees that it is not answered.
fn held(initiator: &mut Initiator) -> Result<(), Error> {
    let queue = &mut initiator.queues[0];
    let cdb = write16(0, BLOCKS);
    let command = Command { lun: DISK, tag: 42, cdb: &cdb, data: Data::Out(&BYTES) };
    queue.submit(&command)?.unwrap();
    queue.slots.publish()?;
    let answered = queue.slots.ring.wait(Duration::from_millis(1200)).unwrap();
    assert!(!answered, "the host has no room");
    Ok(())
}

#[test]
fn a_write_waits_for_room_and_goes_on() -> Result<(), Error> {
    let full = Full::new();
    let (_scsi, mut initiator) = full.controller("enospc")?;
    held(&mut initiator)?;
    fs::remove_file(full.filler()).unwrap();
    let queue = &mut initiator.queues[0];
    let done = queue.wait()?;
    queue.answer(done, 0)?.good();
    let written = fs::read(full.folder.path().join("disk.img")).unwrap();
    assert!(written[..LARGE] == BYTES);
    Ok(())
}

#[test]
fn the_initiator_is_told_where_it_is_to_be() -> Result<(), Error> {
    let full = Full::new();
    let (_scsi, mut initiator) = full.controller("report")?;
    let cdb = write16(0, BLOCKS);
    let command = Command { lun: DISK, tag: 1, cdb: &cdb, data: Data::Out(&BYTES) };
    let answer = initiator.queues[0].run(&command)?;
    assert_eq!(answer.sense_code(), Some((0x7, 0x27, 0x07)), "space allocation failed");
    Ok(())
}

#[test]
fn control_clients_are_told_that_a_write_waits_or_does_not() -> Result<(), Error> {
    for (werror, action) in [("enospc", "wait"), ("stop", "wait"), ("report", "report")] {
        let full = Full::new();
        let (scsi, mut initiator) = full.controller(werror)?;
        let client = UnixStream::connect(scsi.control()).unwrap();
        let mut client = Qmp::new(client)?;
        let queue = &mut initiator.queues[0];
        let cdb = write16(0, BLOCKS);
        let command = Command { lun: DISK, tag: 42, cdb: &cdb, data: Data::Out(&BYTES) };
        queue.submit(&command)?.unwrap();
        queue.slots.publish()?;
        let told = client.wait_event("BLOCK_IO_ERROR", MINUTE)?;
        assert_eq!(told["action"], action, "{werror}: {told}");
        assert_eq!((&told["target"], &told["lun"]), (&json!(0), &json!(0)));
        assert_eq!((&told["operation"], &told["nospace"]), (&json!("write"), &json!(true)));
        if action == "wait" {
            fs::remove_file(full.filler()).unwrap();
        }
        let done = queue.wait()?;
        assert_eq!(done.status == 0, action == "wait");
    }
    Ok(())
}

#[test]
fn a_write_that_waits_can_be_aborted() -> Result<(), Error> {
    let full = Full::new();
    let (_scsi, mut initiator) = full.controller("stop")?;
    held(&mut initiator)?;
    assert_eq!(initiator.manage(TaskManagement::AbortTask, DISK, 42)?, 0);
    assert_eq!(initiator.queues[0].wait()?.response, ABORTED);
    Ok(())
}

#[test]
fn a_write_that_waits_ends_with_its_ring() -> Result<(), Error> {
    let full = Full::new();
    let (_scsi, mut initiator) = full.controller("enospc")?;
    held(&mut initiator)?;
    initiator.session.stop(2).unwrap();
    let done = initiator.queues[0].wait()?;
    assert_eq!((done.response, done.status), (0, BUSY), "to be sent again");
    Ok(())
}
