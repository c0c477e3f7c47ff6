//! The periodic schedule: a list of frames (EHCI 1.0, 4.6).
//!
//! A frame in which nothing can happen is not looked at: a device that has nothing to say costs nothing.
//! After news of a device, or a write of the driver, all frames are looked through once for those that
//! have something to do, and these are visited in time, until each has been and nothing has moved.

use super::isochronous;
use super::queue::{Turn, Went, visit};
use super::structures::{Link, Qh, token};
use super::{Clock, FRAME, Found, SystemError, command};
use crate::controller::{Memory, Next, Time};

/// Elements of the frame list, at most.
const FRAMES: usize = 1024;
/// What one frame may lead to.
const MOST: usize = 128;
/// What all frames together may lead to, while they are looked through.
const MOST_OF_ALL: usize = 8192;
/// Frames that are caught up with after a pause.
const CATCH_UP: u64 = 32;
/// For how long after an isochronous packet the next is looked for in each frame, in nanoseconds: a driver may be
/// late.
const STREAMS: u64 = 100_000_000;
/// How often it is looked for transfers that the driver has added without a word, in nanoseconds.
const LOOK: u64 = 250_000_000;

/// The frame list (2.3.6 and 2.3.1, Frame List Size).
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    base: u32,
    frames: u32,
}

impl List {
    pub(super) fn new(base: u32, command: u32) -> Self {
        let frames = match (command & command::LIST_SIZE) >> 2 {
            0 => 1024,
            1 => 512,
            _ => 256,
        };
        Self { base, frames }
    }

    pub(super) fn frames(self) -> u64 {
        self.frames.into()
    }

    /// What a frame begins with.
    fn element(self, frame: u64, memory: &dyn Memory) -> Result<Link, SystemError> {
        let number = frame.checked_rem(self.frames.into()).and_then(|it| u32::try_from(it).ok());
        let offset = number.unwrap_or(0).saturating_mul(4);
        let word = memory.load(self.base.saturating_add(offset)).ok_or(SystemError)?;
        Ok(Link::parse(word))
    }
}

/// What is known of the schedule.
#[derive(Debug, Default)]
pub(super) struct Periodic {
    /// The next frame that was not visited.
    next: u64,
    /// Something may have come to do.
    stirred: bool,
    /// Frames that have something to do, a bit for each.
    busy: Busy,
    /// Until which frame they are visited.
    until: u64,
    /// When it was last looked through.
    looked: Time,
    /// When an isochronous packet has last moved.
    streamed: Option<Time>,
    /// What the look came to, to see whether the next comes to something else.
    seen: u64,
    /// Frame list rollovers that were told.
    rollovers: u64,
}

#[derive(Clone, Debug)]
struct Busy([u64; FRAMES / 64]);

impl Default for Busy {
    fn default() -> Self {
        Self([0; FRAMES / 64])
    }
}

impl Busy {
    fn set(&mut self, frame: usize) {
        if let Some(word) = self.0.get_mut(frame / 64) {
            *word |= 1 << (frame % 64);
        }
    }

    fn has(&self, frame: usize) -> bool {
        self.0.get(frame / 64).is_some_and(|word| word >> (frame % 64) & 1 != 0)
    }

    fn any(&self) -> bool {
        self.0.iter().any(|word| *word != 0)
    }
}

impl Periodic {
    pub(super) fn begin(&mut self, frame: u64) {
        self.next = frame;
        self.stirred = true;
        self.rollovers = u64::MAX;
    }

    pub(super) fn stir(&mut self) {
        self.stirred = true;
    }

    pub(super) fn run(
        &mut self,
        clock: &Clock,
        now: Time,
        list: List,
        memory: &dyn Memory,
        find: &mut Found<'_>,
        events: &mut u32,
    ) -> Result<Next, SystemError> {
        let current = clock.microframes(now) / 8;
        let stirred = std::mem::take(&mut self.stirred);
        let streams = self.streamed.is_some_and(|last| now.since(last) < STREAMS);
        // While packets stream, once a frame.
        let is_time = streams && self.next <= current;
        if stirred || is_time || now.since(self.looked) >= LOOK {
            self.looked = now;
            if self.look(list, memory)? || stirred {
                self.until = current.saturating_add(list.frames());
            }
        }
        let mut moved = Moved::default();
        self.next = self.next.max(current.saturating_sub(CATCH_UP));
        while self.next <= current {
            let frame = self.next;
            self.next = frame.saturating_add(1);
            if frame <= self.until && self.is_busy(frame, list) {
                visit_frame(frame, list, memory, find, events, &mut moved)?;
            }
        }
        if moved.any {
            // The driver is going to add more.
            self.look(list, memory)?;
            self.until = current.saturating_add(list.frames());
        }
        if moved.isochronous {
            self.streamed = Some(now);
        }
        let due = self.due(clock, list).unwrap_or(now.after(LOOK));
        let next = if streams || moved.isochronous { due.min(clock.begin(self.next)) } else { due };
        Ok(Next::At(next))
    }

    fn is_busy(&self, frame: u64, list: List) -> bool {
        let number = frame.checked_rem(list.frames()).and_then(|it| usize::try_from(it).ok());
        self.busy.has(number.unwrap_or(0))
    }

    /// When the next frame begins that is to be visited.
    fn due(&self, clock: &Clock, list: List) -> Option<Time> {
        if !self.busy.any() {
            return None;
        }
        let last = self.until.min(self.next.saturating_add(list.frames()));
        let next = (self.next..=last).find(|frame| self.is_busy(*frame, list))?;
        Some(clock.begin(next))
    }

    /// Looks through all frames. `true`: they are to be visited for as long as the list takes, since
    /// something has changed, or always moves.
    fn look(&mut self, list: List, memory: &dyn Memory) -> Result<bool, SystemError> {
        let mut search = Search::default();
        self.busy = Busy::default();
        for frame in 0..list.frames() {
            let first = list.element(frame, memory)?;
            if search.leads_to_work(first, memory)?
                && let Ok(frame) = usize::try_from(frame)
            {
                self.busy.set(frame);
            }
        }
        let changed = std::mem::replace(&mut self.seen, search.seen) != search.seen;
        Ok(changed || search.isochronous)
    }

    /// FRINDEX has gone over the end of the list since it was last asked.
    pub(super) fn has_rolled_over(&mut self, clock: &Clock, now: Time, frames: u64) -> bool {
        let count = (clock.microframes(now) / 8).checked_div(frames).unwrap_or(0);
        let before = std::mem::replace(&mut self.rollovers, count);
        before != u64::MAX && before != count
    }

    pub(super) fn next_rollover(&self, clock: &Clock, now: Time, frames: u64) -> Time {
        let count = (clock.microframes(now) / 8).checked_div(frames).unwrap_or(0);
        clock.begin(count.saturating_add(1).saturating_mul(frames))
    }
}

/// A look through the frames: many lead to the same.
#[derive(Debug, Default)]
struct Search {
    /// The last frame's first link, and whether it leads to work.
    last: Option<(Link, bool)>,
    visited: usize,
    isochronous: bool,
    seen: u64,
}

impl Search {
    fn leads_to_work(&mut self, first: Link, memory: &dyn Memory) -> Result<bool, SystemError> {
        if let Some((link, works)) = self.last
            && link == first
        {
            return Ok(works);
        }
        let mut works = false;
        let mut link = first;
        for _ in 0..MOST {
            // So many are no driver's: each frame is visited then.
            if self.visited > MOST_OF_ALL {
                works = true;
                break;
            }
            self.visited = self.visited.saturating_add(1);
            link = match link {
                Link::End => break,
                Link::Qh(address) => {
                    let qh = Qh::fetch(memory, address).ok_or(SystemError)?;
                    let idle = qh.overlay.token.is(token::HALTED);
                    works |= !idle;
                    let word = u64::from(qh.overlay.next) << 32 | u64::from(qh.overlay.token.0);
                    self.note(u64::from(address));
                    self.note(word);
                    Link::parse(qh.link)
                }
                Link::Itd(address) | Link::Sitd(address) => {
                    self.isochronous = true;
                    works = true;
                    Link::parse(memory.load(address).ok_or(SystemError)?)
                }
                Link::Fstn(address) => Link::parse(memory.load(address).ok_or(SystemError)?),
            };
        }
        self.last = Some((first, works));
        Ok(works)
    }

    fn note(&mut self, word: u64) {
        // FNV-1a: a change that is not seen costs a pause, no more.
        self.seen = (self.seen ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(5);
    }
}

/// What has moved.
#[derive(Debug, Default)]
struct Moved {
    any: bool,
    isochronous: bool,
}

/// Does what a frame leads to.
fn visit_frame(
    frame: u64,
    list: List,
    memory: &dyn Memory,
    find: &mut Found<'_>,
    events: &mut u32,
    moved: &mut Moved,
) -> Result<(), SystemError> {
    let mut link = list.element(frame, memory)?;
    for _ in 0..MOST {
        let address = match link {
            Link::End => break,
            Link::Qh(address) => {
                let qh = Qh::fetch(memory, address).ok_or(SystemError)?;
                // A high-speed endpoint may be asked in several microframes of a frame.
                let microframes = qh.start_mask().count_ones();
                let packets = match qh.is_high_speed() {
                    true => microframes.saturating_mul(qh.multiplier()),
                    false => 1,
                };
                if microframes > 0 {
                    let went = visit(qh, Turn::Packets(packets), memory, find, events)?;
                    moved.any |= went == Went::On;
                }
                address
            }
            Link::Itd(address) => {
                moved.isochronous |= isochronous::visit_itd(address, memory, find, events)?;
                address
            }
            Link::Sitd(address) => {
                moved.isochronous |= isochronous::visit_sitd(address, memory, find, events)?;
                address
            }
            // Its back pointer is for split transactions that span frames; here none does.
            Link::Fstn(address) => address,
        };
        link = Link::parse(memory.load(address).ok_or(SystemError)?);
    }
    moved.any |= moved.isochronous;
    Ok(())
}

/// A frame, in nanoseconds: pauses are multiples of it.
const _: () = assert!(LOOK > FRAME);
