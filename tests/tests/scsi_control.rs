//! The control socket of a real vhost-scsi process, and `vhost-scsi ctl`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use lab::{Error, Qmp, Scsi, make};
use serde_json::{Value, json};

fn connect(scsi: &Scsi) -> Result<UnixStream, Error> {
    UnixStream::connect(scsi.control())
        .map_err(|source| Error::Io { what: "no control socket".into(), source })
}

fn units(scsi: &Scsi) -> Result<Vec<Value>, Error> {
    let text = scsi.ctl(&["list", "--json"])?;
    Ok(serde_json::from_str(&text).expect("JSON"))
}

fn refusal(scsi: &Scsi, words: &[&str]) -> Result<String, Error> {
    let output = scsi.try_ctl(words)?;
    assert_eq!(output.status.code(), Some(1), "{words:?}");
    let text = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    assert_eq!(text.lines().count(), 1, "{text}");
    Ok(text)
}

/// What clients changed is as it was when the process that serves was killed, by the file that they
/// passed, not by its name.
#[test]
fn changes_outlive_the_process() -> Result<(), Error> {
    let scsi = Scsi::new()?.disk(1 << 20, "")?.disk(1 << 20, "")?;
    let scsi = scsi.arg("--cdrom").arg("empty").start()?;
    let (disk, iso) = (scsi.folder().join("added.img"), scsi.folder().join("a.iso"));
    make(&disk, 3 << 20)?;
    make(&iso, 8 << 20)?;
    scsi.ctl(&["add", "--disk", &format!("{},serial=NEW", disk.display())])?;
    scsi.ctl(&["load", "2:0", &iso.display().to_string()])?;
    scsi.ctl(&["remove", "1:0"])?;
    let named = |unit: &Value| (unit["target"].clone(), unit["path"].clone(), unit["size"].clone());
    let before: Vec<_> = units(&scsi)?.iter().map(named).collect();
    assert_eq!(before.len(), 3);

    fs::rename(&disk, scsi.folder().join("elsewhere")).expect("a folder of our own");
    for _ in 0..2 {
        scsi.kill_serving()?;
        let after: Vec<_> = units(&scsi)?.iter().map(named).collect();
        assert_eq!(after, before);
    }
    Ok(())
}

#[test]
fn people_see_and_change_units() -> Result<(), Error> {
    let scsi = Scsi::new()?.disk(1 << 20, "")?.arg("--cdrom").arg("empty").start()?;
    let mode = fs::metadata(scsi.control()).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let iso = scsi.folder().join("a,b.iso");
    make(&iso, 8 << 20)?;
    let (iso_name, iso) = (iso.display().to_string(), iso.display().to_string().replace(',', ",,"));

    let list = scsi.ctl(&["list"])?;
    let lines: Vec<&str> = list.lines().collect();
    assert!(lines[0].starts_with("UNIT  KIND   SIZE   ACCESS"), "{list}");
    assert!(lines[1].starts_with("0:0   disk   1 MiB  read-write  /"), "{list}");
    assert_eq!(lines[2], "1:0   cdrom  -      -           (empty)");

    // A medium: in, locked in by nobody, and out.
    scsi.ctl(&["load", "1:0", &iso])?;
    assert_eq!(units(&scsi)?[1]["path"], json!(iso_name));
    assert_eq!(units(&scsi)?[1]["size"], 8 << 20);
    scsi.ctl(&["eject", "1:0"])?;
    assert_eq!(units(&scsi)?[1]["tray-open"], true);
    assert!(scsi.ctl(&["list"])?.contains("(tray open)"));

    // A disk: its size, and itself.
    assert_eq!(scsi.ctl(&["resize", "0:0", "2M"])?, "0:0 has 2097152 bytes\n");
    assert!(refusal(&scsi, &["resize", "0:0", "1M"])?.contains("must be said"));
    assert_eq!(scsi.ctl(&["resize", "0:0", "1M", "--shrink"])?, "0:0 has 1048576 bytes\n");
    let added = scsi.folder().join("added.img");
    make(&added, 1 << 20)?;
    let text = format!("{},target=0,serial=NEW", added.display());
    assert_eq!(scsi.ctl(&["add", "--disk", &text, "--cdrom", "empty"])?, "0:1\n2:0\n");
    scsi.ctl(&["remove", "0:1"])?;
    assert_eq!(scsi.ctl(&["add", "--disk", &text])?, "0:1\n", "its address is free again");
    assert_eq!(units(&scsi)?.len(), 4);

    // One sentence, and the exit code 1.
    assert!(refusal(&scsi, &["remove", "7:1"])?.ends_with("7:1: there is no such unit"));
    assert!(refusal(&scsi, &["eject", "0:0"])?.ends_with("0:0: it is no CD or DVD drive"));
    assert!(refusal(&scsi, &["resize", "2:0"])?.contains("no image whose size"));
    assert!(refusal(&scsi, &["resize", "0:0", "1000"])?.contains("no whole number of 512"));
    assert!(refusal(&scsi, &["resize", "0:0", "9000000T"])?.contains("File too large"));
    assert!(refusal(&scsi, &["add", "--disk", "/nonexistent"])?.contains("cannot be opened"));
    assert!(refusal(&scsi, &["add", "--disk", "/x,lnu=1"])?.contains("there is no lnu="));
    let taken = format!("{},target=0,lun=1", added.display());
    assert!(refusal(&scsi, &["add", "--disk", &taken])?.contains("is taken"));
    assert!(refusal(&scsi, &["add", "--passthrough", "/dev/null"])?.contains("no SCSI commands"));
    let again = added.display().to_string();
    assert!(refusal(&scsi, &["add", "--disk", &again])?.contains("target 0 lun 1 has it too"));
    assert!(refusal(&scsi, &["load", "2:0", &again])?.contains("target 0 lun 1 has it too"));
    assert_eq!(scsi.ctl(&["add", "--cdrom", &iso])?, "3:0\n", "readers may be many");
    let empty = scsi.folder().join("empty.iso");
    make(&empty, 0)?;
    let empty = empty.display().to_string();
    assert!(refusal(&scsi, &["load", "2:0", &empty])?.contains("0 bytes are no whole number"));
    assert!(refusal(&scsi, &["add", "--cdrom", &empty])?.contains("0 bytes are no whole number"));
    assert!(refusal(&scsi, &["remove", "7"])?.contains("write it as TARGET:LUN"));
    assert!(refusal(&scsi, &["add", "--dsk", "/x"])?.contains("'--dsk'"));
    assert!(refusal(&scsi, &["resize"])?.contains("<TARGET:LUN>"));
    Ok(())
}

#[test]
fn a_folder_stands_for_the_images_in_it() -> Result<(), Error> {
    let scsi = Scsi::new()?;
    let folder = scsi.folder().join("images");
    fs::create_dir(&folder).expect("a folder");
    for number in 0..300 {
        make(&folder.join(format!("{number:03}.img")), 1 << 20)?;
    }
    let scsi = scsi.arg("--disk").arg(format!("{},readonly,target=5", folder.display())).start()?;
    let seen = units(&scsi)?;
    assert_eq!(seen.len(), 300);
    for (number, unit) in seen.iter().enumerate() {
        assert_eq!((&unit["target"], &unit["lun"]), (&json!(5), &json!(number)));
        assert_eq!(unit["read-only"], true);
        assert!(unit["path"].as_str().unwrap_or("").ends_with(&format!("{number:03}.img")));
    }
    let text = format!("{},readonly", folder.display());
    let added = scsi.ctl(&["add", "--disk", &text])?;
    assert_eq!(added.lines().next(), Some("0:0"));
    assert_eq!(added.lines().last(), Some("0:299"));
    Ok(())
}

#[test]
fn programs_pass_paths_or_descriptors() -> Result<(), Error> {
    let scsi = Scsi::new()?.disk(1 << 20, "")?.start()?;
    let added = scsi.folder().join("added.img");
    make(&added, 1 << 20)?;
    let mut qmp = Qmp::new(connect(&scsi)?)?;
    let commands = qmp.execute("query-commands", json!({}))?.to_string();
    for name in ["quit", "unit-add", "query-stats"] {
        assert!(commands.contains(name), "{commands}");
    }
    // In its sandbox the process opens nothing, whether it is there or not.
    for path in [added.display().to_string(), String::from("/nonexistent")] {
        let refused = qmp.execute("unit-add", json!({ "disk": path }));
        let refused = refused.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(refused.contains("pass a descriptor, or use vhost-scsi ctl"), "{refused}");
    }
    let free = Scsi::new()?.disk(1 << 20, "")?.arg("--sandbox=off").start()?;
    let mut unconfined = Qmp::new(connect(&free)?)?;
    let disk = json!({ "disk": added.display().to_string() });
    assert_eq!(unconfined.execute("unit-add", disk)?, json!({ "target": 1, "lun": 0 }));
    unconfined.execute("unit-remove", json!({ "target": 1, "lun": 0 }))?;
    for (name, arguments) in [
        ("unit-add", json!({ "disc": "/x" })),
        ("unit-add", json!({})),
        ("unit-add", json!({ "disk": "/x", "fds": 1 })),
        ("unit-remove", json!({ "target": 256, "lun": 0 })),
        ("unit-remove", json!({ "target": 0, "lun": 16384 })),
        ("unit-remove", json!({ "target": 0 })),
        ("query-units", json!({ "all": true })),
        ("medium-load", json!({ "target": 0, "lun": 0, "medium": "empty" })),
    ] {
        assert!(qmp.execute(name, arguments.clone()).is_err(), "{name} {arguments}");
    }
    let stats = qmp.execute("query-stats", json!({}))?;
    assert_eq!(stats[0]["statistics"]["reads"], 0);
    Ok(())
}

#[test]
fn hostile_clients_harm_nobody() -> Result<(), Error> {
    let scsi = Scsi::new()?.disk(1 << 20, "")?.start()?;
    let mut good = Qmp::new(connect(&scsi)?)?;
    // One that stalls in the middle, one that does not read, one that sends garbage without end.
    let mut stalled = connect(&scsi)?;
    stalled.write_all(b"{\"execute\": \"qmp_").expect("sent");
    let mut deaf = connect(&scsi)?;
    deaf.set_nonblocking(true).expect("nonblocking");
    let command = b"{\"execute\":\"qmp_capabilities\"}{\"execute\":\"query-units\"}".repeat(64);
    while deaf.write(&command).is_ok() {}
    let mut garbage = connect(&scsi)?;
    garbage.set_write_timeout(Some(Duration::from_secs(1))).expect("a time-out");
    let noise: Vec<u8> = (0..=255).collect();
    for _ in 0..1000 {
        if garbage.write_all(&noise).is_err() {
            break;
        }
    }
    // One after the other that hangs up at once, and one that sends too much.
    for _ in 0..200 {
        drop(connect(&scsi)?);
    }
    let mut flood = connect(&scsi)?;
    let sent = (0..100).try_for_each(|_| flood.write_all(&[b'{'; 4096]));
    let mut lines = BufReader::new(flood).lines();
    let last = std::iter::from_fn(|| lines.next()?.ok()).last().unwrap_or_default();
    assert!(sent.is_err() || last.contains("may have 65536 bytes"), "{last}");

    let seen = good.execute("query-units", json!({}))?;
    assert_eq!(seen.as_array().map(Vec::len), Some(1));
    assert_eq!(units(&scsi)?.len(), 1);
    Ok(())
}

#[test]
fn a_client_ends_the_process() -> Result<(), Error> {
    let mut scsi = Scsi::new()?.disk(1 << 20, "")?.start()?;
    Qmp::new(connect(&scsi)?)?.execute("quit", json!({}))?;
    assert!(scsi.wait(Duration::from_secs(10))?, "it ends, with success");
    assert!(!scsi.control().exists() && !scsi.socket().exists());
    assert!(refusal(&scsi, &["list"])?.contains("cannot be reached"));
    Ok(())
}
