//! Streams from their parameters to their end, on hosts that have no clock.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use lab::driver::sound::{BAD_MESSAGE, NOT_SUPPORTED, OK};
use lab::{Error, program};

use super::common::*;

#[test]
fn what_is_played_is_in_the_file_to_the_bit_and_takes_its_time() -> Result<(), Error> {
    let card = Card::start("--playback speaker,backend=wav:FOLDER/a.wav")?;
    let mut sound = card.connect()?;
    let samples = noise(100 * PERIOD);
    prepare(&mut sound, 0, PERIOD)?;
    let time = play(&mut sound, 0, PERIOD, &samples)?;
    assert!(time >= Duration::from_millis(500) && time < 2 * SECOND, "{time:?}");
    end(&mut sound, 0)?;
    let file = fs::read(card.path("a.wav")).unwrap();
    assert!(file.starts_with(b"RIFF") && file.ends_with(&samples));
    assert_eq!(file.len(), 68 + samples.len());
    Ok(())
}

#[test]
#[ignore = "takes 10 minutes: cargo lab soak"]
fn ten_minutes_are_played_without_a_gap() -> Result<(), Error> {
    let card = Card::start("--playback speaker,backend=wav:FOLDER/a.wav")?;
    let mut sound = card.connect()?;
    prepare_to_tell(&mut sound, 0, PERIOD)?;
    // A sine of 440 Hz.
    let wave = |frame: u32| (f64::from(frame) * 440.0 * std::f64::consts::TAU / 48_000.0).sin();
    let frames = (0..600 * 48_000).map(|frame| (wave(frame) * 32_000.0) as i16);
    let samples: Vec<u8> = frames.flat_map(|value| [value.to_le_bytes(); 2].concat()).collect();
    let time = play(&mut sound, 0, PERIOD, &samples)?;
    assert!(time.abs_diff(600 * SECOND) < SECOND / 10, "{time:?}");
    assert_eq!(sound.event(Duration::ZERO)?, None, "it ran out of buffers");
    end(&mut sound, 0)?;
    assert!(fs::read(card.path("a.wav")).unwrap().ends_with(&samples));
    Ok(())
}

#[test]
fn what_is_played_is_recorded_by_a_loopback() -> Result<(), Error> {
    let card =
        Card::start("--playback line-out,backend=loopback --capture line-in,backend=loopback")?;
    let mut sound = card.connect()?;
    for stream in [0, 1] {
        prepare(&mut sound, stream, PERIOD)?;
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
fn a_guest_is_offered_what_a_wav_file_has() -> Result<(), Error> {
    const PCM_INFO: [u32; 4] = [0x100, 0, 1, 32];
    let card = Card::start("--playback speaker,backend=wav:FOLDER/a.wav")?;
    let mut sound = card.connect()?;
    let samples = noise(4 * PERIOD);
    prepare(&mut sound, 0, PERIOD)?;
    play(&mut sound, 0, PERIOD, &samples)?;
    end(&mut sound, 0)?;

    let file = card.path("a.wav");
    let capture = format!("mic,backend=wav:{}", file.display());
    let card = Card::start(&format!("--capture {capture}"))?;
    let mut sound = card.connect()?;
    let (status, info) = sound.request(&PCM_INFO.map(u32::to_le_bytes).concat())?;
    let [channels, format, rate] = CD;
    assert_eq!((status, &info[8..16]), (OK, &(1u64 << format).to_le_bytes()[..]));
    assert_eq!(info[16..24], (1u64 << rate).to_le_bytes());
    assert_eq!(info[25..27], [channels; 2]);
    prepare(&mut sound, 0, PERIOD)?;
    for _ in 0..4 {
        sound.record(0, PERIOD)?;
    }
    assert_eq!(sound.words(&[START, 0])?, OK);
    for period in samples.chunks(PERIOD as usize) {
        assert_eq!(sound.recorded()?.samples, period);
    }

    let mut command = Command::new(program("vhost-sound")?);
    command.arg("--socket-path").arg(card.path("other"));
    command.args(["--capture", &format!("{capture},channels=1")]);
    let said = "cannot be used: it has 2 channels, where the stream has 1\n";
    let sentence = format!("vhost-sound: --capture mic: {} {said}", file.display());
    assert_eq!(refusal(command), sentence);
    Ok(())
}

#[test]
fn a_full_disk_has_whole_frames_alone() -> Result<(), Error> {
    // A file may have so many blocks, whoever serves.
    let mut command = Command::new("sh");
    command.args(["-c", r#"trap "" XFSZ; ulimit -S -f 66; exec "$0" "$@""#]);
    command.arg(program("vhost-sound")?);
    let card = Card::start_by(command, "--playback speaker,backend=wav:FOLDER/a.wav")?;
    let mut sound = card.connect()?;
    // Two channels of S24_3: frames of six bytes, which fill no block.
    let period = 240 * 6;
    let samples = noise(200 * period);
    assert_eq!((sound.set(0, period, [2, 11, 7])?, sound.words(&[PREPARE, 0])?), (OK, OK));
    assert_eq!(sound.words(&[START, 0])?, OK);
    let mut kept = Vec::new();
    for (number, part) in samples.chunks(period as usize).enumerate() {
        if number == 100 {
            card.lift_limits();
        }
        sound.play(0, part)?;
        if sound.played()?.status == OK {
            kept.extend(part);
        } else {
            assert!(number < 100 && number > 10, "{number}");
        }
    }
    end(&mut sound, 0)?;
    let file = fs::read(card.path("a.wav")).unwrap();
    // And as much of the one that did not fit as did.
    let last = &samples[100 * period as usize..];
    assert_eq!((file.len() - 68) % 6, 0);
    assert!(file.ends_with(last) && kept.ends_with(last));
    Ok(())
}

#[test]
fn two_streams_may_read_one_file_but_not_write_it() -> Result<(), Error> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.raw");
    fs::write(&file, noise(PERIOD)).unwrap();
    let stream =
        |option: &str, jack| [option.into(), format!("{jack},backend=raw:{}", file.display())];
    for other in [stream("--playback", "line-out"), stream("--capture", "mic")] {
        let mut command = Command::new(program("vhost-sound")?);
        command.arg("--socket-path").arg(folder.path().join("s"));
        command.args(stream("--playback", "speaker")).args(&other);
        let error = refusal(command);
        assert!(error.contains("another stream has"), "{error}");
        assert_eq!(fs::read(&file).unwrap().len(), PERIOD as usize, "it is as it was");
    }
    let command = Command::new(program("vhost-sound")?);
    let both = [stream("--capture", "line-in"), stream("--capture", "mic")].concat().join(" ");
    Card::start_by(command, &both)?.connect()?;
    Ok(())
}

#[test]
fn a_stream_with_buffers_enough_wants_no_kicks() -> Result<(), Error> {
    let card = Card::start("--playback speaker --playback line-out")?;
    let mut sound = card.connect()?;
    prepare(&mut sound, 0, PERIOD)?;
    let samples = noise(PERIOD);
    for _ in 0..4 {
        sound.play(0, &samples)?;
    }
    assert_eq!(sound.words(&[START, 0])?, OK);
    let mut kicks = 0;
    for _ in 0..100 {
        assert_eq!(sound.played()?.status, OK);
        kicks += u32::from(sound.play(0, &samples)?);
    }
    // The first ones, and those for which this test was late.
    assert!(kicks < 50, "{kicks}");
    // Another one of that queue that has too few.
    prepare(&mut sound, 1, PERIOD)?;
    assert_eq!(sound.words(&[START, 1])?, OK);
    assert!(sound.play(0, &samples)?);
    assert_eq!((sound.words(&[STOP, 1])?, sound.words(&[RELEASE, 1])?), (OK, OK));
    for _ in 0..5 {
        assert_eq!(sound.played()?.status, OK);
    }
    assert!(sound.play(0, &samples)?, "it has nothing to do");
    end(&mut sound, 0)
}

#[test]
fn a_stream_that_ends_gives_all_buffers_back_first() -> Result<(), Error> {
    let card = Card::start("--playback speaker")?;
    let mut sound = card.connect()?;
    prepare(&mut sound, 0, PERIOD)?;
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
    prepare(&mut sound, 0, PERIOD)?;
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
fn a_stream_that_runs_out_says_so_and_goes_on() -> Result<(), Error> {
    let card = Card::start("--playback speaker,backend=wav:FOLDER/a.wav")?;
    let mut sound = card.connect()?;
    prepare_to_tell(&mut sound, 0, PERIOD)?;
    let samples = noise(2 * PERIOD);
    let (first, second) = samples.split_at(PERIOD as usize);
    sound.play(0, first)?;
    assert_eq!(sound.words(&[START, 0])?, OK);
    assert_eq!(sound.played()?.status, OK);
    assert_eq!(sound.event(5 * SECOND)?, Some((XRUN, 0)));
    // Once, however long it takes.
    assert_eq!(sound.event(Duration::from_millis(200))?, None);
    let begun = Instant::now();
    sound.play(0, second)?;
    assert_eq!(sound.played()?.status, OK);
    assert!(begun.elapsed() >= Duration::from_millis(5), "time that has passed is not made up for");
    end(&mut sound, 0)?;
    assert!(fs::read(card.path("a.wav")).unwrap().ends_with(&samples));
    Ok(())
}
