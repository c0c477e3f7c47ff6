//! What serves the card's queues, on one thread.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vhost_runtime::chain::Chain;
use vhost_runtime::device::{QueueWorker, Queues, Taken};
use vhost_runtime::queue::Queue;
use vmm_sys_util::timerfd::TimerFd;

use super::card::{CONTROL, Card, EVENT, PACE, RECEIVE, TRANSMIT};
use super::message::{self, Control, Kind, Request, Status};
use super::stream::{Finished, STATUS, Stream};
use crate::card::port::Direction;

/// VIRTIO_SND_EVT_PCM_XRUN.
const PCM_XRUN: u32 = 0x1101;
/// Xruns that wait for a driver to take them at most: the oldest go.
const XRUNS: usize = 256;

/// Serves all queues.
#[derive(Debug)]
pub struct Worker {
    card: Arc<Card>,
    timer: TimerFd,
    /// Requests that were not carried out yet.
    requests: VecDeque<Chain>,
    /// Buffers for events, and streams that had an xrun. What else there is to tell, the card knows.
    places: VecDeque<Chain>,
    xruns: VecDeque<u32>,
    finished: Vec<Finished>,
    taken: u64,
    /// The transmit and the receive queue.
    gates: [Gate; 2],
    /// When the timer runs out, if it runs.
    alarm: Option<Instant>,
}

/// How buffers come by a queue.
#[derive(Clone, Copy, Debug, Default)]
struct Gate {
    /// They may be taken.
    is_enabled: bool,
    /// The driver kicks for them; where not, the ring is looked at in each turn.
    has_kicks: bool,
}

/// The queues that have a stream's buffers.
const GATES: [(usize, Direction); 2] =
    [(TRANSMIT, Direction::Playback), (RECEIVE, Direction::Capture)];

impl Worker {
    pub(super) fn new(card: Arc<Card>) -> io::Result<Self> {
        Ok(Self {
            card,
            timer: TimerFd::new()?,
            requests: VecDeque::new(),
            places: VecDeque::new(),
            xruns: VecDeque::new(),
            finished: Vec::new(),
            taken: 0,
            gates: [Gate::default(); 2],
            alarm: None,
        })
    }

    fn gate(&mut self, index: usize) -> Option<&mut Gate> {
        self.gates.get_mut(index.checked_sub(TRANSMIT)?)
    }

    /// Whether the driver is to kick for buffers. Not while all streams that run have enough: each turn looks at the
    /// ring, and the next one is when the first of them is done with.
    fn wants_kicks(&self, direction: Direction) -> bool {
        let streams = self.card.streams();
        let mut running = streams
            .iter()
            .filter(|stream| stream.config.direction() == direction && stream.is_running())
            .peekable();
        running.peek().is_none() || running.any(|stream| !stream.has_enough())
    }

    /// Takes buffers for streams; those that are for none are refused.
    fn take_buffers(&mut self, queue: &mut Queue, direction: Direction) {
        let now = Instant::now();
        let mut streams = self.card.streams();
        while let Some(chain) = queue.pop() {
            let mut number = [0; 4];
            let whole = chain.readable().read(&mut number) == number.len();
            let place = usize::try_from(u32::from_le_bytes(number)).ok().filter(|_| whole);
            let stream = place.and_then(|place| streams.get_mut(place));
            let stream = stream.filter(|stream| stream.config.direction() == direction);
            self.taken = self.taken.wrapping_add(1);
            let refused = match stream {
                Some(stream) => stream.take(chain, self.taken, now).err(),
                None => Some(chain),
            };
            if let Some(chain) = refused {
                let (index, status) = (queue.index(), Status::BadMessage);
                let refused = Finished { chain, queue: index, recorded: 0, status, latency: 0 };
                complete(queue, refused);
            }
        }
    }

    /// Takes the buffers that no kick tells of. What was given before a request is there for it, though its kick was
    /// not seen yet.
    fn look(&mut self, queues: &mut Queues) {
        for (index, direction) in GATES {
            if let Some(gate) = self.gate(index)
                && gate.is_enabled
                && (!gate.has_kicks || !self.requests.is_empty())
                && let Some(queue) = queues.get_mut(index)
            {
                self.take_buffers(queue, direction);
            }
        }
    }

    /// Has the driver kick again where that is wanted. `true`: it has given something meanwhile.
    fn ask_for_kicks(&mut self, queues: &mut Queues) -> bool {
        let mut has_news = false;
        for (index, direction) in GATES {
            let is_silent = self.gate(index).is_some_and(|it| it.is_enabled && !it.has_kicks);
            if is_silent
                && self.wants_kicks(direction)
                && let Some(queue) = queues.get_mut(index)
            {
                // What there is now is taken in the next turn.
                let is_news = queue.enable_kicks();
                has_news |= is_news;
                if let Some(gate) = self.gate(index) {
                    gate.has_kicks = !is_news;
                }
            }
        }
        has_news
    }

    fn carry_out_requests(&mut self, queues: &mut Queues, now: Instant) {
        let (mut answers, mut changed) = (Vec::new(), false);
        for chain in std::mem::take(&mut self.requests) {
            let bytes = chain.readable().split_at(message::LONGEST).0.to_vec();
            let answer = match Request::parse(&bytes) {
                Some(request) => {
                    let answer = self.card.carry_out(request, now, &mut self.finished);
                    log::debug!("{request:?}: {:?}", answer.as_ref().err().unwrap_or(&Status::Ok));
                    changed |= answer.is_ok() && changes(&request);
                    answer
                }
                None => Err(Status::BadMessage),
            };
            let (status, data) = match answer {
                Ok(data) => (Status::Ok, data),
                Err(status) => (status, Vec::new()),
            };
            answers.push((chain, [&status.bytes()[..], &data].concat()));
        }
        // A stream's buffers come back before its end is told, and what was done is kept by then.
        self.complete_all(queues);
        if changed {
            self.card.keep();
        }
        if let Some(queue) = queues.get_mut(CONTROL) {
            for (chain, answer) in answers {
                let written = chain.writable().write(&answer);
                queue.complete(chain, u32::try_from(written).unwrap_or(u32::MAX));
            }
        }
    }

    /// Has the next turn no later than that.
    fn set_alarm(&mut self, next: Option<Instant>, now: Instant) {
        // One that comes too early does no harm, and costs less than to set it each time.
        let rings = self.alarm.filter(|alarm| *alarm > now);
        let Some(next) = next.filter(|next| rings.is_none_or(|alarm| *next < alarm)) else {
            self.alarm = rings;
            return;
        };
        // At once is what a timer takes for never.
        let left = next.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        match self.timer.reset(left, None) {
            Ok(()) => self.alarm = Some(next),
            Err(error) => log::error!("the card's clock stands still: {error}"),
        }
    }

    fn complete_all(&mut self, queues: &mut Queues) {
        for finished in self.finished.drain(..) {
            if let Some(queue) = queues.get_mut(finished.queue) {
                complete(queue, finished);
            }
        }
        for index in [TRANSMIT, RECEIVE] {
            if let Some(queue) = queues.get_mut(index) {
                queue.publish();
            }
        }
    }

    /// Tells the driver what it does not know, as far as it has given room.
    fn tell(&mut self, queues: &mut Queues) {
        let Some(queue) = queues.get_mut(EVENT) else { return };
        let mut has_news = false;
        while !self.places.is_empty() {
            let xrun = self.xruns.pop_front().map(|number| (PCM_XRUN, number));
            let Some((code, data)) = xrun.or_else(|| {
                let news = self.card.news();
                has_news |= news.is_some();
                news
            }) else {
                break;
            };
            if let Some(chain) = self.places.pop_front() {
                let written = chain.writable().write(&event(code, data));
                queue.complete(chain, u32::try_from(written).unwrap_or(0));
            }
        }
        if has_news {
            // To be told twice is better than never.
            queue.publish();
            self.card.keep();
        }
    }
}

/// Whether another process has to know of a request that was carried out.
fn changes(request: &Request) -> bool {
    match request {
        Request::Info(kind, _) => *kind == Kind::Jack,
        Request::Control(_, control) => matches!(control, Control::Write(_)),
        _ => true,
    }
}

/// A `virtio_snd_event`.
fn event(code: u32, data: u32) -> [u8; 8] {
    let mut event = [0; 8];
    let (first, second) = event.split_at_mut(4);
    first.copy_from_slice(&code.to_le_bytes());
    second.copy_from_slice(&data.to_le_bytes());
    event
}

/// Gives a buffer back to the driver, with its status at its end.
fn complete(queue: &mut Queue, finished: Finished) {
    let Finished { chain, recorded, status, latency, .. } = finished;
    let length = chain.writable().len();
    let mut bytes = [0; 8];
    let (first, second) = bytes.split_at_mut(4);
    first.copy_from_slice(&status.bytes());
    second.copy_from_slice(&latency.to_le_bytes());
    let place = chain.writable().split_at(length.saturating_sub(STATUS)).1;
    let written = if length < STATUS { 0 } else { place.write(&bytes) as u64 };
    let written = u32::try_from(recorded.saturating_add(written)).unwrap_or(u32::MAX);
    queue.complete(chain, written);
}

impl QueueWorker for Worker {
    fn events(&self) -> Vec<RawFd> {
        let own = [self.timer.as_raw_fd(), self.card.wake.as_raw_fd()];
        own.into_iter().chain(self.card.streams().iter().filter_map(Stream::event)).collect()
    }

    fn process(&mut self, queue: &mut Queue) -> Taken {
        match queue.index() {
            CONTROL => self.requests.extend(std::iter::from_fn(|| queue.pop())),
            EVENT => self.places.extend(std::iter::from_fn(|| queue.pop())),
            index => {
                let direction =
                    if index == TRANSMIT { Direction::Playback } else { Direction::Capture };
                self.take_buffers(queue, direction);
                let wants_kicks = self.wants_kicks(direction);
                if let Some(gate) = self.gate(index) {
                    gate.has_kicks = wants_kicks;
                }
                return if wants_kicks { Taken::All } else { Taken::Enough };
            }
        }
        Taken::All
    }

    fn enabled(&mut self, index: usize, enabled: bool) {
        if let Some(gate) = self.gate(index) {
            gate.is_enabled = enabled;
        }
    }

    /// The next buffer has the time of those before it.
    fn hurries(&self) -> bool {
        false
    }

    fn turn(&mut self, queues: &mut Queues) -> Taken {
        let now = Instant::now();
        self.look(queues);
        self.carry_out_requests(queues, now);
        let (mut streams, mut is_louder) = (self.card.streams(), false);
        for (number, stream) in (0..).zip(streams.iter_mut()) {
            is_louder |= stream.follow_host();
            if stream.turn(now, &mut self.finished) {
                if self.xruns.len() >= XRUNS {
                    self.xruns.pop_front();
                }
                self.xruns.push_back(number);
            }
        }
        let next = streams.iter().filter_map(Stream::next).min();
        drop(streams);
        self.complete_all(queues);
        if is_louder {
            self.card.keep();
        }
        self.tell(queues);
        if self.ask_for_kicks(queues) {
            return Taken::Some;
        }
        self.set_alarm(next.into_iter().chain(self.card.announce(PACE)).min(), now);
        Taken::All
    }

    fn stop(&mut self, queue: &mut Queue) {
        self.enabled(queue.index(), false);
        let mut chains: Vec<(u64, Chain)> = match queue.index() {
            CONTROL => {
                self.card.announce(Duration::ZERO); // nobody may do it later
                (0..).zip(self.requests.drain(..)).collect()
            }
            EVENT => (0..).zip(self.places.drain(..)).collect(),
            index => {
                let mut streams = self.card.streams();
                let own = streams.iter_mut().filter(|stream| stream.queue() == index);
                own.flat_map(Stream::give_back).collect()
            }
        };
        chains.sort_by_key(|(number, _)| *number);
        chains.into_iter().rev().for_each(|(_, chain)| queue.give_back(chain));
    }

    fn in_flight(&self, index: usize) -> usize {
        match index {
            CONTROL => self.requests.len(),
            EVENT => self.places.len(),
            index => {
                let streams = self.card.streams();
                streams.iter().filter(|it| it.queue() == index).map(Stream::waiting).sum()
            }
        }
    }
}
