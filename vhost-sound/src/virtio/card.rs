//! The card as a virtio device.

use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};
use vhost_runtime::control::Events;
use vhost_runtime::device::{ConfigError, Device};
use vhost_runtime::session::Frontend;
use vhost_runtime::state::StateError;
use vhost_runtime::supervisor::{Keeper, Kept};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::control::{self, Controls};
use super::info;
use super::message::{self, Kind, Query, Request, Status};
use super::stream::{Finished, Saved, Stream};
use super::worker::Worker;
use crate::card::StreamConfig;
use crate::card::control::Level;
use crate::card::port::Direction;
use crate::streams::Opened;

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
    /// What control clients are told.
    told: Events,
    /// A jack or a volume has changed, which the worker is to tell.
    pub(super) wake: EventFd,
    keeper: Keeper,
    /// What was kept may be of a guest that is there no more.
    doubtful: AtomicBool,
}

/// What is kept by the supervisor is called so.
const KEY: &str = "card";

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
        let (streams, doubtful) = (Mutex::new(streams.collect()), AtomicBool::new(false));
        let (controls, told) = (Controls::default(), Events::default());
        Ok(Self { streams, configs, plugged, controls, told, wake, keeper, doubtful })
    }

    /// Offers the driver volumes and switches (VIRTIO_SND_F_CTLS).
    #[must_use]
    pub fn with_controls(self) -> Self {
        let controls = Controls::of(&self.configs);
        Self { controls, ..self }
    }

    /// Tells control clients of what the guest changes.
    #[must_use]
    pub fn with_events(self, told: Events) -> Self {
        Self { told, ..self }
    }

    pub(super) fn streams(&self) -> MutexGuard<'_, Vec<Stream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How loud each stream is.
    pub(super) fn levels(&self) -> Vec<Level> {
        self.streams().iter().map(Stream::level).collect()
    }

    /// Whether something is plugged into each jack, that of a stream at the same place.
    pub(super) fn plugged(&self) -> impl Iterator<Item = bool> {
        self.plugged.iter().map(|plugged| plugged.load(Ordering::Relaxed))
    }

    /// Plugs something into a stream's jack, or out. `false`: there is no such stream.
    pub fn plug(&self, name: &str, plugged: bool) -> bool {
        let found = self.configs.iter().zip(&self.plugged).find(|(it, _)| it.name == name);
        if let Some((_, jack)) = found
            && jack.swap(plugged, Ordering::Relaxed) != plugged
        {
            self.wake();
        }
        self.keep();
        found.is_some()
    }

    /// Has the worker tell the driver what has changed.
    fn wake(&self) {
        if let Err(error) = self.wake.write(1) {
            log::error!("the guest is not told of what has changed: {error}");
        }
    }

    /// Makes a stream so loud, where something is said. `false`: there is no such stream.
    pub fn set_volume(&self, name: &str, volume: Option<u8>, is_on: Option<bool>) -> bool {
        let mut streams = self.streams();
        let Some(stream) = streams.iter_mut().find(|stream| stream.config.name == name) else {
            return false;
        };
        let level = stream.level();
        let level = volume.map_or(level, |volume| level.with_volume(volume));
        let level = Level { is_on: is_on.unwrap_or(level.is_on), ..level };
        let changed = control::change(stream, level, &self.told);
        drop(streams);
        if changed {
            self.wake();
            self.keep();
        }
        true
    }

    /// See [`Controls::changed`].
    pub(super) fn changed(&self, known: &mut [Level]) -> Vec<u32> {
        self.controls.changed(known, &self.streams())
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
                "volume": control::volumes(stream),
                "muted": !stream.level().is_on,
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

    fn saved(&self) -> Vec<Saved> {
        self.streams().iter().map(Stream::save).collect()
    }

    fn go_on_with(&self, saved: &[Saved]) -> Result<(), StateError> {
        let mut streams = self.streams();
        let names = |saved: &[Saved]| -> Vec<String> {
            saved.iter().map(|stream| stream.name.clone()).collect()
        };
        let own: Vec<String> = streams.iter().map(|stream| stream.config.name.clone()).collect();
        if names(saved) != own {
            return Err(StateError::Mismatch(format!(
                "the card has the streams {}, and the guest's had {}",
                own.join(", "),
                names(saved).join(", ")
            )));
        }
        for (stream, saved) in streams.iter_mut().zip(saved) {
            stream.restore(saved).map_err(StateError::Mismatch)?;
        }
        Ok(())
    }

    /// Takes what a former process had kept of this card.
    pub fn restore(&self, kept: &[Kept]) {
        let Some(kept) = kept.iter().find(|kept| kept.key == KEY) else { return };
        let done = serde_json::from_slice::<(Vec<Saved>, Vec<bool>)>(&kept.description)
            .map_err(StateError::from)
            .and_then(|(saved, plugged)| {
                for (jack, plugged) in self.plugged.iter().zip(plugged) {
                    jack.store(plugged, Ordering::Relaxed);
                }
                self.go_on_with(&saved)
            });
        match done {
            Ok(()) => self.doubtful.store(true, Ordering::Relaxed),
            Err(error) => log::error!("what was kept of a former process is of no use: {error}"),
        }
    }

    /// Has the supervisor keep what another process needs to go on.
    fn keep(&self) {
        let plugged: Vec<bool> = self.plugged().collect();
        let text = serde_json::to_vec(&(self.saved(), plugged)).map_err(io::Error::from);
        let kept = text.map(|text| self.keeper.keep(KEY, &text, &[]));
        match kept {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::error!("a stream will not outlive a crash: {error}"),
            Err(error) => log::error!("a stream will not outlive a crash: {error}"),
        }
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
            Kind::Control => {
                let function =
                    |place| self.configs.get(place).map_or(0, |stream| self.function(stream));
                self.controls.tell(function, query.size)?
            }
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
        let done = match request {
            Request::Info(kind, query) => return self.tell(kind, query),
            Request::SetParams(stream, asked) => {
                with(stream, &mut |it| it.set_params(asked, finished))
            }
            Request::Prepare(stream) => with(stream, &mut Stream::prepare),
            Request::Start(stream) => with(stream, &mut |it| it.start(now)),
            Request::Stop(stream) => with(stream, &mut |it| it.stop(now)),
            Request::Release(stream) => with(stream, &mut |it| it.release(finished)),
            Request::Control(element, control) => {
                let done = self.controls.carry_out(element, &control, &mut streams, &self.told);
                if !matches!(control, message::Control::Write(_)) {
                    return done; // there is nothing new to keep
                }
                done
            }
            Request::NotSupported => return Err(Status::NotSupported),
        };
        drop(streams);
        self.keep();
        done
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
        self.reset();
    }

    fn activate(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        if self.doubtful.swap(false, Ordering::Relaxed) {
            self.reset(); // another guest's
        }
        self.streams().iter_mut().for_each(|stream| stream.resume(Instant::now()));
        Ok(())
    }

    fn deactivate(&self) {
        self.streams().iter_mut().for_each(Stream::pause);
    }

    fn reset(&self) {
        // No ring runs: no buffer is here.
        self.streams().iter_mut().for_each(Stream::reset);
        self.keep();
    }

    fn save(&self) -> Result<Value, StateError> {
        Ok(serde_json::to_value(self.saved())?)
    }

    fn load(&self, state: Value) -> Result<(), StateError> {
        self.go_on_with(&serde_json::from_value::<Vec<Saved>>(state)?)?;
        self.keep();
        Ok(())
    }

    fn connected(&self, _frontend: Frontend) {}
}
