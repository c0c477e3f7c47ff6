//! The card as a virtio device.
//!
//! - [`changes`]: what changes without the driver, and who is told;
//! - [`state`]: what outlives the process.

mod changes;
mod state;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::Value;
use vhost_runtime::control::Events;
use vhost_runtime::device::{ConfigError, Device};
use vhost_runtime::session::Frontend;
use vhost_runtime::state::StateError;
use vhost_runtime::supervisor::Keeper;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::control::Controls;
use super::info;
use super::message::{Kind, Query, Request, Status};
use super::stream::{Finished, Stream};
use super::worker::Worker;
use crate::card::StreamConfig;
use crate::card::control::Level;
use crate::card::port::Direction;
use crate::streams::Opened;
pub(super) use changes::PACE;
use changes::Told;

/// The control, event, transmit and receive queue (5.14.2).
pub(super) const CONTROL: usize = 0;
pub(super) const EVENT: usize = 1;
pub(super) const TRANSMIT: usize = 2;
pub(super) const RECEIVE: usize = 3;
const QUEUES: u16 = 4;
const QUEUE_SIZE: u16 = 1024;

/// The card.
#[derive(Debug)]
pub struct Card {
    streams: Mutex<Vec<Stream>>,
    configs: Vec<StreamConfig>,
    /// Whether something is plugged into each stream's jack.
    plugged: Vec<AtomicBool>,
    controls: Controls,
    /// What the driver was told.
    told: Mutex<Told>,
    /// Control clients; and what they were told of each stream's volume, and when.
    clients: Events,
    announced: Mutex<Vec<(Level, Option<Instant>)>>,
    /// A jack or a volume has changed, which the worker is to tell.
    pub(super) wake: EventFd,
    keeper: Keeper,
    /// What is kept.
    kept: Mutex<Vec<u8>>,
    /// What was kept may be of a guest that is there no more.
    doubtful: AtomicBool,
    /// The next rings are those of a guest whose state was loaded.
    arrives: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Card {
    /// One with these streams, each with its end of the host.
    ///
    /// # Errors
    /// The host has no more descriptors.
    pub fn new(streams: Vec<Opened>, keeper: Keeper) -> io::Result<Self> {
        let configs: Vec<StreamConfig> = streams.iter().map(|(config, _)| config.clone()).collect();
        let plugged = configs.iter().map(|_| AtomicBool::new(true)).collect();
        let streams = streams.into_iter().map(|(config, host)| Stream::new(config, host));
        let wake = EventFd::new(EFD_NONBLOCK)?;
        let levels = vec![Level::default(); configs.len()];
        Ok(Self {
            streams: Mutex::new(streams.collect()),
            plugged,
            controls: Controls::default(),
            announced: Mutex::new(levels.iter().map(|level| (*level, None)).collect()),
            told: Mutex::new(Told { jacks: vec![true; configs.len()], levels }),
            clients: Events::default(),
            wake,
            keeper,
            kept: Mutex::default(),
            doubtful: AtomicBool::new(false),
            arrives: AtomicBool::new(false),
            configs,
        })
    }

    /// Offers the driver volumes and switches (VIRTIO_SND_F_CTLS).
    #[must_use]
    pub fn with_controls(self) -> Self {
        let controls = Controls::of(&self.configs);
        Self { controls, ..self }
    }

    /// Tells control clients of what the guest changes.
    #[must_use]
    pub fn with_events(self, clients: Events) -> Self {
        Self { clients, ..self }
    }

    pub(super) fn streams(&self) -> MutexGuard<'_, Vec<Stream>> {
        lock(&self.streams)
    }

    /// The channel maps of all streams.
    fn maps(&self) -> Vec<Vec<u8>> {
        let mut maps = Vec::new();
        for direction in [Direction::Playback, Direction::Capture] {
            for (function, config) in self.of(direction) {
                let (least, most) = config.channels;
                maps.extend((least..=most).map(|count| info::chmap(function, direction, count)));
            }
        }
        maps
    }

    /// The streams of a direction, each with the number of its function.
    fn of(&self, direction: Direction) -> impl Iterator<Item = (u32, &StreamConfig)> {
        (0..).zip(self.configs.iter().filter(move |config| config.direction() == direction))
    }

    /// The number of a stream's function: one for each of a direction.
    fn function(&self, stream: &StreamConfig) -> u32 {
        let mut streams = self.of(stream.direction());
        streams.find(|(_, other)| std::ptr::eq(*other, stream)).map_or(0, |(number, _)| number)
    }

    fn tell(&self, kind: Kind, query: Query) -> Result<Vec<u8>, Status> {
        let streams = || self.configs.iter().map(|stream| (self.function(stream), stream));
        let items: Vec<Vec<u8>> = match kind {
            Kind::Jack => return self.tell_jacks(query),
            Kind::Pcm => streams().map(|(number, stream)| info::pcm(number, stream)).collect(),
            Kind::Chmap => self.maps(),
            Kind::Control => {
                let function =
                    |place| self.configs.get(place).map_or(0, |stream| self.function(stream));
                self.controls.tell(function, query.size)?
            }
        };
        info::answer(kind, &items, query)
    }

    /// Answers a query of jacks, whose state the driver knows then.
    fn tell_jacks(&self, query: Query) -> Result<Vec<u8>, Status> {
        let plugged: Vec<bool> = self.plugged().collect();
        let jacks = self.configs.iter().zip(&plugged);
        let items: Vec<Vec<u8>> = jacks
            .map(|(stream, plugged)| info::jack(self.function(stream), stream, *plugged))
            .collect();
        let answer = info::answer(Kind::Jack, &items, query)?;
        let place = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let mut told = lock(&self.told);
        let known = told.jacks.iter_mut().zip(plugged);
        for (known, plugged) in known.skip(place(query.start)).take(place(query.count)) {
            *known = plugged;
        }
        Ok(answer)
    }

    /// Carries a request out; adds the buffers that are done with by it.
    pub(super) fn carry_out(
        &self,
        request: Request,
        now: Instant,
        finished: &mut Vec<Finished>,
    ) -> Result<Vec<u8>, Status> {
        let mut streams = self.streams();
        let mut with = |number: u32, work: &mut dyn FnMut(&mut Stream) -> Status| {
            let place = usize::try_from(number).ok();
            let stream = place.and_then(|place| streams.get_mut(place));
            match stream.map_or(Status::BadMessage, work) {
                Status::Ok => Ok(Vec::new()),
                status => Err(status),
            }
        };
        match request {
            Request::Info(kind, query) => self.tell(kind, query),
            Request::SetParams(stream, asked) => {
                with(stream, &mut |it| it.set_params(asked, finished))
            }
            Request::Prepare(stream) => with(stream, &mut Stream::prepare),
            Request::Start(stream) => with(stream, &mut |it| it.start(now)),
            Request::Stop(stream) => with(stream, &mut |it| it.stop(now)),
            Request::Release(stream) => with(stream, &mut |it| it.release(finished)),
            Request::Control(element, control) => {
                self.controls.carry_out(element, &control, &mut streams)
            }
            Request::NotSupported => Err(Status::NotSupported),
        }
    }
}

impl Device for Card {
    type Worker = Worker;

    fn name(&self) -> &'static str {
        "vhost-sound"
    }

    fn queues(&self) -> u16 {
        QUEUES
    }

    fn queue_size(&self) -> u16 {
        QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        self.controls.features()
    }

    fn set_features(&self, features: u64) {
        self.controls.set_features(features);
    }

    /// `struct virtio_snd_config` (5.14.4): its last word is there with control elements alone.
    fn config(&self) -> Vec<u8> {
        let counts = [self.configs.len(), self.configs.len(), self.maps().len()];
        let counts = counts.into_iter().chain(self.controls.count());
        counts.flat_map(|count| u32::try_from(count).unwrap_or(0).to_le_bytes()).collect()
    }

    fn set_config(&self, offset: u32, bytes: &[u8]) -> Result<(), ConfigError> {
        Err(ConfigError { offset, length: bytes.len() })
    }

    /// One thread has all queues: what ends a stream by the control queue ends its buffers.
    fn worker_of(&self, _queue: u16) -> u16 {
        0
    }

    fn worker(self: Arc<Self>, _number: u16) -> io::Result<Worker> {
        Worker::new(self)
    }

    fn goes_on(&self) {
        self.doubtful.store(false, Ordering::Relaxed);
    }

    /// What a driver before this one has left: a reset is not always told.
    fn begins(&self) {
        if !self.arrives.load(Ordering::Relaxed) {
            self.reset();
        }
    }

    fn activate(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        if self.doubtful.swap(false, Ordering::Relaxed) {
            self.reset(); // another guest's
        }
        self.arrives.store(false, Ordering::Relaxed);
        self.streams().iter_mut().for_each(|stream| stream.resume(Instant::now()));
        Ok(())
    }

    fn deactivate(&self) {
        self.streams().iter_mut().for_each(Stream::pause);
    }

    fn reset(&self) {
        // No ring runs: no buffer is here. The next driver asks for all that there is.
        let mut streams = self.streams();
        streams.iter_mut().for_each(Stream::reset);
        let levels = streams.iter().map(Stream::level).collect();
        *lock(&self.told) = Told { jacks: self.plugged().collect(), levels };
        drop(streams);
        self.keep();
    }

    fn save(&self) -> Result<Value, StateError> {
        Ok(self.saved(Stream::save)?)
    }

    fn load(&self, state: Value) -> Result<(), StateError> {
        self.go_on_with(state)?;
        self.arrives.store(true, Ordering::Relaxed);
        self.keep();
        Ok(())
    }

    fn connected(&self, _frontend: Frontend) {}
}
