//! vhost-sound, as a driver sees it.

mod controls;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use lab::driver::sound::{BAD_MESSAGE, NOT_SUPPORTED, OK, Sound};
use lab::{Error, Process, program, serving, spawn_listening};
use tempfile::TempDir;
use vhost_runtime::control::client::Client;

const SECOND: Duration = Duration::from_secs(1);
/// Two channels of S16, at 48,000 frames a second; and what a period of 5 ms of that takes.
const CD: [u8; 3] = [2, 5, 7];
const PERIOD: u32 = 960;
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
        let folder = tempfile::tempdir().unwrap();
        let text = arguments.replace("FOLDER", &folder.path().display().to_string());
        let mut command = Command::new(program("vhost-sound")?);
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
}

fn noise(length: u32) -> Vec<u8> {
    (0..length).map(|byte| (byte.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// Plays it by periods, four of which are under way, and returns how long that took.
fn play(sound: &mut Sound, stream: u32, samples: &[u8]) -> Result<Duration, Error> {
    let mut periods = samples.chunks(PERIOD as usize);
    for period in periods.by_ref().take(4) {
        sound.play(stream, period)?;
    }
    let begun = Instant::now();
    assert_eq!(sound.words(&[START, stream])?, OK);
    for _ in samples.chunks(PERIOD as usize) {
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
    let time = play(&mut sound, 0, &samples)?;
    assert!(time >= Duration::from_millis(500) && time < 2 * SECOND, "{time:?}");
    assert_eq!((sound.words(&[STOP, 0])?, sound.words(&[RELEASE, 0])?), (OK, OK));
    let file = fs::read(card.path("a.wav")).unwrap();
    assert!(file.starts_with(b"RIFF") && file.ends_with(&samples));
    assert_eq!(file.len(), 68 + samples.len());
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
            let pid = libc::pid_t::try_from(serving(card.process.id()).unwrap()).unwrap();
            // SAFETY: kill(2) takes two integers.
            assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
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
