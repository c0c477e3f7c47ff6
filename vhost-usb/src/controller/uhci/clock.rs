//! Which frame it is: computed, not counted (UHCI 1.1, 2.1.4).

use crate::controller::Time;

/// Nanoseconds of a frame.
pub(super) const FRAME: u64 = 1_000_000;

/// The clock of frames: which one it was, and when.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    pub(super) number: u64,
    pub(super) since: Time,
}

impl Clock {
    /// The frame's number, with more bits than FRNUM has.
    pub(super) fn frame(&self, now: Time) -> u64 {
        self.number.saturating_add(now.since(self.since) / FRAME)
    }

    /// When a frame begins.
    pub(super) fn begin(&self, frame: u64) -> Time {
        self.since.after(frame.saturating_sub(self.number).saturating_mul(FRAME))
    }
}
