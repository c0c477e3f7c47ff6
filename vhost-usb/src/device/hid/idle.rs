//! Reports that are repeated while nothing happens (HID 1.11, 7.2.4).

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use vmm_sys_util::timerfd::TimerFd;

/// The idle rate's unit, in milliseconds.
const UNIT: u64 = 4;

/// How often a report is repeated.
pub(super) struct Idle {
    /// 0: never.
    rate: u8,
    /// When it is due.
    due: Option<Instant>,
    timer: TimerFd,
}

impl Idle {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { rate: 0, due: None, timer: TimerFd::new().map_err(io::Error::from)? })
    }

    pub(super) fn rate(&self) -> u8 {
        self.rate
    }

    /// As the host wants it.
    pub(super) fn set(&mut self, rate: u8) {
        self.rate = rate;
        self.sent();
    }

    /// A report was sent: the time begins anew.
    pub(super) fn sent(&mut self) {
        if self.rate == 0 {
            if self.due.take().is_some() {
                self.disarm();
            }
            return;
        }
        let period = Duration::from_millis(u64::from(self.rate).saturating_mul(UNIT));
        self.due = Instant::now().checked_add(period);
        if let Err(error) = self.timer.reset(period, None) {
            log::warn!("an idle report's timer can't be set: {error}");
        }
    }

    pub(super) fn is_due(&self) -> bool {
        self.due.is_some_and(|due| Instant::now() >= due)
    }

    /// Readable when a report is due.
    pub(super) fn event(&self) -> RawFd {
        self.timer.as_raw_fd()
    }

    /// It was readable, maybe: it is not any more, though the report is still due.
    pub(super) fn turn(&mut self) {
        if self.is_due() {
            self.disarm();
        }
    }

    fn disarm(&mut self) {
        if let Err(error) = self.timer.clear() {
            log::warn!("an idle report's timer can't be stopped: {error}");
        }
    }
}
