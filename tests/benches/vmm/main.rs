//! vmm-frontend beside QEMU: the same kernel, the same initrd, the same disk, in turns.
//!
//! `cargo bench --package tests --bench vmm -- [WORD…]` runs what has all of the words in its title.
//! Where this host's KVM boots no stock kernel, each runs in a guest of the lab whose KVM does.

mod console;
mod exits;
mod place;
mod start;
mod subject;
mod turns;
mod usb;

use std::process::ExitCode;
use std::time::Duration;

use lab::{Error, Host, VmmGuest, benchmark, during, wanted};

use place::Place;
use subject::Disk;
use usb::Bus;

/// How long a report may take in the lab's guest.
const LIMIT: Duration = Duration::from_secs(2 * 3600);
/// An emulated host of two processors, or its guest, has had a triple fault now and then.
const TRIES: usize = 3;
/// Processors of a host of the lab: one for the guest, and one for the process of its disk. Where the guest's
/// memory changes while it runs, as it does where registers are shown to it, two fail most of the time.
const PROCESSORS: u32 = 2;
const PROCESSORS_FOR_USB: u32 = 1;

fn main() -> ExitCode {
    benchmark(run)
}

fn run(words: &[String]) -> Result<(), Error> {
    if let Some((first, words)) = words.split_first()
        && first == place::IN_THE_LAB
    {
        return measure(&Place::in_the_lab(), words);
    }
    let disks = exits::DISKS.map(Disk::title);
    let buses = usb::BUSES.map(Bus::title);
    let others = [start::TITLE].into_iter().chain(disks).map(|title| (title, PROCESSORS));
    let all = others.chain(buses.map(|title| (title, PROCESSORS_FOR_USB)));
    let titles: Vec<_> = all.filter(|(title, _)| wanted(title, words)).collect();
    if titles.is_empty() {
        return Ok(());
    }
    if during("trying whether KVM boots a stock kernel", VmmGuest::can_boot)? {
        return measure(&Place::here()?, words);
    }
    println!("This host's KVM boots no stock kernel: a guest of the lab is the host.");
    let mut result = Ok(());
    for (title, processors) in titles {
        let mut report = measure_in_the_lab(title, processors);
        for _ in 1..TRIES {
            if let Err(error) = &report {
                eprintln!("{title}: once more, after: {error}");
                report = measure_in_the_lab(title, processors);
            }
        }
        match report {
            Ok(report) => print!("{report}"),
            Err(error) => result = Err(error),
        }
    }
    result
}

/// One report, in a host of the lab.
fn measure_in_the_lab(title: &str, processors: u32) -> Result<String, Error> {
    let host = Host::boot(|builder| builder.cpus(processors))?;
    let program = std::env::current_exe()
        .map_err(|source| Error::Io { what: "cannot find the benchmark".into(), source })?;
    host.share(&program, place::PROGRAM)?;
    let quoted = title.replace('\'', r"'\''");
    let script = format!("exec /job/{} {} '{quoted}'", place::PROGRAM, place::IN_THE_LAB);
    let output = during("measuring", || host.guest().run_within(LIMIT, &script))?;
    output.stdout_if_ok()
}

fn measure(place: &Place, words: &[String]) -> Result<(), Error> {
    if wanted(start::TITLE, words) {
        println!("{}", start::report(place)?);
    }
    for disk in exits::DISKS {
        if wanted(disk.title(), words) {
            println!("{}", exits::report(place, disk)?);
        }
    }
    for bus in usb::BUSES {
        if wanted(bus.title(), words) {
            println!("{}", usb::report(place, bus)?);
        }
    }
    Ok(())
}
