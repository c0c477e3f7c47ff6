//! The card as a virtio device.

use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};
use vhost_runtime::device::{ConfigError, Device};
use vhost_runtime::session::Frontend;
use vhost_runtime::state::StateError;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::info;
use super::message::{Kind, Query, Request, Status};
use super::stream::{Finished, Stream};
use super::worker::Worker;
use crate::card::StreamConfig;
use crate::card::port::Direction;
use crate::host::Host;

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
    /// A jack has changed, which the worker is to tell.
    pub(super) wake: EventFd,
}

impl Card {
    /// One with these streams, each with its end of the host.
    ///
    /// # Errors
    /// The host has no more descriptors.
    pub fn new(streams: Vec<(StreamConfig, Box<dyn Host>)>) -> io::Result<Self> {
        let configs: Vec<StreamConfig> = streams.iter().map(|(config, _)| config.clone()).collect();
        let plugged = configs.iter().map(|_| AtomicBool::new(true)).collect();
        let streams = streams.into_iter().map(|(config, host)| Stream::new(config, host));
        let wake = EventFd::new(EFD_NONBLOCK)?;
        Ok(Self { streams: Mutex::new(streams.collect()), configs, plugged, wake })
    }

    pub(super) fn streams(&self) -> MutexGuard<'_, Vec<Stream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something is plugged into each jack.
    pub(super) fn plugged(&self) -> impl Iterator<Item = bool> {
        self.plugged.iter().map(|plugged| plugged.load(Ordering::Relaxed))
    }

    /// Plugs something into a stream's jack, or out. `false`: there is no such stream.
    pub fn plug(&self, name: &str, plugged: bool) -> bool {
        let found = self.configs.iter().zip(&self.plugged).find(|(it, _)| it.name == name);
        if let Some((_, jack)) = found
            && jack.swap(plugged, Ordering::Relaxed) != plugged
            && let Err(error) = self.wake.write(1)
        {
            log::error!("the guest is not told of a jack: {error}");
        }
        found.is_some()
    }

    /// What control clients are told of it.
    #[must_use]
    pub fn describe(&self) -> Value {
        let streams = self.streams();
        let streams = streams.iter().zip(self.plugged()).map(|(stream, plugged)| {
            let Stream { config, .. } = stream;
            json!({
                "stream": config.name,
                "jack": config.port.to_string(),
                "plugged": plugged,
                "running": stream.is_running(),
            })
        });
        streams.collect()
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
            Kind::Jack => {
                let jacks = streams().zip(self.plugged());
                jacks
                    .map(|((number, stream), plugged)| info::jack(number, stream, plugged))
                    .collect()
            }
            Kind::Pcm => streams().map(|(number, stream)| info::pcm(number, stream)).collect(),
            Kind::Chmap => self.maps(),
            Kind::Control => return Err(Status::NotSupported),
        };
        info::answer(kind, &items, query)
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
            Request::SetParams(stream, asked) => with(stream, &mut |it| it.set_params(asked)),
            Request::Prepare(stream) => with(stream, &mut Stream::prepare),
            Request::Start(stream) => with(stream, &mut |it| it.start(now)),
            Request::Stop(stream) => with(stream, &mut |it| it.stop(now)),
            Request::Release(stream) => with(stream, &mut |it| it.release(finished)),
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
        0
    }

    fn set_features(&self, _features: u64) {}

    /// `struct virtio_snd_config` (5.14.4).
    fn config(&self) -> Vec<u8> {
        let counts = [self.configs.len(), self.configs.len(), self.maps().len()];
        counts.iter().flat_map(|count| u32::try_from(*count).unwrap_or(0).to_le_bytes()).collect()
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

    fn activate(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.streams().iter_mut().for_each(|stream| stream.resume(Instant::now()));
        Ok(())
    }

    fn deactivate(&self) {}

    fn reset(&self) {
        // No ring runs: no buffer is here.
        self.streams().iter_mut().for_each(Stream::reset);
    }

    fn save(&self) -> Result<Value, StateError> {
        Err(StateError::Mismatch(String::from("a sound card cannot be moved yet")))
    }

    fn load(&self, _state: Value) -> Result<(), StateError> {
        Err(StateError::Mismatch(String::from("a sound card cannot be moved yet")))
    }

    fn connected(&self, _frontend: Frontend) {}
}
