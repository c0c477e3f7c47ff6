//! The lab itself: a guest boots, runs scripts, keeps files, answers QMP, and ends when told.

use lab::{Error, Guest};

#[test]
fn a_guest_sees_its_scsi_disk_and_cd() -> Result<(), Error> {
    let guest = Guest::builder()
        .args(["-device", "virtio-scsi-pci"])
        .args(["-drive", "if=none,id=d,driver=null-co,size=1G"])
        .args(["-device", "scsi-hd,drive=d,vendor=LAB,product=DISK"])
        .args(["-device", "scsi-cd,vendor=LAB,product=CD"])
        .boot()?;

    let seen = guest.run("lsscsi --brief && lsscsi --size")?.stdout_if_ok()?;
    eprintln!("{seen}");
    assert!(seen.contains("LAB"));
    Ok(())
}
