//! The controllers over vhost-user: accesses to registers come by virtqueues, what registers hold is shared
//! (see [`vhost_runtime::registers`]).

use std::error::Error;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vhost_runtime::chain::Chain;
use vhost_runtime::device::{ConfigError, Device, QueueWorker, Queues, Taken};
use vhost_runtime::inflight::Region;
use vhost_runtime::memory::Memory;
use vhost_runtime::queue::{Queue, QueueError};
use vhost_runtime::registers::{self, ACCESS, ANSWER, Access};
use vhost_runtime::session::Frontend;
use vhost_runtime::state::StateError;

use super::guest::Guest;
use super::run::{Runner, now};
use crate::controller::host::Host;
use crate::controller::{Next, Time};

/// Accesses that a queue holds.
const QUEUE_SIZE: u16 = 64;
/// Bytes of an answer.
const WRITTEN: u32 = {
    assert!(ANSWER == 4);
    4
};
/// Nanoseconds after which registers that a guest reads by itself are shown again.
const FRESH: u64 = 1_000_000;

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
    for (offset, word) in (0u32..).step_by(4).zip(words.iter().take(host.registers(function))) {
        let value = host.register(function, offset, now).to_le();
        if word.load(Ordering::Relaxed) != value {
            word.store(value, Ordering::Release);
        }
    }
    if let Some(pending) = words.get(registers::PENDING) {
        pending.store(u32::from(host.interrupts(function)).to_le(), Ordering::SeqCst);
    }
    if function.saturating_add(1) == host.count() {
        note(host, words);
    }
    if let Some(valid) = words.get(registers::VALID) {
        valid.store(1u32.to_le(), Ordering::Release);
    }
}

/// The guest reads them by itself.
fn is_watched(region: &Region, function: usize) -> bool {
    let word = words(region, function).get(registers::WATCHED);
    word.is_some_and(|word| word.load(Ordering::Relaxed) != 0)
}

/// Notes what another process has to know of the devices, with a word behind it that means nothing. What
/// there is no room for is not known there.
fn note(host: &Host, words: &[AtomicU32]) {
    let mut places = words.iter().skip(registers::NOTES);
    let mut put = |value: u32| {
        if let Some(word) = places.next()
            && word.load(Ordering::Relaxed) != value.to_le()
        {
            word.store(value.to_le(), Ordering::Release);
        }
    };
    host.note(&mut put);
    put(0);
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
            let last = host.count().saturating_sub(1);
            let mut noted = (registers::NOTES..registers::WORDS).map(|place| word(last, place));
            host.restore(&read, &mut noted, now);
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
    runner: Runner,
}

impl Worker {
    fn new(server: Arc<Server>) -> io::Result<Self> {
        let (runner, region) = (Runner::new(&mut server.host())?, server.region());
        Ok(Self { server, region, runner })
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
        self.runner.events().map(|event| event.as_raw_fd()).to_vec()
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

    fn turn(&mut self, queues: &mut Queues) -> Taken {
        let server = Arc::clone(&self.server);
        let (Some(region), Some(memory)) = (self.region.clone(), memory(queues)) else {
            return Taken::All;
        };
        self.runner.run(&mut server.host(), |host, now| {
            let mut next = host.run(now, &Guest(&memory));
            for queue in queues.iter_mut() {
                show(host, &region, queue.index(), now);
                if host.take_interrupt(queue.index()) {
                    queue.interrupt();
                }
                if is_watched(&region, queue.index()) {
                    next = next.min(Next::At(now.after(FRESH)));
                }
            }
            next
        });
        Taken::All
    }

    fn stop(&mut self, _queue: &mut Queue) {}

    fn in_flight(&self, _index: usize) -> usize {
        0
    }
}

fn memory(queues: &mut Queues) -> Option<Arc<Memory>> {
    queues.iter_mut().next().map(|queue| Arc::clone(queue.memory()))
}
