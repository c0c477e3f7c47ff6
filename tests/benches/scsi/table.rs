//! What is printed: a row per subject, minimum, median and maximum, and ratios round by round.

use std::fmt;

use lab::Spread;

use super::load::{Load, Run, Unit};
use super::subject::{Cache, Peer};

pub(crate) struct Table<'a> {
    load: &'a Load,
    cache: Cache,
    runs: Vec<(Peer, Run)>,
}

impl<'a> Table<'a> {
    pub(crate) fn new(load: &'a Load, cache: Cache) -> Table<'a> {
        Table { load, cache, runs: Vec::new() }
    }

    pub(crate) fn add(&mut self, peer: Peer, run: Run) {
        self.runs.push((peer, run));
    }

    fn of(&self, wanted: Peer) -> Vec<Run> {
        self.runs.iter().filter(|(peer, _)| *peer == wanted).map(|(_, run)| *run).collect()
    }
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.load.unit {
            Unit::Operations => "1,000 operations a second",
            Unit::Bytes => "MiB a second",
            Unit::Latency => "µs per operation",
        };
        writeln!(
            f,
            "{}, {}: {unit}, minimum / median / maximum",
            self.load.name,
            self.cache.name()
        )?;
        let (speed, processor, ratio) = ("", "processor µs per operation", "vhost-scsi / it");
        writeln!(f, "  {:24}{speed:>28}{processor:>32}{ratio:>26}", "")?;
        let ours = self.of(Peer::VhostScsi);
        for peer in Peer::ALL {
            let runs = self.of(peer);
            if runs.is_empty() {
                continue;
            }
            let speed = Spread::of(runs.iter().map(|run| run.figure(self.load)));
            let processor = Spread::of(runs.iter().map(Run::processor));
            let ratios = ours.iter().zip(&runs);
            let ratios = Spread::of(ratios.map(|(a, b)| a.figure(self.load) / b.figure(self.load)));
            writeln!(f, "  {:24}{speed:>28}{processor:>32}{ratios:>26}", peer.name())?;
        }
        Ok(())
    }
}
