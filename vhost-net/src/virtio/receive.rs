//! Frames towards the guest: its buffers are taken in advance, and filled by the host's side itself.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use vhost_runtime::chain::Chain;
use vhost_runtime::device::Taken;
use vhost_runtime::queue::Queue;
use vmm_sys_util::timerfd::TimerFd;

use super::filter::Filter;
use super::statistics::Receiving;
use crate::frame::offload::{HEADER, LEGACY_HEADER, Offload};
use crate::frame::{ETHERNET, Ethernet, LONGEST, Mac, ORDINARY, longest};
use crate::host::space::Space;
use crate::host::{Port, Received};

/// Frames that are received between two looks at what is to be sent.
const BUDGET: usize = 64;
/// Frames that wait at most: more than an interface of Linux's queues. What comes all the time has no end.
const OLD: usize = 4096;
/// Ordinary frames after which no long ones are expected: buffers for those are offered only while they come.
const PATIENCE: u32 = 64;

/// How long a frame keeps others waiting that the guest has too few buffers for. One that is busy gives more soon.
const LATE: Duration = Duration::from_millis(250);

/// How a guest's frames are to be received.
#[derive(Debug)]
pub(super) struct Terms<'a> {
    /// The link is up.
    pub(super) link: bool,
    pub(super) filter: &'a Filter,
    pub(super) mac: Mac,
    /// The driver says which VLANs it wants.
    pub(super) by_vlan: bool,
    pub(super) statistics: &'a Receiving,
}

/// The guest's buffers, and where frames go that don't fit into them.
#[derive(Debug)]
pub(super) struct Receiver {
    /// Bytes of the header before each frame.
    header: usize,
    /// A frame may go on in the next buffer.
    mergeable: bool,
    stock: VecDeque<Chain>,
    /// Bytes of the stock.
    room: usize,
    list: Vec<libc::iovec>,
    scratch: Box<[u8]>,
    /// A frame of which the rest is in `scratch`, until there are buffers for it, and since when.
    waiting: Option<(Arrived, Instant)>,
    /// Ends its wait, if the driver gives none.
    late: TimerFd,
    /// Bytes of a frame that is not to be cut by the guest, at most.
    longest: Option<usize>,
    /// Bytes that are offered for a frame.
    expected: usize,
    /// Ordinary frames since the last long one.
    ordinary: u32,
}

/// What is in the stock's front now.
#[derive(Debug)]
struct Arrived {
    /// Bytes of the frame.
    length: usize,
    /// Those that went into the guest's buffers.
    placed: usize,
    header: Option<[u8; HEADER]>,
    dropped: Option<Dropped>,
}

/// Why the guest does not get a frame.
#[derive(Clone, Copy, Debug)]
enum Dropped {
    Malformed,
    Filtered,
    TooLong,
}

impl Receiver {
    /// One of a guest with headers of `header` bytes, which is told of this MTU.
    ///
    /// # Errors
    /// The host has no more descriptors.
    pub(super) fn new(header: usize, mergeable: bool, mtu: Option<u16>) -> io::Result<Self> {
        Ok(Self {
            header,
            mergeable,
            stock: VecDeque::new(),
            room: 0,
            list: Vec::new(),
            scratch: vec![0; LONGEST.saturating_add(HEADER)].into(),
            waiting: None,
            late: TimerFd::new()?,
            longest: mtu.map(longest),
            expected: ORDINARY,
            ordinary: 0,
        })
    }

    /// Becomes readable when there is something to do that nothing else tells of.
    pub(super) fn timer(&self) -> &TimerFd {
        &self.late
    }

    /// Gives all buffers back.
    pub(super) fn stop(&mut self, queue: &mut Queue) {
        while let Some(chain) = self.stock.pop_back() {
            queue.give_back(chain);
        }
        self.room = 0;
        self.waiting = None;
    }

    /// Takes a buffer out of the ring. `false`: there is none.
    fn take(&mut self, queue: &mut Queue, statistics: &Receiving) -> bool {
        while let Some(chain) = queue.pop() {
            let length = usize::try_from(chain.writable().len()).unwrap_or(0);
            if length >= self.header {
                self.room = self.room.saturating_add(length);
                self.stock.push_back(chain);
                return true;
            }
            statistics.bad_buffers.add(1);
            queue.complete(chain, 0);
        }
        false
    }

    /// Receives what there is.
    pub(super) fn run(&mut self, queue: &mut Queue, port: &mut Port, terms: &Terms<'_>) -> Taken {
        let statistics = terms.statistics;
        for _ in 0..BUDGET {
            if !terms.link {
                statistics.link_down.add(self.waiting.take().is_some().into());
                if !self.drop_one(port) {
                    return Taken::All;
                }
                statistics.link_down.add(1);
                continue;
            }
            while self.room < self.expected && self.take(queue, statistics) {}
            let waiting = self.waiting.take();
            if waiting.is_none() && self.stock.is_empty() {
                if queue.enable_kicks() {
                    continue;
                }
                statistics.no_room.add(port.starved());
                return Taken::All;
            }
            let since = waiting.as_ref().map(|(_, since)| *since);
            let arrived = waiting.map(|(arrived, _)| arrived);
            let Some(arrived) = arrived.or_else(|| self.receive(port, terms)) else {
                return Taken::All;
            };
            if let Some(dropped) = arrived.dropped {
                match dropped {
                    Dropped::Malformed => statistics.malformed.add(1),
                    Dropped::Filtered => statistics.filtered.add(1),
                    Dropped::TooLong => statistics.too_long.add(1),
                }
            } else if !self.hand_over(queue, &arrived, port.carries_header(), statistics) {
                let since = since.unwrap_or_else(|| self.begin_to_wait());
                if since.elapsed() >= LATE {
                    statistics.no_room.add(1);
                    continue;
                }
                self.waiting = Some((arrived, since));
                if !queue.enable_kicks() {
                    statistics.no_room.add(port.starved());
                    return Taken::All;
                }
            }
        }
        Taken::Some
    }

    /// Drops what came before there was a guest to take it, as a card does that is not set up: it may be hours
    /// old, and say where stations were then.
    pub(super) fn drop_all(&mut self, port: &mut Port, statistics: &Receiving) {
        for _ in 0..OLD {
            if !self.drop_one(port) {
                return;
            }
            statistics.link_down.add(1);
        }
    }

    /// Receives a frame for nobody. `false`: there is none.
    fn drop_one(&mut self, port: &mut Port) -> bool {
        let mut space = Space::new(&mut self.list);
        space.add_own(&mut self.scratch);
        port.receive(&mut space) != Received::Nothing
    }

    fn begin_to_wait(&mut self) -> Instant {
        let now = Instant::now();
        if let Err(error) = self.late.reset(LATE, None) {
            log::error!("buffers of a guest are waited for without end: {error}");
        }
        now
    }

    fn receive(&mut self, port: &mut Port, terms: &Terms<'_>) -> Option<Arrived> {
        let carries = port.carries_header();
        let mut space = Space::new(&mut self.list);
        // A read into one piece, and a copy of an ordinary frame, cost less than a read into several.
        let through_copy = carries && self.expected == ORDINARY;
        for (number, chain) in self.stock.iter().enumerate().filter(|_| !through_copy) {
            let buffers = chain.writable();
            let skip = if number == 0 && !carries { self.header } else { 0 };
            if !space.add(buffers.split_at(skip as u64).1) {
                break;
            }
            if !self.mergeable || space.len() >= self.expected {
                break;
            }
        }
        let room = space.len();
        space.add_own(&mut self.scratch);
        let (length, header) = match port.receive(&mut space) {
            Received::Frame { length, header } => (length, header),
            Received::Nothing => return None,
            Received::Lost => {
                let dropped = Some(Dropped::TooLong);
                return Some(Arrived { length: 0, placed: 0, header: None, dropped });
            }
        };
        let skip = if carries { self.header } else { 0 };
        let wanted = !terms.filter.used || {
            let mut first = [0; Ethernet::BYTES];
            let count = space.peek(skip, &mut first).min(length.saturating_sub(skip));
            let frame = Ethernet::parse(first.get(..count).unwrap_or_default());
            frame.is_some_and(|frame| terms.filter.takes(&frame, terms.mac, terms.by_vlan))
        };
        let is_long = self.longest.is_some_and(|longest| length.saturating_sub(skip) > longest);
        let is_too_long = is_long && {
            let mut first = header.unwrap_or_default();
            if carries {
                space.peek(0, &mut first);
            }
            // Segments that the guest is to cut are no frames yet (virtio 1.3, 5.1.4.1).
            !Offload::is_segmented(&first)
        };
        self.expect(length);
        let dropped = if length.saturating_sub(skip) < ETHERNET {
            Some(Dropped::Malformed)
        } else if !wanted {
            Some(Dropped::Filtered)
        } else {
            is_too_long.then_some(Dropped::TooLong)
        };
        Some(Arrived { length, placed: length.min(room), header, dropped })
    }

    /// Long frames come in a row.
    fn expect(&mut self, length: usize) {
        if length > ORDINARY {
            (self.expected, self.ordinary) = (LONGEST, 0);
        } else if self.expected > ORDINARY {
            self.ordinary = self.ordinary.saturating_add(1);
            if self.ordinary > PATIENCE {
                self.expected = ORDINARY;
            }
        }
    }

    /// Completes the buffers that the frame is in, or drops it, and its buffers take the next one. `false`: there are
    /// not enough now.
    fn hand_over(
        &mut self,
        queue: &mut Queue,
        arrived: &Arrived,
        carries: bool,
        statistics: &Receiving,
    ) -> bool {
        let Arrived { length, placed, header, .. } = *arrived;
        let spilled = length.saturating_sub(placed);
        let total = if carries { length } else { length.saturating_add(self.header) };
        let first = self.stock.front().map_or(0, |chain| chain.writable().len());
        if spilled > self.scratch.len() || (total as u64 > first && !self.mergeable) {
            statistics.too_long.add(1);
            return true;
        }
        while self.room < total {
            if !self.take(queue, statistics) {
                return false;
            }
        }
        if spilled > 0 {
            self.place_rest(total.saturating_sub(spilled), spilled);
        }
        self.write_header(total, header, carries);
        let mut rest = total as u64;
        while rest > 0 {
            let Some(chain) = self.stock.pop_front() else { break };
            let length = chain.writable().len();
            let count = length.min(rest);
            chain.writable().split_at(count).0.mark_dirty();
            self.room = self.room.saturating_sub(usize::try_from(length).unwrap_or(usize::MAX));
            rest = rest.saturating_sub(count);
            queue.complete(chain, u32::try_from(count).unwrap_or(u32::MAX));
        }
        let frame = total.saturating_sub(self.header);
        statistics.frames.add(1);
        statistics.bytes.add(frame as u64);
        statistics.unsegmented.add(u64::from(frame > ORDINARY));
        true
    }

    /// Copies what did not fit into the buffers that were offered to those behind them.
    fn place_rest(&mut self, from: usize, spilled: usize) {
        let mut skip = from as u64;
        let mut rest = self.scratch.get(..spilled).unwrap_or_default();
        for chain in &self.stock {
            let buffers = chain.writable();
            let here = skip.min(buffers.len());
            skip = skip.saturating_sub(here);
            let done = buffers.split_at(here).1.write(rest);
            rest = rest.get(done..).unwrap_or_default();
        }
    }

    /// Writes the header, or what of it the host's side does not: how many buffers the frame takes.
    fn write_header(&self, total: usize, header: Option<[u8; HEADER]>, carries: bool) {
        let Some(first) = self.stock.front() else { return };
        let mut bytes = header.unwrap_or_default();
        if let Some(buffers) = bytes.get_mut(LEGACY_HEADER..) {
            buffers.copy_from_slice(&self.buffers(total).to_le_bytes());
        }
        let written = if carries { LEGACY_HEADER } else { 0 };
        let bytes = bytes.get(written..self.header).unwrap_or_default();
        first.writable().split_at(written as u64).1.write(bytes);
    }

    /// How many buffers of the stock so many bytes take.
    fn buffers(&self, total: usize) -> u16 {
        let mut rest = total as u64;
        let mut count: u16 = 0;
        for chain in &self.stock {
            if rest == 0 {
                break;
            }
            rest = rest.saturating_sub(chain.writable().len());
            count = count.saturating_add(1);
        }
        count
    }
}
