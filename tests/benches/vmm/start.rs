//! From the start of the process to `/init`, and the memory that the process then has of its own.

use std::fmt::Write as _;
use std::time::Instant;

use lab::{Error, Spread, memory};

use super::console::Console;
use super::place::Place;
use super::subject::{Disk, PROMPT, Subject};
use super::turns::in_turns;

pub(crate) const TITLE: &str = "start to /init, memory";
const ROUNDS: usize = 10;
const SUBJECTS: [Subject; 3] = [Subject::VmmFrontend, Subject::Q35, Subject::Microvm];

struct Run {
    seconds: f64,
    mib: f64,
}

pub(crate) fn report(place: &Place) -> Result<String, Error> {
    let runs: [Vec<Run>; SUBJECTS.len()] =
        in_turns(ROUNDS, |index| measure(place, SUBJECTS[index]))?;

    let mut text = format!("{TITLE}: minimum / median / maximum of {ROUNDS}\n");
    let [seconds, mib, ratio] = ["seconds", "MiB anonymous", "vmm-frontend / it"];
    let _ = writeln!(text, "  {:16}{seconds:>26}{mib:>26}{ratio:>26}", "");
    for (subject, of) in SUBJECTS.iter().zip(&runs) {
        let seconds = Spread::of(of.iter().map(|run| run.seconds));
        let mib = Spread::of(of.iter().map(|run| run.mib));
        let ratios = runs[0].iter().zip(of).map(|(ours, it)| ours.seconds / it.seconds);
        let ratios = Spread::of(ratios);
        let _ = writeln!(text, "  {:16}{seconds:>26}{mib:>26}{ratios:>26}", subject.name());
    }
    Ok(text)
}

fn measure(place: &Place, subject: Subject) -> Result<Run, Error> {
    let (_disk, socket) = Disk::Scsi.start(place)?;

    let command = subject.command(place, "host", Disk::Scsi, &socket)?;
    let start = Instant::now();
    let mut console = Console::start(command)?;
    console.wait_for(PROMPT)?;
    Ok(Run { seconds: start.elapsed().as_secs_f64(), mib: anonymous(console.id())? })
}

/// MiB of memory that is no file's: the guest's own is a memfd's.
fn anonymous(process: u32) -> Result<f64, Error> {
    let kib = memory(process, "RssAnon")?;
    let nothing = || Error::Protocol {
        doing: "reading a process's memory".into(),
        answer: "no RssAnon".into(),
    };
    Ok(kib.ok_or_else(nothing)? as f64 / 1024.0)
}
