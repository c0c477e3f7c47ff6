//! The host's sound systems.

use std::fs;
use std::process::Command;
use std::time::Instant;

use lab::driver::sound::OK;
use lab::pipewire::{PipeWire, SINK};
use lab::{Error, Process, program, spawn};
use tempfile::NamedTempFile;

use super::common::*;

/// What a sink of PipeWire's plays, recorded.
struct Listener<'a> {
    pipewire: &'a PipeWire,
    file: NamedTempFile,
    recorder: Process,
}

impl<'a> Listener<'a> {
    fn start(pipewire: &'a PipeWire) -> Result<Self, Error> {
        let file = NamedTempFile::new().unwrap();
        let mut command = pipewire.command("pw-record");
        command.args(["--properties", "{ stream.capture.sink = true }", "--target", SINK]);
        command.args(["--format", "s16", "--rate", "48000", "--channels", "2"]).arg(file.path());
        let recorder = spawn(command).unwrap();
        let is_linked = |listed: &str| listed.contains("PipeWire:Interface:Link");
        pipewire.wait_until("a link to the recorder", is_linked)?;
        Ok(Self { pipewire, file, recorder })
    }

    /// A card that plays there, with time enough for a busy machine.
    fn card(&self, backend: &str) -> Result<Card, Error> {
        program("vhost-sound-pipewire")?;
        program("vhost-sound-alsa")?;
        let command = self.pipewire.command(program("vhost-sound")?);
        Card::start_by(command, &format!("--playback speaker,latency=200,backend={backend}"))
    }

    /// All that was played.
    fn heard(mut self) -> Vec<u8> {
        std::thread::sleep(SECOND / 2);
        self.recorder.signal(libc::SIGINT).unwrap();
        self.recorder.wait().unwrap();
        fs::read(self.file.path()).unwrap()
    }
}

/// Samples that are no silence anywhere, so that gaps show.
fn loud(length: u32) -> Vec<u8> {
    let frames = (0..length / 4).map(|frame| (frame % 20_011 + 1) as i16);
    frames.flat_map(|value| [value.to_le_bytes(), (-value).to_le_bytes()].concat()).collect()
}

fn is_within(samples: &[u8], heard: &[u8]) -> bool {
    heard.windows(samples.len()).any(|part| part == samples)
}

#[test]
fn pipewire_plays_all_samples_as_they_are_and_in_one_piece() -> Result<(), Error> {
    let pipewire = PipeWire::start()?;
    let listener = Listener::start(&pipewire)?;
    let card = listener.card("pipewire:speakers")?;
    let mut sound = card.connect()?;
    let samples = loud(400 * PERIOD);
    for _ in 0..2 {
        prepare(&mut sound, 0, LONG)?;
        let time = play(&mut sound, 0, LONG, &samples)?;
        assert!(time >= 2 * SECOND - SECOND / 10 && time < 3 * SECOND, "{time:?}");
        end(&mut sound, 0)?;
    }
    let heard = listener.heard();
    let twice = heard.windows(samples.len()).filter(|part| *part == samples).count();
    assert_eq!(twice, 2, "{} bytes", heard.len());
    Ok(())
}

#[test]
fn alsa_plays_all_samples_as_they_are_and_in_one_piece() -> Result<(), Error> {
    let pipewire = PipeWire::start()?;
    let listener = Listener::start(&pipewire)?;
    // ALSA's own device for PipeWire.
    let card = listener.card("alsa:pipewire")?;
    let mut sound = card.connect()?;
    let samples = loud(400 * PERIOD);
    prepare(&mut sound, 0, LONG)?;
    let time = play(&mut sound, 0, LONG, &samples)?;
    assert!(time >= SECOND && time < 3 * SECOND, "{time:?}");
    end(&mut sound, 0)?;
    let heard = listener.heard();
    assert!(is_within(&samples, &heard), "{} bytes", heard.len());
    Ok(())
}

#[test]
fn what_is_heard_has_no_gap_where_the_serving_process_is_killed() -> Result<(), Error> {
    let pipewire = PipeWire::start()?;
    let listener = Listener::start(&pipewire)?;
    let card = listener.card("pipewire")?;
    let mut sound = card.connect()?;
    let samples = loud(400 * PERIOD);
    prepare(&mut sound, 0, LONG)?;
    let mut periods = samples.chunks(LONG as usize);
    for samples in periods.by_ref().take(8) {
        sound.play(0, samples)?;
    }
    assert_eq!(sound.words(&[START, 0])?, OK);
    for number in 0..samples.chunks(LONG as usize).len() {
        assert_eq!(sound.played()?.status, OK);
        if let Some(samples) = periods.next() {
            sound.play(0, samples)?;
        }
        if number % 5 == 4 {
            card.kill();
            sound.reconnect()?;
        }
    }
    end(&mut sound, 0)?;
    let heard = listener.heard();
    assert!(is_within(&samples, &heard), "{} bytes", heard.len());
    Ok(())
}

#[test]
fn pipewire_records_what_it_plays() -> Result<(), Error> {
    let pipewire = PipeWire::start()?;
    program("vhost-sound-pipewire")?;
    let mut command = pipewire.command(program("vhost-sound")?);
    command.args(["--capture", "mic,latency=200,backend=pipewire:speakers"]);
    let card = Card::start_by(command, "--playback speaker,latency=200,backend=pipewire:speakers")?;
    let mut sound = card.connect()?;
    for stream in [0, 1] {
        prepare(&mut sound, stream, LONG)?;
    }
    for _ in 0..8 {
        sound.record(1, LONG)?;
    }
    assert_eq!(sound.words(&[START, 1])?, OK);
    let samples = loud(8 * LONG);
    for samples in samples.chunks(LONG as usize) {
        sound.play(0, samples)?;
    }
    let mut heard = Vec::new();
    for number in 0..50 {
        if number == 20 {
            assert_eq!(sound.words(&[START, 0])?, OK);
        }
        let moved = sound.recorded()?;
        assert_eq!((moved.status, moved.samples.len()), (OK, LONG as usize));
        heard.extend(moved.samples);
        sound.record(1, LONG)?;
    }
    assert!(is_within(&samples, &heard), "{:?}", heard.iter().position(|byte| *byte != 0));
    Ok(())
}

#[test]
fn a_host_whose_sound_stands_still_holds_nobody_up() -> Result<(), Error> {
    let mut pipewire = PipeWire::start()?;
    let listener = Listener::start(&pipewire)?;
    let card = listener.card("pipewire")?;
    drop(listener);
    let mut sound = card.connect()?;
    prepare(&mut sound, 0, PERIOD)?;
    play(&mut sound, 0, PERIOD, &loud(40 * PERIOD))?;
    pipewire.stop();
    let begun = Instant::now();
    for _ in 0..100 {
        sound.play(0, &noise(PERIOD))?;
        sound.played()?;
    }
    let time = begun.elapsed();
    assert!(time >= SECOND / 2 && time < 4 * SECOND, "{time:?}");
    // It comes back.
    pipewire.restart()?;
    let limit = Instant::now() + 30 * SECOND;
    loop {
        sound.play(0, &noise(PERIOD))?;
        if sound.played()?.status == OK {
            break;
        }
        assert!(Instant::now() < limit, "it is not played to again");
    }
    end(&mut sound, 0)?;
    Ok(())
}

#[test]
fn buffers_that_are_longer_than_what_the_host_takes_at_once_are_played() -> Result<(), Error> {
    let pipewire = PipeWire::start()?;
    let listener = Listener::start(&pipewire)?;
    let card = listener.card("pipewire")?;
    let mut sound = card.connect()?;
    let (period, samples) = (200 * PERIOD, loud(600 * PERIOD));
    let asked = [0x101, 0, 2 * period, period, 0, u32::from_le_bytes([2, 5, 7, 0])];
    assert_eq!((sound.words(&asked)?, sound.words(&[PREPARE, 0])?), (OK, OK));
    // A third of a second each.
    for part in samples.chunks(64 << 10) {
        sound.play(0, part)?;
    }
    let begun = Instant::now();
    assert_eq!(sound.words(&[START, 0])?, OK);
    for _ in 0..samples.chunks(64 << 10).len() {
        assert_eq!(sound.played()?.status, OK);
    }
    assert!(begun.elapsed() < 4 * SECOND, "{:?}", begun.elapsed());
    end(&mut sound, 0)?;
    let heard = listener.heard();
    assert!(is_within(&samples, &heard), "{} bytes", heard.len());
    Ok(())
}

#[test]
fn what_cannot_be_played_to_is_told_at_the_start() -> Result<(), Error> {
    let pipewire = PipeWire::start()?;
    program("vhost-sound-pipewire")?;
    program("vhost-sound-alsa")?;
    let sound = program("vhost-sound")?;
    let there = pipewire.command(&sound);
    let mut gone = Command::new(&sound);
    gone.env("XDG_RUNTIME_DIR", "/nonexistent");
    let folder = tempfile::tempdir().unwrap();
    let alone = folder.path().join("vhost-sound");
    fs::copy(&sound, &alone).unwrap();
    let mut alone = Command::new(alone);
    alone.env("PATH", folder.path());
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let pipe = format!("raw:{}", pipe.display());
    let mixer = (
        pipewire.command(&sound),
        "alsa:pipewire,mixer=PCM",
        "no such volume where it is played to, but Master",
    );
    let raw = format!("raw:{}", folder.path().display());
    for (mut command, backend, said) in [
        mixer,
        (Command::new(&sound), pipe.as_str(), "it is a pipe or a socket"),
        (Command::new(&sound), raw.as_str(), "irectory"),
        (Command::new(&sound), "loopback", "joins one --playback with one --capture"),
        (there, "pipewire:headphones", "no node headphones that can be played to"),
        (gone, "pipewire", "PipeWire cannot be reached"),
        (alone, "pipewire", "vhost-sound-pipewire is not installed"),
        (Command::new(&sound), "alsa:hw:9", "no device hw:9 that can be played to"),
    ] {
        command.arg("--socket-path").arg(folder.path().join("s"));
        command.args(["--playback", &format!("speaker,backend={backend}")]);
        let error = refusal(command);
        assert!(error.contains(said), "{error}");
        assert!(error.starts_with("vhost-sound: --playback speaker: "), "{error}");
    }
    Ok(())
}

/// As when one package was replaced while a guest runs.
#[test]
fn a_helper_of_another_version_is_refused() -> Result<(), Error> {
    for helper in ["vhost-sound-pipewire", "vhost-sound-alsa"] {
        let mut command = Command::new(program(helper)?);
        command.args(["--of=0.0.1", "--new=1", "--check"]);
        let error = refusal(command);
        assert!(error.contains("and vhost-sound of 0.0.1: install both of one"), "{error}");
    }
    Ok(())
}

/// The level of PipeWire's node that plays, as it says it.
const SAID: &str = "pw-dump | python3 -c 'import json, sys
for thing in json.load(sys.stdin):
    info = thing.get(\"info\") or {}
    if (info.get(\"props\") or {}).get(\"node.name\") == \"vhost-sound.speaker\":
        props = info[\"params\"][\"Props\"][0]
        print(thing[\"id\"], props[\"mute\"], *[round(it, 3) for it in props[\"channelVolumes\"]])'";

#[test]
fn volumes_are_the_same_in_the_guest_and_in_pipewire() -> Result<(), Error> {
    const MASTER_VOLUME: u32 = 0;
    const MASTER_SWITCH: u32 = 1;
    let pipewire = PipeWire::start()?;
    let listener = Listener::start(&pipewire)?;
    program("vhost-sound-pipewire")?;
    let command = pipewire.command(program("vhost-sound")?);
    let card = Card::start_by(command, "--controls --playback speaker,backend=pipewire")?;
    let shell = |script: &str| {
        let output = pipewire.command("sh").args(["-c", script]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let shows = |wanted: &str| {
        let limit = Instant::now() + 10 * SECOND;
        while !shell(SAID).trim().ends_with(wanted) {
            assert!(Instant::now() < limit, "{} is not {wanted}", shell(SAID));
        }
    };
    let mut sound = card.connect()?;
    // Before there is a stream, and while there is.
    assert_eq!(sound.write_control(MASTER_VOLUME, &[90, 80])?, OK);
    prepare(&mut sound, 0, LONG)?;
    assert_eq!(sound.words(&[START, 0])?, OK);
    shows("False 0.501 0.251");
    assert_eq!(sound.write_control(MASTER_SWITCH, &[0])?, OK);
    shows("True 0.501 0.251");
    while sound.event(SECOND / 2)?.is_some() {}
    // And the other way round.
    let said = shell(SAID);
    let id = said.split_whitespace().next().unwrap();
    shell(&format!(
        "pw-cli set-param {id} Props '{{ mute: false, channelVolumes: [ 1.0, 0.5 ] }}'"
    ));
    shows("False 1.0 0.5");
    let told = [sound.event(5 * SECOND)?, sound.event(5 * SECOND)?];
    assert!(told.iter().all(|event| event.is_some_and(|(code, _)| code == 0x1200)), "{told:?}");
    assert_eq!(sound.read_control(MASTER_VOLUME)?.1[..2], [100, 90]);
    assert_eq!(sound.read_control(MASTER_SWITCH)?.1[0], 1);
    // That outlives a kill, on both sides, as the guest's steps have it.
    card.kill();
    sound.reconnect()?;
    assert_eq!(sound.read_control(MASTER_VOLUME)?.1[..2], [100, 90]);
    shows("False 1.0 0.501");
    drop(listener);
    Ok(())
}

fn amixer(pipewire: &PipeWire, arguments: &[&str]) -> String {
    let mut command = pipewire.command("amixer");
    let output = command.args(["-D", "pipewire"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until the mixer's master is so.
fn shows(pipewire: &PipeWire, wanted: &str) {
    let limit = Instant::now() + 10 * SECOND;
    while !amixer(pipewire, &["sget", "Master"]).contains(wanted) {
        let is = amixer(pipewire, &["sget", "Master"]);
        assert!(Instant::now() < limit, "it is not {wanted}, but {is}");
    }
}

#[test]
fn a_mixers_element_is_as_loud_as_the_guest_has_it() -> Result<(), Error> {
    const MASTER_VOLUME: u32 = 0;
    const MASTER_SWITCH: u32 = 1;
    const CTL_NOTIFY: u32 = 0x1200;
    let mut pipewire = PipeWire::start()?;
    program("vhost-sound-alsa")?;
    let command = pipewire.command(program("vhost-sound")?);
    amixer(&pipewire, &["sset", "Master", "60%", "unmute"]);
    let card = Card::start_by(
        command,
        "--controls --playback speaker,backend=alsa:pipewire,mixer=Master",
    )?;
    let mut sound = card.connect()?;
    // The hardware's is the guest's at first.
    let limit = Instant::now() + 10 * SECOND;
    while sound.read_control(MASTER_VOLUME)?.1[..2] != [60, 60] {
        assert!(Instant::now() < limit, "{:?}", sound.read_control(MASTER_VOLUME)?);
    }
    for is_running in [false, true] {
        if is_running {
            prepare(&mut sound, 0, LONG)?;
            assert_eq!(sound.words(&[START, 0])?, OK);
        }
        assert_eq!(sound.write_control(MASTER_VOLUME, &[80, 80])?, OK);
        shows(&pipewire, "[80%] [on]");
        assert_eq!(sound.write_control(MASTER_SWITCH, &[0])?, OK);
        shows(&pipewire, "[80%] [off]");
        while sound.event(SECOND / 2)?.is_some() {}
        amixer(&pipewire, &["sset", "Master", "35%", "unmute"]);
        let told = [sound.event(5 * SECOND)?, sound.event(5 * SECOND)?];
        assert!(told.iter().all(|it| it.is_some_and(|(code, _)| code == CTL_NOTIFY)), "{told:?}");
        assert_eq!(sound.read_control(MASTER_VOLUME)?.1[..2], [35, 35]);
        assert_eq!(sound.read_control(MASTER_SWITCH)?.1[0], 1);
        while sound.event(SECOND / 2)?.is_some() {}
    }
    card.replace_helper();
    std::thread::sleep(SECOND);
    shows(&pipewire, "[35%] [on]");
    // The card goes, and comes back otherwise, while nothing is played.
    end(&mut sound, 0)?;
    pipewire.stop();
    assert_eq!(sound.write_control(MASTER_VOLUME, &[45, 45])?, OK);
    pipewire.restart()?;
    // Whatever it begins with is the guest's, or the other way round.
    let limit = Instant::now() + 10 * SECOND;
    loop {
        let volume = sound.read_control(MASTER_VOLUME)?.1[0];
        if amixer(&pipewire, &["sget", "Master"]).contains(&format!("[{volume}%]")) {
            break;
        }
        assert!(Instant::now() < limit, "{volume}");
    }
    amixer(&pipewire, &["sset", "Master", "35%"]);
    let limit = Instant::now() + 10 * SECOND;
    while sound.read_control(MASTER_VOLUME)?.1[..2] != [35, 35] {
        assert!(Instant::now() < limit, "{:?}", sound.read_control(MASTER_VOLUME)?);
    }
    card.kill();
    sound.reconnect()?;
    assert_eq!(sound.read_control(MASTER_VOLUME)?.1[..2], [35, 35]);
    shows(&pipewire, "[35%] [on]");
    Ok(())
}

#[test]
fn a_recorder_that_gives_no_buffers_is_told_of_an_xrun() -> Result<(), Error> {
    let pipewire = PipeWire::start()?;
    program("vhost-sound-pipewire")?;
    let command = pipewire.command(program("vhost-sound")?);
    let card = Card::start_by(command, "--capture mic,backend=pipewire:speakers")?;
    // The second one is longer than all that may wait for it.
    for period in [4 * PERIOD, 2 << 20] {
        let mut sound = card.connect()?;
        prepare_to_tell(&mut sound, 0, period)?;
        assert_eq!(sound.words(&[START, 0])?, OK);
        assert_eq!(sound.event(10 * SECOND)?, Some((XRUN, 0)));
        assert_eq!(sound.event(2 * SECOND)?, None, "once only");
        end(&mut sound, 0)?;
    }
    Ok(())
}
