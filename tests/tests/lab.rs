//! The lab itself: guests boot under every QEMU, run scripts, keep files, migrate, and end.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use lab::{Error, Guest, Machine, Root, Version, spawn_listening};
use serde_json::json;

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_guest_sees_its_scsi_disk_and_cd() -> Result<(), Error> {
    let started = Instant::now();
    let guest = Guest::builder()
        .args(["-device", "virtio-scsi-pci"])
        .args(["-drive", "if=none,id=disk,driver=null-co,size=1G"])
        .args(["-device", "scsi-hd,drive=disk,vendor=LAB,product=DISK"])
        .args(["-device", "scsi-cd,vendor=LAB,product=CD"])
        .boot()?;
    eprintln!("booted in {:.1} s", started.elapsed().as_secs_f32());

    let seen = guest.run("lsscsi --size")?.stdout_if_ok()?;
    let device = |line: &str| line.split_whitespace().skip(1).map(str::to_owned).collect();
    let devices: Vec<Vec<String>> = seen.lines().map(device).collect();
    assert_eq!(devices[0][..3], ["disk", "LAB", "DISK"], "{seen}");
    assert_eq!(devices[0][4..], ["/dev/sda", "1.07GB"], "{seen}");
    assert_eq!(devices[1][..3], ["cd/dvd", "LAB", "CD"], "{seen}");
    Ok(())
}

#[test]
fn scripts_files_and_tasks_in_a_guest() -> Result<(), Error> {
    let guest = Guest::builder().cpus(1).memory(512).boot()?;

    let output = guest.run("echo out; echo err >&2; exit 3")?;
    assert_eq!((output.status, output.stdout().as_str()), (3, "out\n"));
    assert_eq!(output.stderr(), "err\n");
    assert_eq!(guest.run_within(Duration::from_secs(1), "sleep 30")?.status, 124);
    assert!(matches!(guest.pull("/nowhere"), Err(Error::Script { status: 1, .. })));

    let data: Vec<u8> = (0..3_000_000_u32).map(|number| number.to_le_bytes()[1]).collect();
    guest.push("/tmp/data", 0o640, &data)?;
    let seen = guest.run("stat --format='%a %s' /tmp/data")?.stdout_if_ok()?;
    assert_eq!(seen, "640 3000000\n");
    assert!(guest.pull("/tmp/data")? == data, "a file came back with other bytes");

    let task = guest.start("until [ -e /tmp/go ]; do sleep 0.1; done; echo gone; exit 7")?;
    assert_eq!(task.poll(&guest)?, None);
    guest.run("touch /tmp/go")?;
    let output = task.wait(&guest, MINUTE)?;
    assert_eq!((output.status, output.stdout().as_str()), (7, "gone\n"));

    assert!(guest.shut_down()?.success());
    Ok(())
}

#[test]
fn a_folder_shared_with_a_guest() -> Result<(), Error> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("question"), "6 7").unwrap();
    let guest = Guest::builder().shared_folder(folder.path()).boot()?;
    guest.run("read -r a b </job/question; echo $((a * b)) >/job/answer")?.stdout_if_ok()?;
    assert_eq!(fs::read_to_string(folder.path().join("answer")).unwrap(), "42\n");
    Ok(())
}

#[test]
fn a_guest_lives_on_in_another_qemu() -> Result<(), Error> {
    let source = Guest::builder().boot()?;
    let destination = Guest::builder().incoming().boot()?;
    let task = source.start("echo counting; sleep 3; cat /proc/sys/kernel/random/boot_id")?;
    let boot_id = source.pull("/proc/sys/kernel/random/boot_id")?;

    let folder = tempfile::tempdir().unwrap();
    let uri = format!("unix:{}", folder.path().join("migration").display());
    destination.qmp("migrate-set-capabilities", events())?;
    source.qmp("migrate-set-capabilities", events())?;
    destination.qmp("migrate-incoming", json!({ "uri": uri }))?;
    source.qmp("migrate", json!({ "uri": uri }))?;
    while destination.wait_event("MIGRATION", MINUTE)?["status"] != "completed" {}
    drop(source);

    let output = task.wait(&destination, MINUTE)?;
    assert_eq!(output.stdout, [b"counting\n", boot_id.as_slice()].concat());
    Ok(())
}

fn events() -> serde_json::Value {
    json!({ "capabilities": [{ "capability": "events", "state": true }] })
}

#[test]
fn every_qemu_boots_from_a_scsi_disk() -> Result<(), Error> {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("root.img");
    Machine::ensure()?.copy_root_image(&image)?;
    for version in Version::ALL {
        let guest = Guest::builder()
            .qemu(version)
            .root(Root::Attached)
            .args(["-device", "virtio-scsi-pci"])
            .args(["-drive", &format!("if=none,id=root,format=raw,file={}", image.display())])
            .args(["-device", "scsi-hd,drive=root"])
            .boot()?;
        let root = guest.run("findmnt --noheadings --output SOURCE,OPTIONS /")?.stdout_if_ok()?;
        assert!(root.starts_with("/dev/sda "), "{version:?}: {root}");
        let number = guest.qmp("query-version", json!({}))?["qemu"].take();
        eprintln!("{version:?}: QEMU {}.{}", number["major"], number["minor"]);
    }
    Ok(())
}

#[test]
fn a_guest_that_can_not_start_says_why() {
    let Err(Error::Ended { log, .. }) = Guest::builder().args(["-device", "nonsense"]).boot()
    else {
        panic!("a guest booted with a device that does not exist");
    };
    assert!(log.contains("nonsense"), "{log}");
}

#[test]
fn a_reset_is_told_from_a_panic() -> Result<(), Error> {
    let ends_by = |key: char| {
        let guest = Guest::builder().boot()?;
        guest.run(&format!("echo {key} >/proc/sysrq-trigger"))
    };
    let Err(Error::Reset { log, .. }) = ends_by('b') else { panic!("not reset") };
    assert!(log.contains("guest-reset"), "{log}");
    // Its first lines may be further up than what an error quotes.
    let Err(Error::Ended { log, .. }) = ends_by('c') else { panic!("did not panic") };
    assert!(log.contains("guest-reset"), "{log}");
    Ok(())
}

#[test]
fn a_guest_outlives_the_thread_that_booted_it_and_ends_when_dropped() -> Result<(), Error> {
    let guest = thread::spawn(|| Guest::builder().boot()).join().unwrap()?;
    assert_eq!(guest.run("hostname")?.stdout_if_ok()?, "lab\n");

    let process = format!("/proc/{}", guest.pid());
    assert!(fs::exists(&process).unwrap());
    drop(guest);
    assert!(!fs::exists(&process).unwrap());
    Ok(())
}

#[test]
fn a_program_that_ends_before_it_listens() {
    let error = spawn_listening(Command::new("true"), Path::new("/nowhere/socket")).unwrap_err();
    let said = error.to_string();
    assert_eq!(said, "true does not listen on /nowhere/socket: it ended (exit status: 0)");
}
