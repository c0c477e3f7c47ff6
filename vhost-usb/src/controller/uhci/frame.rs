//! What a frame leads to: descriptors, and queues of them (UHCI 1.1, 3.4.2).
//!
//! A frame's time is not measured out: a driver that links its queues into a ring, for all the time that
//! a frame has left (1.3, bandwidth reclamation), has them visited until nothing moves any more.

use super::found::Found;
use super::structures::{DEPTH_FIRST, Link, List, Td, control, element_of, link_of};
use super::transaction::{Went, execute};
use super::{Events, Fault};
use crate::controller::Memory;

/// Links of a frame that are followed while nothing moves.
const IDLE_LINKS: u32 = 256;
/// Links of a frame that are followed.
const LINKS: u32 = 2048;
/// Transactions of a frame.
const TRANSACTIONS: u32 = 512;
/// Transactions of a queue before the next one has its turn.
const TURNS: u32 = 64;

/// Which part of a frame is visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    Whole,
    /// The rest of its time, which belongs to a ring of queues.
    Rest,
}

/// A frame's visit.
pub(super) struct Visit<'a, 'b> {
    pub(super) memory: &'a dyn Memory,
    pub(super) find: &'a mut Found<'b>,
    pub(super) events: &'a mut Events,
    part: Part,
    links: u32,
    idle: u32,
    transactions: u32,
    /// Something has moved at all.
    moved: bool,
    /// An isochronous packet has.
    streamed: bool,
}

/// Where a ring begins that a frame leads to.
pub(super) fn ring_of(first: Link, memory: &dyn Memory) -> Option<u32> {
    let mut seen = Vec::new();
    let mut link = first;
    for _ in 0..IDLE_LINKS {
        link = match link {
            Link::End => return None,
            Link::Qh(address) if seen.contains(&address) => return Some(address),
            Link::Qh(address) => {
                seen.push(address);
                Link::parse(memory.load(link_of(address))?)
            }
            Link::Td(address) => Link::parse(memory.load(link_of(address))?),
        };
    }
    None
}

impl<'a, 'b> Visit<'a, 'b> {
    pub(super) fn new(
        part: Part,
        memory: &'a dyn Memory,
        find: &'a mut Found<'b>,
        events: &'a mut Events,
    ) -> Self {
        let (links, idle, transactions) = (0, 0, 0);
        let (moved, streamed) = (false, false);
        Self { memory, find, events, part, links, idle, transactions, moved, streamed }
    }

    /// Transactions that were made.
    pub(super) fn transactions(&self) -> u32 {
        self.transactions
    }

    /// Whether an isochronous packet has moved.
    pub(super) fn has_streamed(&self) -> bool {
        self.streamed
    }

    /// All that a frame has; whether something of a queue has moved.
    pub(super) fn frame(&mut self, list: List, frame: u64) -> Result<bool, Fault> {
        let first = list.element(frame, self.memory).ok_or(Fault::System)?;
        self.follow(first)
    }

    fn load(&self, address: u32) -> Result<u32, Fault> {
        self.memory.load(address).ok_or(Fault::System)
    }

    /// Follows links to their end, or round and round while something moves.
    pub(super) fn follow(&mut self, first: Link) -> Result<bool, Fault> {
        let mut seen = Vec::new();
        let mut head = None;
        let mut moved = false;
        let mut link = first;
        while self.has_time() {
            link = match link {
                Link::End => break,
                Link::Td(address) => self.single(address)?,
                Link::Qh(address) => {
                    if head.is_none() && seen.contains(&address) {
                        head = Some(address);
                    }
                    if head == Some(address) {
                        if !std::mem::take(&mut moved) {
                            break;
                        }
                        self.part = Part::Rest;
                    } else if head.is_none() {
                        seen.push(address);
                    }
                    let (went, next) = self.queue(address)?;
                    moved |= went;
                    next
                }
            };
        }
        Ok(self.moved)
    }

    /// What a hostile schedule can't make longer.
    fn has_time(&mut self) -> bool {
        self.links = self.links.saturating_add(1);
        self.idle = self.idle.saturating_add(1);
        self.idle <= IDLE_LINKS && self.links <= LINKS && self.transactions < TRANSACTIONS
    }

    /// A descriptor that is in no queue.
    fn single(&mut self, address: u32) -> Result<Link, Fault> {
        let td = Td::fetch(self.memory, address).ok_or(Fault::System)?;
        self.execute(td, false)?;
        Ok(Link::parse(td.link))
    }

    fn execute(&mut self, td: Td, in_queue: bool) -> Result<Went, Fault> {
        let is_isochronous = td.is(control::ISOCHRONOUS);
        let went = execute(td, in_queue, self.memory, self.find, self.events)?;
        match went {
            // It tells that its frame is over, once (3.2.2, IOC).
            Went::Inactive if self.part == Part::Whole => {
                self.events.complete |= td.is(control::COMPLETE);
            }
            Went::Inactive => {}
            Went::Waits | Went::Done | Went::Stopped => {
                self.transactions = self.transactions.saturating_add(1);
                self.streamed |= is_isochronous;
            }
        }
        Ok(went)
    }

    /// A queue's turn (3.4.2.1); whether something has moved, and what comes next.
    fn queue(&mut self, qh: u32) -> Result<(bool, Link), Fault> {
        let mut moved = false;
        let mut element = self.load(element_of(qh))?;
        for _ in 0..TURNS {
            let address = match Link::parse(element) {
                Link::End => break,
                // A queue of queues: it goes on there.
                below @ Link::Qh(_) => return Ok((moved, below)),
                Link::Td(address) => address,
            };
            let td = Td::fetch(self.memory, address).ok_or(Fault::System)?;
            let went = self.execute(td, true)?;
            moved |= matches!(went, Went::Done | Went::Stopped);
            if went != Went::Done {
                break;
            }
            // Its element pointer is the only word of a queue head that the controller writes (3.4.2.1).
            self.memory.store(element_of(qh), td.link).ok_or(Fault::System)?;
            element = td.link;
            // Control transfers have no time of their own to keep, whatever the driver wants.
            let goes_on = td.link & DEPTH_FIRST != 0 || td.endpoint() == 0;
            if !goes_on || self.transactions >= TRANSACTIONS {
                break;
            }
        }
        if moved {
            self.idle = 0;
            self.moved = true;
        }
        // The driver may have linked another meanwhile.
        Ok((moved, Link::parse(self.load(link_of(qh))?)))
    }
}
