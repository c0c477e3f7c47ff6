//! vhost-sound in stock guests.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lab::{Error, Guest, Host, Kernel, Process, Shell, Version, program, spawn_listening};

const MINUTES: fn(u64) -> Duration = |minutes| Duration::from_secs(60 * minutes);

/// The process that serves is killed while the guest plays.
const KILL: &str =
    "sleep 3; for i in 1 2 3; do kill -9 $(pgrep -n -x vhost-sound) && sleep 1; done";

/// The card is there, and plays what it is given. A driver that waits for a second without a processor of its own
/// gives a request up, and is asked again.
const PLAY: &str = "set -e
modprobe virtio_snd
for i in $(seq 50); do [ -e /proc/asound/card0/pcm0p ] && break; sleep 0.2; done
seq 200000 | head -c 768000 >/tmp/played
for i in 1 2 3; do
    aplay -q -D hw:0,0 -t raw -f S16_LE -c 2 -r 48000 --period-size=4800 --buffer-size=19200 /tmp/played && exit
done
exit 1";

/// What that plays, four seconds of it.
fn played() -> Vec<u8> {
    let mut text: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    text.truncate(768_000);
    text.into_bytes()
}

/// Waits for an event of the mixer's, and says when it listens.
const LISTEN: &str = "stdbuf -oL timeout 60 amixer -c 0 events >/tmp/events &
for i in $(seq 50); do grep -q Ready /tmp/events && exit; sleep 0.2; done
exit 1";
const HEARD: &str =
    "for i in $(seq 50); do grep 'Master Playback Volume' /tmp/events && exit; sleep 0.2; done
cat /tmp/events; exit 1";

/// A guest of QEMU's, with a card that plays to a file, and what the device is told besides.
fn guest_of_qemus(folder: &Path, card: &str, device: &str) -> Result<(Process, Guest), Error> {
    let socket = folder.join("s");
    let mut command = Command::new(program("vhost-sound")?);
    let backend = format!("speaker,backend=raw:{}", folder.join("raw").display());
    command.arg("--socket-path").arg(&socket).arg("--playback").arg(backend);
    command.args(["--capture", "mic,backend=tone"]).args(card.split_whitespace());
    let card = spawn_listening(command, &socket)?;
    let chardev = format!("socket,id=snd0,path={}", socket.display());
    let guest = Guest::builder().qemu(Version::Backports).kernel(Kernel::Backports);
    let guest = guest.args(["-chardev".to_owned(), chardev]);
    let device = format!("vhost-user-snd-pci,chardev=snd0{device}");
    Ok((card, guest.args(["-device", &device]).boot()?))
}

#[test]
fn a_guest_of_qemus_plays_to_a_file() -> Result<(), Error> {
    let folder = tempfile::tempdir().unwrap();
    let (_card, guest) = guest_of_qemus(folder.path(), "", "")?;
    let file = folder.path().join("raw");
    guest.run_within(MINUTES(2), PLAY)?.stdout_if_ok()?;
    let mixer = guest.run("amixer -c 0 contents")?.stdout_if_ok()?;
    assert!(mixer.contains("Speaker Jack") && mixer.contains("Mic Jack"), "{mixer}");
    assert!(!mixer.contains("Volume"), "{mixer}");
    // What stands in the ring behind the end may be played before the driver stops the stream.
    let (file, played) = (std::fs::read(&file).unwrap(), played());
    assert!(file.windows(played.len()).any(|part| part == played), "{} bytes", file.len());
    Ok(())
}

#[test]
fn a_guest_of_qemus_has_volumes_if_both_sides_say_so() -> Result<(), Error> {
    let folder = tempfile::tempdir().unwrap();
    let (_card, guest) = guest_of_qemus(folder.path(), "--controls", ",controls=on")?;
    guest.run_within(MINUTES(2), PLAY)?.stdout_if_ok()?;
    let mixer = guest.run("amixer -c 0 contents")?.stdout_if_ok()?;
    for part in [
        "name='Master Playback Volume'",
        "name='Mic Capture Switch'",
        "type=INTEGER,access=rw---R--,values=2,min=0,max=100,step=1",
        "dBscale-min=-60.00dB,step=0.60dB,mute=1",
    ] {
        assert!(mixer.contains(part), "{part}: {mixer}");
    }
    // At its loudest it was as it was given, and off it is nothing.
    let (file, played) = (std::fs::read(folder.path().join("raw")).unwrap(), played());
    assert!(file.windows(played.len()).any(|part| part == played), "{} bytes", file.len());
    guest.run("amixer -c 0 sset Master 50% off")?.stdout_if_ok()?;
    guest.run_within(MINUTES(2), PLAY)?.stdout_if_ok()?;
    let file = std::fs::read(folder.path().join("raw")).unwrap();
    assert!(file.ends_with(&vec![0; played.len()]), "{} bytes", file.len());
    Ok(())
}

#[test]
fn a_guest_of_vmm_frontends_plays_and_outlives_kills() -> Result<(), Error> {
    Host::test(|| {
        let host = Host::boot(|builder| builder)?;
        let streams = "--sound playback=speaker,backend=raw:/tmp/raw \
            --sound capture=line-in,backend=tone --sound controls --sound-control /run/sound.ctl";
        let guest = host.boot_vmm_guest(Kernel::Backports, "", streams)?;
        let ctl = |words: &str| {
            let line = format!("/job/vhost-sound ctl --control /run/sound.ctl {words}");
            host.guest().run(&line)?.stdout_if_ok()
        };
        let kills = host.guest().start(KILL)?;
        guest.run_within(MINUTES(2), PLAY)?.stdout_if_ok()?;
        kills.wait(host.guest(), MINUTES(1))?.stdout_if_ok()?;
        // What was under way may be there twice.
        let size = host.guest().run("stat -c %s /tmp/raw")?.stdout_if_ok()?;
        assert!(size.trim().parse::<usize>().unwrap() >= played().len(), "{size}");
        let jacks = guest.run("amixer -c 0 contents | grep -A2 'Line Jack'")?.stdout_if_ok()?;
        assert!(jacks.contains("values=on"), "{jacks}");
        ctl("jack line-in out")?;
        let jacks = guest.run("amixer -c 0 contents | grep -A2 'Line Jack'")?.stdout_if_ok()?;
        assert!(jacks.contains("values=off"), "{jacks}");
        // What the guest sets is seen by the host, and outlives a kill.
        guest
            .run("amixer -c 0 sset Master 70%,60% && amixer -c 0 sset Line nocap")?
            .stdout_if_ok()?;
        host.guest().run("kill -9 $(pgrep -n -x vhost-sound) && sleep 1")?.stdout_if_ok()?;
        let list = ctl("list")?;
        assert!(list.contains("70% 60%") && list.contains("100%"), "{list}");
        let line = guest.run("amixer -c 0 sget Line")?.stdout_if_ok()?;
        assert!(line.contains("[off]"), "{line}");
        // And the other way round: whoever looks at the mixer is told.
        guest.run(LISTEN)?.stdout_if_ok()?;
        ctl("volume speaker 30%")?;
        ctl("volume speaker mute")?;
        guest.run(HEARD)?.stdout_if_ok()?;
        let master = guest.run("amixer -c 0 sget Master")?.stdout_if_ok()?;
        assert!(master.contains("30 [30%] [-42.00dB] [off]"), "{master}");
        Ok(())
    })
}
