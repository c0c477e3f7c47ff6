//! vhost-sound, as a driver sees it.

mod controls;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use lab::driver::sound::{BAD_MESSAGE, NOT_SUPPORTED, OK, Sound};
use lab::pipewire::{PipeWire, SINK};
use lab::{Error, Process, program, serving, spawn, spawn_listening};
use tempfile::{NamedTempFile, TempDir};
use vhost_runtime::control::client::Client;

const SECOND: Duration = Duration::from_secs(1);
/// Two channels of S16, at 48,000 frames a second; and what a period of 5 ms of that takes.
const CD: [u8; 3] = [2, 5, 7];
const PERIOD: u32 = 960;
/// 80 ms.
const LONG: u32 = 16 * PERIOD;
const PREPARE: u32 = 0x102;
const RELEASE: u32 = 0x103;
const START: u32 = 0x104;
const STOP: u32 = 0x105;

struct Card {
    folder: TempDir,
    process: Process,
}

impl Card {
    fn start(arguments: &str) -> Result<Card, Error> {
        Self::start_by(Command::new(program("vhost-sound")?), arguments)
    }

    fn start_by(mut command: Command, arguments: &str) -> Result<Card, Error> {
        let folder = tempfile::tempdir().unwrap();
        let text = arguments.replace("FOLDER", &folder.path().display().to_string());
        command.arg("--socket-path").arg(folder.path().join("s")).args(text.split_whitespace());
        command.arg("--control").arg(folder.path().join("c"));
        let process = spawn_listening(command, &folder.path().join("s"))?;
        Ok(Card { folder, process })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn connect(&self) -> Result<Sound, Error> {
        Sound::connect(&self.path("s"))
    }

    /// Kills the process that serves.
    fn kill(&self) {
        let pid = libc::pid_t::try_from(serving(self.process.id()).unwrap()).unwrap();
        // SAFETY: kill(2) takes two integers.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
    }

    /// Kills it, and waits for the one that takes its place.
    fn replace(&self) {
        let before = serving(self.process.id()).unwrap();
        self.kill();
        let end = Instant::now() + 10 * SECOND;
        while serving(self.process.id()).is_none_or(|pid| pid == before) {
            assert!(Instant::now() < end, "no process takes the place");
            std::thread::sleep(SECOND / 100);
        }
    }
}

fn noise(length: u32) -> Vec<u8> {
    (0..length).map(|byte| (byte.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// Plays it by periods, four of which are under way, and returns how long that took.
fn play(sound: &mut Sound, stream: u32, period: u32, samples: &[u8]) -> Result<Duration, Error> {
    let mut periods = samples.chunks(period as usize);
    for period in periods.by_ref().take(4) {
        sound.play(stream, period)?;
    }
    let begun = Instant::now();
    assert_eq!(sound.words(&[START, stream])?, OK);
    for _ in samples.chunks(period as usize) {
        assert_eq!(sound.played()?.status, OK);
        if let Some(period) = periods.next() {
            sound.play(stream, period)?;
        }
    }
    Ok(begun.elapsed())
}

#[test]
fn what_is_played_is_in_the_file_to_the_bit_and_takes_its_time() -> Result<(), Error> {
    let card = Card::start("--playback speaker,backend=wav:FOLDER/a.wav")?;
    let mut sound = card.connect()?;
    let samples = noise(100 * PERIOD);
    assert_eq!(sound.set(0, PERIOD, CD)?, OK);
    assert_eq!(sound.words(&[PREPARE, 0])?, OK);
    let time = play(&mut sound, 0, PERIOD, &samples)?;
    assert!(time >= Duration::from_millis(500) && time < 2 * SECOND, "{time:?}");
    assert_eq!((sound.words(&[STOP, 0])?, sound.words(&[RELEASE, 0])?), (OK, OK));
    let file = fs::read(card.path("a.wav")).unwrap();
    assert!(file.starts_with(b"RIFF") && file.ends_with(&samples));
    assert_eq!(file.len(), 68 + samples.len());
    Ok(())
}

#[test]
#[ignore = "takes 10 minutes: cargo lab soak"]
fn ten_minutes_are_played_without_a_gap() -> Result<(), Error> {
    const EVT_XRUNS: u32 = 1 << 4;
    let card = Card::start("--playback speaker,backend=wav:FOLDER/a.wav")?;
    let mut sound = card.connect()?;
    let [channels, format, rate] = CD;
    let kind = u32::from_le_bytes([channels, format, rate, 0]);
    assert_eq!(sound.words(&[0x101, 0, 4 * PERIOD, PERIOD, EVT_XRUNS, kind])?, OK);
    assert_eq!(sound.words(&[PREPARE, 0])?, OK);
    // A sine of 440 Hz.
    let wave = |frame: u32| (f64::from(frame) * 440.0 * std::f64::consts::TAU / 48_000.0).sin();
    let frames = (0..600 * 48_000).map(|frame| (wave(frame) * 32_000.0) as i16);
    let samples: Vec<u8> = frames.flat_map(|value| [value.to_le_bytes(); 2].concat()).collect();
    let time = play(&mut sound, 0, PERIOD, &samples)?;
    assert!(time.abs_diff(600 * SECOND) < SECOND / 10, "{time:?}");
    assert_eq!(sound.event(Duration::ZERO)?, None, "it ran out of buffers");
    assert_eq!((sound.words(&[STOP, 0])?, sound.words(&[RELEASE, 0])?), (OK, OK));
    assert!(fs::read(card.path("a.wav")).unwrap().ends_with(&samples));
    Ok(())
}

#[test]
fn what_is_played_is_recorded_by_a_loopback() -> Result<(), Error> {
    let card =
        Card::start("--playback line-out,backend=loopback --capture line-in,backend=loopback")?;
    let mut sound = card.connect()?;
    for stream in [0, 1] {
        assert_eq!(sound.set(stream, PERIOD, CD)?, OK);
        assert_eq!(sound.words(&[PREPARE, stream])?, OK);
    }
    let samples = noise(4 * PERIOD);
    for period in samples.chunks(PERIOD as usize) {
        sound.play(0, period)?;
    }
    for _ in 0..12 {
        sound.record(1, PERIOD)?;
    }
    assert_eq!((sound.words(&[START, 0])?, sound.words(&[START, 1])?), (OK, OK));
    let mut heard = Vec::new();
    for _ in 0..12 {
        let moved = sound.recorded()?;
        assert_eq!((moved.status, moved.samples.len()), (OK, PERIOD as usize));
        heard.extend(moved.samples);
    }
    assert!(heard.windows(samples.len()).any(|part| part == samples));
    Ok(())
}

#[test]
fn a_stream_that_ends_gives_all_buffers_back_first() -> Result<(), Error> {
    let card = Card::start("--playback speaker")?;
    let mut sound = card.connect()?;
    assert_eq!((sound.set(0, PERIOD, CD)?, sound.words(&[PREPARE, 0])?), (OK, OK));
    for _ in 0..3 {
        sound.play(0, &noise(PERIOD))?;
    }
    // Its kick has not arrived.
    sound.show(0, &noise(PERIOD))?;
    assert_eq!(sound.words(&[RELEASE, 0])?, OK);
    for _ in 0..4 {
        assert!(sound.try_played()?.is_some_and(|moved| moved.status == OK));
    }
    Ok(())
}

#[test]
fn a_stream_that_is_set_anew_gives_all_buffers_back() -> Result<(), Error> {
    let card = Card::start("--playback speaker")?;
    let mut sound = card.connect()?;
    assert_eq!((sound.set(0, PERIOD, CD)?, sound.words(&[PREPARE, 0])?), (OK, OK));
    sound.play(0, &noise(4))?;
    // Two channels of S24_3: frames of six bytes.
    assert_eq!(sound.set(0, 960, [2, 11, 7])?, OK);
    assert!(sound.try_played()?.is_some_and(|moved| moved.status == OK));
    assert_eq!((sound.words(&[PREPARE, 0])?, sound.words(&[START, 0])?), (OK, OK));
    sound.play(0, &noise(960))?;
    assert_eq!(sound.played()?.status, OK);
    Ok(())
}

#[test]
fn a_new_driver_finds_all_streams_at_rest() -> Result<(), Error> {
    let card = Card::start("--playback speaker --capture mic")?;
    for _ in 0..3 {
        // The one before has not said that it ends, as none does whose guest is reset.
        let mut sound = card.connect()?;
        for stream in [0, 1] {
            assert_eq!(sound.set(stream, PERIOD, CD)?, OK);
            assert_eq!(
                (sound.words(&[PREPARE, stream])?, sound.words(&[START, stream])?),
                (OK, OK)
            );
        }
        sound.play(0, &noise(PERIOD))?;
        assert_eq!(sound.played()?.status, OK);
    }
    Ok(())
}

#[test]
fn what_makes_no_sense_is_refused() -> Result<(), Error> {
    let card = Card::start("--playback speaker,formats=S16,rates=48000 --capture mic")?;
    let mut sound = card.connect()?;
    for (words, status) in [
        (&[0x100, 0, 2, 32][..], OK),
        (&[0x100, 0, 3, 32], BAD_MESSAGE),
        (&[0x100, u32::MAX, 2, 32], BAD_MESSAGE),
        (&[0x100, 0, 2, 31], BAD_MESSAGE),
        (&[0x100, 0], BAD_MESSAGE),
        (&[0x300, 0, 0, 0], NOT_SUPPORTED),
        (&[0x777], BAD_MESSAGE),
        (&[PREPARE, 0], BAD_MESSAGE),
        (&[PREPARE, 9], BAD_MESSAGE),
    ] {
        assert_eq!(sound.words(words)?, status, "{words:x?}");
    }
    assert_eq!(sound.request(&[1])?.0, BAD_MESSAGE);
    assert_eq!(sound.set(0, PERIOD, [2, 17, 7])?, NOT_SUPPORTED);
    assert_eq!(sound.set(0, PERIOD + 1, CD)?, BAD_MESSAGE);
    assert_eq!(sound.set(0, 0, CD)?, BAD_MESSAGE);
    assert_eq!((sound.set(0, PERIOD, CD)?, sound.words(&[START, 0])?), (OK, BAD_MESSAGE));
    sound.play(0, &noise(PERIOD))?;
    assert_eq!(sound.played()?.status, BAD_MESSAGE, "it is not prepared");
    assert_eq!(sound.words(&[PREPARE, 0])?, OK);
    for stream in [1, 2, u32::MAX] {
        sound.play(stream, &noise(PERIOD))?;
        assert_eq!(sound.played()?.status, BAD_MESSAGE, "{stream}");
    }
    sound.play(0, &noise(3))?;
    assert_eq!(sound.played()?.status, BAD_MESSAGE, "parts of frames");
    sound.record(0, PERIOD)?;
    assert_eq!(sound.recorded()?.status, BAD_MESSAGE, "it is played to");
    Ok(())
}

#[test]
fn playback_goes_on_after_a_kill() -> Result<(), Error> {
    let card = Card::start("--playback speaker,backend=wav:FOLDER/a.wav")?;
    let mut sound = card.connect()?;
    assert_eq!((sound.set(0, PERIOD, CD)?, sound.words(&[PREPARE, 0])?), (OK, OK));
    let samples = noise(40 * PERIOD);
    let mut periods = samples.chunks(PERIOD as usize);
    for period in periods.by_ref().take(4) {
        sound.play(0, period)?;
    }
    assert_eq!(sound.words(&[START, 0])?, OK);
    for number in 0..40 {
        assert_eq!(sound.played()?.status, OK);
        if let Some(period) = periods.next() {
            sound.play(0, period)?;
        }
        if number % 10 == 5 {
            card.kill();
            sound.reconnect()?;
        }
    }
    assert_eq!((sound.words(&[STOP, 0])?, sound.words(&[RELEASE, 0])?), (OK, OK));
    // A period that was under way may be there twice.
    let file = fs::read(card.path("a.wav")).unwrap();
    assert!(file.len() >= 68 + samples.len() && file.ends_with(&samples[36 * PERIOD as usize..]));
    Ok(())
}

#[test]
fn playback_goes_on_where_it_was_on_another_host() -> Result<(), Error> {
    let start = || Card::start("--playback speaker,backend=raw:FOLDER/raw");
    let cards = [start()?, start()?];
    let mut sound = cards[0].connect()?;
    assert_eq!((sound.set(0, LONG, CD)?, sound.words(&[PREPARE, 0])?), (OK, OK));
    let samples = noise(16 * LONG);
    let mut periods = samples.chunks(LONG as usize);
    for period in periods.by_ref().take(8) {
        sound.play(0, period)?;
    }
    assert_eq!(sound.words(&[START, 0])?, OK);
    for number in 0..16 {
        assert_eq!(sound.played()?.status, OK);
        if let Some(period) = periods.next() {
            sound.play(0, period)?;
        }
        if number == 7 {
            // In the middle of one.
            std::thread::sleep(SECOND / 50);
            sound.migrate(&cards[1].path("s"))?;
        }
    }
    assert_eq!((sound.words(&[STOP, 0])?, sound.words(&[RELEASE, 0])?), (OK, OK));
    let [here, there] = cards.each_ref().map(|card| fs::read(card.path("raw")).unwrap());
    assert!(here.len() > 8 * LONG as usize && here.len() % LONG as usize != 0, "{}", here.len());
    assert!([here, there].concat() == samples);
    Ok(())
}

#[test]
fn a_card_with_other_streams_refuses_a_guests_state() -> Result<(), Error> {
    let [source, other] = ["--playback speaker", "--playback line-out"].map(Card::start);
    let (source, other) = (source?, other?);
    let refused = source.connect()?.migrate(&other.path("s"));
    assert!(refused.is_err_and(|error| error.to_string().contains("CHECK_DEVICE_STATE")));
    Ok(())
}

#[test]
fn a_driver_is_told_of_jacks() -> Result<(), Error> {
    let card = Card::start("--playback speaker --capture mic")?;
    let mut sound = card.connect()?;
    let (status, jacks) = sound.request(&[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 24, 0, 0, 0])?;
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| jacks[at + byte]));
    assert_eq!((status, jacks.len(), word(8), word(32)), (OK, 48, 0x0010_4010, 0x00a0_5020));
    let mut client = Client::connect(&card.path("c")).unwrap();
    for (plugged, code) in [(false, 0x1001), (true, 0x1000)] {
        let jack = serde_json::json!({ "stream": "mic", "plugged": plugged });
        client.execute("set-jack", jack, &[]).unwrap();
        assert_eq!(sound.event(5 * SECOND)?, Some((code, 1)));
    }
    Ok(())
}

fn plug(card: &Card, plugged: bool) {
    let mut client = Client::connect(&card.path("c")).unwrap();
    let jack = serde_json::json!({ "stream": "mic", "plugged": plugged });
    client.execute("set-jack", jack, &[]).unwrap();
}

fn is_plugged(card: &Card) -> bool {
    let mut client = Client::connect(&card.path("c")).unwrap();
    client.execute("query-streams", serde_json::json!({}), &[]).unwrap()[1]["plugged"] == true
}

#[test]
fn a_driver_is_told_of_jacks_that_changed_while_nobody_served_it() -> Result<(), Error> {
    let cards = [(); 2].map(|()| Card::start("--playback speaker --capture mic"));
    let [here, there] = cards;
    let (here, there) = (here?, there?);
    let mut sound = here.connect()?;
    here.replace();
    plug(&here, false);
    sound.reconnect()?;
    assert_eq!(sound.event(5 * SECOND)?, Some((0x1001, 1)));
    // It knows, whoever tells it next.
    here.kill();
    sound.reconnect()?;
    assert_eq!(sound.event(SECOND / 4)?, None);
    sound.session.stop_all().unwrap();
    plug(&here, true);
    sound.migrate(&there.path("s"))?;
    assert_eq!(sound.event(5 * SECOND)?, Some((0x1000, 1)));
    plug(&there, false);
    assert_eq!(sound.event(5 * SECOND)?, Some((0x1001, 1)));
    Ok(())
}

#[test]
fn jacks_migrate() -> Result<(), Error> {
    let cards = [(); 2].map(|()| Card::start("--playback speaker --capture mic"));
    let [here, there] = cards;
    let (here, there) = (here?, there?);
    let mut sound = here.connect()?;
    plug(&here, false);
    assert_eq!(sound.event(5 * SECOND)?, Some((0x1001, 1)));
    sound.migrate(&there.path("s"))?;
    assert!(!is_plugged(&there));
    assert_eq!(sound.event(SECOND / 4)?, None);
    // An older version said nothing of jacks: all were as they are at the start.
    sound.session.stop_all().unwrap();
    let state = sound.session.device().save_state().unwrap();
    let mut state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    let mut few = state.clone();
    few["state"]["jacks"].as_array_mut().unwrap().pop();
    assert!(sound.session.device().load_state(few.to_string().as_bytes()).is_err());
    assert!(!is_plugged(&there));
    state["state"] = state["state"]["streams"].take();
    sound.session.device().load_state(state.to_string().as_bytes()).unwrap();
    assert!(is_plugged(&there));
    Ok(())
}

#[test]
fn a_stream_that_runs_out_says_so_and_goes_on() -> Result<(), Error> {
    const EVT_XRUNS: u32 = 1 << 4;
    let card = Card::start("--playback speaker,backend=wav:FOLDER/a.wav")?;
    let mut sound = card.connect()?;
    let [channels, format, rate] = CD;
    let kind = u32::from_le_bytes([channels, format, rate, 0]);
    assert_eq!(sound.words(&[0x101, 0, 4 * PERIOD, PERIOD, EVT_XRUNS, kind])?, OK);
    assert_eq!(sound.words(&[PREPARE, 0])?, OK);
    let samples = noise(2 * PERIOD);
    let (first, second) = samples.split_at(PERIOD as usize);
    sound.play(0, first)?;
    assert_eq!(sound.words(&[START, 0])?, OK);
    assert_eq!(sound.played()?.status, OK);
    assert_eq!(sound.event(5 * SECOND)?, Some((0x1101, 0)));
    // Once, however long it takes.
    assert_eq!(sound.event(Duration::from_millis(200))?, None);
    let begun = Instant::now();
    sound.play(0, second)?;
    assert_eq!(sound.played()?.status, OK);
    assert!(begun.elapsed() >= Duration::from_millis(5), "time that has passed is not made up for");
    assert_eq!((sound.words(&[STOP, 0])?, sound.words(&[RELEASE, 0])?), (OK, OK));
    assert!(fs::read(card.path("a.wav")).unwrap().ends_with(&samples));
    Ok(())
}

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
        assert_eq!((sound.set(0, LONG, CD)?, sound.words(&[PREPARE, 0])?), (OK, OK));
        let time = play(&mut sound, 0, LONG, &samples)?;
        assert!(time >= 2 * SECOND - SECOND / 10 && time < 3 * SECOND, "{time:?}");
        assert_eq!((sound.words(&[STOP, 0])?, sound.words(&[RELEASE, 0])?), (OK, OK));
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
    assert_eq!((sound.set(0, LONG, CD)?, sound.words(&[PREPARE, 0])?), (OK, OK));
    let time = play(&mut sound, 0, LONG, &samples)?;
    assert!(time >= SECOND && time < 3 * SECOND, "{time:?}");
    assert_eq!((sound.words(&[STOP, 0])?, sound.words(&[RELEASE, 0])?), (OK, OK));
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
    assert_eq!((sound.set(0, LONG, CD)?, sound.words(&[PREPARE, 0])?), (OK, OK));
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
    assert_eq!((sound.words(&[STOP, 0])?, sound.words(&[RELEASE, 0])?), (OK, OK));
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
        assert_eq!((sound.set(stream, LONG, CD)?, sound.words(&[PREPARE, stream])?), (OK, OK));
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
    assert_eq!((sound.set(0, PERIOD, CD)?, sound.words(&[PREPARE, 0])?), (OK, OK));
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
    let end = Instant::now() + 30 * SECOND;
    loop {
        sound.play(0, &noise(PERIOD))?;
        if sound.played()?.status == OK {
            break;
        }
        assert!(Instant::now() < end, "it is not played to again");
    }
    assert_eq!((sound.words(&[STOP, 0])?, sound.words(&[RELEASE, 0])?), (OK, OK));
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
    assert_eq!((sound.words(&[STOP, 0])?, sound.words(&[RELEASE, 0])?), (OK, OK));
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
    for (mut command, backend, said) in [
        (Command::new(&sound), pipe.as_str(), "it is a pipe or a socket"),
        (there, "pipewire:headphones", "no node headphones that can be played to"),
        (gone, "pipewire", "PipeWire cannot be reached"),
        (alone, "pipewire", "vhost-sound-pipewire is not installed"),
        (Command::new(&sound), "alsa:hw:9", "no device hw:9 that can be played to"),
    ] {
        command.arg("--socket-path").arg(folder.path().join("s"));
        command.args(["--playback", &format!("speaker,backend={backend}")]);
        let output = command.output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(said), "{error}");
        assert!(error.starts_with("vhost-sound: --playback speaker: "), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    Ok(())
}
