//! A driver that plays, and what came of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lab::Error;
use lab::driver::sound::{OK, Sound};

pub(crate) const PERIODS: [Duration; 3] =
    [Duration::from_millis(5), Duration::from_millis(10), Duration::from_millis(20)];
/// How long each subject plays, and how long where what is rare is looked for.
pub(crate) const TIME: Duration = Duration::from_secs(6);
pub(crate) const LONG: Duration = Duration::from_secs(300);
/// Until the sound system has settled.
const FIRST: Duration = Duration::from_secs(1);
/// Periods that are under way.
const DEPTH: usize = 4;
/// Two channels of S16 at 48,000 frames a second.
pub(crate) const KIND: [u8; 3] = [2, 5, 7];
const BYTES: u32 = 192;

/// What came of it.
#[derive(Debug)]
pub(crate) struct Run {
    period: Duration,
    /// When each period was done with, since the first.
    done: Vec<Duration>,
    /// Of the device and what it started.
    pub(crate) spent: Duration,
}

impl Run {
    /// Milliseconds that a part of the periods are at most off a clock that fits all of them best.
    pub(crate) fn off(&self, part: f64) -> f64 {
        let mut off: Vec<f64> = self.offsets();
        let middle = median(&off);
        off.iter_mut().for_each(|value| *value = (*value - middle).abs());
        off.sort_by(f64::total_cmp);
        let place = ((off.len().saturating_sub(1)) as f64 * part).round() as usize;
        off.get(place).copied().unwrap_or(f64::NAN)
    }

    /// Periods that were done with more than two after the one before: later than they should by more than one.
    pub(crate) fn late(&self) -> usize {
        let all = self.done.windows(2);
        all.filter(|pair| matches!(pair, [a, b] if *b - *a > 2 * self.period)).count()
    }

    /// How far each is behind the first one's clock, in milliseconds.
    fn offsets(&self) -> Vec<f64> {
        let period = self.period.as_secs_f64() * self.pace();
        let offsets = self.done.iter().enumerate();
        offsets.map(|(number, at)| (at.as_secs_f64() - number as f64 * period) * 1e3).collect()
    }

    /// Seconds that one of sound took: by the line that is next to all periods (least squares).
    pub(crate) fn pace(&self) -> f64 {
        let middle = (self.done.len() as f64 - 1.0) / 2.0;
        let mean =
            self.done.iter().map(Duration::as_secs_f64).sum::<f64>() / self.done.len() as f64;
        let (mut above, mut below) = (0.0, 0.0);
        for (number, at) in self.done.iter().enumerate() {
            let off = number as f64 - middle;
            above += off * (at.as_secs_f64() - mean);
            below += off * off;
        }
        above / below / self.period.as_secs_f64()
    }

    /// Milliseconds of processor time for a second of sound.
    pub(crate) fn processor(&self) -> f64 {
        self.spent.as_secs_f64() * 1e3 / (self.done.len() as f64 * self.period.as_secs_f64())
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Whether a request was granted.
pub(crate) fn asked(status: u32) -> Result<(), Error> {
    match status {
        OK => Ok(()),
        status => {
            let source = std::io::Error::other(format!("its status is {status:#x}"));
            Err(Error::Io { what: String::from("a request failed"), source })
        }
    }
}

/// Plays to the first stream of a card; `spent` tells the time that its processes have spent.
pub(crate) fn play(
    sound: &mut Sound,
    period: Duration,
    time: Duration,
    spent: impl Fn() -> Result<Duration, Error>,
) -> Result<Run, Error> {
    let length = u32::try_from(period.as_millis()).unwrap_or(u32::MAX) * BYTES;
    let samples: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
    asked(sound.set(0, length, KIND)?)?;
    asked(sound.words(&[0x102, 0])?)?;
    for _ in 0..DEPTH {
        sound.play(0, &samples)?;
    }
    asked(sound.words(&[0x104, 0])?)?;
    let start = Instant::now();
    while start.elapsed() < FIRST {
        sound.played()?;
        sound.play(0, &samples)?;
    }
    let (begun, before, mut done) = (Instant::now(), spent()?, Vec::new());
    while begun.elapsed() < time {
        sound.played()?;
        done.push(begun.elapsed());
        sound.play(0, &samples)?;
    }
    let spent = spent()?.saturating_sub(before);
    asked(sound.words(&[0x105, 0])?)?;
    asked(sound.words(&[0x103, 0])?)?;
    let first = done.first().copied().unwrap_or_default();
    let done = done.into_iter().map(|at| at.saturating_sub(first)).collect();
    Ok(Run { period, done, spent })
}

/// Keeps all processors busy.
pub(crate) struct Busy {
    ends: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Busy {
    pub(crate) fn start() -> Busy {
        let ends = Arc::<AtomicBool>::default();
        let count = thread::available_parallelism().map_or(2, usize::from);
        let threads = (0..count).map(|_| {
            let ends = Arc::clone(&ends);
            thread::spawn(move || while !ends.load(Ordering::Relaxed) {})
        });
        let threads = threads.collect();
        Busy { ends, threads }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
