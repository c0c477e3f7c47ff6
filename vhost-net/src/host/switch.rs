//! Guests of this machine among each other: a frame goes from one guest's memory straight into another's, where
//! its destination was learnt, else to all.
//!
//! Each pair of queues is served by a thread of its own, which alone touches that guest's rings. A frame for
//! another pair waits in that one's inbox, in its sender's chain, and is copied once, by the receiver; then the
//! chain goes back. A guest without room for a moment keeps its senders waiting; one that is late is kept copies
//! for, as many as an interface of Linux's queues, so that it keeps nobody else's rings.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use vhost_runtime::chain::Chain;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::timerfd::TimerFd;

use super::space::Space;
use super::waiter::Waiter;
use super::{Outcome, Packet, Received};
use crate::frame::offload::{Accepted, Offload};
use crate::frame::{Ethernet, Mac, checksum, segment};

/// Frames that wait for a pair at most.
const WAITING: usize = 1024;
/// Addresses that are learnt of one port at most: a guest that makes up more has frames for them sent to all.
const ADDRESSES: usize = 1024;
/// How long an address is known that nothing came from (IEEE 802.1Q, 8.8.3).
const AGE: Duration = Duration::from_secs(300);
/// How long frames wait in their senders' chains for a guest to have room; and for one that takes some of them
/// each time, at most.
const PATIENCE: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_millis(50);
/// Bytes that are kept for a guest that is late.
const KEPT: usize = 4 << 20;

/// A switch.
#[derive(Debug)]
pub struct Switch {
    ports: Vec<Arc<Shared>>,
    learnt: RwLock<HashMap<Mac, Learnt>>,
    begun: Instant,
    /// When old addresses were looked for last, in seconds since then.
    tidied: AtomicU64,
}

/// Where an address was seen.
#[derive(Debug)]
struct Learnt {
    port: usize,
    /// When, in seconds since the switch began.
    seen: AtomicU64,
}

/// What others need to know of a port.
#[derive(Debug)]
struct Shared {
    inboxes: Vec<Inbox>,
    /// Pairs that the guest takes frames of.
    active: AtomicU16,
    /// What it takes, as bits.
    accepted: AtomicU16,
    learnt: AtomicUsize,
}

/// Frames for one pair.
#[derive(Debug)]
struct Inbox {
    frames: ArrayQueue<Parcel>,
    /// Bytes of the copies among them.
    bytes: AtomicUsize,
    /// Copies that there was no room for, and nobody has counted.
    lost: AtomicU64,
    wake: EventFd,
    /// It was woken, and has not looked yet.
    woken: AtomicBool,
    /// Somebody takes them.
    open: AtomicBool,
}

/// A frame that waits.
#[derive(Debug)]
enum Parcel {
    /// In its sender's chain.
    Chain(Packet, Arc<Returns>),
    /// A copy, for several or as a segment.
    Copy(Arc<[u8]>, Offload),
}

/// Copies for a guest that is late.
#[derive(Debug, Default)]
struct Copies {
    frames: VecDeque<(Arc<[u8]>, Offload)>,
    bytes: usize,
}

/// Chains on their way back to their sender.
#[derive(Debug)]
struct Returns {
    chains: ArrayQueue<Chain>,
    wake: EventFd,
    woken: AtomicBool,
}

fn add(waiter: &Waiter, fd: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: it is open as long as it is borrowed here.
    waiter.add(unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) })
}

fn wake(event: &EventFd, woken: &AtomicBool) {
    if !woken.swap(true, Ordering::SeqCst)
        && let Err(error) = event.write(1)
    {
        log::error!("a port of the switch cannot be woken: {error}");
    }
}

impl Returns {
    fn give(&self, chain: Chain) {
        if self.chains.push(chain).is_err() {
            log::error!("a chain is lost on its way back: there are more than a ring has");
        }
        wake(&self.wake, &self.woken);
    }
}

impl Parcel {
    /// Bytes of the frame.
    fn length(&self) -> usize {
        match self {
            Self::Chain(packet, _) => usize::try_from(packet.frame().len()).unwrap_or(usize::MAX),
            Self::Copy(frame, _) => frame.len(),
        }
    }

    /// Bytes of a copy.
    fn copied(&self) -> usize {
        if matches!(self, Self::Copy(..)) { self.length() } else { 0 }
    }

    fn give_back(self) {
        if let Self::Chain(packet, returns) = self {
            returns.give(packet.chain);
        }
    }
}

impl Copies {
    /// `false`: there is no room.
    fn push(&mut self, parcel: Parcel) -> bool {
        let length = parcel.length();
        let bytes = self.bytes.saturating_add(length);
        if bytes > KEPT || self.frames.len() >= WAITING {
            parcel.give_back();
            return false;
        }
        self.bytes = bytes;
        self.frames.push_back(match parcel {
            Parcel::Chain(packet, returns) => {
                let mut copy = vec![0; length];
                packet.frame().read(&mut copy);
                returns.give(packet.chain);
                (copy.into(), packet.offload)
            }
            Parcel::Copy(frame, offload) => (frame, offload),
        });
        true
    }

    fn pop(&mut self) -> Option<Parcel> {
        let (frame, offload) = self.frames.pop_front()?;
        self.bytes = self.bytes.saturating_sub(frame.len());
        Some(Parcel::Copy(frame, offload))
    }
}

impl Inbox {
    fn new() -> io::Result<Self> {
        Ok(Self {
            frames: ArrayQueue::new(WAITING),
            bytes: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
            wake: EventFd::new(EFD_NONBLOCK)?,
            woken: AtomicBool::new(false),
            open: AtomicBool::new(false),
        })
    }

    /// `Err`: there is no room, or nobody takes it.
    fn put(&self, parcel: Parcel) -> Result<(), Parcel> {
        if !self.open.load(Ordering::Acquire) {
            return Err(parcel);
        }
        let copied = parcel.copied();
        if copied > 0 && self.bytes.fetch_add(copied, Ordering::Relaxed) > KEPT {
            self.bytes.fetch_sub(copied, Ordering::Relaxed);
            self.lost.fetch_add(1, Ordering::Relaxed);
            return Err(parcel);
        }
        if let Err(parcel) = self.frames.push(parcel) {
            self.bytes.fetch_sub(copied, Ordering::Relaxed);
            self.lost.fetch_add((copied > 0).into(), Ordering::Relaxed);
            return Err(parcel);
        }
        wake(&self.wake, &self.woken);
        if !self.open.load(Ordering::SeqCst) {
            self.clear(); // it was closed in between
        }
        Ok(())
    }

    /// The next frame; without one, whoever puts one in wakes its receiver.
    fn next(&self) -> Option<Parcel> {
        self.take().or_else(|| {
            self.woken.store(false, Ordering::SeqCst);
            self.take()
        })
    }

    fn take(&self) -> Option<Parcel> {
        let parcel = self.frames.pop()?;
        self.bytes.fetch_sub(parcel.copied(), Ordering::Relaxed);
        Some(parcel)
    }

    fn clear(&self) {
        std::iter::from_fn(|| self.take()).for_each(Parcel::give_back);
    }
}

impl Shared {
    /// Where frames of another port's pair go: pairs are in use from the first on.
    fn inbox_of(&self, pair: u16) -> Option<&Inbox> {
        let pair = pair.checked_rem(self.active.load(Ordering::Relaxed))?;
        self.inboxes.get(usize::from(pair))
    }

    fn accepted(&self) -> Accepted {
        let bits = self.accepted.load(Ordering::Relaxed);
        let has = |bit: u16| bits & bit != 0;
        Accepted {
            checksum: has(1),
            tso4: has(2),
            tso6: has(4),
            ecn: has(8),
            ufo: has(16),
            uso: has(32),
        }
    }
}

impl Switch {
    /// One with `ports` ports of `pairs` pairs each.
    ///
    /// # Errors
    /// The host has no more descriptors.
    pub fn new(ports: usize, pairs: u16) -> io::Result<Arc<Self>> {
        let port = || -> io::Result<Arc<Shared>> {
            let inboxes = (0..pairs).map(|_| Inbox::new()).collect::<io::Result<Vec<_>>>()?;
            let (active, accepted) = (AtomicU16::new(0), AtomicU16::new(0));
            Ok(Arc::new(Shared { inboxes, active, accepted, learnt: AtomicUsize::new(0) }))
        };
        let ports = (0..ports).map(|_| port()).collect::<io::Result<Vec<_>>>()?;
        let tidied = AtomicU64::new(u64::MAX);
        Ok(Arc::new(Self { ports, learnt: RwLock::default(), begun: Instant::now(), tidied }))
    }

    fn inbox(&self, port: usize, pair: u16) -> Option<&Inbox> {
        self.ports.get(port)?.inboxes.get(usize::from(pair))
    }

    /// What the guest at a port takes from others.
    pub fn set_accepted(&self, port: usize, accepted: &Accepted) {
        let Accepted { checksum, tso4, tso6, ecn, ufo, uso } = *accepted;
        let bits = [checksum, tso4, tso6, ecn, ufo, uso];
        let bits = bits.into_iter().rev().fold(0, |bits, on| bits << 1 | u16::from(on));
        if let Some(shared) = self.ports.get(port) {
            shared.accepted.store(bits, Ordering::Relaxed);
        }
    }

    fn now(&self) -> u64 {
        self.begun.elapsed().as_secs()
    }

    fn learn(&self, source: Mac, port: usize) {
        if source.is_group() {
            return;
        }
        let now = self.now();
        let learnt = self.learnt.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = learnt.get(&source)
            && known.port == port
        {
            if known.seen.load(Ordering::Relaxed) != now {
                known.seen.store(now, Ordering::Relaxed);
            }
            return;
        }
        drop(learnt);
        let Some(shared) = self.ports.get(port) else { return };
        let is_full = || shared.learnt.load(Ordering::Relaxed) >= ADDRESSES;
        // A guest that makes up addresses keeps the others from the table once a second at most.
        if is_full() && self.tidied.swap(now, Ordering::Relaxed) == now {
            return;
        }
        let mut learnt = self.learnt.write().unwrap_or_else(PoisonError::into_inner);
        if is_full() {
            self.forget_old(&mut learnt, now);
            if is_full() {
                return;
            }
        }
        shared.learnt.fetch_add(1, Ordering::Relaxed);
        let before = learnt.insert(source, Learnt { port, seen: AtomicU64::new(now) });
        if let Some(other) = before.and_then(|before| self.ports.get(before.port)) {
            other.learnt.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn forget_old(&self, learnt: &mut HashMap<Mac, Learnt>, now: u64) {
        learnt.retain(|_, entry| {
            let fresh = now.saturating_sub(entry.seen.load(Ordering::Relaxed)) < AGE.as_secs();
            if !fresh && let Some(port) = self.ports.get(entry.port) {
                port.learnt.fetch_sub(1, Ordering::Relaxed);
            }
            fresh
        });
    }

    /// The port where an address was seen lately.
    fn port_of(&self, destination: Mac) -> Option<usize> {
        if destination.is_group() {
            return None;
        }
        let learnt = self.learnt.read().unwrap_or_else(PoisonError::into_inner);
        let entry = learnt.get(&destination)?;
        let age = self.now().saturating_sub(entry.seen.load(Ordering::Relaxed));
        (age < AGE.as_secs()).then_some(entry.port)
    }
}

/// A guest had no room for what waits.
#[derive(Debug)]
struct Late {
    /// Frames that waited then, and do so still.
    frames: usize,
    /// It has taken some since the deadline was set.
    progress: bool,
    /// When their senders get their chains back, and to when that is put off at most.
    deadline: Instant,
    last: Instant,
}

/// One pair of a port.
#[derive(Debug)]
pub struct Port {
    switch: Arc<Switch>,
    number: usize,
    pair: u16,
    returns: Arc<Returns>,
    kept: usize,
    late: Option<Late>,
    copies: Copies,
    timer: TimerFd,
    copy: Vec<u8>,
    cut: Vec<u8>,
}

impl Port {
    /// Pair `pair` of port `number`.
    ///
    /// # Errors
    /// The host has no more descriptors.
    pub fn new(switch: Arc<Switch>, number: usize, pair: u16) -> io::Result<Self> {
        let returns = Arc::new(Returns {
            chains: ArrayQueue::new(WAITING),
            wake: EventFd::new(EFD_NONBLOCK)?,
            woken: AtomicBool::new(false),
        });
        let timer = TimerFd::new()?;
        Ok(Self {
            switch,
            number,
            pair,
            returns,
            kept: 0,
            late: None,
            copies: Copies::default(),
            timer,
            copy: Vec::new(),
            cut: Vec::new(),
        })
    }

    fn inbox(&self) -> Option<&Inbox> {
        self.switch.inbox(self.number, self.pair)
    }

    pub(super) fn wait_with(&self, waiter: &Waiter) -> io::Result<()> {
        add(waiter, &self.returns.wake)?;
        add(waiter, &self.timer)?;
        self.inbox().map_or(Ok(()), |inbox| add(waiter, &inbox.wake))
    }

    pub(super) fn set_active(&mut self, active: bool) {
        let Some(shared) = self.switch.ports.get(self.number) else { return };
        let Some(inbox) = self.inbox() else { return };
        if inbox.open.swap(active, Ordering::SeqCst) == active {
            return;
        }
        if active {
            shared.active.fetch_add(1, Ordering::Relaxed);
        } else {
            shared.active.fetch_sub(1, Ordering::Relaxed);
            inbox.clear();
            (self.late, self.copies) = (None, Copies::default());
        }
    }

    pub(super) fn kept(&self) -> usize {
        self.kept
    }

    pub(super) fn returned(&mut self) -> Option<Chain> {
        let Returns { chains, woken, .. } = self.returns.as_ref();
        let chain = chains.pop().or_else(|| {
            woken.store(false, Ordering::SeqCst);
            chains.pop()
        })?;
        self.kept = self.kept.saturating_sub(1);
        Some(chain)
    }

    pub(super) fn send(&mut self, packet: Packet) -> Outcome {
        let mut first = [0; Ethernet::BYTES];
        let count = packet.frame().read(&mut first);
        let Some(header) = Ethernet::parse(first.get(..count).unwrap_or_default()) else {
            return Outcome::Lost(packet.chain);
        };
        self.switch.learn(header.source, self.number);
        match self.switch.port_of(header.destination) {
            Some(port) if port == self.number => Outcome::Done(packet.chain),
            Some(port) => self.send_to(port, packet),
            None => self.send_to_all(packet),
        }
    }

    fn send_to(&mut self, port: usize, packet: Packet) -> Outcome {
        let Some(shared) = self.switch.ports.get(port) else { return Outcome::Lost(packet.chain) };
        let shared = Arc::clone(shared);
        if !shared.accepted().takes(&packet.offload) {
            return match self.copy_to(&packet, &[shared]) {
                true => Outcome::Done(packet.chain),
                false => Outcome::Lost(packet.chain),
            };
        }
        let Some(inbox) = shared.inbox_of(self.pair).filter(|_| self.kept < WAITING) else {
            return Outcome::Lost(packet.chain);
        };
        match inbox.put(Parcel::Chain(packet, Arc::clone(&self.returns))) {
            Ok(()) | Err(Parcel::Copy(..)) => {
                self.kept = self.kept.saturating_add(1);
                Outcome::Kept
            }
            Err(Parcel::Chain(packet, _)) => Outcome::Lost(packet.chain),
        }
    }

    fn send_to_all(&mut self, packet: Packet) -> Outcome {
        let ports = self.switch.ports.iter().enumerate();
        let others = ports.filter(|(number, _)| *number != self.number);
        let others: Vec<_> = others.map(|(_, shared)| Arc::clone(shared)).collect();
        self.copy_to(&packet, &others);
        Outcome::Done(packet.chain)
    }

    /// Sends copies. `true`: somebody takes all that one makes.
    fn copy_to(&mut self, packet: &Packet, ports: &[Arc<Shared>]) -> bool {
        let Self { copy, cut, pair, .. } = self;
        copy.resize(usize::try_from(packet.frame().len()).unwrap_or(0), 0);
        let count = packet.frame().read(copy);
        copy.truncate(count);
        // A copy serves all who take it as it is.
        let mut whole: Option<Arc<[u8]>> = None;
        let mut taken = false;
        for shared in ports {
            let Some(inbox) = shared.inbox_of(*pair) else { continue };
            if shared.accepted().takes(&packet.offload) {
                let whole = whole.get_or_insert_with(|| Arc::from(copy.as_slice()));
                taken |= inbox.put(Parcel::Copy(Arc::clone(whole), packet.offload)).is_ok();
            } else {
                taken |= finished(copy, packet.offload, cut, |frame| {
                    inbox.put(Parcel::Copy(Arc::from(frame), Offload::default())).is_ok()
                });
            }
        }
        taken
    }

    /// The next frame for the guest.
    fn next(&mut self) -> Option<Parcel> {
        let copied = self.copies.pop();
        let parcel = copied.or_else(|| self.inbox()?.next());
        if let Some(late) = &mut self.late {
            late.frames = late.frames.saturating_sub(1);
            late.progress = true;
            if late.frames == 0 || parcel.is_none() {
                self.late = None; // it has caught up
            }
        }
        parcel
    }

    pub(super) fn receive(&mut self, space: &mut Space<'_>) -> Received {
        let Some(parcel) = self.next() else { return Received::Nothing };
        let length = parcel.length();
        let offload = match &parcel {
            Parcel::Chain(packet, _) => {
                space.fill_from(packet.frame());
                packet.offload
            }
            Parcel::Copy(frame, offload) => {
                space.fill(frame);
                *offload
            }
        };
        parcel.give_back();
        Received::Frame { length, header: Some(offload.header(length)) }
    }

    /// The guest has no room for what waits, of which there may be nothing. Returns how many frames it has
    /// lost by that.
    pub(super) fn starved(&mut self) -> u64 {
        let Self { switch, late, copies, timer, .. } = self;
        // Not by `self`, of which more is borrowed.
        let Some(inbox) = switch.inbox(self.number, self.pair) else { return 0 };
        inbox.woken.store(false, Ordering::SeqCst);
        let lost = inbox.lost.swap(0, Ordering::Relaxed);
        let waiting = inbox.frames.len();
        if waiting == 0 {
            return lost;
        }
        let now = Instant::now();
        let after = |time| now.checked_add(time).unwrap_or(now);
        let late = match late {
            Some(late) if now < late.deadline => return lost,
            Some(late) if !late.progress || now >= late.last => late,
            _ => {
                let last = late.as_ref().map_or(after(LONGEST), |late| late.last);
                let frames = late.as_ref().map_or(waiting, |late| late.frames);
                *late = Some(Late { frames, progress: false, deadline: after(PATIENCE), last });
                if let Err(error) = timer.reset(PATIENCE, None) {
                    log::error!("a guest without room is waited for without end: {error}");
                }
                return lost;
            }
        };
        let parcels = std::iter::from_fn(|| inbox.take());
        let more: u64 = parcels.map(|parcel| u64::from(!copies.push(parcel))).sum();
        late.frames = copies.frames.len();
        lost.saturating_add(more)
    }
}

/// Does what is left to do in a frame, and hands on what that makes. `true`: all of it was taken.
fn finished(
    frame: &mut [u8],
    offload: Offload,
    space: &mut Vec<u8>,
    mut take: impl FnMut(&[u8]) -> bool,
) -> bool {
    match offload {
        Offload { checksum: Some(checksum), segmentation: Some(segmentation) } => {
            segment::segment(frame, checksum, segmentation, space, take).unwrap_or(false)
        }
        Offload { checksum: Some(checksum), segmentation: None } => {
            space.clear();
            space.extend_from_slice(frame);
            checksum::complete(space, checksum);
            take(space)
        }
        Offload { checksum: None, .. } => take(frame),
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.set_active(false);
    }
}

#[cfg(test)]
mod tests;
