//! The controllers over vhost-user: accesses to registers come by virtqueues, what registers hold is shared
//! (see [`vhost_runtime::registers`]).

use std::error::Error;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::epoll;
use rustix::time::{ClockId, clock_gettime};
use vhost_runtime::chain::Chain;
use vhost_runtime::device::{ConfigError, Device, QueueWorker, Queues, Taken};
use vhost_runtime::inflight::Region;
use vhost_runtime::memory::Memory;
use vhost_runtime::queue::{Queue, QueueError};
use vhost_runtime::registers::{self, ACCESS, ANSWER, Access};
use vhost_runtime::session::Frontend;
use vhost_runtime::state::StateError;
use vmm_sys_util::timerfd::TimerFd;

use super::guest::Guest;
use crate::controller::host::Host;
use crate::controller::{Next, Time};
use crate::device;

/// Accesses that a queue holds.
const QUEUE_SIZE: u16 = 64;
/// Bytes of an answer.
const WRITTEN: u32 = {
    assert!(ANSWER == 4);
    4
};
/// Turns of the controllers before register accesses have theirs.
const TURNS: usize = 8;
/// Nanoseconds after which they have theirs in any case.
const LONGEST: u64 = 1_000_000;
/// Who has the event that tells of what is plugged in or out: no port's number.
const PLUGGED: u64 = u64::MAX;
/// Events of devices that are taken at once.
const EVENTS: usize = 16;

/// Nanoseconds of the clock that all processes of the host share.
fn now() -> Time {
    let now = clock_gettime(ClockId::Monotonic);
    let (seconds, rest) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    let seconds = seconds.unwrap_or(0).saturating_mul(1_000_000_000);
    Time(seconds.saturating_add(rest.unwrap_or(0)))
}

/// The controllers, as the runtime serves them.
pub struct Server {
    host: Arc<Mutex<Host>>,
    region: Mutex<Option<Arc<Region>>>,
    /// Rings run or have run: the registers are this process's own.
    begun: AtomicBool,
}

impl Server {
    /// One of these controllers.
    #[must_use]
    pub fn new(host: Arc<Mutex<Host>>) -> Self {
        Self { host, region: Mutex::default(), begun: AtomicBool::new(false) }
    }

    fn host(&self) -> MutexGuard<'_, Host> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn region(&self) -> Option<Arc<Region>> {
        self.region.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A function's doublewords in the region.
fn words(region: &Region, function: usize) -> &[AtomicU32] {
    let start = function.saturating_mul(registers::WORDS);
    let end = start.saturating_add(registers::WORDS);
    region.words().get(start..end).unwrap_or_default()
}

/// Shows what a function's registers hold.
fn show(host: &Host, region: &Region, function: usize, now: Time) {
    let words = words(region, function);
    for (offset, word) in (0u32..).step_by(4).zip(words.iter().take(host.shown(function))) {
        let value = host.register(function, offset, now).to_le();
        if word.load(Ordering::Relaxed) != value {
            word.store(value, Ordering::Release);
        }
    }
    if let Some(pending) = words.get(registers::PENDING) {
        pending.store(u32::from(host.interrupts(function)).to_le(), Ordering::SeqCst);
    }
    if let Some(valid) = words.get(registers::VALID) {
        valid.store(1u32.to_le(), Ordering::Release);
    }
}

impl Device for Server {
    type Worker = Worker;

    fn name(&self) -> &'static str {
        "vhost-usb"
    }

    fn queues(&self) -> u16 {
        u16::try_from(self.host().count()).unwrap_or(1)
    }

    fn queue_size(&self) -> u16 {
        QUEUE_SIZE
    }

    fn shared_words(&self) -> usize {
        usize::from(self.queues()).saturating_mul(registers::WORDS)
    }

    fn set_region(&self, region: Option<Arc<Region>>) {
        *self.region.lock().unwrap_or_else(PoisonError::into_inner) = region;
    }

    fn features(&self) -> u64 {
        0
    }

    fn set_features(&self, _features: u64) {}

    fn config(&self) -> Vec<u8> {
        registers::config(&self.host().functions())
    }

    fn set_config(&self, offset: u32, bytes: &[u8]) -> Result<(), ConfigError> {
        Err(ConfigError { offset, length: bytes.len() })
    }

    /// One thread for all: they share ports.
    fn worker_of(&self, _queue: u16) -> u16 {
        0
    }

    fn worker(self: Arc<Self>, _number: u16) -> io::Result<Worker> {
        Worker::new(self)
    }

    fn activate(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        let Some(region) = self.region() else {
            return Err("the frontend keeps no in-flight region, where registers are".into());
        };
        let mut host = self.host();
        host.activate()?;
        let now = now();
        let first = !self.begun.swap(true, Ordering::Relaxed);
        let word = |function: usize, place: usize| {
            let word = words(&region, function).get(place);
            word.map_or(0, |word| u32::from_le(word.load(Ordering::Acquire)))
        };
        let functions = 0..host.count();
        let known = functions.clone().all(|function| word(function, registers::VALID) != 0);
        if !known {
            // Another driver, whose memory is not what the last one's was.
            host.reset();
        } else if first {
            let read = |function: usize, offset: u32| {
                word(function, usize::try_from(offset / 4).unwrap_or(usize::MAX))
            };
            host.restore(&read, now);
        }
        // What was told may not have been heard: the first turn tells it again.
        host.forget_told();
        functions.for_each(|function| show(&host, &region, function, now));
        Ok(())
    }

    fn deactivate(&self) {
        self.host().deactivate();
    }

    fn reset(&self) {
        let (mut host, now) = (self.host(), now());
        for function in 0..host.count() {
            host.access(function, Access::Reset, now);
        }
    }

    fn save(&self) -> Result<serde_json::Value, StateError> {
        Ok(serde_json::Value::Null)
    }

    fn load(&self, _state: serde_json::Value) -> Result<(), StateError> {
        Ok(())
    }

    fn connected(&self, _frontend: Frontend) {}
}

/// Serves all functions.
pub struct Worker {
    server: Arc<Server>,
    region: Option<Arc<Region>>,
    /// Waits for devices' events, by the numbers of their ports.
    epoll: OwnedFd,
    timer: TimerFd,
    /// It is set.
    timed: bool,
    /// Room for the events that are taken at once.
    ready: Vec<epoll::Event>,
}

impl Worker {
    fn new(server: Arc<Server>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut host = server.host();
        watch(&epoll, PLUGGED, host.plugged())?;
        watch_all(&epoll, &mut host)?;
        drop(host);
        let timer = TimerFd::new().map_err(io::Error::from)?;
        let region = server.region();
        let ready = Vec::with_capacity(EVENTS);
        Ok(Self { server, region, epoll, timer, timed: false, ready })
    }

    /// Lets devices do what has become possible; whether there were any.
    fn take_events(&mut self, host: &mut Host) -> bool {
        let mut any = false;
        loop {
            self.ready.clear();
            let at_once = rustix::event::Timespec::default();
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

    fn take_turn(&self, port: usize, device: &mut dyn device::Device) {
        device.turn();
        if device.events_changed()
            && let Err(error) = watch_device(&self.epoll, port, device)
        {
            log::error!("port {}: not all of it is noticed: {error}", port.saturating_add(1));
        }
    }

    fn arm(&mut self, next: Next, now: Time) {
        let wait = match next {
            Next::Never => {
                if std::mem::take(&mut self.timed)
                    && let Err(error) = self.timer.clear()
                {
                    log::error!("a timer cannot be stopped: {error}");
                }
                return;
            }
            Next::Now => 1,
            Next::At(time) => time.since(now).max(1),
        };
        self.timed = true;
        if let Err(error) = self.timer.reset(Duration::from_nanos(wait), None) {
            log::error!("a timer cannot be set: {error}");
        }
    }
}

/// Has all devices' events noticed.
fn watch_all(epoll: &OwnedFd, host: &mut Host) -> io::Result<()> {
    host.devices().try_for_each(|(port, device)| watch_device(epoll, port, device.as_ref()))
}

/// Has a device's events noticed.
fn watch_device(epoll: &OwnedFd, port: usize, device: &dyn device::Device) -> io::Result<()> {
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

/// An access that a chain asks for.
fn read(chain: &Chain) -> Option<Access> {
    let mut bytes = [0; ACCESS];
    let readable = chain.readable();
    if readable.len() < ACCESS as u64 || chain.writable().len() < ANSWER as u64 {
        return None;
    }
    readable.split_at(ACCESS as u64).0.read(&mut bytes);
    Access::parse(bytes)
}

impl QueueWorker for Worker {
    fn events(&self) -> Vec<RawFd> {
        vec![self.epoll.as_raw_fd(), self.timer.as_raw_fd()]
    }

    fn process(&mut self, queue: &mut Queue) -> Taken {
        let Some(region) = &self.region else { return Taken::All };
        let mut host = self.server.host();
        while let Some(chain) = queue.pop() {
            let Some(access) = read(&chain) else {
                queue.fail(&QueueError::Request("an access to a register is malformed"));
                return Taken::All;
            };
            let (now, routed) = (now(), host.routed());
            let value = host.access(queue.index(), access, now);
            chain.writable().write(&value.to_le_bytes());
            if host.routed() != routed {
                (0..host.count()).for_each(|function| show(&host, region, function, now));
            }
            show(&host, region, queue.index(), now);
            if host.take_interrupt(queue.index()) {
                queue.interrupt();
            }
            queue.complete(chain, WRITTEN);
            queue.publish();
        }
        Taken::All
    }

    fn turn(&mut self, queues: &mut Queues) {
        let server = Arc::clone(&self.server);
        let (Some(region), Some(memory)) = (self.region.clone(), memory(queues)) else { return };
        let mut host = server.host();
        if self.take_events(&mut host) {
            host.stir(now());
        }
        let (mut next, begun) = (Next::Never, now());
        for _ in 0..TURNS {
            let now = now();
            next = host.run(now, &Guest(&memory));
            for queue in queues.iter_mut() {
                show(&host, &region, queue.index(), now);
                if host.take_interrupt(queue.index()) {
                    queue.interrupt();
                }
            }
            if next != Next::Now || now.since(begun) > LONGEST {
                break;
            }
        }
        self.arm(next, now());
    }

    fn stop(&mut self, _queue: &mut Queue) {}

    fn in_flight(&self, _index: usize) -> usize {
        0
    }
}

fn memory(queues: &mut Queues) -> Option<Arc<Memory>> {
    queues.iter_mut().next().map(|queue| Arc::clone(queue.memory()))
}
