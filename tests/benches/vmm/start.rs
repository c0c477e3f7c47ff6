//! From the start of the process to `/init`, and the memory that the process then has of its own.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::time::Instant;

use lab::{Error, Spread, spawn_listening};

use super::console::Console;
use super::place::Place;
use super::subject::{Disk, PROMPT, Subject};

pub(crate) const TITLE: &str = "start to /init, memory";
const ROUNDS: usize = 10;
const SUBJECTS: [Subject; 3] = [Subject::VmmFrontend, Subject::Q35, Subject::Microvm];

struct Run {
    seconds: f64,
    mib: f64,
}

pub(crate) fn report(place: &Place) -> Result<String, Error> {
    let mut runs: [Vec<Run>; SUBJECTS.len()] = Default::default();
    for round in 0..ROUNDS {
        let mut order: Vec<usize> = (0..SUBJECTS.len()).collect();
        // One that always comes first would be favoured.
        order.rotate_left(round % SUBJECTS.len());
        for index in order {
            runs[index].push(measure(place, SUBJECTS[index])?);
        }
    }

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
    let (file, socket) = (place.folder.join("start.img"), place.folder.join("start.sock"));
    let failed = |source| Error::Io { what: format!("cannot make {}", file.display()), source };
    File::create(&file).and_then(|file| file.set_len(64 << 20)).map_err(failed)?;
    let _ = fs::remove_file(&socket);
    let _disk = spawn_listening(Disk::Scsi.serve(place, &file, &socket)?, &socket)?;

    let command = subject.command(place, "host", Disk::Scsi, &socket)?;
    let start = Instant::now();
    let mut console = Console::start(command)?;
    console.wait_for(PROMPT)?;
    Ok(Run { seconds: start.elapsed().as_secs_f64(), mib: anonymous(console.id())? })
}

/// MiB of memory that is no file's: the guest's own is a memfd's.
fn anonymous(process: u32) -> Result<f64, Error> {
    let path = format!("/proc/{process}/status");
    let text = fs::read_to_string(&path)
        .map_err(|source| Error::Io { what: format!("cannot read {path}"), source })?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    let nothing = || Error::Protocol { doing: format!("reading {path}"), answer: text.clone() };
    Ok(kib.ok_or_else(nothing)? / 1024.0)
}
