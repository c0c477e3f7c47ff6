//! The card: features, configuration space, which worker serves which queue, and what the host does to it.

use std::error::Error;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use vhost_runtime::control::Events;
use vhost_runtime::device::{ConfigError, Device, QueueWorker, Queues, Taken};
use vhost_runtime::queue::Queue;
use vhost_runtime::session::Frontend;
use vhost_runtime::state::StateError;
use vhost_runtime::supervisor::{Keeper, Kept};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;

use super::control::ControlWorker;
use super::features::{
    Abilities, CTRL_MAC_ADDR, CTRL_VQ, Features, GUEST_ANNOUNCE, MQ, MRG_RXBUF, Off,
};
use super::pair::PairWorker;
use super::state::Driver;
use super::statistics::Statistics;
use super::wakers::Wakers;
use crate::frame::Mac;
use crate::frame::offload::{Accepted, HEADER, LEGACY_HEADER};
use crate::host::side::Side;
use crate::host::switch::{self, Switch};
use crate::host::{Kind, Port, tap};

/// Descriptors that a queue may have.
const QUEUE_SIZE: u16 = 1024;
/// `status` (virtio 1.3, 5.1.4).
const LINK_UP: u16 = 1;
const ANNOUNCE: u16 = 2;
/// Where the address is in the configuration space.
const MAC_BYTES: usize = 6;

/// How a card is made.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What control clients call it.
    pub name: String,
    /// Its address.
    pub mac: Mac,
    /// The longest packet that its medium carries, in bytes.
    pub mtu: Option<u16>,
    /// Pairs of queues.
    pub pairs: u16,
    /// What the guest is told of the medium, in Mbit/s, and whether it is full duplex.
    pub speed: Option<(u32, bool)>,
    /// Features that are switched off.
    pub off: Off,
}

/// Where a card's frames go.
#[derive(Clone, Debug)]
pub enum Backing {
    /// To the host.
    Host(Kind, Arc<Side>),
    /// To the port of this number.
    Switch(Arc<Switch>, usize),
}

impl Backing {
    fn abilities(&self) -> Abilities {
        let none = Abilities::default();
        match self {
            Self::Host(Kind::Tap, side) => {
                let datagrams = side.queue(0).0.is_some_and(|tap| tap::knows_datagrams(&tap));
                Abilities { offloads: true, datagrams, fragments: true, changeable: true }
            }
            Self::Host(Kind::Stream | Kind::Datagram, _) => none,
            Self::Switch(..) => {
                Abilities { offloads: true, datagrams: true, fragments: false, changeable: true }
            }
        }
    }
}

/// A network card.
#[derive(Debug)]
pub struct Card {
    settings: Settings,
    backing: Backing,
    offered: Features,
    negotiated: AtomicU64,
    driver: ArcSwap<Driver>,
    /// Somebody changes it, and what is kept of it.
    changing: Mutex<()>,
    /// What the host's side was told that the guest takes.
    applied: Mutex<Option<Accepted>>,
    /// `driver` is a former process's, and nobody has said that its guest goes on.
    doubtful: AtomicBool,
    /// A former process was killed while its guest took frames: those that wait are still the guest's.
    resumed: AtomicBool,
    /// Rings run.
    in_use: AtomicBool,
    /// The control queue has been served: the driver says how many pairs it uses.
    controlled: AtomicBool,
    /// The cable is plugged in.
    plugged: AtomicBool,
    /// The driver is to tell the network where it is.
    announce: AtomicBool,
    statistics: Vec<Statistics>,
    /// Of each pair: the guest takes its frames.
    active: Vec<AtomicBool>,
    wakers: Wakers,
    frontend: Mutex<Frontend>,
    told: Events,
    keeper: Keeper,
}

impl Card {
    /// A card with its cable plugged in.
    #[must_use]
    pub fn new(settings: Settings, backing: Backing, told: Events, keeper: Keeper) -> Self {
        let Settings { pairs, mtu, speed, off, .. } = settings;
        let abilities = backing.abilities();
        let offered = Features::offered(abilities, pairs, mtu.is_some(), speed.is_some(), off);
        Self {
            settings,
            backing,
            offered,
            negotiated: AtomicU64::new(0),
            driver: ArcSwap::default(),
            changing: Mutex::default(),
            applied: Mutex::default(),
            doubtful: AtomicBool::new(false),
            resumed: AtomicBool::new(false),
            in_use: AtomicBool::new(false),
            controlled: AtomicBool::new(false),
            plugged: AtomicBool::new(true),
            announce: AtomicBool::new(false),
            statistics: (0..pairs).map(|_| Statistics::default()).collect(),
            active: (0..pairs).map(|_| AtomicBool::new(false)).collect(),
            wakers: Wakers::default(),
            frontend: Mutex::default(),
            told,
            keeper,
        }
    }

    /// Takes what a former process had kept of this card.
    pub fn restore(&self, kept: &[Kept]) {
        let Some(kept) = kept.iter().find(|kept| kept.key == self.settings.name) else { return };
        match serde_json::from_slice::<(Driver, bool, bool)>(&kept.description) {
            Ok((driver, plugged, in_use)) => {
                self.driver.store(Arc::new(driver));
                self.plugged.store(plugged, Ordering::Relaxed);
                self.in_use.store(in_use, Ordering::Relaxed);
                self.resumed.store(in_use, Ordering::Relaxed);
                self.doubtful.store(true, Ordering::Relaxed);
            }
            Err(error) => log::error!("what was kept of a former process makes no sense: {error}"),
        }
    }

    fn keep(&self) {
        let driver = self.driver.load();
        let (plugged, in_use) =
            (self.plugged.load(Ordering::Relaxed), self.in_use.load(Ordering::Relaxed));
        let kept = serde_json::to_vec(&(driver.as_ref(), plugged, in_use));
        let kept = kept.map_err(io::Error::from);
        let kept = kept.map(|text| self.keeper.keep(&self.settings.name, &text, &[]));
        match kept {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::error!("what the driver set will not outlive a crash: {error}"),
            Err(error) => log::error!("what the driver set will not outlive a crash: {error}"),
        }
    }

    /// Frames that wait for the guest came while it took some.
    pub(super) fn is_resumed(&self) -> bool {
        self.resumed.load(Ordering::Relaxed)
    }

    /// How it is made.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn features_negotiated(&self) -> Features {
        Features(self.negotiated.load(Ordering::Relaxed))
    }

    /// Bytes of the header before each frame (5.1.6).
    pub(super) fn header(&self) -> usize {
        let long = 1 << VIRTIO_F_VERSION_1 | MRG_RXBUF;
        if self.features_negotiated().0 & long != 0 { HEADER } else { LEGACY_HEADER }
    }

    pub(super) fn is_mergeable(&self) -> bool {
        self.features_negotiated().has(MRG_RXBUF)
    }

    pub(super) fn driver(&self) -> arc_swap::Guard<Arc<Driver>> {
        self.driver.load()
    }

    pub(super) fn wakers(&self) -> &Wakers {
        &self.wakers
    }

    pub(super) fn statistics_of(&self, pair: u16) -> Option<&Statistics> {
        self.statistics.get(usize::from(pair))
    }

    pub(super) fn port(&self, pair: u16) -> io::Result<Port> {
        match &self.backing {
            Backing::Host(kind, side) => Port::to_host(*kind, side, pair.into(), self.header()),
            Backing::Switch(switch, number) => {
                Port::to_switch(switch::Port::new(Arc::clone(switch), *number, pair)?)
            }
        }
    }

    /// Whether the driver uses a pair whose rings are enabled: it says so by the control queue, or the VMM
    /// does by which rings it enables.
    pub(super) fn uses_pair(&self, pair: u16) -> bool {
        !self.controlled.load(Ordering::Relaxed) || pair < self.driver.load().pairs
    }

    /// A pair has begun to be used, or is not used any more.
    pub(super) fn set_active(&self, pair: u16, active: bool) {
        if let Some(place) = self.active.get(usize::from(pair)) {
            place.store(active, Ordering::Relaxed);
        }
    }

    /// The link is up.
    pub(super) fn link(&self) -> bool {
        let there = match &self.backing {
            Backing::Host(_, side) => side.is_there(),
            Backing::Switch(..) => true,
        };
        there && self.plugged.load(Ordering::Relaxed)
    }

    /// The driver changes something by the control queue.
    pub(super) fn change(&self, change: impl FnOnce(&mut Driver)) {
        // The control queue's worker and the VMM's session may both do so.
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut driver = Driver::clone(&self.driver.load());
        change(&mut driver);
        self.driver.store(Arc::new(driver));
        self.doubtful.store(false, Ordering::Relaxed);
        self.keep();
        self.apply_offloads();
        self.wakers.wake();
    }

    pub(super) fn controlled(&self) {
        self.controlled.store(true, Ordering::Relaxed);
        self.wakers.wake();
    }

    /// The driver has told the network where it is.
    pub(super) fn announced(&self) {
        self.announce.store(false, Ordering::Relaxed);
    }

    /// Tells the host's side what the guest takes.
    fn apply_offloads(&self) {
        let accepted = self.driver.load().accepted(self.features_negotiated());
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        // The host takes its time for it, of which a guest could have it waste much.
        if applied.replace(accepted) == Some(accepted) {
            return;
        }
        match &self.backing {
            Backing::Host(Kind::Tap, side) => {
                if let (Some(tap), _) = side.queue(0)
                    && let Err(error) = tap::set_offload(tap.as_fd(), &accepted)
                    && side.check()
                {
                    log::warn!("the interface does not know what the guest takes: {error}");
                }
            }
            Backing::Host(..) => {}
            Backing::Switch(switch, port) => switch.set_accepted(*port, &accepted),
        }
    }

    fn frontend(&self) -> MutexGuard<'_, Frontend> {
        self.frontend.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status_changed(&self) {
        self.wakers.wake();
        self.frontend().config_changed();
    }

    /// The host's side was lost, or is there again.
    pub fn host_changed(&self, there: bool) {
        if there {
            *self.applied.lock().unwrap_or_else(PoisonError::into_inner) = None;
            self.apply_offloads();
            log::info!("the host's side is there again");
        }
        self.link_changed();
    }

    fn link_changed(&self) {
        self.told.send("LINK_CHANGED", || json!({ "card": self.settings.name, "up": self.link() }));
        self.status_changed();
    }

    /// Plugs the cable in, or out.
    pub fn plug(&self, plugged: bool) {
        if self.plugged.swap(plugged, Ordering::Relaxed) != plugged {
            self.keep();
            self.link_changed();
        }
    }

    /// Has the driver tell the network where it is. `false`: it can't.
    pub fn announce(&self) -> bool {
        if !self.features_negotiated().has(GUEST_ANNOUNCE) {
            return false;
        }
        self.announce.store(true, Ordering::Relaxed);
        self.status_changed();
        true
    }

    /// What control clients are told of it.
    #[must_use]
    pub fn describe(&self) -> Value {
        if let Backing::Host(_, side) = &self.backing {
            side.check();
        }
        let driver = self.driver.load();
        let pairs = self.active.iter().filter(|active| active.load(Ordering::Relaxed)).count();
        let kind = match &self.backing {
            Backing::Host(Kind::Tap, _) => "tap",
            Backing::Host(Kind::Stream, _) => "stream",
            Backing::Host(Kind::Datagram, _) => "datagram",
            Backing::Switch(..) => "switch",
        };
        json!({
            "card": self.settings.name,
            "kind": kind,
            "mac": driver.mac(self.settings.mac).to_string(),
            "link": self.link(),
            "plugged": self.plugged.load(Ordering::Relaxed),
            "queues": self.settings.pairs,
            "queues-used": pairs,
            "promiscuous": !driver.filter.used || driver.filter.promiscuous,
        })
    }

    /// What its queues have done.
    #[must_use]
    pub fn count(&self) -> Value {
        let pairs: Vec<Value> = self.statistics.iter().map(Statistics::json).collect();
        json!({ "card": self.settings.name, "pairs": pairs })
    }

    /// The control queue's number (5.1.2).
    fn control_queue(&self) -> Option<u16> {
        let features = self.features_negotiated();
        let pairs = if features.has(MQ) { self.settings.pairs } else { 1 };
        features.has(CTRL_VQ).then(|| pairs.saturating_mul(2))
    }
}

impl Device for Card {
    type Worker = Worker;

    fn name(&self) -> &'static str {
        "vhost-net"
    }

    fn queues(&self) -> u16 {
        self.settings.pairs.saturating_mul(2).saturating_add(1)
    }

    fn queue_size(&self) -> u16 {
        QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        self.offered.0
    }

    fn unwanted_features(&self) -> u64 {
        self.settings.off.rings()
    }

    /// Frames for other guests wait for each of them.
    fn completes_in_order(&self) -> bool {
        matches!(self.backing, Backing::Host(..))
    }

    fn set_features(&self, features: u64) {
        self.negotiated.store(features, Ordering::Relaxed);
    }

    /// `struct virtio_net_config` (5.1.4).
    fn config(&self) -> Vec<u8> {
        let driver = self.driver.load();
        let Mac(mac) = driver.mac(self.settings.mac);
        let mut status = if self.link() { LINK_UP } else { 0 };
        if self.announce.load(Ordering::Relaxed) && self.features_negotiated().has(GUEST_ANNOUNCE) {
            status |= ANNOUNCE;
        }
        let (speed, full) = self.settings.speed.unwrap_or((u32::MAX, false));
        let duplex = if self.settings.speed.is_none() { 0xff } else { u8::from(full) };
        let mut config = mac.to_vec();
        config.extend(status.to_le_bytes());
        config.extend(self.settings.pairs.to_le_bytes());
        config.extend(self.settings.mtu.unwrap_or(0).to_le_bytes());
        config.extend(speed.to_le_bytes());
        config.push(duplex);
        config
    }

    /// A driver without CTRL_MAC_ADDR sets the address here.
    fn set_config(&self, offset: u32, bytes: &[u8]) -> Result<(), ConfigError> {
        let refused = ConfigError { offset, length: bytes.len() };
        if self.features_negotiated().has(CTRL_MAC_ADDR) {
            return Err(refused);
        }
        let mut mac = self.driver.load().mac(self.settings.mac);
        let start = usize::try_from(offset).unwrap_or(MAC_BYTES);
        match mac.0.get_mut(start..).and_then(|rest| rest.get_mut(..bytes.len())) {
            Some(place) => place.copy_from_slice(bytes),
            None => return Err(refused),
        }
        self.change(|driver| driver.mac = Some(mac.0));
        Ok(())
    }

    fn worker_of(&self, queue: u16) -> u16 {
        if self.control_queue() == Some(queue) { self.settings.pairs } else { queue / 2 }
    }

    fn worker(self: Arc<Self>, number: u16) -> io::Result<Worker> {
        if number == self.settings.pairs {
            self.controlled();
            return Ok(Worker::Control(ControlWorker::new(self)));
        }
        Ok(Worker::Pair(Box::new(PairWorker::new(self, number)?)))
    }

    fn goes_on(&self) {
        self.doubtful.store(false, Ordering::Relaxed);
    }

    fn activate(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        if self.doubtful.swap(false, Ordering::Relaxed) {
            self.driver.store(Arc::default()); // another guest's
        }
        self.in_use.store(true, Ordering::Relaxed);
        self.keep();
        self.apply_offloads();
        if self.announce.load(Ordering::Relaxed) {
            self.frontend().config_changed();
        }
        Ok(())
    }

    fn deactivate(&self) {
        self.controlled.store(false, Ordering::Relaxed);
        self.resumed.store(false, Ordering::Relaxed);
        self.in_use.store(false, Ordering::Relaxed);
        self.keep();
    }

    fn reset(&self) {
        self.announce.store(false, Ordering::Relaxed);
        self.change(|driver| *driver = Driver::default());
    }

    fn save(&self) -> Result<Value, StateError> {
        Ok(serde_json::to_value(self.driver.load().as_ref())?)
    }

    /// The network does not know yet where the guest is now.
    fn load(&self, state: Value) -> Result<(), StateError> {
        let driver: Driver = serde_json::from_value(state)?;
        if driver.pairs > self.settings.pairs {
            return Err(StateError::Mismatch(format!(
                "the guest uses {} pairs of queues, and there are {}",
                driver.pairs, self.settings.pairs
            )));
        }
        self.change(|of_card| *of_card = driver);
        self.announce.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn connected(&self, frontend: Frontend) {
        *self.frontend() = frontend;
    }
}

/// One of the card's workers.
#[derive(Debug)]
pub enum Worker {
    /// Of a pair of queues.
    Pair(Box<PairWorker>),
    /// Of the control queue.
    Control(ControlWorker),
}

impl QueueWorker for Worker {
    fn events(&self) -> Vec<std::os::fd::RawFd> {
        match self {
            Self::Pair(worker) => worker.events(),
            Self::Control(_) => Vec::new(),
        }
    }

    fn process(&mut self, queue: &mut Queue) -> Taken {
        match self {
            Self::Pair(worker) => worker.process(queue),
            Self::Control(worker) => worker.process(queue),
        }
    }

    fn discard(&mut self, queue: &mut Queue) {
        if let Self::Pair(worker) = self {
            worker.discard(queue);
        }
    }

    fn enabled(&mut self, index: usize, enabled: bool) {
        if let Self::Pair(worker) = self {
            worker.enabled(index, enabled);
        }
    }

    fn turn(&mut self, queues: &mut Queues) -> Taken {
        match self {
            Self::Pair(worker) => worker.turn(queues),
            Self::Control(_) => Taken::All,
        }
    }

    fn stop(&mut self, queue: &mut Queue) {
        if let Self::Pair(worker) = self {
            worker.stop(queue);
        }
    }

    fn in_flight(&self, index: usize) -> usize {
        match self {
            Self::Pair(worker) => worker.in_flight(index),
            Self::Control(_) => 0,
        }
    }
}
