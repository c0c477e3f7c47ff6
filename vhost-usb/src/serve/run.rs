//! When controllers have something to do, whatever the transport: a device has news, or it is time.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::{Timespec, epoll};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, clock_gettime,
    timerfd_create, timerfd_settime,
};

use crate::controller::host::Host;
use crate::controller::{Next, Time};
use crate::device::Device;

/// Turns of the controllers before register accesses have theirs.
const TURNS: usize = 8;
/// Nanoseconds after which they have theirs in any case.
const LONGEST: u64 = 1_000_000;
/// Who has the event that tells of what is plugged in or out: no port's number.
const PLUGGED: u64 = u64::MAX;
/// Events of devices that are taken at once.
const EVENTS: usize = 16;

/// Nanoseconds of the clock that all processes of the host share.
pub(super) fn now() -> Time {
    let now = clock_gettime(ClockId::Monotonic);
    let (seconds, rest) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    let seconds = seconds.unwrap_or(0).saturating_mul(1_000_000_000);
    Time(seconds.saturating_add(rest.unwrap_or(0)))
}

/// What is waited for.
pub(super) struct Runner {
    /// Waits for devices' events, by the numbers of their ports.
    epoll: OwnedFd,
    timer: OwnedFd,
    /// It is set.
    timed: bool,
    /// Room for the events that are taken at once.
    ready: Vec<epoll::Event>,
}

impl Runner {
    /// Waits for what is plugged in.
    pub(super) fn new(host: &mut Host) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        watch(&epoll, PLUGGED, host.plugged())?;
        watch_all(&epoll, host)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
        Ok(Self { epoll, timer, timed: false, ready: Vec::with_capacity(EVENTS) })
    }

    /// Readable when there is something to do.
    pub(super) fn events(&self) -> [BorrowedFd<'_>; 2] {
        [self.epoll.as_fd(), self.timer.as_fd()]
    }

    /// Lets the controllers do what there is to do, turn by turn as `turn` has it, and sets the timer.
    pub(super) fn run(&mut self, host: &mut Host, mut turn: impl FnMut(&mut Host, Time) -> Next) {
        if self.take_events(host) {
            host.stir(now());
        }
        let (mut next, begun) = (Next::Never, now());
        for _ in 0..TURNS {
            let now = now();
            next = turn(host, now);
            if next != Next::Now || now.since(begun) > LONGEST {
                break;
            }
        }
        self.arm(next, now());
    }

    /// Lets devices do what has become possible; whether there were any.
    fn take_events(&mut self, host: &mut Host) -> bool {
        let mut any = false;
        loop {
            self.ready.clear();
            let at_once = Timespec::default();
            let spare = rustix::buffer::spare_capacity(&mut self.ready);
            if let Err(error) = epoll::wait(&self.epoll, spare, Some(&at_once)) {
                if error != rustix::io::Errno::INTR {
                    log::error!("devices cannot be waited for: {error}");
                }
                return any;
            }
            if self.ready.is_empty() {
                return any;
            }
            any = true;
            if host.take_plugged()
                && let Err(error) = watch_all(&self.epoll, host)
            {
                log::error!("not all devices are noticed: {error}");
            }
            for (port, device) in host.devices() {
                if self.ready.iter().any(|event| event.data.u64() == port as u64) {
                    self.take_turn(port, device.as_mut());
                }
            }
            // Who waits is told once of what is ready.
            if self.ready.len() < EVENTS {
                return any;
            }
        }
    }

    fn take_turn(&self, port: usize, device: &mut dyn Device) {
        device.turn();
        if device.events_changed()
            && let Err(error) = watch_device(&self.epoll, port, device)
        {
            log::error!("port {}: not all of it is noticed: {error}", port.saturating_add(1));
        }
    }

    fn arm(&mut self, next: Next, now: Time) {
        let wait = match next {
            Next::Never if !self.timed => return,
            Next::Never => 0, // never
            Next::Now => 1,
            Next::At(time) => time.since(now).max(1),
        };
        self.timed = wait != 0;
        if let Err(error) = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once(wait)) {
            log::error!("a timer cannot be set: {error}");
        }
    }
}

/// After so many nanoseconds.
fn once(nanoseconds: u64) -> Itimerspec {
    const SECOND: u64 = 1_000_000_000;
    let part = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let it_value =
        Timespec { tv_sec: part(nanoseconds / SECOND), tv_nsec: part(nanoseconds % SECOND) };
    Itimerspec { it_interval: Timespec::default(), it_value }
}

/// Has all devices' events noticed.
fn watch_all(epoll: &OwnedFd, host: &mut Host) -> io::Result<()> {
    host.devices().try_for_each(|(port, device)| watch_device(epoll, port, device.as_ref()))
}

/// Has a device's events noticed.
fn watch_device(epoll: &OwnedFd, port: usize, device: &dyn Device) -> io::Result<()> {
    device.events().into_iter().try_for_each(|fd| watch(epoll, port as u64, fd))
}

fn watch(epoll: &OwnedFd, who: u64, fd: RawFd) -> io::Result<()> {
    // SAFETY: its owner keeps it open, and it is used at once.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let data = epoll::EventData::new_u64(who);
    match epoll::add(epoll.as_fd(), fd, data, epoll::EventFlags::IN) {
        // It is watched already. One that was closed is not.
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
