//! The card's end of what it shares with a helper.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::EventFd;

use super::ring::{Order, Phase, Ring};
use crate::card::control::Level;
use crate::card::params::Params;
use crate::card::port::Direction;
use crate::host::{Host, Time};

/// Nanoseconds of a second.
const SECOND: u128 = 1_000_000_000;
/// How much earlier than it is taken to a frame may be done with, in nanoseconds: no helper is more exact.
const SLACK: u64 = 200_000;

/// A stream that a helper plays or records.
#[derive(Debug)]
pub struct Near {
    ring: Ring,
    /// What the helper is to do: whoever has the memory, too, may write anything there.
    order: Option<Order>,
    /// When it was made, and what that is to the helper.
    began: (Instant, u64),
    /// Written to by the helper.
    wake: EventFd,
    /// Written to when the helper is to look at its order.
    bell: EventFd,
    /// What is under way was begun by another process.
    goes_on: bool,
    /// The host changes volumes itself; and what it has said of them last.
    has_levels: bool,
    found: (u8, Level),
}

impl Near {
    pub(super) fn new(ring: Ring, wake: EventFd, bell: EventFd, has_levels: bool) -> Self {
        let found = ring.found();
        Self { ring, order: None, began: now(), wake, bell, goes_on: false, has_levels, found }
    }

    fn order(&mut self, order: Order) -> io::Result<()> {
        self.order = Some(order);
        // Also if it is the same: who gave it may have been killed before the bell.
        self.ring.set_order(order);
        self.bell.write(1)
    }

    /// Bytes that may wait to be heard.
    fn ahead(&self) -> u64 {
        self.order.map_or(0, |order| order.ahead())
    }

    /// The time as the helper has it.
    fn nanoseconds(&self) -> u64 {
        let (then, time) = self.began;
        time.saturating_add(u64::try_from(then.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// How far this end has come.
    fn place(&self) -> u64 {
        match self.ring.direction() {
            Direction::Playback => self.ring.written(),
            Direction::Capture => self.ring.read(),
        }
    }

    /// How far the helper has.
    fn passed(&self) -> u64 {
        match self.ring.direction() {
            Direction::Playback => self.ring.read(),
            Direction::Capture => self.ring.written(),
        }
    }

    /// Where a helper would be that takes frames evenly, of which it took some at a place and a time: it is further, as
    /// it takes many at once, or not as far, where it is late.
    fn even(&self, from: u64, since: u64) -> u64 {
        let passed = self.nanoseconds().saturating_sub(since);
        from.saturating_add(self.bytes(passed))
    }

    /// Bytes of so many nanoseconds.
    fn bytes(&self, nanoseconds: u64) -> u64 {
        self.order.map_or(0, |order| {
            let frames = u128::from(nanoseconds).saturating_mul(order.rate.hertz().into());
            let frames = u64::try_from(frames / SECOND).unwrap_or(u64::MAX);
            frames.saturating_mul(order.frame())
        })
    }

    /// How long so many bytes take.
    fn time(&self, bytes: u64) -> Duration {
        let nanoseconds = self.order.and_then(|order| {
            let second = u128::from(order.frame()).checked_mul(order.rate.hertz().into())?;
            u64::try_from(u128::from(bytes).saturating_mul(SECOND).checked_div(second)?).ok()
        });
        Duration::from_nanos(nanoseconds.unwrap_or(0))
    }
}

/// Now, and what that is to a helper.
fn now() -> (Instant, u64) {
    let mut now = (Instant::now(), super::nanoseconds());
    // Somebody else may have had the processor meanwhile.
    for _ in 0..10 {
        if now.0.elapsed() < Duration::from_micros(20) {
            break;
        }
        now = (Instant::now(), super::nanoseconds());
    }
    now
}

impl Host for Near {
    fn prepare(&mut self, params: &Params) -> io::Result<()> {
        let last = self.ring.order();
        if let Some(last) = last.filter(|last| last.phase != Phase::Idle && last.is_of(params)) {
            self.order(last)?;
            self.goes_on = true;
            return Ok(()); // another process has begun it
        }
        self.goes_on = false;
        let generation = last.map_or(0, |last| last.generation).wrapping_add(1);
        let Params { format, rate, channels, .. } = *params;
        self.ring.restart();
        self.order(Order { phase: Phase::Ready, format, rate, channels, generation })
    }

    fn run(&mut self, runs: bool) {
        let phase = if runs { Phase::Running } else { Phase::Ready };
        if let Some(last) = self.order
            && let Err(error) = self.order(Order { phase, ..last })
        {
            log::error!("a helper is not told what to do: {error}");
        }
    }

    fn play(&mut self, frames: &[u8]) -> io::Result<()> {
        self.ring.put(frames);
        Ok(())
    }

    fn record(&mut self, frames: &mut [u8]) -> io::Result<()> {
        self.ring.get(frames);
        Ok(())
    }

    fn release(&mut self) -> io::Result<()> {
        match self.order {
            Some(last) => self.order(Order { phase: Phase::Idle, ..last }),
            None => Ok(()),
        }
    }

    fn time(&self) -> Option<Time> {
        let delay = self.ring.delay();
        if self.ring.direction() == Direction::Capture {
            let room = self.ring.filled();
            return Some(Time { passed: self.passed(), room, delay, ..Time::default() });
        }
        let (passed, from, since) = self.ring.progress();
        let unheard = self.ring.written().saturating_sub(passed).min(self.ahead());
        let even = self.even(from, since).saturating_add(self.bytes(SLACK));
        Some(Time {
            passed,
            room: self.ahead().saturating_sub(unheard),
            unheard,
            // No sound system takes more at once than waits for it.
            early: passed.saturating_sub(even).min(self.ahead()),
            piece: passed.saturating_sub(from).min(self.ahead()),
            delay,
        })
    }

    fn completed(&mut self, bytes: u64) {
        self.ring.complete(bytes);
    }

    fn begun(&self) -> Option<u64> {
        self.goes_on.then(|| self.place().saturating_sub(self.ring.begun()))
    }

    fn wake_at(&mut self, passed: u64) -> bool {
        self.ring.wake_at(passed);
        // It may have come there before it saw that.
        passed != u64::MAX && self.passed() >= passed
    }

    fn left(&self, passed: u64) -> Option<Duration> {
        let (_, from, since) = self.ring.progress();
        let left = passed.saturating_sub(self.even(from, since));
        (left > 0).then(|| self.time(left)).filter(|left| !left.is_zero())
    }

    fn set_level(&mut self, level: &Level) -> bool {
        if self.has_levels {
            self.ring.set_wanted(level);
            if let Err(error) = self.bell.write(1) {
                log::error!("a helper is not told what to do: {error}");
            }
        }
        self.has_levels
    }

    fn level(&mut self) -> Option<Level> {
        let found = self.ring.found();
        let is_new = std::mem::replace(&mut self.found, found) != found;
        // What it did not know of yet, it does next.
        let (number, level) = found;
        let is_so = is_new && number == self.ring.wanted().0;
        if is_so {
            self.ring.keep_wanted(&level);
        }
        is_so.then_some(level)
    }

    fn event(&self) -> Option<RawFd> {
        Some(self.wake.as_raw_fd())
    }
}
