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

use super::card::{CONTROL, Card, EVENT, RECEIVE, TRANSMIT};
use super::message::{self, Request, Status};
use super::stream::{Finished, STATUS, Stream};
use crate::card::control::Level;
use crate::card::port::Direction;

/// VIRTIO_SND_EVT_*.
const JACK_CONNECTED: u32 = 0x1000;
const JACK_DISCONNECTED: u32 = 0x1001;
const PCM_XRUN: u32 = 0x1101;
const CTL_NOTIFY: u32 = 0x1200;
/// Events that wait for a driver to take them at most: the oldest go.
const EVENTS: usize = 256;

/// Serves all queues.
#[derive(Debug)]
pub struct Worker {
    card: Arc<Card>,
    timer: TimerFd,
    /// Requests that were not carried out yet.
    requests: VecDeque<Chain>,
    /// Buffers for events, and events.
    places: VecDeque<Chain>,
    events: VecDeque<[u8; 8]>,
    finished: Vec<Finished>,
    /// What the driver knows of each jack.
    told: Vec<bool>,
    /// What it knows of how loud each stream is.
    levels: Vec<Level>,
    taken: u64,
    /// Whether buffers may be taken from the transmit and the receive queue.
    enabled: [bool; 2],
}

impl Worker {
    pub(super) fn new(card: Arc<Card>) -> io::Result<Self> {
        let (told, levels) = (card.plugged().collect(), card.levels());
        Ok(Self {
            card,
            timer: TimerFd::new()?,
            requests: VecDeque::new(),
            places: VecDeque::new(),
            events: VecDeque::new(),
            finished: Vec::new(),
            told,
            levels,
            taken: 0,
            enabled: [false; 2],
        })
    }

    fn flag(&mut self, index: usize) -> Option<&mut bool> {
        self.enabled.get_mut(index.checked_sub(TRANSMIT)?)
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

    fn carry_out_requests(&mut self, queues: &mut Queues, now: Instant) {
        if !self.requests.is_empty() {
            // What was given before a request is there for it, though its kick was not seen yet.
            for (index, direction) in
                [(TRANSMIT, Direction::Playback), (RECEIVE, Direction::Capture)]
            {
                if self.flag(index).is_some_and(|enabled| *enabled)
                    && let Some(queue) = queues.get_mut(index)
                {
                    self.take_buffers(queue, direction);
                }
            }
        }
        while let Some(chain) = self.requests.pop_front() {
            let bytes = chain.readable().split_at(message::LONGEST).0.to_vec();
            let answer = match Request::parse(&bytes) {
                Some(request) => {
                    let answer = self.card.carry_out(request, now, &mut self.finished);
                    log::debug!("{request:?}: {:?}", answer.as_ref().err().unwrap_or(&Status::Ok));
                    answer
                }
                None => Err(Status::BadMessage),
            };
            // A stream's buffers come back before its end is told.
            self.complete_all(queues);
            let (status, data) = match answer {
                Ok(data) => (Status::Ok, data),
                Err(status) => (status, Vec::new()),
            };
            let answer = [&status.bytes()[..], &data].concat();
            let written = chain.writable().write(&answer);
            if let Some(queue) = queues.get_mut(CONTROL) {
                queue.complete(chain, u32::try_from(written).unwrap_or(u32::MAX));
            }
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

    fn tell_jacks(&mut self) {
        let Self { card, told, events, .. } = self;
        for (number, (now, before)) in card.plugged().zip(told).enumerate() {
            if std::mem::replace(before, now) != now {
                let code = if now { JACK_CONNECTED } else { JACK_DISCONNECTED };
                tell(events, code, number);
            }
        }
    }

    /// What the driver has changed itself is told as well: so Linux tells its other programs.
    fn tell_controls(&mut self) {
        for data in self.card.changed(&mut self.levels) {
            let event = event(CTL_NOTIFY, data);
            // That it has changed once more is nothing new.
            if !self.events.contains(&event) {
                add(&mut self.events, event);
            }
        }
    }
}

/// Has the driver told of something, when it has room.
fn tell(events: &mut VecDeque<[u8; 8]>, code: u32, number: usize) {
    add(events, event(code, u32::try_from(number).unwrap_or(u32::MAX)));
}

/// A `virtio_snd_event`.
fn event(code: u32, data: u32) -> [u8; 8] {
    let mut event = [0; 8];
    let (first, second) = event.split_at_mut(4);
    first.copy_from_slice(&code.to_le_bytes());
    second.copy_from_slice(&data.to_le_bytes());
    event
}

fn add(events: &mut VecDeque<[u8; 8]>, event: [u8; 8]) {
    if events.len() >= EVENTS {
        events.pop_front();
    }
    events.push_back(event);
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
            TRANSMIT => self.take_buffers(queue, Direction::Playback),
            _ => self.take_buffers(queue, Direction::Capture),
        }
        Taken::All
    }

    fn enabled(&mut self, index: usize, enabled: bool) {
        if let Some(flag) = self.flag(index) {
            *flag = enabled;
        }
    }

    /// The next buffer has the time of those before it.
    fn hurries(&self) -> bool {
        false
    }

    fn turn(&mut self, queues: &mut Queues) -> Taken {
        let now = Instant::now();
        self.carry_out_requests(queues, now);
        let mut streams = self.card.streams();
        for (number, stream) in streams.iter_mut().enumerate() {
            if stream.turn(now, &mut self.finished) {
                tell(&mut self.events, PCM_XRUN, number);
            }
        }
        let next = streams.iter().filter_map(Stream::next).min();
        drop(streams);
        self.complete_all(queues);
        self.tell_jacks();
        self.tell_controls();
        while !self.events.is_empty()
            && let Some(chain) = self.places.pop_front()
            && let Some(event) = self.events.pop_front()
            && let Some(queue) = queues.get_mut(EVENT)
        {
            let written = chain.writable().write(&event);
            queue.complete(chain, u32::try_from(written).unwrap_or(0));
        }
        let set = match next {
            // At once is what a timer takes for never.
            Some(next) => {
                let left = next.saturating_duration_since(Instant::now());
                self.timer.reset(left.max(Duration::from_nanos(1)), None)
            }
            None => self.timer.clear(),
        };
        if let Err(error) = set {
            log::error!("the card's clock stands still: {error}");
        }
        Taken::All
    }

    fn stop(&mut self, queue: &mut Queue) {
        self.enabled(queue.index(), false);
        let mut chains: Vec<(u64, Chain)> = match queue.index() {
            CONTROL => (0..).zip(self.requests.drain(..)).collect(),
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
