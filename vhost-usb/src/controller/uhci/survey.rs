//! Which frames have something to do.
//!
//! Many frames lead to the same queues. What they lead to is called a chain here, and is looked at once;
//! a chain in which nothing moves is left alone until there is news.

use std::collections::HashMap;

use super::structures::{FRAMES, Link, List, Td, control, element_of, link_of};
use crate::controller::Memory;

/// Descriptors before a frame's first queue.
const LEADING: usize = 32;
/// What one chain may lead to.
const CHAIN_LINKS: usize = 256;
/// What all frames may lead to.
const LINKS: usize = 16384;

/// The queues that some frames lead to.
#[derive(Clone, Copy, Debug, Default)]
struct Chain {
    first: u32,
    /// There are transfers.
    works: bool,
    /// It is visited whether or not there is news.
    timed: bool,
    /// What was found there, to see whether it is something else the next time.
    seen: u64,
    /// There is news, and it was not visited since.
    pending: bool,
}

/// A frame.
#[derive(Clone, Copy, Debug, Default)]
struct Frame {
    /// It has something to do at its own time, as isochronous transfers have.
    timed: bool,
    /// Which chain it leads to.
    chain: Option<u16>,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Survey {
    frames: Vec<Frame>,
    chains: Vec<Chain>,
}

fn place(frame: u64) -> usize {
    usize::try_from(frame % 1024).unwrap_or(0)
}

impl Survey {
    fn chain(&self, frame: u64) -> Option<usize> {
        self.frames.get(place(frame))?.chain.map(usize::from)
    }

    /// A frame is to be visited in time.
    pub(super) fn wants(&self, frame: u64) -> bool {
        let timed = self.frames.get(place(frame)).is_some_and(|frame| frame.timed);
        let chain = self.chain(frame).and_then(|number| self.chains.get(number));
        timed || chain.is_some_and(|chain| chain.timed || chain.works && chain.pending)
    }

    /// The first frame from one on that is to be visited.
    pub(super) fn next(&self, from: u64) -> Option<u64> {
        (from..=from.saturating_add(1024)).find(|frame| self.wants(*frame))
    }

    /// A frame was visited, and nothing has moved.
    pub(super) fn set_quiet(&mut self, frame: u64) {
        if let Some(chain) = self.chain(frame).and_then(|number| self.chains.get_mut(number)) {
            chain.pending = false;
        }
    }

    /// There is news: all chains are to be visited.
    pub(super) fn stir(&mut self) {
        self.chains.iter_mut().for_each(|chain| chain.pending = true);
    }

    /// Nothing was found yet.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Looks through all frames; `None`: there is no list. What lies outside of memory further on is
    /// found when its frame comes.
    pub(super) fn look(&mut self, list: List, memory: &dyn Memory) -> Option<()> {
        let old = std::mem::take(&mut self.chains);
        let old: HashMap<u32, Chain> = old.into_iter().map(|chain| (chain.first, chain)).collect();
        self.frames.clear();
        let mut numbers: HashMap<u32, u16> = HashMap::new();
        let mut search = Search { memory, links: 0 };
        for link in list.elements(memory)?.into_iter().take(FRAMES) {
            let (timed, first) = search.leading(link).unwrap_or((true, None));
            let Some(first) = first else {
                self.frames.push(Frame { timed, chain: None });
                continue;
            };
            let number = numbers.get(&first).copied().unwrap_or_else(|| {
                let mut chain = search.chain(first);
                let before = old.get(&first);
                chain.pending = before.is_none_or(|old| old.pending || old.seen != chain.seen);
                self.chains.push(chain);
                let number = u16::try_from(self.chains.len().saturating_sub(1)).unwrap_or(0);
                numbers.insert(first, number);
                number
            });
            self.frames.push(Frame { timed, chain: Some(number) });
        }
        Some(())
    }
}

/// A look through the frames.
struct Search<'a> {
    memory: &'a dyn Memory,
    links: usize,
}

/// A descriptor that does something when it is visited: `Some(true)` at its own time.
fn work(td: &Td, in_queue: bool) -> Option<bool> {
    if td.is(control::ACTIVE) {
        return Some(!in_queue || td.is(control::ISOCHRONOUS));
    }
    // Its frame's end is told (3.2.2, IOC).
    td.is(control::COMPLETE).then_some(true)
}

impl Search<'_> {
    /// So many links are no driver's: what is not looked at is visited.
    fn is_tired(&mut self) -> bool {
        self.links = self.links.saturating_add(1);
        self.links > LINKS
    }

    /// What a frame has before its first queue: whether there is something to do, and the queue. `None`:
    /// it can't be told.
    fn leading(&mut self, first: Link) -> Option<(bool, Option<u32>)> {
        let mut timed = false;
        let mut link = first;
        for _ in 0..LEADING {
            match link {
                Link::End => return Some((timed, None)),
                Link::Qh(address) => return Some((timed, Some(address))),
                Link::Td(_) if self.is_tired() => return None,
                Link::Td(address) => {
                    let td = Td::fetch(self.memory, address)?;
                    timed |= work(&td, false).is_some();
                    link = Link::parse(td.link);
                }
            }
        }
        None
    }

    fn chain(&mut self, first: u32) -> Chain {
        let mut chain = Chain { first, ..Chain::default() };
        if self.walk(&mut chain).is_none() {
            (chain.works, chain.timed) = (true, true);
        }
        chain
    }

    /// `None`: it can't be told.
    fn walk(&mut self, chain: &mut Chain) -> Option<()> {
        let mut seen: Vec<u32> = Vec::new();
        let mut link = Link::Qh(chain.first);
        while seen.len() < CHAIN_LINKS {
            let address = match link {
                Link::End => return Some(()),
                Link::Td(address) | Link::Qh(address) if seen.contains(&address) => return Some(()),
                Link::Td(address) | Link::Qh(address) => address,
            };
            if self.is_tired() {
                return None;
            }
            seen.push(address);
            link = match link {
                Link::Qh(_) => self.queue(address, chain)?,
                Link::Td(_) | Link::End => {
                    let td = Td::fetch(self.memory, address)?;
                    note(chain, &td, work(&td, false));
                    Link::parse(td.link)
                }
            };
        }
        None
    }

    fn queue(&mut self, qh: u32, chain: &mut Chain) -> Option<Link> {
        match Link::parse(self.memory.load(element_of(qh))?) {
            Link::End => {}
            below @ Link::Qh(_) => return Some(below),
            Link::Td(address) => {
                let td = Td::fetch(self.memory, address)?;
                note(chain, &td, work(&td, true));
            }
        }
        Some(Link::parse(self.memory.load(link_of(qh))?))
    }
}

fn note(chain: &mut Chain, td: &Td, work: Option<bool>) {
    let Some(timed) = work else { return };
    chain.works = true;
    chain.timed |= timed;
    for word in [td.address, td.token, td.buffer] {
        // FNV-1a: a change that is not seen costs a pause, no more.
        chain.seen = (chain.seen ^ u64::from(word)).wrapping_mul(0x0100_0000_01b3).rotate_left(5);
    }
}
