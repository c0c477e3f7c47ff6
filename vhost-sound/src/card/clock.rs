//! The clock of a stream whose host has none: frames pass at the rate that was set, without drift.

use std::time::{Duration, Instant};

use super::params::Params;

/// Counts the frames that have passed while it runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// Since when it runs.
    running: Option<Instant>,
    /// Time that passed in earlier runs, and that is not counted.
    passed: Duration,
}

impl Clock {
    /// Lets it run.
    pub fn start(&mut self, now: Instant) {
        self.running.get_or_insert(now);
    }

    /// Has it stand still.
    pub fn stop(&mut self, now: Instant) {
        self.passed = self.elapsed(now);
        self.running = None;
    }

    fn elapsed(&self, now: Instant) -> Duration {
        let run = self.running.map(|since| now.saturating_duration_since(since));
        self.passed.saturating_add(run.unwrap_or_default())
    }

    /// How many whole frames have passed.
    #[must_use]
    pub fn frames(&self, params: &Params, now: Instant) -> u64 {
        params.frames(self.elapsed(now))
    }

    /// When so many will have passed. `None`: not while it stands still.
    #[must_use]
    pub fn when(&self, params: &Params, frames: u64) -> Option<Instant> {
        // A nanosecond later, since times are rounded down: all of the frame has passed then.
        let time = params.time(frames).saturating_add(Duration::from_nanos(1));
        self.running?.checked_add(time.saturating_sub(self.passed))
    }

    /// Nothing was there for it to count: it has passed no more than so many frames.
    pub fn hold(&mut self, params: &Params, frames: u64, now: Instant) {
        self.passed = params.time(frames).saturating_add(Duration::from_nanos(1));
        self.running = self.running.map(|_| now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::card::format::Format;

    fn params(rate: &str) -> Params {
        let rate = rate.parse().unwrap();
        let (format, channels, features) = (Format::S16, 2, 0);
        Params { format, rate, channels, frame: 4, period: 1764, buffer: 7056, features }
    }

    #[test]
    fn frames_pass_while_it_runs() {
        let (mut clock, params, now) = (Clock::default(), params("48000"), Instant::now());
        let after = |milliseconds| now + Duration::from_millis(milliseconds);
        assert_eq!((clock.frames(&params, after(5)), clock.when(&params, 1)), (0, None));
        clock.start(now);
        assert_eq!(clock.frames(&params, after(10)), 480);
        clock.stop(after(10));
        assert_eq!(clock.frames(&params, after(500)), 480);
        clock.start(after(500));
        assert_eq!(clock.frames(&params, after(510)), 960);
        clock.hold(&params, 700, after(510));
        assert_eq!(clock.frames(&params, after(510)), 700);
        assert_eq!(clock.frames(&params, after(520)), 1180);
    }

    proptest::proptest! {
        /// Whatever the rate, it is looked at when the frames have passed, and not much later.
        #[test]
        fn a_frame_has_passed_when_it_says(rate in 0..14u8, frames in 0..1u64 << 36, held: u16) {
            let rate = crate::card::format::Rate::of_number(rate).unwrap();
            let params = Params { rate, ..params("8000") };
            let (mut clock, now) = (Clock::default(), Instant::now());
            clock.start(now);
            clock.hold(&params, held.into(), now);
            let frames = frames.max(held.into());
            let when = clock.when(&params, frames).unwrap();
            assert_eq!(clock.frames(&params, when), frames);
            let before = when - Duration::from_nanos(2);
            assert!(frames == u64::from(held) || clock.frames(&params, before) < frames);
        }
    }
}
