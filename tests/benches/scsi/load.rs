//! What the subjects are asked to do.

use super::subject::Cache;

/// What a load's figures are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Thousands of operations a second.
    Operations,
    /// MiB a second.
    Bytes,
    /// Microseconds per operation.
    Latency,
}

/// A load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) name: &'static str,
    pub(crate) write: bool,
    pub(crate) random: bool,
    /// Bytes of an operation.
    pub(crate) block: usize,
    /// Operations under way on each queue.
    pub(crate) depth: u16,
    /// Queues, each with a file of its own.
    pub(crate) queues: u16,
    pub(crate) unit: Unit,
    pub(crate) caches: &'static [Cache],
}

impl Load {
    const fn new(name: &'static str, block: usize, depth: u16, unit: Unit) -> Load {
        let caches = &[Cache::Page, Cache::Direct];
        Load { name, write: false, random: true, block, depth, queues: 1, unit, caches }
    }
}

pub(crate) const LOADS: [Load; 5] = [
    Load::new("randread-4k-depth-32", 4 << 10, 32, Unit::Operations),
    Load { random: false, ..Load::new("read-256k", 256 << 10, 8, Unit::Bytes) },
    Load { random: false, write: true, ..Load::new("write-256k", 256 << 10, 8, Unit::Bytes) },
    Load::new("randread-4k-depth-1", 4 << 10, 1, Unit::Latency),
    Load { queues: 4, ..Load::new("randread-4k-4-queues", 4 << 10, 32, Unit::Operations) },
];

/// What came out of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) operations: u64,
    pub(crate) seconds: f64,
    /// Processor seconds of the process that serves, user and system.
    pub(crate) processor: f64,
}

impl Run {
    pub(crate) fn figure(&self, load: &Load) -> f64 {
        let operations = self.operations as f64;
        match load.unit {
            Unit::Operations => operations / self.seconds / 1e3,
            Unit::Bytes => operations * load.block as f64 / self.seconds / f64::from(1 << 20),
            Unit::Latency => self.seconds * 1e6 / operations,
        }
    }

    /// Microseconds of processor time per operation.
    pub(crate) fn processor(&self) -> f64 {
        self.processor * 1e6 / self.operations as f64
    }
}
