//! What each queue has done so far.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

/// A number that one worker counts, and everybody reads.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, more: u64) {
        // Nobody else writes: no atomic addition is needed.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Frames towards the guest.
#[derive(Debug, Default)]
pub(super) struct Receiving {
    pub(super) frames: Counter,
    pub(super) bytes: Counter,
    /// Longer than the medium's, to be cut by the guest.
    pub(super) unsegmented: Counter,
    /// They were too short for an Ethernet header.
    pub(super) malformed: Counter,
    /// The guest had no room.
    pub(super) no_room: Counter,
    /// They did not fit into one buffer, or were longer than the MTU allows.
    pub(super) too_long: Counter,
    /// The filter did not want them.
    pub(super) filtered: Counter,
    /// The link was down.
    pub(super) link_down: Counter,
    /// Buffers that had no room for a header.
    pub(super) bad_buffers: Counter,
}

/// Frames from the guest.
#[derive(Debug, Default)]
pub(super) struct Transmitting {
    pub(super) frames: Counter,
    pub(super) bytes: Counter,
    /// Longer than the medium's, to be cut by who takes them.
    pub(super) unsegmented: Counter,
    /// Their header was wrong, or they were too short.
    pub(super) malformed: Counter,
    /// They were longer than the MTU allows.
    pub(super) too_long: Counter,
    /// The host did not take them.
    pub(super) refused: Counter,
    /// The link was down, or the queue not in use.
    pub(super) link_down: Counter,
}

/// Of a pair of queues.
#[derive(Debug, Default)]
pub(super) struct Statistics {
    pub(super) receiving: Receiving,
    pub(super) transmitting: Transmitting,
}

impl Statistics {
    pub(super) fn json(&self) -> Value {
        let Self { receiving: rx, transmitting: tx } = self;
        json!({
            "receive": {
                "frames": rx.frames.get(),
                "bytes": rx.bytes.get(),
                "unsegmented": rx.unsegmented.get(),
                "dropped": {
                    "malformed": rx.malformed.get(),
                    "no-room": rx.no_room.get(),
                    "too-long": rx.too_long.get(),
                    "filtered": rx.filtered.get(),
                    "link-down": rx.link_down.get(),
                },
                "bad-buffers": rx.bad_buffers.get(),
            },
            "transmit": {
                "frames": tx.frames.get(),
                "bytes": tx.bytes.get(),
                "unsegmented": tx.unsegmented.get(),
                "dropped": {
                    "malformed": tx.malformed.get(),
                    "too-long": tx.too_long.get(),
                    "refused": tx.refused.get(),
                    "link-down": tx.link_down.get(),
                },
            },
        })
    }
}
