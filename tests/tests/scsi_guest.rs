//! vhost-scsi in a stock guest.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, Instant};

use lab::{Conformance, Error, Guest, Scsi, make};

const MINUTES: fn(u64) -> Duration = |minutes| Duration::from_secs(60 * minutes);

#[test]
fn a_guest_keeps_its_files_on_a_disk() -> Result<(), Error> {
    let scsi = Scsi::new()?.disk(256 << 20, ",serial=LAB1")?.start()?;
    let guest = Guest::builder().vhost_user_scsi(scsi.controller().queues(2)).boot()?;
    let seen = guest.run("lsscsi")?.stdout_if_ok()?;
    assert!(seen.contains("VHOST    VIRTUAL DISK"), "{seen}");
    let script = "set -e; mkfs.ext4 -q /dev/sda; mount /dev/sda /mnt; cp -r /usr/bin /mnt; sync; \
                  echo 3 >/proc/sys/vm/drop_caches; diff -rq --no-dereference /usr/bin /mnt/bin; \
                  fstrim -v /mnt; umount /mnt; fsck.ext4 -fn /dev/sda; \
                  fio --name=v --filename=/dev/sda --size=64M --rw=randwrite --bs=4k --iodepth=32 \
                  --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1";
    guest.run_within(MINUTES(3), script)?.stdout_if_ok()?;
    Ok(())
}

#[test]
fn a_guest_keeps_its_files_on_a_qcow2_image_by_packed_rings()
-> Result<(), Box<dyn std::error::Error>> {
    let scsi = Scsi::new()?;
    let (base, top) = (scsi.folder().join("base.img"), scsi.folder().join("top.qcow2"));
    make(&base, 256 << 20)?;
    File::options().write(true).open(&base)?.write_all_at(b"from below", 128 << 20)?;
    let create = ["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "base.img"];
    assert!(Command::new("qemu-img").args(create).arg(&top).status()?.success());
    let scsi = scsi.arg("--disk").arg(top.display().to_string()).start()?;
    let controller = scsi.controller().queues(2).packed();
    let guest = Guest::builder().vhost_user_scsi(controller).boot()?;
    // VIRTIO_F_RING_PACKED is bit 34.
    let packed = "cut -c35 /sys/bus/virtio/drivers/virtio_scsi/virtio*/features";
    assert_eq!(guest.run(packed)?.stdout_if_ok()?, "1\n");
    let seen = guest.run("dd if=/dev/sda bs=1M skip=128 count=1 | head -c 10")?.stdout_if_ok()?;
    assert_eq!(seen, "from below");
    let script = "set -e; mkfs.ext4 -q /dev/sda; mount /dev/sda /mnt; cp -r /usr/bin /mnt; sync; \
                  echo 3 >/proc/sys/vm/drop_caches; diff -rq --no-dereference /usr/bin /mnt/bin; \
                  rm -r /mnt/bin; fstrim -v /mnt; \
                  fio --name=v --directory=/mnt --size=64M --rw=randwrite --bs=4k --iodepth=32 \
                  --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1; \
                  umount /mnt; fsck.ext4 -fn /dev/sda; blockdev --flushbufs /dev/sda; sync";
    guest.run_within(MINUTES(3), script)?.stdout_if_ok()?;
    drop(guest);
    // Its rings have stopped: the image is complete and unlocked.
    let started = Instant::now();
    let check = || Command::new("qemu-img").args(["check", "-f", "qcow2"]).arg(&top).output();
    let mut checked = check()?;
    while checked.status.code() == Some(1) && started.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(100));
        checked = check()?;
    }
    assert!(checked.status.success(), "{checked:?}");
    Ok(())
}

/// The 155 tests of libiscsi on three disks: what the plain one has no occasion for, a read-only one
/// or one with larger physical blocks has.
#[test]
fn disks_conform_to_the_standards() -> Result<(), Error> {
    let scsi = Scsi::new()?
        .disk(128 << 20, ",serial=PLAIN")?
        .disk(128 << 20, ",serial=512E,physical-block-size=4096,removable=on")?
        .disk(128 << 20, ",serial=READONLY,readonly=on")?
        .start()?;
    let guest = Guest::builder().vhost_user_scsi(scsi.controller()).boot()?;
    let plain = Conformance::test(&guest, MINUTES(4), "/dev/sg0", "LINUX")?;
    let large = Conformance::test(&guest, MINUTES(4), "/dev/sg1", "LINUX")?;
    let read_only = Conformance::test(&guest, MINUTES(4), "/dev/sg2", "LINUX.ReadOnly")?;

    assert_eq!(plain.with("failed"), [""; 0], "{}", plain.log);
    // Where physical blocks are larger, the tool asks for the status of one block and expects that
    // of another.
    assert_eq!(large.with("failed"), ["GetLBAStatus/UnmapSingle"], "{}", large.log);
    assert_eq!(plain.tests().len(), 155);
    let passed = |name: &String| {
        [&plain, &large, &read_only].iter().any(|run| run.with("passed").contains(name))
    };
    let skipped: Vec<String> =
        plain.with("skipped").into_iter().filter(|name| !passed(name)).collect();
    eprintln!(
        "iscsi-test-cu: plain {} passed, {} skipped; 512e {} passed; nowhere: {skipped:?}",
        plain.with("passed").len(),
        plain.with("skipped").len(),
        large.with("passed").len(),
    );
    assert!(plain.with("passed").len() >= 140, "{:?}", plain.with("skipped"));
    assert!(skipped.len() <= 8, "{skipped:?}");
    Ok(())
}
