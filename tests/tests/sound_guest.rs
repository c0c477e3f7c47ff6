//! vhost-sound in stock guests.

use std::fs;
use std::process::Command;
use std::time::Duration;

use lab::{Error, Guest, Host, Kernel, Nested, Process, Shell, Version, program, spawn_listening};
use tempfile::TempDir;
use vhost_runtime::control::client::Client;

const MINUTES: fn(u64) -> Duration = |minutes| Duration::from_secs(60 * minutes);

/// Bytes of a second of what is played.
const SECOND: usize = 192_000;

/// The card is there, and plays some seconds of numbers. The kernel gives up what waits for longer than the buffer
/// lasts, or a control request for a second, and a guest's guest is slow: so the buffer is long, and the driver is
/// asked again.
fn play(seconds: usize) -> String {
    format!(
        "set -e
        modprobe virtio_snd pcm_buffer_ms=1000
        for i in $(seq 50); do [ -e /proc/asound/card0/pcm0p ] && break; sleep 0.2; done
        seq 10000000 | head -c {} >/tmp/played
        for i in 1 2 3; do
            aplay -q -D hw:0,0 -t raw -f S16_LE -c 2 -r 48000 --period-size=4800 --buffer-size=96000 /tmp/played &&
            exit
        done
        exit 1",
        seconds * SECOND
    )
}

/// The process that serves is killed so often while the guest plays.
fn kills(times: usize) -> String {
    format!(
        "sleep 3; for i in $(seq {times}); do kill -9 $(pgrep -n -x vhost-sound) && sleep 2; done"
    )
}

/// A guest plays while it is, without being interrupted.
fn outlives_kills(host: &Host, guest: &Nested<'_>, times: usize) -> Result<(), Error> {
    let seconds = 6 + 2 * times;
    let killing = host.guest().start(&kills(times))?;
    guest.run_within(MINUTES(5), &play(seconds))?.stdout_if_ok()?;
    killing.wait(host.guest(), MINUTES(1))?.stdout_if_ok()?;
    let size = host.guest().run("stat -c %s /tmp/raw")?.stdout_if_ok()?;
    // Of each kill a part of a period may be there twice, and silence behind the end; but no second attempt.
    let (size, least) = (size.trim().parse::<usize>().unwrap(), seconds * SECOND);
    assert!((least..least + (3 + times) * SECOND).contains(&size), "{size} of {least} bytes");
    Ok(())
}

/// Waits for an event of the mixer's, and says when it listens.
const LISTEN: &str = "stdbuf -oL timeout 60 amixer -c 0 events >/tmp/events &
for i in $(seq 50); do grep -q Ready /tmp/events && exit; sleep 0.2; done
exit 1";
const HEARD: &str =
    "for i in $(seq 50); do grep 'Master Playback Volume' /tmp/events && exit; sleep 0.2; done
cat /tmp/events; exit 1";

/// A card, and a guest of QEMU's that has it.
struct Qemu {
    folder: TempDir,
    _card: Process,
    guest: Guest,
}

impl Qemu {
    /// `FOLDER` in the card's streams is one that the guest sees as `/job`. QEMU offers volumes if the card does.
    fn boot(streams: &str) -> Result<Qemu, Error> {
        let folder = tempfile::tempdir().unwrap();
        Self::boot_in(folder, streams)
    }

    fn boot_in(folder: TempDir, streams: &str) -> Result<Qemu, Error> {
        let (socket, control) = (folder.path().join("s"), folder.path().join("c"));
        let mut command = Command::new(program("vhost-sound")?);
        let streams = streams.replace("FOLDER", &folder.path().display().to_string());
        command.args(streams.split_whitespace());
        command.arg("--socket-path").arg(&socket).arg("--control").arg(control);
        let card = spawn_listening(command, &socket)?;
        let chardev = format!("socket,id=snd0,path={}", socket.display());
        let controls = if streams.contains("--controls") { ",controls=on" } else { "" };
        let device = format!("vhost-user-snd-pci,chardev=snd0{controls}");
        let boot = || {
            let guest = Guest::builder().qemu(Version::Backports).kernel(Kernel::Backports);
            let guest = guest.shared_folder(folder.path());
            guest.args(["-chardev", &chardev, "-device", &device]).boot()
        };
        // The emulated machine has lost a timer of its second processor before the guest's first process.
        let guest = match boot() {
            Err(error @ Error::Timeout { .. }) => {
                eprintln!("{error}\nonce more:");
                boot()?
            }
            booted => booted?,
        };
        guest.run_within(MINUTES(1), LOAD)?.stdout_if_ok()?;
        Ok(Qemu { folder, _card: card, guest })
    }
}

/// The driver, and its card.
const LOAD: &str = "modprobe virtio_snd
for i in $(seq 50); do [ -e /proc/asound/card0/pcm0p ] && exit; sleep 0.2; done; exit 1";

/// Numbers, each on a line: no part of it that is long enough comes twice.
fn numbers(length: usize) -> Vec<u8> {
    let mut text = String::new();
    for number in 1.. {
        if text.len() >= length {
            break;
        }
        text += &format!("{number}\n");
    }
    text.truncate(length);
    text.into_bytes()
}

/// Each kind of samples that Linux has: its name, the bytes of a frame, channels, rate.
fn kinds() -> Vec<(&'static str, u32, u32, u32)> {
    let formats = [
        ("S8", 1),
        ("U8", 1),
        ("MU_LAW", 1),
        ("A_LAW", 1),
        ("DSD_U8", 1),
        ("S16_LE", 2),
        ("U16_LE", 2),
        ("DSD_U16_LE", 2),
        ("S18_3LE", 3),
        ("U18_3LE", 3),
        ("S20_3LE", 3),
        ("U20_3LE", 3),
        ("S24_3LE", 3),
        ("U24_3LE", 3),
        ("S20_LE", 4),
        ("U20_LE", 4),
        ("S24_LE", 4),
        ("U24_LE", 4),
        ("S32_LE", 4),
        ("U32_LE", 4),
        ("FLOAT_LE", 4),
        ("DSD_U32_LE", 4),
        ("IEC958_SUBFRAME_LE", 4),
        ("FLOAT64_LE", 8),
    ];
    let formats = formats.map(|(format, sample)| (format, 2 * sample, 2, 48_000));
    let channels = (1..=8).map(|channels| ("S32_LE", 4 * channels, channels, 48_000));
    let rates = [
        5512, 8000, 11_025, 16_000, 22_050, 32_000, 44_100, 64_000, 88_200, 96_000, 176_400,
        192_000, 384_000,
    ];
    let rates = rates.map(|rate| ("S16_LE", 4, 2, rate));
    formats.into_iter().chain(channels).chain(rates).collect()
}

/// Frames of each kind that are played and recorded.
const FRAMES: u32 = 4800;

const ALL: &str = "channels=1-8,formats=MU_LAW:A_LAW:S8:U8:S16_LE:U16_LE:S18_3LE:U18_3LE:S20_3LE:U20_3LE:S24_3LE:\
U24_3LE:S20_LE:U20_LE:S24_LE:U24_LE:S32_LE:U32_LE:FLOAT_LE:FLOAT64_LE:DSD_U8:DSD_U16_LE:DSD_U32_LE:IEC958_SUBFRAME_LE,\
rates=5512:8000:11025:16000:22050:32000:44100:48000:64000:88200:96000:176400:192000:384000";

#[test]
fn samples_of_all_kinds_are_played_and_recorded_to_the_bit() -> Result<(), Error> {
    let folder = tempfile::tempdir().unwrap();
    let longest = (kinds().iter().map(|(_, frame, ..)| frame * FRAMES).max()).unwrap() as usize;
    fs::write(folder.path().join("played"), numbers(longest)).unwrap();
    let source = numbers(12 << 20);
    fs::write(folder.path().join("recorded"), &source).unwrap();
    let streams = format!(
        "--playback line-out,backend=raw:FOLDER/out,{ALL} --capture line-in,backend=raw:FOLDER/recorded,{ALL}"
    );
    let qemu = Qemu::boot_in(folder, &streams)?;
    let mut left = source.as_slice();
    for (format, frame, channels, rate) in kinds() {
        let (bytes, kind) = (frame * FRAMES, format!("{format}, {channels} channels, {rate} Hz"));
        let options = format!(
            "-t raw -D hw:0,0 -f {format} -c {channels} -r {rate} --period-size=1200 --buffer-size={FRAMES}"
        );
        let script = format!(
            "head -c {bytes} /job/played | aplay -q {options} &&
            arecord -q {options} --samples={FRAMES} /tmp/recorded"
        );
        qemu.guest.run_within(MINUTES(1), &script)?.stdout_if_ok()?;
        let recorded = qemu.guest.pull("/tmp/recorded")?;
        assert_eq!(recorded.len(), bytes as usize, "{kind}");
        // More than that stands in the ring before the driver stops the stream.
        let place = left.windows(recorded.len()).position(|part| part == recorded);
        left = &left[place.unwrap_or_else(|| panic!("{kind}: what was recorded is not there"))..];
    }
    let out = fs::read(qemu.folder.path().join("out")).unwrap();
    let mut rest = out.as_slice();
    for (format, frame, channels, rate) in kinds() {
        let played = numbers((frame * FRAMES) as usize);
        let place = rest.windows(played.len()).position(|part| part == played);
        let place =
            place.unwrap_or_else(|| panic!("{format} {channels} {rate}: {} bytes", rest.len()));
        rest = &rest[place + played.len()..];
    }
    Ok(())
}

/// What it takes for PipeWire to find the card: devices by udev, and nobody to ask for them.
const SESSION: &str = "set -e
/lib/systemd/systemd-udevd --daemon
udevadm trigger && udevadm settle
export XDG_RUNTIME_DIR=/run/user XDG_CONFIG_HOME=/tmp/config XDG_STATE_HOME=/tmp/state
mkdir -p $XDG_RUNTIME_DIR $XDG_CONFIG_HOME/wireplumber/main.lua.d $XDG_CONFIG_HOME/wireplumber/bluetooth.lua.d
cat >$XDG_CONFIG_HOME/wireplumber/main.lua.d/80-lab.lua <<END
alsa_monitor.properties[\"alsa.reserve\"] = false
v4l2_monitor.enabled = false
default_access.properties[\"enable-flatpak-portal\"] = false
END
echo 'bluez_monitor.enabled = false' >$XDG_CONFIG_HOME/wireplumber/bluetooth.lua.d/80-lab.lua
pipewire >/tmp/pipewire.log 2>&1 &
for i in $(seq 50); do [ -S $XDG_RUNTIME_DIR/pipewire-0 ] && break; sleep 0.2; done
wireplumber >/tmp/wireplumber.log 2>&1 &
for i in $(seq 100); do
    wpctl status | grep -q alsa_output && break; sleep 0.5
done
wpctl status";

/// The routes of the card, with what is known of each one's jack.
const ROUTES: &str = "export XDG_RUNTIME_DIR=/run/user
pw-dump | python3 -c 'import json, sys
for thing in json.load(sys.stdin):
    for route in thing.get(\"info\", {}).get(\"params\", {}).get(\"EnumRoute\", []):
        print(route[\"name\"], route[\"available\"])'";

#[test]
fn a_guests_applications_find_jacks_as_they_are_said_to_be() -> Result<(), Error> {
    let streams = "--playback speaker --playback line-out --capture mic --capture line-in";
    let qemu = Qemu::boot(streams)?;
    let guest = &qemu.guest;
    let controls = guest.run("amixer -c 0 contents")?.stdout_if_ok()?;
    for jack in ["Speaker Jack", "Line Out Jack", "Mic Jack", "Line Jack"] {
        assert!(controls.contains(&format!("name='{jack}'")), "{controls}");
    }
    assert!(!controls.contains("Volume"), "{controls}");
    let status = guest.run_within(MINUTES(3), SESSION)?.stdout_if_ok()?;
    let routes = guest.run_within(MINUTES(1), ROUTES)?.stdout_if_ok()?;
    assert!(status.contains("VirtIO SoundCard"), "{status}");
    // Where there is a line-out, PipeWire has no use for the speaker.
    let all = ["analog-output-lineout yes", "analog-input-mic yes", "analog-input-linein yes"];
    assert!(all.iter().all(|route| routes.contains(route)), "{status}{routes}");
    let mut client = Client::connect(&qemu.folder.path().join("c")).unwrap();
    for (stream, routes) in [
        ("line-out", ["analog-output-lineout no", "analog-output-speaker yes"]),
        ("mic", ["analog-input-mic no", "analog-input-linein yes"]),
    ] {
        let jack = serde_json::json!({ "stream": stream, "plugged": false });
        client.execute("set-jack", jack, &[]).unwrap();
        let wanted = routes.map(|route| format!("grep -q '{route}' /tmp/routes")).join(" && ");
        let script = format!(
            "for i in $(seq 30); do ({ROUTES}) >/tmp/routes; {wanted} && exit; sleep 0.3; done; cat /tmp/routes; exit 1"
        );
        guest.run_within(MINUTES(1), &script)?.stdout_if_ok()?;
    }
    Ok(())
}

#[test]
fn a_guest_hears_itself_by_a_loopback() -> Result<(), Error> {
    let streams = "--playback speaker,backend=loopback,formats=U8:S16:S24_3:S32 \
        --capture mic,backend=loopback,formats=U8:S16:S24_3:S32";
    let qemu = Qemu::boot(streams)?;
    for (format, rate) in
        [("S16_LE", 48_000), ("U8", 8000), ("S24_3LE", 44_100), ("S32_LE", 192_000)]
    {
        // In another language it takes a translation that is missing for a mistake.
        let bat = format!("LC_ALL=C alsabat -P hw:0,0 -C hw:0,0 -c 2 -f {format} -r {rate}");
        qemu.guest.run_within(MINUTES(2), &bat)?.stdout_if_ok()?;
    }
    Ok(())
}

#[test]
fn a_guest_of_qemus_has_volumes_if_both_sides_say_so() -> Result<(), Error> {
    let streams = "--controls --playback speaker,backend=raw:FOLDER/raw --capture mic,backend=tone";
    let Qemu { folder, guest, .. } = &Qemu::boot(streams)?;
    guest.run_within(MINUTES(2), &play(4))?.stdout_if_ok()?;
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
    let (file, played) = (fs::read(folder.path().join("raw")).unwrap(), numbers(4 * SECOND));
    assert!(file.windows(played.len()).any(|part| part == played), "{} bytes", file.len());
    guest.run("amixer -c 0 sset Master 50% off")?.stdout_if_ok()?;
    guest.run_within(MINUTES(2), &play(4))?.stdout_if_ok()?;
    let file = fs::read(folder.path().join("raw")).unwrap();
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
        outlives_kills(&host, &guest, 3)?;
        let jacks = guest.run("amixer -c 0 contents | grep -A2 'Line Jack'")?.stdout_if_ok()?;
        assert!(jacks.contains("values=on"), "{jacks}");
        ctl("jack line-in out")?;
        // The driver is told soon after.
        let is_out = "amixer -c 0 contents | grep -A2 'Line Jack' | grep -q values=off";
        let until = format!("for i in $(seq 100); do {is_out} && exit 0; sleep 0.1; done; exit 1");
        guest.run(&until)?.stdout_if_ok()?;
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

/// The host's ALSA card has two ends: what is played to one is recorded from the other.
const RECORD: &str = "modprobe snd-aloop
exec arecord -q -D hw:Loopback,1 -t raw -f S16_LE -c 2 -r 48000 --buffer-time=2000000";

/// What the host records while a guest does something, without silence: a guest's guest that has no processor of its
/// own may be late, and what it plays has gaps then.
fn recorded(host: &Host, play: impl FnOnce() -> Result<(), Error>) -> Result<Vec<[u8; 4]>, Error> {
    let recorder = host.guest().start(&format!("{RECORD} /tmp/heard"))?;
    let wait = "for i in $(seq 50); do [ -e /tmp/heard ] && exit; sleep 0.2; done; exit 1";
    host.guest().run(wait)?.stdout_if_ok()?;
    play()?;
    host.guest().run("sleep 2; pkill -INT arecord")?.stdout_if_ok()?;
    recorder.wait(host.guest(), MINUTES(1))?;
    let heard = host.guest().pull("/tmp/heard")?;
    host.guest().run("rm /tmp/heard")?;
    Ok(heard.as_chunks().0.iter().filter(|frame| **frame != [0; 4]).copied().collect())
}

/// All of it was heard, one part behind the other. Where the card ran dry, it has played some of what it had once more
/// before it stopped: that may be between two of a few parts, or in one.
fn is_in_order(played: &[u8], heard: &[u8]) -> bool {
    const PART: usize = 4096;
    let (mut rest, mut broken) = (heard, 0);
    for part in played.chunks(PART) {
        match rest.windows(part.len()).position(|place| place == part) {
            Some(place) => rest = &rest[place + part.len()..],
            None => broken += 1,
        }
    }
    eprintln!("{broken} parts of {} were broken", played.len() / PART);
    broken <= played.len() / PART / 10
}

#[test]
fn a_guest_of_vmm_frontends_plays_to_the_hosts_card() -> Result<(), Error> {
    Host::test(|| {
        let host = Host::boot(|builder| builder)?;
        host.guest().run("modprobe snd-aloop")?.stdout_if_ok()?;
        let sound = "--sound playback=speaker,backend=alsa:hw:Loopback,,0,latency=500";
        let guest = host.boot_vmm_guest(Kernel::Backports, "", sound)?;
        let run = |script: &str| guest.run_within(MINUTES(2), script)?.stdout_if_ok().map(drop);
        let played = numbers(4 * SECOND);
        let heard = recorded(&host, || run(&play(4)))?.concat();
        assert!(is_in_order(&played, &heard), "{} bytes", heard.len());
        // What the card can't have, while its other end is as it is, is made to what it can.
        let tone = "speaker-test -D hw:0,0 -t sine -f 441 -F S32_LE -r 44100 -c 1 -b 800000 -p 100000 -l 1";
        let heard = recorded(&host, || run(tone))?;
        let left: Vec<i16> =
            heard.iter().map(|frame| i16::from_le_bytes([frame[0], frame[1]])).collect();
        let rises: Vec<usize> =
            (1..left.len()).filter(|at| left[at - 1] < 0 && left[*at] >= 0).collect();
        let waves = rises.windows(2).map(|pair| pair[1] - pair[0]);
        // 441 Hz are 108.8 frames, but where there was a gap.
        let right = waves.filter(|wave| (107..=111).contains(wave)).count();
        assert!(right > 200 && right * 10 > rises.len() * 8, "{right} of {} waves", rises.len());
        assert!(
            heard.iter().all(|[a, b, c, d]| (a, b) == (c, d)),
            "both channels have what the one had"
        );
        Ok(())
    })
}

#[test]
#[ignore = "takes 3 minutes: cargo lab soak"]
fn a_guest_plays_on_through_twenty_kills() -> Result<(), Error> {
    Host::test(|| {
        let host = Host::boot(|builder| builder)?;
        let sound = "--sound playback=speaker,backend=raw:/tmp/raw";
        let guest = host.boot_vmm_guest(Kernel::Backports, "", sound)?;
        outlives_kills(&host, &guest, 20)
    })
}
