//! What a unit has done so far.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Cdb;
use super::bytes::Fields;

/// Workers that count without touching each other's cache lines; more of them share some.
const SHARDS: usize = 8;

/// What one unit has done, counted by several workers at once: each mostly has cache lines of its
/// own, so that counting costs one addition that nobody waits for.
#[derive(Debug, Default)]
pub struct Statistics {
    shards: [Shard; SHARDS],
}

/// One cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Shard {
    reads: AtomicU64,
    writes: AtomicU64,
    flushes: AtomicU64,
    unmaps: AtomicU64,
    others: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    errors: AtomicU64,
}

/// The sums at one moment. Commands that only ask for something the unit knows anyway (INQUIRY, say)
/// are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Counts {
    /// Commands that read the medium.
    pub reads: u64,
    /// Commands that wrote it.
    pub writes: u64,
    /// Commands that made writes durable.
    pub flushes: u64,
    /// Commands that gave space back.
    pub unmaps: u64,
    /// Other commands that had something to do.
    pub others: u64,
    /// Bytes that the reads moved.
    pub bytes_read: u64,
    /// Bytes that the writes moved.
    pub bytes_written: u64,
    /// Commands of any kind that failed.
    pub errors: u64,
}

impl Statistics {
    /// Counts a command that worker number `worker` has ended, and the bytes that it moved.
    pub fn count(&self, worker: u16, cdb: &Cdb, moved: u64, failed: bool) {
        let Some(shard) = self.shards.get(usize::from(worker) % SHARDS) else { return };
        let add = |counter: &AtomicU64, number| {
            counter.fetch_add(number, Ordering::Relaxed);
        };
        if failed {
            add(&shard.errors, 1);
        }
        match cdb.u8(0) {
            // READ (6, 10, 12, 16).
            0x08 | 0x28 | 0xa8 | 0x88 => {
                add(&shard.reads, 1);
                add(&shard.bytes_read, moved);
            }
            // WRITE (6, 10, 12, 16), WRITE AND VERIFY (10, 12, 16), WRITE SAME (10, 16), COMPARE AND
            // WRITE, ORWRITE, WRITE ATOMIC.
            0x0a | 0x2a | 0xaa | 0x8a | 0x2e | 0xae | 0x8e | 0x41 | 0x93 | 0x89 | 0x8b | 0x9c => {
                add(&shard.writes, 1);
                add(&shard.bytes_written, moved);
            }
            // SYNCHRONIZE CACHE (10, 16).
            0x35 | 0x91 => add(&shard.flushes, 1),
            0x42 => add(&shard.unmaps, 1),
            _ => add(&shard.others, 1),
        }
    }

    /// The sums as they are now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let sum = |counter: fn(&Shard) -> &AtomicU64| {
            self.shards
                .iter()
                .fold(0u64, |sum, shard| sum.wrapping_add(counter(shard).load(Ordering::Relaxed)))
        };
        Counts {
            reads: sum(|shard| &shard.reads),
            writes: sum(|shard| &shard.writes),
            flushes: sum(|shard| &shard.flushes),
            unmaps: sum(|shard| &shard.unmaps),
            others: sum(|shard| &shard.others),
            bytes_read: sum(|shard| &shard.bytes_read),
            bytes_written: sum(|shard| &shard.bytes_written),
            errors: sum(|shard| &shard.errors),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cdb(code: u8) -> Cdb {
        let mut cdb = [0; 32];
        cdb[0] = code;
        cdb
    }

    #[test]
    fn commands_are_counted_by_kind_whoever_counts() {
        let statistics = Statistics::default();
        for worker in 0..20 {
            statistics.count(worker, &cdb(0x28), 512, false);
        }
        statistics.count(1, &cdb(0x8a), 4096, false);
        statistics.count(2, &cdb(0x2a), 0, true);
        statistics.count(3, &cdb(0x35), 0, false);
        statistics.count(4, &cdb(0x42), 24, false);
        statistics.count(5, &cdb(0x9e), 0, false);
        let expected = Counts {
            reads: 20,
            writes: 2,
            flushes: 1,
            unmaps: 1,
            others: 1,
            bytes_read: 20 * 512,
            bytes_written: 4096,
            errors: 1,
        };
        assert_eq!(statistics.counts(), expected);
    }
}
