//! The asynchronous schedule: a ring of queue heads (EHCI 1.0, 4.8).
//!
//! A driver tells nobody of new transfers. So it is looked for them: at once while there is something
//! to do, and then ever more rarely, until something happens again.

use super::queue::{Turn, Went, visit};
use super::structures::{Link, Qh};
use super::{Found, SystemError};
use crate::controller::{Memory, Next, Time};

/// Queue heads of a ring that are looked at.
const MOST: usize = 256;
/// Times that the ring is gone round before others have their turn.
const ROUNDS: usize = 16;
/// Turns of all queue heads in a run: each moves 20 KiB at most.
const MOVES: usize = 256;
/// Turns of a queue head before the next one has its own.
const TURNS: usize = 16;

/// How long it is looked for new transfers without a pause, after something has happened.
const EAGER: u64 = 32_000;
/// After that the pause is so much of the time since then.
const PART: u64 = 4;
/// The shortest and the longest pause.
const SHORTEST: u64 = 20_000;
const LONGEST: u64 = 250_000_000;

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Asynchronous {
    /// When something has last happened.
    stirred: Time,
    /// Where this round has been.
    visited: Vec<u32>,
    /// Turns in this run in which something moved.
    moves: usize,
}

impl Asynchronous {
    pub(super) fn stir(&mut self, now: Time) {
        self.stirred = now;
    }

    pub(super) fn run(
        &mut self,
        now: Time,
        list: &mut u32,
        memory: &dyn Memory,
        find: &mut Found<'_>,
        events: &mut u32,
    ) -> Result<Next, SystemError> {
        self.moves = 0;
        for _ in 0..ROUNDS {
            let before = self.moves;
            self.round(list, memory, find, events)?;
            if self.moves == before {
                return Ok(self.pause(now, before > 0));
            }
            if self.moves >= MOVES {
                break;
            }
        }
        self.stir(now);
        Ok(Next::Now)
    }

    /// Goes once round the ring. `list` is of a queue head that the next round can begin with, whatever
    /// the driver unlinks meanwhile.
    fn round(
        &mut self,
        list: &mut u32,
        memory: &dyn Memory,
        find: &mut Found<'_>,
        events: &mut u32,
    ) -> Result<(), SystemError> {
        self.visited.clear();
        let mut address = *list;
        while self.visited.len() < MOST && !self.visited.contains(&address) && self.moves < MOVES {
            self.visited.push(address);
            let qh = Qh::fetch(memory, address).ok_or(SystemError)?;
            // An interrupt endpoint has no place here.
            if qh.start_mask() == 0 {
                let moves = turns(qh, memory, find, events)?;
                self.moves = self.moves.saturating_add(moves);
            }
            // The driver may have linked another meanwhile.
            let link = Link::parse(memory.load(address).ok_or(SystemError)?);
            let Link::Qh(next) = link else { break };
            address = next;
        }
        *list = address;
        Ok(())
    }

    fn pause(&mut self, now: Time, moved: bool) -> Next {
        if moved {
            self.stir(now);
        }
        let quiet = now.since(self.stirred);
        if quiet < EAGER {
            return Next::Now;
        }
        Next::At(now.after((quiet / PART).clamp(SHORTEST, LONGEST)))
    }
}

/// A queue head's turns; in how many something moved.
fn turns(
    mut qh: Qh,
    memory: &dyn Memory,
    find: &mut Found<'_>,
    events: &mut u32,
) -> Result<usize, SystemError> {
    for moves in 0..TURNS {
        if visit(qh, Turn::Whole, memory, find, events)? != Went::On {
            return Ok(moves);
        }
        qh = Qh::fetch(memory, qh.address).ok_or(SystemError)?;
    }
    Ok(TURNS)
}
