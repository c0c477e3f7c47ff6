//! When frames are visited.
//!
//! A driver tells nobody of new transfers. So all frames are looked through for them: each frame while
//! something happens, and then ever more rarely. A frame that has something to do is visited in time,
//! until nothing moves there any more. While isochronous packets move, all frames are looked through in each
//! frame, and before those that are late: the driver adds more for frames that are soon.

use super::clock::{Clock, FRAME};
use super::found::Found;
use super::frame::{Part, Visit, ring_of};
use super::structures::{Link, List};
use super::survey::Survey;
use super::{Events, Fault};
use crate::controller::{Memory, Next, Time};

/// Frames that are caught up with after a pause.
const CATCH_UP: u64 = 32;
/// Transactions before others have their turn.
const TRANSACTIONS: u32 = 1024;
/// A pause is so much of the time since something has happened.
const PART: u64 = 4;
/// The longest pause while there is a device, in frames: its first transfer after a rest is to begin
/// within 20 ms.
const LONGEST: u64 = 16;
/// The pause while there is none.
const ALONE: u64 = 250;
/// How long the rest of a frame is used for a ring of queues that a driver may add to, after something
/// has happened, and the shortest pause meanwhile.
const EAGER: u64 = 2 * FRAME;
const SHORTEST: u64 = 20_000;
/// For how long after an isochronous packet the next is looked for in each frame, in nanoseconds: a driver may be
/// late.
const STREAMS: u64 = 100_000_000;
/// How often everything is visited, news or not.
const ANYWAY: u64 = 1_000_000_000;

/// What is known of the schedule.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// The next frame that was not visited.
    next: u64,
    /// When something has last happened.
    stirred: Time,
    /// Before which frame all frames are looked through again.
    look: u64,
    /// When everything was last to be visited.
    refreshed: Time,
    /// Something has happened since the last run.
    news: bool,
    /// When an isochronous packet has last moved.
    streamed: Option<Time>,
    survey: Survey,
}

/// What a run has come to.
#[derive(Debug, Default)]
struct Done {
    /// Transactions that it may still make.
    left: u32,
    /// Something of a queue has moved.
    moved: bool,
    /// An isochronous packet has.
    streamed: bool,
}

impl Pace {
    /// Frames are counted from one on.
    pub(super) fn begin(&mut self, frame: u64, now: Time) {
        (self.next, self.look) = (frame, frame);
        self.survey.clear();
        self.stir(now);
    }

    /// Something has happened.
    pub(super) fn stir(&mut self, now: Time) {
        (self.stirred, self.news) = (now, true);
    }

    pub(super) fn run(
        &mut self,
        clock: &Clock,
        now: Time,
        list: List,
        memory: &dyn Memory,
        find: &mut Found<'_>,
        events: &mut Events,
    ) -> Result<Next, Fault> {
        let current = clock.frame(now);
        let mut done = Done { left: TRANSACTIONS, ..Done::default() };
        // News is of now: frames that are over are visited only if they were to be before.
        self.next = self.next.max(current.saturating_sub(CATCH_UP));
        if self.streams(now) && self.next <= current {
            self.survey.look(list, memory).ok_or(Fault::System)?;
            self.look = current.saturating_add(1);
        }
        while self.next < current && done.left > 0 {
            self.visit_next(list, memory, find, events, &mut done)?;
        }
        if done.left == 0 {
            self.settle(now, &done);
            return Ok(Next::Now);
        }
        if std::mem::take(&mut self.news) {
            self.refresh(now);
        }
        if self.look <= current {
            self.look_through(current, now, list, memory, find.any())?;
        }
        let ring = self.ring(current, now, list, memory);
        if self.next > current {
            if let Some(ring) = ring {
                let mut visit = Visit::new(Part::Rest, memory, find, events);
                done.moved |= visit.follow(Link::Qh(ring))?;
            }
        } else {
            self.visit_next(list, memory, find, events, &mut done)?;
        }
        self.settle(now, &done);
        Ok(self.next_run(clock, now, ring.is_some()))
    }

    /// Visits the next frame, if it is to be.
    fn visit_next(
        &mut self,
        list: List,
        memory: &dyn Memory,
        find: &mut Found<'_>,
        events: &mut Events,
        done: &mut Done,
    ) -> Result<(), Fault> {
        let frame = self.next;
        self.next = frame.saturating_add(1);
        if !self.survey.wants(frame) {
            return Ok(());
        }
        let mut visit = Visit::new(Part::Whole, memory, find, events);
        let moved = visit.frame(list, frame)?;
        done.left = done.left.saturating_sub(visit.transactions());
        done.moved |= moved;
        done.streamed |= visit.has_streamed();
        if !moved {
            self.survey.set_quiet(frame);
        }
        Ok(())
    }

    /// Where something moves, the driver is going to add more.
    fn settle(&mut self, now: Time, done: &Done) {
        if done.streamed {
            self.streamed = Some(now);
            self.look = self.look.min(self.next);
        }
        if done.moved {
            self.stirred = now;
            self.refresh(now);
        }
    }

    fn streams(&self, now: Time) -> bool {
        self.streamed.is_some_and(|last| now.since(last) < STREAMS)
    }

    /// All frames are looked through before the next, and what they have is visited.
    fn refresh(&mut self, now: Time) {
        (self.look, self.refreshed) = (self.next, now);
        self.survey.stir();
    }

    fn look_through(
        &mut self,
        current: u64,
        now: Time,
        list: List,
        memory: &dyn Memory,
        served: bool,
    ) -> Result<(), Fault> {
        if now.since(self.refreshed) >= ANYWAY {
            self.refreshed = now;
            self.survey.stir();
        }
        self.survey.look(list, memory).ok_or(Fault::System)?;
        let quiet = now.since(self.stirred) / PART / FRAME;
        let pause = if served { quiet.clamp(1, LONGEST) } else { ALONE };
        self.look = current.saturating_add(pause);
        Ok(())
    }

    /// The ring that has the rest of this frame, while that is of use.
    fn ring(&self, current: u64, now: Time, list: List, memory: &dyn Memory) -> Option<u32> {
        if now.since(self.stirred) >= EAGER {
            return None;
        }
        ring_of(list.element(current, memory)?, memory)
    }

    fn next_run(&self, clock: &Clock, now: Time, eager: bool) -> Next {
        let frame = self.survey.next(self.next).unwrap_or(self.look);
        let mut next = clock.begin(frame.min(self.look));
        if eager {
            let quiet = now.since(self.stirred) / PART;
            next = next.min(now.after(quiet.clamp(SHORTEST, FRAME)));
        }
        Next::At(next)
    }
}
