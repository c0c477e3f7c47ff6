//! The card as a virtio device.

use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vhost_runtime::control::Events;
use vhost_runtime::device::{ConfigError, Device};
use vhost_runtime::session::Frontend;
use vhost_runtime::state::StateError;
use vhost_runtime::supervisor::{Keeper, Kept};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::control::{self, Controls};
use super::info;
use super::message::{Kind, Query, Request, Status};
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
/// VIRTIO_SND_EVT_*.
const JACK_CONNECTED: u32 = 0x1000;
const JACK_DISCONNECTED: u32 = 0x1001;
const CTL_NOTIFY: u32 = 0x1200;
/// Control clients are told of what a guest does with a stream's volume no more often.
pub(super) const PACE: Duration = Duration::from_millis(100);

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

/// What is kept by the supervisor is called so.
const KEY: &str = "card";

/// What a driver knows of each stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    jacks: Vec<bool>,
    levels: Vec<Level>,
}

/// The card, as another process gets it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    streams: Vec<Saved>,
    jacks: Vec<bool>,
    told: Told,
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

    /// Whether something is plugged into each jack, that of a stream at the same place.
    fn plugged(&self) -> impl Iterator<Item = bool> {
        self.plugged.iter().map(|plugged| plugged.load(Ordering::Relaxed))
    }

    /// Plugs something into a stream's jack, or out. `false`: there is no such stream.
    pub fn plug(&self, name: &str, plugged: bool) -> bool {
        let found = self.configs.iter().zip(&self.plugged).find(|(it, _)| it.name == name);
        if let Some((_, jack)) = found
            && jack.swap(plugged, Ordering::Relaxed) != plugged
        {
            self.wake();
            self.keep();
        }
        found.is_some()
    }

    /// Has the worker tell the driver what has changed.
    fn wake(&self) {
        if let Err(error) = self.wake.write(1) {
            log::error!("the guest is not told of what has changed: {error}");
        }
    }

    /// Has the streams as loud as their hosts have made them.
    fn follow_hosts(&self) {
        let mut is_louder = false;
        for stream in self.streams().iter_mut() {
            is_louder |= stream.follow_host();
        }
        if is_louder {
            self.announce(Duration::ZERO);
            self.wake();
            self.keep();
        }
    }

    /// Makes a stream so loud, where something is said. `false`: there is no such stream.
    pub fn set_volume(&self, name: &str, volume: Option<u8>, is_on: Option<bool>) -> bool {
        self.follow_hosts();
        let mut streams = self.streams();
        let Some(stream) = streams.iter_mut().find(|stream| stream.config.name == name) else {
            return false;
        };
        let level = stream.level();
        let level = volume.map_or(level, |volume| level.with_volume(volume));
        let level = Level { is_on: is_on.unwrap_or(level.is_on), ..level };
        let changed = stream.level() != level;
        stream.set_level(level);
        drop(streams);
        if changed {
            self.announce(Duration::ZERO);
            self.wake();
            self.keep();
        }
        true
    }

    /// Tells control clients of volumes that have changed, of each stream once in a `pace`. Returns when it is to
    /// be called again.
    pub(super) fn announce(&self, pace: Duration) -> Option<Instant> {
        let (streams, now) = (self.streams(), Instant::now());
        let mut next = None;
        for (stream, (known, at)) in streams.iter().zip(lock(&self.announced).iter_mut()) {
            let level = stream.level();
            if level == *known {
                continue;
            }
            let due = at.and_then(|at| at.checked_add(pace)).filter(|due| *due > now);
            if due.is_some() {
                next = next.into_iter().chain(due).min();
                continue;
            }
            (*known, *at) = (level, Some(now));
            self.clients.send("VOLUME_CHANGED", || {
                let (name, volumes) = (&stream.config.name, control::volumes(stream));
                json!({ "stream": name, "volume": volumes, "muted": !level.is_on })
            });
        }
        next
    }

    /// Something that the driver does not know, and does from now on: an event's code and its data.
    pub(super) fn news(&self) -> Option<(u32, u32)> {
        let streams = self.streams();
        let mut told = lock(&self.told);
        for (number, (plugged, known)) in (0..).zip(self.plugged().zip(&mut told.jacks)) {
            if std::mem::replace(known, plugged) != plugged {
                return Some((if plugged { JACK_CONNECTED } else { JACK_DISCONNECTED }, number));
            }
        }
        let element = self.controls.changed(&mut told.levels, &streams)?;
        Some((CTL_NOTIFY, element))
    }

    /// What control clients are told of it.
    #[must_use]
    pub fn describe(&self) -> Value {
        self.follow_hosts();
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

    /// What another process needs, of each stream what `save` says.
    fn saved(&self, save: fn(&Stream) -> Saved) -> serde_json::Result<Value> {
        let streams = self.streams();
        let told = lock(&self.told).clone();
        let state = State {
            streams: streams.iter().map(save).collect(),
            jacks: self.plugged().collect(),
            told,
        };
        serde_json::to_value(state)
    }

    /// Takes all of another process's state, or nothing.
    fn go_on_with(&self, state: Value) -> Result<(), StateError> {
        let (saved, jacks, told): (Vec<Saved>, _, _) = match state {
            // A version that said nothing of jacks, nor of what the driver knows.
            streams @ Value::Array(_) => {
                (serde_json::from_value(streams)?, vec![true; self.configs.len()], None)
            }
            state => {
                let State { streams, jacks, told } = serde_json::from_value(state)?;
                (streams, jacks, Some(told))
            }
        };
        self.check(&saved)?;
        let levels = saved.iter().map(|saved| saved.level).collect();
        let told = told.unwrap_or_else(|| Told { jacks: jacks.clone(), levels });
        let count = self.configs.len();
        if [jacks.len(), told.jacks.len(), told.levels.len()] != [count; 3]
            || !told.levels.iter().all(Level::is_possible)
        {
            return Err(StateError::Mismatch(String::from(
                "what is said of its jacks and volumes cannot be",
            )));
        }
        let mut streams = self.streams();
        for (stream, saved) in streams.iter_mut().zip(&saved) {
            if let Err(error) = stream.restore(saved) {
                log::error!("{error}"); // the host's end of it: others may go on
            }
        }
        for (jack, plugged) in self.plugged.iter().zip(jacks) {
            jack.store(plugged, Ordering::Relaxed);
        }
        *lock(&self.told) = told;
        drop(streams);
        self.announce(Duration::ZERO);
        Ok(())
    }

    /// Whether these streams can be the card's.
    fn check(&self, saved: &[Saved]) -> Result<(), StateError> {
        let own: Vec<&str> = self.configs.iter().map(|config| config.name.as_str()).collect();
        let other: Vec<&str> = saved.iter().map(|saved| saved.name.as_str()).collect();
        if own != other {
            return Err(StateError::Mismatch(format!(
                "the card has the streams {}, and the guest's had {}",
                own.join(", "),
                other.join(", ")
            )));
        }
        let mut both = self.configs.iter().zip(saved);
        both.try_for_each(|(config, saved)| saved.check(config)).map_err(StateError::Mismatch)
    }

    /// Takes what a former process had kept of this card.
    pub fn restore(&self, kept: &[Kept]) {
        let Some(kept) = kept.iter().find(|kept| kept.key == KEY) else { return };
        let done = serde_json::from_slice(&kept.description).map_err(StateError::from);
        match done.and_then(|state| self.go_on_with(state)) {
            Ok(()) => self.doubtful.store(true, Ordering::Relaxed),
            Err(error) => log::error!("what was kept of a former process is of no use: {error}"),
        }
    }

    /// Has the supervisor keep what another process needs to go on, if that is not what it keeps already.
    pub(super) fn keep(&self) {
        let mut kept = lock(&self.kept); // what is newer is kept later
        let text = match self.saved(Stream::keep).and_then(|state| serde_json::to_vec(&state)) {
            Ok(text) if text == *kept => return,
            Ok(text) => text,
            Err(error) => {
                log::error!("a stream will not outlive a crash: {error}");
                return;
            }
        };
        match self.keeper.keep(KEY, &text, &[]) {
            Ok(()) => *kept = text,
            Err(error) => {
                kept.clear();
                log::error!("a stream will not outlive a crash: {error}");
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::card::format::Format;
    use crate::card::params::{Asked, Params};
    use crate::card::port::Port;
    use crate::host::Host;
    use crate::host::null::Null;

    /// One that can't be had any more.
    #[derive(Debug)]
    struct Gone;

    impl Host for Gone {
        fn prepare(&mut self, _params: &Params) -> io::Result<()> {
            Err(io::ErrorKind::NotFound.into())
        }

        fn record(&mut self, _frames: &mut [u8]) -> io::Result<()> {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    fn card(first: Box<dyn Host>) -> Card {
        let config = |port: Port| StreamConfig {
            name: port.to_string(),
            port,
            formats: vec![Format::S16],
            rates: vec!["48000".parse().unwrap()],
            channels: (1, 2),
        };
        let second: Box<dyn Host> = Box::new(Null::default());
        let streams = vec![(config(Port::Speaker), first), (config(Port::Mic), second)];
        Card::new(streams, Keeper::default()).unwrap()
    }

    /// One whose streams run, which are as loud as this.
    fn state(volume: u8) -> Value {
        let card = card(Box::new(Null::default()));
        for number in 0..2 {
            let asked = Asked {
                buffer_bytes: 1920,
                period_bytes: 960,
                features: 0,
                channels: 1,
                format: 5,
                rate: 7,
            };
            for request in [
                Request::SetParams(number, asked),
                Request::Prepare(number),
                Request::Start(number),
            ] {
                card.carry_out(request, Instant::now(), &mut Vec::new()).unwrap();
            }
        }
        assert!(card.set_volume("speaker", Some(volume), Some(false)));
        assert!(card.plug("mic", false));
        card.save().unwrap()
    }

    fn running(card: &Card) -> Vec<bool> {
        card.streams().iter().map(Stream::is_running).collect()
    }

    #[test]
    fn a_state_is_taken_as_a_whole_or_not_at_all() {
        let good = state(40);
        for (place, value) in [
            ("/streams/1/level/volumes/0", json!(101)),
            ("/streams/1/state/set/asked/rate", json!(200)),
            ("/streams/1/name", json!("line-in")),
            ("/streams/1/begun", json!(-1)),
            ("/streams/1", json!({})),
            ("/streams", json!([])),
            ("/jacks", json!([true])),
            ("/told/jacks", json!([])),
            ("/told/levels", json!([])),
            ("/told/levels/0/volumes/0", json!(255)),
        ] {
            let card = card(Box::new(Null::default()));
            let before = card.save().unwrap();
            let mut bad = good.clone();
            *bad.pointer_mut(place).unwrap() = value;
            assert!(card.load(bad).is_err(), "{place}");
            assert_eq!(card.save().unwrap(), before, "{place}");
        }
        let card = card(Box::new(Null::default()));
        card.load(good.clone()).unwrap();
        assert_eq!(card.save().unwrap(), good);
        assert_eq!(running(&card), [true, true]);
    }

    #[test]
    fn a_host_that_is_gone_holds_up_no_other_stream() {
        let card = card(Box::new(Gone));
        card.load(state(40)).unwrap();
        assert_eq!(running(&card), [true, true]);
        let streams = card.describe();
        assert_eq!((&streams[0]["muted"], &streams[1]["plugged"]), (&json!(true), &json!(false)));
    }

    #[test]
    fn a_driver_is_told_once() {
        let card = card(Box::new(Null::default())).with_controls();
        card.set_features(card.features());
        assert_eq!(card.news(), None);
        card.load(state(40)).unwrap();
        let told: Vec<_> = std::iter::from_fn(|| card.news()).collect();
        let value = 1 << 16;
        assert_eq!(told, [(JACK_DISCONNECTED, 1), (CTL_NOTIFY, value), (CTL_NOTIFY, value | 1)]);
        // It asks.
        card.plug("mic", true);
        let query = |start| Query { start, count: 1, size: 24 };
        let ask = |start| {
            let request = Request::Info(Kind::Jack, query(start));
            card.carry_out(request, Instant::now(), &mut Vec::new()).unwrap();
        };
        ask(1);
        assert_eq!(card.news(), None);
        card.plug("mic", false);
        ask(0);
        assert_eq!(card.news(), Some((JACK_DISCONNECTED, 1)));
    }
}
