//! vhost-sound beside vhost-device-sound, in turns: one driver plays to both.
//!
//! - how far from its clock each period is done with;
//! - processor time, of the device and of what it starts, for a second of sound;
//! - periods that were late by more than one, with the processors idle and all of them busy;
//! - how long a click takes from the driver to PipeWire, and back by the sink's monitor.
//!
//! `cargo bench --package tests --bench sound -- [WORD…]` runs what has all of the words in its title. With the word
//! `minutes`, each subject plays once, for five of them.

mod click;
mod load;
mod subject;

use std::process::ExitCode;

use lab::pipewire::PipeWire;
use lab::{Error, Spread, benchmark, wanted};

use load::{Busy, LONG, PERIODS, Run, TIME};
use subject::{Backend, Subject};

const ROUNDS: usize = 5;
/// Has each subject play for so long that what is rare is seen.
const MINUTES: &str = "minutes";

fn main() -> ExitCode {
    benchmark(run)
}

fn run(words: &[String]) -> Result<(), Error> {
    let pipewire = PipeWire::start()?;
    let is_long = words.iter().any(|word| word == MINUTES);
    let (rounds, time) = if is_long { (1, LONG) } else { (ROUNDS, TIME) };
    let words: Vec<String> = words.iter().filter(|word| *word != MINUTES).cloned().collect();
    for backend in [Backend::Null, Backend::PipeWire, Backend::LatePipeWire, Backend::Alsa] {
        // What is under way has to be longer than the quantum.
        let shortest = if backend == Backend::LatePipeWire { 1 } else { 0 };
        for period in PERIODS.into_iter().skip(shortest) {
            for is_busy in [false, true] {
                let host = if is_busy { "busy" } else { "idle" };
                let title =
                    format!("{}, periods of {} ms, {host}", backend.name(), period.as_millis());
                if wanted(&title, &words) {
                    let mut done: Vec<Round> = Vec::new();
                    for round in 0..rounds {
                        let measure = |subject: Subject| {
                            let _busy = is_busy.then(Busy::start);
                            subject.play(backend, &pipewire, period, time)
                        };
                        if backend == Backend::Null {
                            // The other one's keeps no time: it is done with all at once.
                            done.push([Some(measure(Subject::Ours)?), None]);
                            continue;
                        }
                        // An order that always is the same would favour one of them.
                        done.push(if round % 2 == 0 {
                            let ours = measure(Subject::Ours)?;
                            [Some(ours), Some(measure(Subject::Theirs)?)]
                        } else {
                            let theirs = measure(Subject::Theirs)?;
                            [Some(measure(Subject::Ours)?), Some(theirs)]
                        });
                    }
                    println!("{}", table(&title, &done));
                }
            }
        }
    }
    if wanted("click, pipewire", &words) {
        println!("{}", click::report(&pipewire)?);
    }
    Ok(())
}

/// What came of both, in one round.
type Round = [Option<Run>; 2];

/// A figure's name, and what it is of a run.
type Figure = (&'static str, fn(&Run) -> f64);

const FIGURES: [Figure; 6] = [
    ("off the clock, median, ms", |run| run.off(0.5)),
    ("off the clock, 99th of 100, ms", |run| run.off(0.99)),
    ("off the clock, worst, ms", |run| run.off(1.0)),
    ("late by more than a period", |run| run.late() as f64),
    ("seconds for one of sound", Run::pace),
    ("processor time, ms for a second of sound", Run::processor),
];

fn table(title: &str, rounds: &[Round]) -> String {
    let mut text = format!("{title}; minimum / median / maximum of {}\n", rounds.len());
    text += &format!("  {:42}{:>24}  {:>26}\n", "", "vhost-sound", "vhost-device-sound");
    for (name, figure) in FIGURES {
        let spread = |of: usize| {
            let runs = rounds.iter().filter_map(|round| round[of].as_ref());
            Spread::of(runs.map(figure)).to_string()
        };
        text += &format!("  {name:42}{:>24}  {:>26}\n", spread(0), spread(1));
    }
    let ratios = rounds.iter().filter_map(|[ours, theirs]| {
        Some(ours.as_ref()?.processor() / theirs.as_ref()?.processor())
    });
    text + &format!("  {:42}{:>24}\n", "processor time, ratio", Spread::of(ratios).to_string())
}
