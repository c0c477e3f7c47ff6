//! vhost-net beside what bounds it and what would be done without it, in turns.
//!
//! - into a TAP, and out of it, beside a bare loop that writes to and reads from the same interface;
//! - from guest to guest by the built-in switch, beside two cards on TAPs of one bridge.
//!
//! `cargo bench --package tests --bench net -- [WORD…]` runs what has all of the words in its title. Each
//! load is run in rounds, each subject once a round; ratios are of the same round.

mod bare;
mod load;
mod subject;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use lab::net::Net;
use lab::{Error, Spread, benchmark, wanted};

use load::{LOADS, Load};
use subject::{Run, Tap, Way};

const ROUNDS: usize = 5;
/// How long each subject is measured.
const TIME: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    benchmark(run)
}

fn run(words: &[String]) -> Result<(), Error> {
    for load in &LOADS {
        for way in [Way::Into, Way::OutOf, Way::Between] {
            let title = format!("{}, {}", way.title(), load.name);
            if wanted(&title, words) {
                println!("{}", compare(&title, way, load)?);
            }
        }
    }
    if wanted("idle", words) {
        println!("{}", idle()?);
    }
    Ok(())
}

/// Runs a load by two subjects, in turns.
fn compare(title: &str, way: Way, load: &Load) -> Result<String, Error> {
    let mut rounds: Vec<[Run; 2]> = Vec::new();
    for round in 0..ROUNDS {
        let measure = |ours: bool| match (way, ours) {
            (Way::Into, true) => Tap::new()?.write(load),
            (Way::Into, false) => Tap::new()?.write_bare(load),
            (Way::OutOf, true) => Tap::new()?.read(load),
            (Way::OutOf, false) => Tap::new()?.read_bare(load),
            (Way::Between, true) => subject::switched(load),
            (Way::Between, false) => subject::bridged(load),
        };
        // An order that always is the same would favour one of them.
        let first = round % 2 == 0;
        let (one, other) = (measure(first)?, measure(!first)?);
        rounds.push(if first { [one, other] } else { [other, one] });
    }
    let spread = |figure: &dyn Fn(&[Run; 2]) -> f64| Spread::of(rounds.iter().map(figure));
    let lines = [
        ("vhost-net, thousand frames a second", spread(&|[ours, _]| ours.rate() / 1e3)),
        (way.other(), spread(&|[_, other]| other.rate() / 1e3)),
        ("ratio", spread(&|[ours, other]| ours.rate() / other.rate())),
        ("vhost-net, Gbit/s", spread(&|[ours, _]| ours.rate() * load.bits() / 1e9)),
        ("vhost-net's processor time, ns a frame", spread(&|[ours, _]| ours.processor())),
        ("the same of the other", spread(&|[_, other]| other.processor())),
    ];
    let mut text = format!("{title}; minimum / median / maximum of {ROUNDS}\n");
    for (name, figures) in lines {
        text.push_str(&format!("  {name:44}{figures:>28}\n"));
    }
    Ok(text)
}

/// What a card costs that nothing is done with.
fn idle() -> Result<String, Error> {
    let tap = Tap::new()?;
    let (net, _driver) = tap.card(load::PLAIN)?;
    std::thread::sleep(Duration::from_secs(1));
    let (before, begun) = (subject::wakeups(&net)?, Instant::now());
    std::thread::sleep(Duration::from_secs(10));
    let woken =
        subject::wakeups(&net)?.saturating_sub(before) as f64 / begun.elapsed().as_secs_f64();
    let resident = resident(&net)?;
    Ok(format!("idle: {woken:.2} wake-ups a second, {resident:.1} MiB resident\n"))
}

fn resident(net: &Net) -> Result<f64, Error> {
    Ok(net.resident()? as f64 / 1024.0)
}
