//! A connection that is in use for a while: what it comes to while something happens to its card.

use std::thread;
use std::time::{Duration, Instant};

use lab::net::SERVER;
use lab::{Error, Shell};
use serde_json::Value;

use super::card::Card;

/// Seconds between two kills: a connection that lost packets waits before it goes on.
const PAUSE: u32 = 4;
/// Seconds after the last one.
const REST: u32 = 8;

/// iperf3 in a guest, which goes on while other scripts run.
pub(crate) struct Iperf {
    seconds: u32,
}

impl Iperf {
    /// Uses connections to the lab's machine for so long, both ways at once.
    pub(crate) fn start(guest: &impl Shell, seconds: u32) -> Result<Iperf, Error> {
        let start = format!(
            "iperf3 --client {SERVER} --bidir --time {seconds} --json >/tmp/iperf 2>&1 </dev/null &"
        );
        guest.run(&start)?.stdout_if_ok()?;
        Ok(Iperf { seconds })
    }

    /// Waits for the end, which no connection may have missed, and gives the bits that arrived in a second, there and
    /// here.
    pub(crate) fn end(self, guest: &impl Shell) -> Result<[f64; 2], Error> {
        const WAIT: &str =
            "while pgrep --exact iperf3 >/dev/null; do sleep 0.2; done; cat /tmp/iperf";
        let limit = Duration::from_secs(u64::from(self.seconds) + 120);
        let said = guest.run_within(limit, WAIT)?.stdout_if_ok()?;
        let said: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}"));
        assert!(said["error"].is_null(), "{said}");
        let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{said}"));
        for way in ["sum", "sum_bidir_reverse"] {
            let intervals = said["intervals"].as_array().unwrap_or_else(|| panic!("{said}"));
            let bytes: Vec<f64> = intervals.iter().map(|one| number(&one[way]["bytes"])).collect();
            assert!(bytes.iter().rev().take(4).sum::<f64>() > 0.0, "{way}: {bytes:?}");
        }
        let end = &said["end"];
        assert!(number(&end["sum_received"]["seconds"]) > f64::from(self.seconds) - 3.0, "{said}");
        Ok(["sum_received", "sum_received_bidir_reverse"]
            .map(|way| number(&end[way]["bits_per_second"])))
    }
}

/// Kills the process that serves a card so often, while its guest uses connections, which live on.
pub(crate) fn outlive_kills(card: Card<'_>, guest: &impl Shell, kills: u32) -> Result<(), Error> {
    let iperf = Iperf::start(guest, kills * PAUSE + REST)?;
    for _ in 0..kills {
        thread::sleep(Duration::from_secs(PAUSE.into()));
        let started = Instant::now();
        card.kill()?;
        eprintln!("another process serves after {:?}", started.elapsed());
    }
    eprintln!("after {kills} kills: {:.0?} bits a second", iperf.end(guest)?);
    Ok(())
}
