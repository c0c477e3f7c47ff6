use std::os::fd::OwnedFd;

use super::*;
use crate::controller::host::Kind;

fn plugged(texts: &[&str]) -> (Devices, Result<(), String>) {
    let host = Host::new(Kind::default()).unwrap();
    let devices = Devices::new(Arc::new(Mutex::new(host)));
    let mut all = texts.iter();
    let result = all.try_for_each(|text| devices.plug(text, None).map(drop));
    (devices, result.map_err(|error| error.to_string()))
}

fn said(texts: &[&str]) -> String {
    plugged(texts).1.err().unwrap_or_default()
}

fn ports(devices: &Devices) -> Vec<String> {
    devices.list().iter().map(|(path, _)| path.to_string()).collect()
}

#[test]
fn devices_get_ports_in_order_or_as_they_want() {
    let texts = ["kbd", "mouse,port=3", "tablet", "hub,ports=2", "kbd,port=4.2", "hub,port=4.1"];
    let (devices, result) = plugged(&texts);
    assert_eq!(result, Ok(()));
    let taken: Vec<bool> =
        (0..6).map(|port| devices.host().ports().device(port).is_some()).collect();
    assert_eq!(taken, [true, true, true, true, false, false]);
    assert_eq!(ports(&devices), ["1", "2", "3", "4", "4.1", "4.2"]);
    assert_eq!(devices.list()[3].1, "hub,ports=2");
}

#[test]
fn what_is_behind_a_hub_goes_with_it() {
    let (devices, result) =
        plugged(&["kbd", "hub", "kbd,port=2.2", "hub,port=2.1", "mouse,port=2.1.4"]);
    assert_eq!(result, Ok(()));
    let motion = [Event::Rel { axis: inputs::Axis::X, value: 1 }];
    assert_eq!(devices.send(&motion), Ok(()));
    let at = |text| Path::parse(text).unwrap();
    assert!(!devices.unplug(&at("2.3")) && !devices.unplug(&at("5")));
    assert!(devices.unplug(&at("2.1")));
    assert_eq!(ports(&devices), ["1", "2", "2.2"]);
    assert_eq!(devices.send(&motion), Err(InputError::Nobody("mouse")));
    assert!(devices.unplug(&at("2")));
    assert_eq!(ports(&devices), ["1"]);
    assert!(devices.host().ports().device(1).is_none());
    assert_eq!(devices.plug("tablet", None).unwrap(), at("2"));
    let missing = devices.plug("kbd,port=2.1", None).unwrap_err().to_string();
    assert_eq!(missing, "--device kbd,port=2.1: there is no port 2.1");
}

#[allow(clippy::unnecessary_wraps)]
fn descriptor(fd: impl Into<OwnedFd>) -> Option<Passed> {
    Some(Passed::Descriptors(vec![fd.into()]))
}

#[test]
fn descriptors_are_for_those_who_need_them() {
    let (devices, _) = plugged(&[]);
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let kept = theirs.try_clone().unwrap();
    devices.plug("serial,unix=/nowhere", descriptor(theirs)).unwrap();
    let error = devices.plug("kbd", descriptor(kept)).unwrap_err().to_string();
    assert_eq!(error, "--device kbd: it takes no descriptor");
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let error = devices.plug("host,match=1234:5678", descriptor(socket)).unwrap_err();
    assert!(matches!(error, DeviceError::Physical(..)), "{error}");
    let any = tempfile::tempfile().unwrap();
    let error = devices.plug("host,match=1", descriptor(any)).unwrap_err();
    assert!(matches!(error, DeviceError::Value(_, "match", _)), "{error}");
    devices.plug("storage,file=/any,,where", descriptor(file)).unwrap();
    drop(ours);
}

#[test]
fn a_serial_port_whose_peer_is_not_there_keeps_nobody_from_serving() {
    assert_eq!(said(&["serial,unix=/nowhere"]), "");
    assert_eq!(connects_to("serial,unix=/a"), Some(Place::Unix("/a".into())));
    assert_eq!(connects_to("serial,unix=/a,server=on"), None);
}

#[test]
fn a_terminal_is_found_by_its_link() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("serial");
    let text = format!("serial,pty={}", link.display());
    let made = [1, 2].map(|_| {
        assert_eq!(said(&[&text]), "");
        std::fs::read_link(&link).unwrap()
    });
    assert!(made.iter().all(|name| name.starts_with("/dev/pts")), "{made:?}");
    clean_up(&text);
    assert!(!link.is_symlink());
    std::fs::write(&link, "precious").unwrap();
    clean_up(&text);
    assert!(link.exists());
}

#[test]
fn a_serial_port_is_passed_what_its_text_says() {
    let folder = tempfile::tempdir().unwrap();
    let text = |what: &str| format!("serial,{what}").replace('@', folder.path().to_str().unwrap());
    let (devices, _) = plugged(&[]);
    let pass = |open: &str, plug: &str| {
        let (_, fds) = passed::open(&text(open)).unwrap();
        let plugged = devices.plug(plug, Passed::descriptors(fds));
        let plugged = plugged.map(|path| devices.unplug(&path));
        plugged.err().map(|error| error.to_string()).unwrap_or_default()
    };
    let listening = "unix=@/socket,server=on";
    assert_eq!(pass(listening, "serial,unix=a,server=on"), "");
    let said = "--device serial,unix=a: what is passed listens, which is for server=on";
    assert_eq!(pass(listening, "serial,unix=a"), said);
    let _listener = std::os::unix::net::UnixListener::bind(folder.path().join("peer")).unwrap();
    assert_eq!(pass("unix=@/peer", "serial,unix=a"), "");
    let said = "--device serial,unix=a,server=on: what is passed does not listen";
    assert_eq!(pass("unix=@/peer", "serial,unix=a,server=on"), said);
    assert_eq!(pass("pty=@/link", "serial,pty=a"), "");
    let said = "--device serial,pty=a: what is passed is no pseudo-terminal's master";
    assert_eq!(pass("unix=@/peer", "serial,pty=a"), said);
    let said = "--device serial,unix=a: what is passed is no stream socket";
    assert_eq!(pass("pty=@/link", "serial,unix=a"), said);
}

#[test]
fn audio_is_written_as_vhost_sound_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let text = |what: &str| format!("audio,{what}").replace('@', folder.path().to_str().unwrap());
    for fits in [
        "playback=speaker",
        "speed=full,capture=mic,backend=tone,rates=44100:48000",
        "playback=headphone,backend=raw:@/a,,b,channels=2,capture=line-in,backend=tone",
        "capture=mic,backend=loopback,playback=line-out,backend=loopback,speed=high",
    ] {
        assert_eq!(said(&[&text(fits)]), "", "{fits}");
    }
    assert!(folder.path().join("a,b").exists());
    assert!(needs_descriptor(&text("playback=speaker,backend=wav:/a")));
    assert!(!needs_descriptor(&text("playback=speaker")));
}

/// A WAV file with samples of 8 bits, of which there are none.
const WAV_U8: &[u8] =
    b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x40\x1f\0\0\x01\0\x08\0data\0\0\0\0";

#[test]
fn audio_is_passed_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let text = |what: &str| format!("audio,{what}").replace('@', folder.path().to_str().unwrap());
    let (devices, _) = plugged(&[]);
    std::fs::write(folder.path().join("heard"), [1; 100]).unwrap();
    let both = text("capture=mic,backend=raw:@/heard,playback=speaker,backend=wav:@/played");
    let (passed, fds) = passed::open(&both).unwrap();
    assert_eq!((&passed, fds.len()), (&both, 2));
    std::fs::remove_file(folder.path().join("heard")).unwrap();
    devices.plug(&both, Passed::descriptors(fds)).unwrap();
    let null = text("capture=mic");
    assert_eq!(passed::open(&null).unwrap().1.len(), 0);
    let once = passed::open_once(&null).unwrap();
    assert!(matches!(&once, Some(Passed::Streams(opened)) if opened.len() == 1));
    devices.plug(&null, once).unwrap();
    assert!(passed::open_once("kbd").unwrap().is_none());
    let (_, fds) = passed::open(&text("playback=speaker,backend=raw:@/played")).unwrap();
    let error = devices.plug(&both, Passed::descriptors(fds)).unwrap_err().to_string();
    assert!(error.ends_with("/heard cannot be used: it was not passed"), "{error}");
    std::fs::write(folder.path().join("played"), [1; 100]).unwrap();
    std::fs::write(folder.path().join("u8"), WAV_U8).unwrap();
    let wrong = text("playback=speaker,backend=raw:@/played,capture=mic,backend=wav:@/u8");
    let error = passed::open(&wrong).unwrap_err().to_string();
    assert!(
        error.ends_with("/u8 cannot be used: it has U8, where the stream has S16_LE"),
        "{error}"
    );
    assert_eq!(said(&[&wrong]), error);
    let twice = text("playback=speaker,backend=raw:@/played,capture=mic,backend=raw:@/played");
    assert!(passed::open(&twice).is_err());
    assert_eq!(std::fs::read(folder.path().join("played")).unwrap().len(), 100, "it is as it was");
    let error = passed::open(&text("playback=speaker,backend=raw:@/none/at")).unwrap_err();
    assert!(error.to_string().contains("/none/at cannot be used: No such file"), "{error}");
}

#[test]
fn what_cannot_be_is_said() {
    let missing = "--device storage nowhere: cannot be opened for writing: No such file or \
                   directory (os error 2)";
    for (text, sentence) in [
        (
            "stick",
            "--device stick: there is no such kind, only storage, kbd, mouse, tablet, hub, \
             serial, audio, gadget-zero, host",
        ),
        (
            "kbd,colour=red",
            "--device kbd,colour=red: colour= is unknown to it; there are port, speed",
        ),
        ("kbd,speed=super", "--device kbd,speed=super: speed= must be full or high"),
        (
            "storage,file=x,media=tape",
            "--device storage,file=x,media=tape: media= must be disk, cdrom or passthrough",
        ),
        (
            "storage,file=x,media=passthrough",
            "--device storage x: cannot be opened: No such file or directory (os error 2)",
        ),
        ("storage,file=nowhere", missing),
        ("hub,ports=9", "--device hub,ports=9: ports= must be a number from 1 to 8"),
        ("kbd,port=7", "--device kbd,port=7: there is no port 7"),
        ("kbd,port=1.1", "--device kbd,port=1.1: there is no port 1.1"),
        (
            "kbd,port=0",
            "--device kbd,port=0: port= must be a port's number, as 2, or 2.1 behind a hub",
        ),
        (
            "gadget-zero,mode=x",
            "--device gadget-zero,mode=x: mode= must be source-sink or loopback",
        ),
        (
            "host,match=1",
            "--device host,match=1: match= must be VENDOR:PRODUCT in hexadecimal digits, \
             BUS.ADDRESS, BUS-PORT[.PORT…], or class=CLASS in hexadecimal digits",
        ),
        (
            "audio",
            "--device audio: it has one stream to play to, or one to record from, or one of each",
        ),
        (
            "audio,backend=tone,capture=mic",
            "--device audio,backend=tone,capture=mic: it has one stream to play to, or one to record \
             from, or one of each",
        ),
        (
            "audio,capture=mic,capture=cd",
            "--device audio,capture=mic,capture=cd: it has one stream to play to, or one to record \
             from, or one of each",
        ),
        ("audio,playback=mic", "--device audio,playback=mic: mic is a jack for capture"),
        (
            "audio,capture=mic,channels=3",
            "--device audio,capture=mic,channels=3: it has one or two channels",
        ),
        (
            "audio,capture=mic,rates=96000",
            "--device audio,capture=mic,rates=96000: it has no rate from 8000 to 48000",
        ),
        (
            "audio,capture=mic,backend=alsa",
            "--device audio,capture=mic,backend=alsa: backend= must be null, tone, wav:PATH, raw:PATH or \
             loopback",
        ),
        (
            "audio,capture=mic,backend=loopback",
            "--device audio,capture=mic,backend=loopback: backend=loopback stands behind playback= and \
             capture= both",
        ),
        ("serial", "--device serial: it must have one of pty=LINK and unix=PATH"),
        (
            "serial,pty=a,unix=b",
            "--device serial,pty=a,unix=b: it must have one of pty=LINK and unix=PATH",
        ),
        (
            "serial,pty=a,server=on",
            "--device serial,pty=a,server=on: server= must be on, beside unix=PATH, or off",
        ),
        ("serial,pty=", "--device serial,pty=: pty= must be the path of a symbolic link to make"),
        ("serial,unix=", "--device serial,unix=: unix= must be a socket's path"),
        (
            "serial,unix=/nowhere/a,server=on",
            "--device serial,unix=/nowhere/a,server=on: No such file or directory (os error 2)",
        ),
        (
            "serial,pty=/dev/null",
            "--device serial,pty=/dev/null: pty=: there is a file that is not a symbolic link, \
             remove it or choose another path",
        ),
        (
            "serial,pty=/nowhere/a",
            "--device serial,pty=/nowhere/a: pty=: the link cannot be made there: No such file or \
             directory (os error 2)",
        ),
    ] {
        assert_eq!(said(&[text]), sentence);
    }
    assert_eq!(said(&["kbd", "mouse,port=1"]), "--device mouse,port=1: port 1 is taken");
    assert_eq!(
        said(&["hub", "kbd,port=1.4", "kbd,port=1.4"]),
        "--device kbd,port=1.4: port 1.4 is taken"
    );
    assert_eq!(
        said(&["kbd"; 7]),
        "--device kbd: all ports are taken, plug a hub into one: --device hub"
    );
    let hubs = ["hub", "hub,port=1.1", "hub,port=1.1.1", "hub,port=1.1.1.1", "hub,port=1.1.1.1.1"];
    assert_eq!(said(&hubs), "");
    let deep = "hub,port=1.1.1.1.1.1.1";
    assert_eq!(
        said(&[&hubs[..], &["hub,port=1.1.1.1.1.1", deep]].concat()),
        format!("--device {deep}: there is no port 1.1.1.1.1.1.1")
    );
}
