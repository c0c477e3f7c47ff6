//! vhost-sound in stock guests.

use std::process::Command;
use std::time::Duration;

use lab::{Error, Guest, Host, Kernel, Shell, Version, program, spawn_listening};

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

#[test]
fn a_guest_of_qemus_plays_to_a_file() -> Result<(), Error> {
    let folder = tempfile::tempdir().unwrap();
    let (socket, file) = (folder.path().join("s"), folder.path().join("raw"));
    let mut command = Command::new(program("vhost-sound")?);
    let backend = format!("speaker,backend=raw:{}", file.display());
    command.arg("--socket-path").arg(&socket).arg("--playback").arg(backend);
    command.args(["--capture", "mic,backend=tone"]);
    let _card = spawn_listening(command, &socket)?;
    let chardev = format!("socket,id=snd0,path={}", socket.display());
    let guest = Guest::builder().qemu(Version::Backports).kernel(Kernel::Backports);
    let guest = guest.args(["-chardev".to_owned(), chardev]);
    let guest = guest.args(["-device", "vhost-user-snd-pci,chardev=snd0"]).boot()?;
    guest.run_within(MINUTES(2), PLAY)?.stdout_if_ok()?;
    let jacks = guest.run("amixer -c 0 contents")?.stdout_if_ok()?;
    assert!(jacks.contains("Speaker Jack") && jacks.contains("Mic Jack"), "{jacks}");
    // What stands in the ring behind the end may be played before the driver stops the stream.
    let (file, played) = (std::fs::read(&file).unwrap(), played());
    assert!(file.windows(played.len()).any(|part| part == played), "{} bytes", file.len());
    Ok(())
}

#[test]
fn a_guest_of_vmm_frontends_plays_and_outlives_kills() -> Result<(), Error> {
    Host::test(|| {
        let host = Host::boot(|builder| builder)?;
        let streams = "--sound playback=speaker,backend=raw:/tmp/raw \
            --sound capture=line-in,backend=tone --sound-control /run/sound.ctl";
        let guest = host.boot_vmm_guest(Kernel::Backports, "", streams)?;
        let kills = host.guest().start(KILL)?;
        guest.run_within(MINUTES(2), PLAY)?.stdout_if_ok()?;
        kills.wait(host.guest(), MINUTES(1))?.stdout_if_ok()?;
        // What was under way may be there twice.
        let size = host.guest().run("stat -c %s /tmp/raw")?.stdout_if_ok()?;
        assert!(size.trim().parse::<usize>().unwrap() >= played().len(), "{size}");
        let jacks = guest.run("amixer -c 0 contents | grep -A2 'Line Jack'")?.stdout_if_ok()?;
        assert!(jacks.contains("values=on"), "{jacks}");
        let plug_out = "/job/vhost-sound ctl --control /run/sound.ctl jack line-in out";
        host.guest().run(plug_out)?.stdout_if_ok()?;
        let jacks = guest.run("amixer -c 0 contents | grep -A2 'Line Jack'")?.stdout_if_ok()?;
        assert!(jacks.contains("values=off"), "{jacks}");
        Ok(())
    })
}
