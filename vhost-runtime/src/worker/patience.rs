//! How long a worker looks for the next request itself before it sleeps.
//!
//! To wake a worker costs the driver a system call, or its guest an exit, and takes longer than many
//! requests. So a worker whose driver has been quick to kick looks at the ring for a moment; one
//! whose driver takes its time sleeps at once, and an idle one never wakes.

use std::time::{Duration, Instant};

/// The longest look: a driver that takes longer is better waited for asleep.
const MOST: Duration = Duration::from_micros(32);
/// The shortest.
const LEAST: Duration = Duration::from_micros(4);

#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Zero, or from [`LEAST`] to [`MOST`].
    limit: Duration,
    asleep: Option<Instant>,
}

impl Patience {
    /// How long to look. `None`: not at all.
    pub(super) fn limit(&self) -> Option<Duration> {
        (!self.limit.is_zero()).then_some(self.limit)
    }

    /// The worker goes to sleep.
    pub(super) fn sleeps(&mut self, now: Instant) {
        self.asleep = Some(now);
    }

    /// Something else than a driver has woken it.
    pub(super) fn disturbed(&mut self) {
        self.asleep = None;
    }

    /// A driver has.
    pub(super) fn kicked(&mut self, now: Instant) {
        let Some(asleep) = self.asleep.take() else { return };
        if now.saturating_duration_since(asleep) <= MOST {
            self.limit = self.limit.saturating_mul(2).clamp(LEAST, MOST);
        } else {
            self.limit =
                self.limit.checked_div(2).filter(|half| *half >= LEAST).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kicks that come so many microseconds after the worker fell asleep.
    fn after(kicks: &[u64]) -> Option<u128> {
        let mut patience = Patience::default();
        let now = Instant::now();
        for &pause in kicks {
            patience.sleeps(now);
            patience.kicked(now + Duration::from_micros(pause));
        }
        patience.limit().map(|limit| limit.as_micros())
    }

    #[test]
    fn a_driver_is_looked_out_for_while_it_is_quick() {
        assert_eq!(after(&[]), None);
        assert_eq!(after(&[10]), Some(4));
        assert_eq!(after(&[10, 10]), Some(8));
        assert_eq!(after(&[10; 9]), Some(32));
        assert_eq!(after(&[10, 10, 100]), Some(4));
        assert_eq!(after(&[10, 10, 100, 100]), None);
    }

    #[test]
    fn what_else_wakes_a_worker_says_nothing_of_the_driver() {
        let mut patience = Patience::default();
        let now = Instant::now();
        patience.sleeps(now);
        patience.disturbed();
        patience.kicked(now);
        assert_eq!(patience.limit(), None);
    }
}
