//! Units and media that come, change and go while a guest runs.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use lab::{Error, Guest, Qmp, Scsi, make};
use serde_json::Value;

const MINUTE: Duration = Duration::from_secs(60);

/// How many SCSI disks the guest has.
const DISKS: &str = "ls /sys/block | grep -c '^sd'";

/// Runs `script` in the guest until it prints `wanted`, for at most 4 minutes.
fn until(guest: &Guest, script: &str, wanted: &str) -> Result<(), Error> {
    let repeat = format!(
        "while [ $SECONDS -lt 240 ]; do seen=$({script}); [ \"$seen\" = '{wanted}' ] && exit 0; \
         sleep 0.5; done; echo \"$seen\"; dmesg | tail -20; exit 1"
    );
    guest.run_within(5 * MINUTE, &repeat)?.stdout_if_ok().map(drop)
}

fn statistics(scsi: &Scsi, index: usize) -> Result<Value, Error> {
    let text = scsi.ctl(&["stats", "--json"])?;
    let mut all: Value = serde_json::from_str(&text).expect("JSON");
    Ok(all[index]["statistics"].take())
}

fn number(statistics: &Value, name: &str) -> u64 {
    statistics[name].as_u64().expect("a number")
}

fn set_size(path: &Path, size: u64) -> Result<(), Error> {
    let resized = fs::File::options().write(true).open(path).and_then(|file| file.set_len(size));
    resized
        .map_err(|source| Error::Io { what: format!("cannot resize {}", path.display()), source })
}

fn qmp(scsi: &Scsi) -> Result<Qmp, Error> {
    let stream = UnixStream::connect(scsi.control());
    Qmp::new(stream.map_err(|source| Error::Io { what: "no control socket".into(), source })?)
}

#[test]
fn disks_come_change_and_go() -> Result<(), Error> {
    let scsi = Scsi::new()?.disk(64 << 20, ",serial=FIRST")?.start()?;
    let mut events = qmp(&scsi)?;
    let guest = Guest::builder().vhost_user_scsi(scsi.controller().queues(2)).boot()?;
    events.wait_event("VMM_CONNECTED", MINUTE)?;
    let size_of = |lun: &str| {
        format!("blockdev --getsize64 /dev/$(ls /sys/bus/scsi/devices/*:0:{lun}/block 2>/dev/null)")
    };

    // A disk comes, and grows: from outside, then by command.
    let hot = scsi.folder().join("hot.img");
    make(&hot, 64 << 20)?;
    let text = format!("{},target=0", hot.display());
    assert_eq!(scsi.ctl(&["add", "--disk", &text])?, "0:1\n");
    until(&guest, &size_of("0:1"), "67108864")?;
    set_size(&hot, 96 << 20)?;
    scsi.ctl(&["resize", "0:1"])?;
    until(&guest, &size_of("0:1"), "100663296")?;
    scsi.ctl(&["resize", "0:1", "128M"])?;
    until(&guest, &size_of("0:1"), "134217728")?;

    // It goes under load, and comes again.
    let load = "disk=/dev/$(ls /sys/bus/scsi/devices/*:0:0:1/block); \
                fio --name=load --filename=$disk --rw=randrw --bs=4k --iodepth=32 \
                --ioengine=libaio --direct=1 --time_based --runtime=60";
    let task = guest.start(load)?;
    while number(&statistics(&scsi, 1)?, "writes") < 200 {
        assert!(task.poll(&guest)?.is_none(), "the load ended by itself");
    }
    scsi.ctl(&["remove", "0:1"])?;
    until(&guest, DISKS, "1")?;
    assert_ne!(task.wait(&guest, MINUTE)?.status, 0, "its disk has gone");
    guest.run("dd if=/dev/sda of=/dev/null bs=1M iflag=direct")?.stdout_if_ok()?;
    assert_eq!(scsi.ctl(&["add", "--disk", &text])?, "0:1\n");
    until(&guest, DISKS, "2")?;
    until(&guest, &size_of("0:1"), "134217728")?;

    // LUNs from 256 on are written in another way.
    let far = scsi.folder().join("far.img");
    make(&far, 1 << 20)?;
    let text = format!("{},target=0,lun=300", far.display());
    assert_eq!(scsi.ctl(&["add", "--disk", &text])?, "0:300\n");
    until(&guest, DISKS, "3")?;
    scsi.ctl(&["remove", "0:300"])?;
    until(&guest, DISKS, "2")?;

    // A hundred at once.
    let folder = scsi.folder().join("images");
    fs::create_dir(&folder).expect("a folder");
    for number in 0..100 {
        make(&folder.join(format!("{number:02}.img")), 1 << 20)?;
    }
    let added = scsi.ctl(&["add", "--disk", &format!("{},readonly", folder.display())])?;
    assert_eq!(added.lines().count(), 100);
    until(&guest, DISKS, "102")?;
    until(&guest, &size_of("1:99"), "1048576")?;
    Ok(())
}

#[test]
fn statistics_count_and_errors_are_told() -> Result<(), Error> {
    let scsi = Scsi::new()?.disk(64 << 20, "")?.start()?;
    let guest = Guest::builder().vhost_user_scsi(scsi.controller().queues(2)).boot()?;
    let before = statistics(&scsi, 0)?;
    guest
        .run(
            "set -e; dd if=/dev/zero of=/dev/sda bs=1M count=8 oflag=direct; \
             dd if=/dev/sda of=/dev/null bs=1M count=4 iflag=direct; \
             sync /dev/sda; sg_sync /dev/sda; blkdiscard --offset 1M --length 1M /dev/sda",
        )?
        .stdout_if_ok()?;
    let after = statistics(&scsi, 0)?;
    let difference = |name| number(&after, name) - number(&before, name);
    assert_eq!(difference("bytes-written"), 8 << 20, "{after}");
    assert!(difference("bytes-read") >= 4 << 20, "{after}");
    for name in ["reads", "writes", "flushes", "unmaps"] {
        assert!(difference(name) >= 1, "{name}: {after}");
    }
    assert_eq!(number(&after, "errors"), 0);

    // Behind everybody's back the image loses its second half.
    let mut events = qmp(&scsi)?;
    let list: Value = serde_json::from_str(&scsi.ctl(&["list", "--json"])?).expect("JSON");
    set_size(Path::new(list[0]["path"].as_str().expect("a path")), 32 << 20)?;
    let read = guest.run("dd if=/dev/sda of=/dev/null bs=1M skip=60 count=1 iflag=direct")?;
    assert_ne!(read.status, 0);
    let event = events.wait_event("BLOCK_IO_ERROR", MINUTE)?;
    assert_eq!((&event["operation"], &event["action"]), (&"read".into(), &"report".into()));
    assert!(number(&statistics(&scsi, 0)?, "errors") >= 1);
    assert!(scsi.ctl(&["stats"])?.starts_with("UNIT  READS"));
    Ok(())
}

/// An image in which nothing is but its label (ECMA-119 8.4).
fn make_iso(path: &Path, label: &str) -> Result<(), Error> {
    let mut image = vec![0; 512 << 10];
    image[0x8000..0x8007].copy_from_slice(b"\x01CD001\x01");
    image[0x8028..0x8048].fill(b' ');
    image[0x8028..0x8028 + label.len()].copy_from_slice(label.as_bytes());
    image[0x8800..0x8807].copy_from_slice(b"\xffCD001\x01");
    fs::write(path, image)
        .map_err(|source| Error::Io { what: format!("cannot make {}", path.display()), source })
}

#[test]
fn media_come_and_go() -> Result<(), Error> {
    let scsi = Scsi::new()?;
    let (one, two) = (scsi.folder().join("one.iso"), scsi.folder().join("two.iso"));
    make_iso(&one, "ONE")?;
    make_iso(&two, "TWO")?;
    let (one, two) = (one.display().to_string(), two.display().to_string());
    let scsi = scsi.arg("--cdrom").arg(&one).start()?;
    let guest = Guest::builder().vhost_user_scsi(scsi.controller()).boot()?;
    let label = "blkid -p -o value -s LABEL /dev/sr0";
    until(&guest, label, "ONE")?;
    scsi.ctl(&["eject", "0:0"])?;
    until(&guest, label, "")?;
    assert_ne!(guest.run("dd if=/dev/sr0 of=/dev/null count=1")?.status, 0, "the drive is empty");
    scsi.ctl(&["load", "0:0", &two])?;
    until(&guest, label, "TWO")?;
    scsi.ctl(&["load", "0:0", &one])?;
    until(&guest, label, "ONE")?;

    // The guest locks the tray: it is asked to let go, and not obeyed any more when it must be.
    let generic = guest.run("ls /sys/bus/scsi/devices/*:0:0:0/scsi_generic")?.stdout_if_ok()?;
    let generic = format!("/dev/{}", generic.trim());
    guest.run(&format!("sg_prevent {generic}"))?.stdout_if_ok()?;
    let locked = scsi.try_ctl(&["eject", "0:0"])?;
    assert_eq!(locked.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&locked.stderr).contains("the guest has locked the tray"));
    let event = format!("sg_raw -r 8 {generic} 4a 01 00 00 10 00 00 00 08 00 2>&1 | grep '00 06'");
    let event = guest.run(&event)?.stdout_if_ok()?;
    assert!(event.contains("00 06 04 10 01 02"), "an eject request: {event}");
    assert!(!scsi.try_ctl(&["load", "0:0", &two])?.status.success());
    until(&guest, label, "ONE")?;
    scsi.ctl(&["eject", "0:0", "--force"])?;
    until(&guest, label, "")?;
    scsi.ctl(&["load", "0:0", &two])?;
    until(&guest, label, "TWO")?;

    // The guest opens and closes it.
    let mut events = qmp(&scsi)?;
    guest.run(&format!("sg_start --eject {generic}"))?.stdout_if_ok()?;
    assert_eq!(events.wait_event("DEVICE_TRAY_MOVED", MINUTE)?["tray-open"], true);
    guest.run(&format!("sg_start --load {generic}"))?.stdout_if_ok()?;
    assert_eq!(events.wait_event("DEVICE_TRAY_MOVED", MINUTE)?["tray-open"], false);
    until(&guest, label, "TWO")?;
    Ok(())
}
