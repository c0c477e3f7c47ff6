//! Counts a cluster before a table refers to it.
//!
//! A cluster that is in use has a reference count of 1 or more (QEMU, docs/interop/qcow2.rst, "Host
//! cluster management"). One that is referred to with a count of 0 is given out again, which ends
//! in two owners; so where the process may be killed between two writes, the count comes first. imago
//! writes an entry of the L1 table or of the refcount table at once, but keeps the refcount block
//! that counts the cluster in memory until the next flush. Here the count is written before the
//! entry is. imago has counted the cluster by then, so what it writes of the block later says the
//! same, but for one copy: the one that another thread had made for a flush before, and not
//! written yet. The first write of the block is therefore mended where it would take a count back.
//! There is one such copy at most, since imago makes the next after it has written this one.
//!
//! Of a power failure, which may keep the later of two writes and lose the former, this is no cure.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use imago::Storage;

use super::header::{Header, Tables};
use super::storage::HostFile;

/// What an image's tables refer to, and should not.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ReferenceError {
    #[error("one of its tables refers to {0:#x}, which is no cluster of the file")]
    NoCluster(u64),
    #[error("its cluster at {0:#x} is in use, but there is no refcount block to count it")]
    NoBlock(u64),
}

impl From<ReferenceError> for io::Error {
    fn from(error: ReferenceError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// Bits of an L1 table entry, and of a refcount table entry, that are an offset.
const L1_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const BLOCK_OFFSET: u64 = 0xffff_ffff_ffff_fe00;

/// The reference counts of an image that is written to.
#[derive(Debug)]
pub(super) struct Refcounts {
    /// Held exclusively while counts are changed, shared by all other writes: none of them may be a
    /// refcount block that was looked up here before, and arrives after.
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    tables: Tables,
    /// Refcount blocks by offset, and the counts of them (by number) that the next write of the
    /// block may not set to 0.
    kept: BTreeMap<u64, BTreeSet<u64>>,
}

impl Refcounts {
    pub(super) fn new(tables: Tables) -> Self {
        Self { state: RwLock::new(State { tables, kept: BTreeMap::new() }) }
    }

    /// To be held while something is written that is none of [`Refcounts::write`]'s business.
    /// `None` if it is, or might be.
    pub(super) fn pass(&self, range: &Range<u64>) -> Option<impl Sized + use<'_>> {
        let state: RwLockReadGuard<'_, State> =
            self.state.read().unwrap_or_else(PoisonError::into_inner);
        (!state.concerns(range)).then_some(state)
    }

    /// Writes `bytes`, which are aligned as `file` needs it, and before them the counts of the
    /// clusters that they refer to.
    ///
    /// # Errors
    /// What the host said, or a [`ReferenceError`].
    pub(super) fn write(&self, file: &HostFile, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let next = state.count_references(&View { file, bytes, offset })?;
        state.keep_counts(bytes, offset);
        file.write_bytes(bytes, offset)?;
        // Another cluster's write, padded for O_DIRECT, is none of the block.
        if bytes.len() as u64 == state.tables.cluster_size() {
            state.kept.remove(&offset);
        }
        state.tables = next;
        Ok(())
    }
}

impl State {
    fn concerns(&self, range: &Range<u64>) -> bool {
        let tables = [&Tables::HEADER, &self.tables.l1, &self.tables.refcounts];
        tables.into_iter().any(|table| !overlap(table, range).is_empty())
            || self.kept_within(range).next().is_some()
    }

    /// The blocks of `kept` that a write to `range` would change.
    fn kept_within(&self, range: &Range<u64>) -> impl Iterator<Item = (u64, &BTreeSet<u64>)> {
        let size = self.tables.cluster_size();
        // Blocks are aligned to clusters.
        let first = range.start & !size.saturating_sub(1);
        self.kept.range(first..range.end.max(first)).map(|(block, numbers)| (*block, numbers))
    }

    /// Counts all that is referred to by what is to be written. Returns where the tables are after.
    fn count_references(&mut self, view: &View<'_>) -> io::Result<Tables> {
        let range = view.range();
        let now = self.tables.clone();
        let next = if overlap(&Tables::HEADER, &range).is_empty() {
            now.clone()
        } else {
            let length = usize::try_from(now.cluster_size()).map_err(io::Error::other)?;
            Header::parse(&view.read(0, length)?, view.file.size()?)?.tables
        };
        for (old, new) in [(&now.l1, &next.l1), (&now.refcounts, &next.refcounts)] {
            if old != new {
                let clusters = new.clone().step_by(1 << next.cluster_bits);
                clusters.into_iter().try_for_each(|cluster| self.count(view, &next, cluster))?;
            }
        }
        for (table, mask) in [(&next.l1, L1_OFFSET), (&next.refcounts, BLOCK_OFFSET)] {
            for reference in view.new_entries(table)? {
                if reference & mask != 0 {
                    self.count(view, &next, reference & mask)?;
                }
            }
        }
        Ok(next)
    }

    /// Sees to it that the file counts the cluster at `cluster`, and goes on to.
    fn count(&mut self, view: &View<'_>, tables: &Tables, cluster: u64) -> io::Result<()> {
        let file_size = view.file.size()?;
        let is_cluster = |at: u64| at & tables.cluster_size().saturating_sub(1) == 0;
        if !is_cluster(cluster) || cluster >= file_size {
            return Err(ReferenceError::NoCluster(cluster).into());
        }
        let number = cluster >> tables.cluster_bits;
        let block_bits = tables.block_bits();
        let no_block = || io::Error::from(ReferenceError::NoBlock(cluster));
        let entry = (number >> block_bits).checked_mul(8).ok_or_else(no_block)?;
        let entry = tables.refcounts.start.checked_add(entry).ok_or_else(no_block)?;
        if entry >= tables.refcounts.end {
            return Err(no_block());
        }
        let block = view.entries(entry, 1)?.first().map_or(0, |block| block & BLOCK_OFFSET);
        if block == 0 {
            return Err(no_block());
        }
        let end = block.checked_add(tables.cluster_size());
        if !is_cluster(block) || end.is_none_or(|end| end > file_size) {
            return Err(ReferenceError::NoCluster(block).into());
        }
        let number = number & (1_u64 << block_bits).saturating_sub(1);
        // Also where it is counted: that may be for what it was used for before, and a copy that
        // was made in between say 0.
        self.kept.entry(block).or_default().insert(number);
        let count = Count::new(tables, number);
        let at = block.saturating_add(count.offset);
        let mut bytes = view.file.read_bytes(at, count.width)?;
        if count.set(&mut bytes) { view.file.replace_bytes(&bytes, at) } else { Ok(()) }
    }

    /// Mends what is about to be written.
    fn keep_counts(&self, bytes: &mut [u8], offset: u64) {
        let range = offset..offset.saturating_add(bytes.len() as u64);
        for (block, numbers) in self.kept_within(&range) {
            for number in numbers {
                let count = Count::new(&self.tables, *number);
                let at = block.saturating_add(count.offset).checked_sub(offset);
                let start = at.and_then(|at| usize::try_from(at).ok());
                let place = start.and_then(|at| bytes.get_mut(at..at.checked_add(count.width)?));
                if let Some(place) = place {
                    count.set(place);
                }
            }
        }
    }
}

/// The file as it will be, once `bytes` are written at `offset`.
struct View<'a> {
    file: &'a HostFile,
    bytes: &'a [u8],
    offset: u64,
}

impl View<'_> {
    fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.bytes.len() as u64)
    }

    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = self.file.read_bytes(offset, length)?;
        let range = offset..offset.saturating_add(length as u64);
        let both = overlap(&range, &self.range());
        let within = |start: u64| {
            let from = usize::try_from(both.start.checked_sub(start)?).ok()?;
            let to = usize::try_from(both.end.checked_sub(start)?).ok()?;
            Some(from..to)
        };
        let new = within(self.offset).and_then(|part| self.bytes.get(part));
        let old = within(offset).and_then(|part| bytes.get_mut(part));
        if let (Some(old), Some(new)) = (old, new) {
            old.copy_from_slice(new);
        }
        Ok(bytes)
    }

    fn entries(&self, offset: u64, count: usize) -> io::Result<Vec<u64>> {
        Ok(entries(&self.read(offset, count.saturating_mul(8))?))
    }

    /// The entries of `table` that the write changes. The others were counted when they were
    /// written.
    fn new_entries(&self, table: &Range<u64>) -> io::Result<Vec<u64>> {
        let written = overlap(table, &self.range());
        if written.is_empty() {
            return Ok(Vec::new());
        }
        let first = written.start & !7;
        let length = written.end.saturating_sub(first).next_multiple_of(8);
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let before = entries(&self.file.read_bytes(first, length)?);
        let after = self.entries(first, length / 8)?;
        let changed = after.into_iter().zip(before).filter(|(after, before)| after != before);
        Ok(changed.map(|(after, _)| after).collect())
    }
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> Range<u64> {
    one.start.max(other.start)..one.end.min(other.end)
}

fn entries(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks().0.iter().map(|entry| u64::from_be_bytes(*entry)).collect()
}

/// Where a count is in its refcount block: in whole bytes, big-endian, or in bits of one byte, the
/// first count in the least significant ones.
struct Count {
    offset: u64,
    width: usize,
    /// Of each byte, what belongs to the count, and of the last, what is a count of 1.
    mask: u8,
    one: u8,
}

impl Count {
    fn new(tables: &Tables, number: u64) -> Self {
        let order = tables.refcount_order.min(6);
        let first_bit = number << order;
        let (width, mask, shift) = match order {
            0 => (1, 0b1, first_bit & 7),
            1 => (1, 0b11, first_bit & 7),
            2 => (1, 0b1111, first_bit & 7),
            order => (1 << order.saturating_sub(3), 0xff, 0),
        };
        Self { offset: first_bit / 8, width, mask: mask << shift, one: 1 << shift }
    }

    /// Makes a count of 0 one of 1. Tells whether it was 0.
    fn set(&self, bytes: &mut [u8]) -> bool {
        let zero = bytes.iter().all(|byte| byte & self.mask == 0);
        match bytes.last_mut() {
            Some(last) if zero => *last |= self.one,
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests;
