//! How long it takes until something is heard.

use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

use lab::driver::sound::Sound;
use lab::pipewire::{PipeWire, SINK};
use lab::{Error, Spread, program, spawn_listening};

use crate::load::{KIND, asked};

/// Bytes of 5 ms.
const PERIOD: u32 = 960;
/// Periods of playback that are under way: what a guest has that asks for little.
const DEPTH: usize = 2;
const CLICKS: usize = 50;
/// Periods from one click to the next.
const PAUSE: u32 = 40;

/// Clicks that go from the driver to PipeWire's sink, and from its monitor back.
pub(crate) fn report(pipewire: &PipeWire) -> Result<String, Error> {
    let folder = tempfile::tempdir();
    let failed = |source| Error::Io { what: String::from("cannot make a folder"), source };
    let folder = folder.map_err(failed)?;
    let socket = folder.path().join("s");
    program("vhost-sound-pipewire")?;
    let mut command = pipewire.command(program("vhost-sound")?);
    command.arg("--socket-path").arg(&socket);
    command.arg("--playback").arg(format!("speaker,backend=pipewire:{SINK}"));
    command.arg("--capture").arg(format!("mic,backend=pipewire:{SINK}"));
    let _process = spawn_listening(command, &socket)?;
    let mut sound = Sound::connect(&socket)?;
    let (silence, click) = (vec![0; PERIOD as usize], vec![0x40; PERIOD as usize]);
    for stream in [0, 1] {
        asked(sound.set(stream, PERIOD, KIND)?)?;
        asked(sound.words(&[0x102, stream])?)?;
    }
    for _ in 0..8 {
        sound.record(1, PERIOD)?;
    }
    for _ in 0..DEPTH {
        sound.play(0, &silence)?;
    }
    asked(sound.words(&[0x104, 1])?)?;
    asked(sound.words(&[0x104, 0])?)?;
    let (mut given, mut heard, mut told) = (VecDeque::new(), Vec::new(), Vec::new());
    let (mut number, mut was_loud) = (0, false);
    while heard.len() < CLICKS {
        while let Some(moved) = sound.try_played()? {
            number += 1;
            // The first ones are for everything to settle.
            if number % PAUSE == 0 && number > 10 * PAUSE {
                given.push_back(Instant::now());
                sound.play(0, &click)?;
                told.push(f64::from(moved.latency) / 192.0);
            } else {
                sound.play(0, &silence)?;
            }
        }
        while let Some(moved) = sound.try_recorded()? {
            let is_loud = moved.samples.iter().any(|byte| *byte != 0);
            if is_loud
                && !was_loud
                && let Some(given) = given.pop_front()
            {
                // The click begins somewhere in what was recorded.
                let silent = moved.samples.iter().take_while(|byte| **byte == 0).count();
                let behind = (moved.samples.len() - silent) as f64 / 192.0;
                heard.push(given.elapsed().as_secs_f64() * 1e3 - behind);
            }
            was_loud = is_loud;
            sound.record(1, PERIOD)?;
        }
        thread::sleep(Duration::from_micros(200));
    }
    Ok(format!(
        "click, pipewire; minimum / median / maximum of {CLICKS}\n  {:58}{}\n  {:58}{}\n",
        format!("from the driver, {DEPTH} periods of 5 ms, and back, ms"),
        Spread::of(heard),
        "of which PipeWire's own, as the driver is told, ms",
        Spread::of(told)
    ))
}
