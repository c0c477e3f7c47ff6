//! A timer of the host, set only while a guest waits for it: an idle device costs no wake-up.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

/// A point in time of one of the host's clocks, or how long: in nanoseconds, never narrow.
pub(crate) type Nanoseconds = i128;

/// Nanoseconds of a second.
pub(crate) const SECOND: Nanoseconds = 1_000_000_000;

/// A timer that goes off once. Its descriptor becomes readable then.
#[derive(Debug)]
pub(crate) struct Timer {
    fd: OwnedFd,
    clock: ClockId,
    flags: TimerfdTimerFlags,
    set: Option<Nanoseconds>,
}

impl Timer {
    /// One by the time of day. It goes off too when somebody sets the host's clock.
    pub(crate) fn of_day() -> io::Result<Self> {
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        Self::new(ClockId::Realtime, TimerfdClockId::Realtime, flags)
    }

    /// One by the time since the host was started.
    pub(crate) fn monotonic() -> io::Result<Self> {
        Self::new(ClockId::Monotonic, TimerfdClockId::Monotonic, TimerfdTimerFlags::ABSTIME)
    }

    fn new(clock: ClockId, of: TimerfdClockId, flags: TimerfdTimerFlags) -> io::Result<Self> {
        let fd = timerfd_create(of, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        Ok(Self { fd, clock, flags, set: None })
    }

    /// What its clock says.
    pub(crate) fn now(&self) -> Nanoseconds {
        let now = clock_gettime(self.clock);
        Nanoseconds::from(now.tv_sec) * SECOND + Nanoseconds::from(now.tv_nsec)
    }

    /// Goes off at a time, or not.
    pub(crate) fn set(&mut self, at: Option<Nanoseconds>) {
        if self.set == at {
            return;
        }
        self.set = at;
        // A time of zero would be none.
        let value = at.map_or(Timespec { tv_sec: 0, tv_nsec: 0 }, |at| time(at.max(1)));
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        if let Err(error) = timerfd_settime(&self.fd, self.flags, &once) {
            log::error!("a timer cannot be set: {error}");
        }
    }

    /// It has gone off, and is set no more.
    pub(crate) fn take(&mut self) {
        self.set = None;
        let mut times = [0; 8];
        // ECANCELED: somebody has set the clock.
        let _ = rustix::io::read(&self.fd, &mut times);
    }
}

fn time(at: Nanoseconds) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(at.div_euclid(SECOND)).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(at.rem_euclid(SECOND)).unwrap_or(0),
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
