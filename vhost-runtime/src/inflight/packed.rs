//! A packed ring's record (vhost-user, "Inflight I/O tracking": `struct QueueRegionPacked`).
//!
//! Used descriptors take the places of available ones that are still under way, so the record has a
//! copy of each descriptor that was taken. Copies are in a list for each chain; the others are in a
//! list of free ones. A batch of completed chains is freed together: what has `old_` in its name is
//! the state before the batch, which holds until the driver sees the first of it.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use virtio_bindings::bindings::virtio_config::VIRTIO_F_RING_PACKED;
use virtio_queue::desc::packed::Descriptor;

use super::{ALIGN, Part, VERSION};
use crate::queue::Position;

/// `struct QueueRegionPacked` without its descriptors.
const HEADER: usize = 32;
/// `struct DescStatePacked`.
const ENTRY: usize = 32;
/// In the record's features, which are 0 in a split ring's.
const FORMAT: u64 = 1 << VIRTIO_F_RING_PACKED;

/// Bytes of the record of a ring of `size` descriptors.
pub(super) fn bytes(size: u16) -> usize {
    usize::from(size).saturating_mul(ENTRY).saturating_add(HEADER).next_multiple_of(ALIGN)
}

/// One queue's record.
#[derive(Debug)]
pub struct PackedRecord {
    part: Part,
    size: u16,
    counter: u64,
    /// Entries of the chain that is being taken: the first, the last, the next to be filled, and how
    /// many there are.
    first: u16,
    last: u16,
    next: u16,
    count: u16,
}

/// A chain that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its first entry.
    pub entry: u16,
    /// Its descriptors.
    pub descriptors: u16,
}

/// What a former process left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Where the next used descriptor goes.
    pub used: Position,
    /// The chains under way, oldest first: the ring's descriptors from `used` on are as many as theirs.
    pub under_way: Vec<Taken>,
}

impl PackedRecord {
    /// `part` has room for `size` entries.
    pub(super) fn new(part: Part, size: u16) -> Self {
        Self { part, size, counter: 0, first: 0, last: 0, next: 0, count: 0 }
    }

    fn descriptors(&self) -> &AtomicU16 {
        self.part.u16(10)
    }

    /// The head of the list of free entries, and the old one.
    fn free_heads(&self) -> (u16, u16) {
        let [a, b, c, d] = self.part.u32(12).load(Ordering::Acquire).to_ne_bytes();
        (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]))
    }

    /// Both change together, lest the process is killed in between.
    fn set_free_heads(&self, head: u16, old: u16) {
        let ([a, b], [c, d]) = (head.to_ne_bytes(), old.to_ne_bytes());
        self.part.u32(12).store(u32::from_ne_bytes([a, b, c, d]), Ordering::Release);
    }

    /// Where the ring's next used descriptor goes, and the old place.
    fn used(&self) -> (Position, Position) {
        let [a, b, c, d, wrap, old_wrap, ..] =
            self.part.u64(16).load(Ordering::Acquire).to_ne_bytes();
        let used = Position { index: u16::from_ne_bytes([a, b]), wrap: wrap != 0 };
        (used, Position { index: u16::from_ne_bytes([c, d]), wrap: old_wrap != 0 })
    }

    /// Likewise.
    fn set_used(&self, used: Position, old: Position) {
        let ([a, b], [c, d]) = (used.index.to_ne_bytes(), old.index.to_ne_bytes());
        let value = u64::from_ne_bytes([a, b, c, d, used.wrap.into(), old.wrap.into(), 0, 0]);
        self.part.u64(16).store(value, Ordering::Release);
    }

    fn entry(&self, index: u16) -> Option<Entry<'_>> {
        if index >= self.size {
            return None;
        }
        let offset = usize::from(index).checked_mul(ENTRY)?.checked_add(HEADER)?;
        let at = |field: usize| offset.saturating_add(field);
        Some(Entry {
            inflight: self.part.u8(offset),
            next: self.part.u16(at(2)),
            last: self.part.u16(at(4)),
            count: self.part.u16(at(6)),
            counter: self.part.u64(at(8)),
            id: self.part.u16(at(16)),
            flags: self.part.u16(at(18)),
            length: self.part.u32(at(20)),
            address: self.part.u64(at(24)),
        })
    }

    /// Reads what a former process left; `flags` are those of a descriptor of the ring. `None`: it left
    /// nothing, and [`begin_at`](Self::begin_at) has to follow.
    pub fn recover(&mut self, flags: impl FnOnce(Position) -> Option<u16>) -> Option<Recovered> {
        let is_ours = self.part.version().load(Ordering::Acquire) == VERSION
            && self.part.features().load(Ordering::Relaxed) == FORMAT
            && self.descriptors().load(Ordering::Relaxed) == self.size;
        if !is_ours {
            return None;
        }
        let (used, old) = self.used();
        if used.index >= self.size || old.index >= self.size {
            return None;
        }
        // The last batch counts if the driver could see it: if its first descriptor is no longer as
        // the driver made it available.
        let seen = used != old && Position::owner(flags(old)?) != old.available();
        let (free, old_free) = self.free_heads();
        let (used, free) = if seen { (used, free) } else { (old, old_free) };
        self.discard_free(free);
        let under_way = self.chains_under_way();
        self.rebuild(&under_way, used);
        Some(Recovered { used, under_way })
    }

    /// What is in the list of free entries is not under way, whatever else is said of it.
    fn discard_free(&self, mut free: u16) {
        for _ in 0..self.size {
            let Some(entry) = self.entry(free) else { break };
            entry.inflight.store(0, Ordering::Relaxed);
            free = entry.next.load(Ordering::Relaxed);
        }
    }

    /// Chains whose entries are those of no other, oldest first.
    fn chains_under_way(&mut self) -> Vec<Taken> {
        let mut heads: Vec<(u64, u16)> = (0..self.size)
            .filter_map(|index| {
                let entry = self.entry(index)?;
                let counter = entry.counter.load(Ordering::Relaxed);
                (entry.inflight.load(Ordering::Relaxed) != 0).then_some((counter, index))
            })
            .collect();
        heads.sort_unstable();
        self.counter = heads.last().map_or(0, |(counter, _)| counter.wrapping_add(1));
        let mut is_taken = vec![false; usize::from(self.size)];
        let mut chains = Vec::new();
        for (_, head) in heads {
            let count = self.entry(head).map_or(0, |entry| entry.count.load(Ordering::Relaxed));
            let entries: Vec<u16> = self.entries(head).take(count.into()).collect();
            let mut fits = !entries.is_empty() && entries.len() == usize::from(count);
            for &index in &entries {
                let place = is_taken.get_mut(usize::from(index));
                fits &= place.is_some_and(|taken| !std::mem::replace(taken, true));
            }
            if fits {
                chains.push(Taken { entry: head, descriptors: count });
            } else {
                log::error!("the record of requests under way has a chain that is none");
            }
        }
        chains
    }

    /// The entries of a list, of which there may be any number.
    fn entries(&self, first: u16) -> impl Iterator<Item = u16> {
        std::iter::successors(Some(first), |&index| {
            self.entry(index).map(|entry| entry.next.load(Ordering::Relaxed))
        })
        .take_while(|&index| index < self.size)
    }

    /// Has nothing under way but these chains, and the ring at `used`.
    fn rebuild(&mut self, under_way: &[Taken], used: Position) {
        let mut is_free = vec![true; usize::from(self.size)];
        for taken in under_way {
            for index in self.entries(taken.entry).take(taken.descriptors.into()) {
                if let Some(free) = is_free.get_mut(usize::from(index)) {
                    *free = false;
                }
            }
        }
        let mut head = self.size; // the end of the list
        for (index, _) in (0..self.size).zip(is_free).rev().filter(|(_, free)| *free) {
            if let Some(entry) = self.entry(index) {
                entry.inflight.store(0, Ordering::Relaxed);
                entry.next.store(head, Ordering::Release);
                head = index;
            }
        }
        self.set_free(head);
        self.set_used(used, used);
    }

    /// These entries are free, with no batch under way; the next chain has none yet.
    fn set_free(&mut self, head: u16) {
        self.set_free_heads(head, head);
        (self.first, self.next, self.count) = (head, head, 0);
    }

    /// Nothing is under way, and the ring is at `used`.
    pub fn begin_at(&mut self, used: Position) {
        self.part.version().store(0, Ordering::Release);
        self.part.features().store(FORMAT, Ordering::Relaxed);
        self.descriptors().store(self.size, Ordering::Relaxed);
        self.rebuild(&[], used);
        self.part.version().store(VERSION, Ordering::Release);
    }

    /// A descriptor of the chain that is being taken from the ring.
    pub fn store(&mut self, descriptor: Descriptor) {
        let Some(entry) = self.entry(self.next) else { return };
        entry.address.store(descriptor.addr().0, Ordering::Relaxed);
        entry.length.store(descriptor.len(), Ordering::Relaxed);
        entry.id.store(descriptor.id(), Ordering::Relaxed);
        entry.flags.store(descriptor.flags(), Ordering::Relaxed);
        let next = entry.next.load(Ordering::Relaxed);
        (self.last, self.next) = (self.next, next);
        self.count = self.count.saturating_add(1);
    }

    /// The chain is taken; its first entry.
    pub fn begin(&mut self) -> u16 {
        let (head, next) = (self.first, self.next);
        if let Some(entry) = self.entry(head) {
            entry.count.store(self.count, Ordering::Relaxed);
            entry.last.store(self.last, Ordering::Relaxed);
            entry.counter.store(self.counter, Ordering::Relaxed);
            entry.inflight.store(1, Ordering::Release);
        }
        self.counter = self.counter.wrapping_add(1);
        self.set_free(next);
        head
    }

    /// The descriptors of a chain, in their order.
    pub fn chain(&self, taken: Taken) -> impl Iterator<Item = Descriptor> {
        self.entries(taken.entry).take(taken.descriptors.into()).filter_map(|index| {
            let entry = self.entry(index)?;
            Some(Descriptor::new(
                entry.address.load(Ordering::Relaxed),
                entry.length.load(Ordering::Relaxed),
                entry.id.load(Ordering::Relaxed),
                entry.flags.load(Ordering::Relaxed),
            ))
        })
    }

    /// A chain that was taken is as if it had not been.
    pub fn undo(&mut self, head: u16) {
        if let Some(entry) = self.entry(head) {
            entry.inflight.store(0, Ordering::Release);
        }
        self.free(head);
        self.set_free(self.free_heads().0);
    }

    fn free(&self, head: u16) {
        let (free, old) = self.free_heads();
        let Some(entry) = self.entry(head) else { return };
        if let Some(last) = self.entry(entry.last.load(Ordering::Relaxed)) {
            last.next.store(free, Ordering::Release);
            self.set_free_heads(head, old);
        }
    }

    /// These chains are used, up to `used`, as soon as the driver sees the first of them.
    pub fn finishing(&mut self, heads: &[u16], used: Position) {
        heads.iter().for_each(|&head| self.free(head));
        self.set_used(used, self.used().1);
    }

    /// It sees them.
    pub fn finished(&mut self, heads: &[u16]) {
        for entry in heads.iter().filter_map(|&head| self.entry(head)) {
            entry.inflight.store(0, Ordering::Release);
        }
        self.set_free(self.free_heads().0);
        let (used, _) = self.used();
        self.set_used(used, used);
    }

    /// Nothing is under way any more, and where the ring is the frontend will know: what is left is the
    /// record of a split ring that was never used, or of no packed one.
    pub fn clear(&mut self) {
        self.part.clear();
    }
}

/// One descriptor's entry.
struct Entry<'a> {
    inflight: &'a AtomicU8,
    next: &'a AtomicU16,
    last: &'a AtomicU16,
    count: &'a AtomicU16,
    counter: &'a AtomicU64,
    id: &'a AtomicU16,
    flags: &'a AtomicU16,
    length: &'a AtomicU32,
    address: &'a AtomicU64,
}
