//! A split ring's record (vhost-user, "Inflight I/O tracking": `struct QueueRegionSplit`).

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering};

use super::{ALIGN, Part, VERSION};

/// `struct QueueRegionSplit` without its descriptors.
const HEADER: usize = 16;
/// `struct DescStateSplit`.
const ENTRY: usize = 16;

/// Bytes of the record of a ring of `size` descriptors.
pub(super) fn bytes(size: u16) -> usize {
    usize::from(size).saturating_mul(ENTRY).saturating_add(HEADER).next_multiple_of(ALIGN)
}

/// One queue's record.
#[derive(Debug)]
pub struct QueueRecord {
    part: Part,
    size: u16,
    /// The request that was put into the used ring last, since the used index was last stored.
    last_head: Option<u16>,
    counter: u64,
}

impl QueueRecord {
    /// `part` has room for `size` entries.
    pub(super) fn new(part: Part, size: u16) -> Self {
        Self { part, size, last_head: None, counter: 0 }
    }

    fn descriptors(&self) -> &AtomicU16 {
        self.part.u16(10)
    }

    fn last_batch_head(&self) -> &AtomicU16 {
        self.part.u16(12)
    }

    fn used_index(&self) -> &AtomicU16 {
        self.part.u16(14)
    }

    fn entry(&self, head: u16) -> Option<Entry<'_>> {
        if head >= self.size {
            return None;
        }
        let offset = usize::from(head).checked_mul(ENTRY)?.checked_add(HEADER)?;
        Some(Entry {
            inflight: self.part.u8(offset),
            next: self.part.u16(offset.checked_add(6)?),
            counter: self.part.u64(offset.checked_add(8)?),
        })
    }

    /// Reads what a former process left, given the ring's used index, and returns the heads of the
    /// requests that were under way, oldest first. A fresh record is initialised,
    /// whatever is in it: `None`.
    pub fn recover(&mut self, used: u16) -> Option<Vec<u16>> {
        let is_split = self.part.features().load(Ordering::Relaxed) == 0;
        if self.part.version().load(Ordering::Acquire) != VERSION || !is_split {
            self.part.version().store(0, Ordering::Release);
            self.part.features().store(0, Ordering::Relaxed);
            for entry in (0..self.size).filter_map(|head| self.entry(head)) {
                entry.inflight.store(0, Ordering::Relaxed);
            }
            self.descriptors().store(self.size, Ordering::Relaxed);
            self.used_index().store(used, Ordering::Relaxed);
            self.part.version().store(VERSION, Ordering::Release);
            return None;
        }
        let recorded = self.used_index().load(Ordering::Acquire);
        if recorded != used {
            // The requests completed last were told to the guest, and then the process died.
            let mut head = self.last_batch_head().load(Ordering::Relaxed);
            for _ in 0..used.wrapping_sub(recorded).min(self.size) {
                let Some(entry) = self.entry(head) else { break };
                entry.inflight.store(0, Ordering::Relaxed);
                head = entry.next.load(Ordering::Relaxed);
            }
            self.used_index().store(used, Ordering::Release);
        }
        let mut under_way: Vec<(u64, u16)> = (0..self.size)
            .filter_map(|head| {
                let entry = self.entry(head)?;
                let counter = entry.counter.load(Ordering::Relaxed);
                (entry.inflight.load(Ordering::Relaxed) != 0).then_some((counter, head))
            })
            .collect();
        under_way.sort_unstable();
        self.counter = under_way.last().map_or(0, |(counter, _)| counter.wrapping_add(1));
        Some(under_way.into_iter().map(|(_, head)| head).collect())
    }

    /// A request is taken from the ring.
    pub fn begin(&mut self, head: u16) {
        let counter = self.counter;
        self.counter = counter.wrapping_add(1);
        if let Some(entry) = self.entry(head) {
            entry.counter.store(counter, Ordering::Relaxed);
            entry.inflight.store(1, Ordering::Release);
        }
    }

    /// A request that was taken is as if it had not been.
    pub fn undo(&mut self, head: u16) {
        if let Some(entry) = self.entry(head) {
            entry.inflight.store(0, Ordering::Release);
        }
    }

    /// A request is put into the used ring, whose index does not count it yet.
    pub fn finishing(&mut self, head: u16) {
        if let Some(entry) = self.entry(head) {
            // The list of a batch goes from the last to the first.
            entry.next.store(self.last_head.unwrap_or(head), Ordering::Relaxed);
        }
        self.last_batch_head().store(head, Ordering::Release);
        self.last_head = Some(head);
    }

    /// The used index is now `used`, and counts the requests that were put there since it last was.
    pub fn finished(&mut self, heads: &[u16], used: u16) {
        for &head in heads {
            if let Some(entry) = self.entry(head) {
                entry.inflight.store(0, Ordering::Release);
            }
        }
        self.used_index().store(used, Ordering::Release);
        self.last_head = None;
    }

    /// Nothing is under way any more: what was taken and never completed belonged to a broken ring.
    pub fn clear(&mut self) {
        for entry in (0..self.size).filter_map(|head| self.entry(head)) {
            entry.inflight.store(0, Ordering::Relaxed);
        }
    }
}

/// One descriptor's entry.
struct Entry<'a> {
    inflight: &'a AtomicU8,
    next: &'a AtomicU16,
    counter: &'a AtomicU64,
}
