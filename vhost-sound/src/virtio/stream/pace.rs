//! How time passes for a stream: by its host's clock or, where that has none or stands still, by the card's.

use std::time::{Duration, Instant};

use crate::card::clock::Clock;
use crate::card::params::Params;
use crate::host::Time;

/// How long a host with a clock of its own may stand still.
const PATIENCE: Duration = Duration::from_millis(500);

/// A stream's time.
#[derive(Debug)]
pub(super) struct Pace {
    clock: Clock,
    /// Frames that were played or recorded since it was prepared.
    position: u64,
    /// How far the host's clock had come, and when it was seen to.
    seen: (u64, Instant),
    is_stalled: bool,
}

impl Pace {
    /// That of a stream that does not run yet.
    pub(super) fn new() -> Self {
        let seen = (0, Instant::now());
        Self { clock: Clock::default(), position: 0, seen, is_stalled: false }
    }

    pub(super) fn start(&mut self, now: Instant) {
        self.clock.start(now);
        self.seen.1 = now;
    }

    pub(super) fn stop(&mut self, now: Instant) {
        self.clock.stop(now);
    }

    /// The time since the last frame has not passed.
    pub(super) fn hold(&mut self, params: &Params, now: Instant) {
        self.clock.hold(params, self.position, now);
        self.seen.1 = now;
    }

    /// The same for time in which there was nothing to be played or recorded.
    pub(super) fn forgive(&mut self, params: &Params, now: Instant) {
        if self.clock.frames(params, now) > self.position {
            self.clock.hold(params, self.position, now);
        }
        self.seen.1 = now;
    }

    /// Sees whether a host with a clock of its own still does its work, if it has some. `true`: not any more.
    pub(super) fn watch(
        &mut self,
        time: Option<Time>,
        has_work: bool,
        params: &Params,
        now: Instant,
    ) -> bool {
        let Some(time) = time else { return false };
        let (passed, since) = self.seen;
        if passed != time.passed {
            self.seen = (time.passed, now);
            self.is_stalled = false;
        } else if !self.is_stalled && has_work && now.saturating_duration_since(since) >= PATIENCE {
            self.is_stalled = true;
            self.hold(params, now);
            return true;
        }
        false
    }

    /// The host can do nothing.
    pub(super) fn stall(&mut self) {
        self.is_stalled = true;
    }

    /// The host stands still: the stream goes by the card's clock, and nothing is heard.
    pub(super) fn is_stalled(&self) -> bool {
        self.is_stalled
    }

    /// Frames that can be moved now.
    pub(super) fn due(&self, time: Option<Time>, params: &Params, now: Instant) -> u64 {
        match time {
            Some(time) => time.room.checked_div(params.frame.into()).unwrap_or(0),
            None => self.clock.frames(params, now).saturating_sub(self.position),
        }
    }

    /// So many were.
    pub(super) fn moved(&mut self, frames: u64) {
        self.position = self.position.saturating_add(frames);
    }

    /// When so many more will have been, by the card's clock.
    pub(super) fn when(&self, params: &Params, frames: u64) -> Option<Instant> {
        self.clock.when(params, self.position.saturating_add(frames))
    }

    /// When a host with a clock of its own is taken to stand still.
    pub(super) fn patience(&self) -> Option<Instant> {
        self.seen.1.checked_add(PATIENCE)
    }
}
