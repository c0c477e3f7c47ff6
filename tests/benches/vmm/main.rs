//! vmm-frontend beside QEMU: the same kernel, the same initrd, the same disk, in turns.
//!
//! `cargo bench --package tests --bench vmm -- [WORD…]` runs what has all of the words in its title.
//! Where this host's KVM boots no stock kernel, all of it runs in a guest of the lab whose KVM does.

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

/// How long all may take in the lab's guest.
const LIMIT: Duration = Duration::from_secs(2 * 3600);

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
    if ![start::TITLE].iter().chain(&disks).chain(&buses).any(|title| wanted(title, words)) {
        return Ok(());
    }
    if during("trying whether KVM boots a stock kernel", VmmGuest::can_boot)? {
        return measure(&Place::here()?, words);
    }
    println!("This host's KVM boots no stock kernel: a guest of the lab is the host.");
    // One for the guest, and one for the process of its disk.
    let host = Host::boot(|builder| builder.cpus(2))?;
    let program = std::env::current_exe()
        .map_err(|source| Error::Io { what: "cannot find the benchmark".into(), source })?;
    host.share(&program, place::PROGRAM)?;
    let quoted = words.iter().map(|word| format!(" '{}'", word.replace('\'', r"'\''")));
    let quoted: String = quoted.collect();
    let script = format!("exec /job/{} {}{quoted}", place::PROGRAM, place::IN_THE_LAB);
    let output = during("measuring", || host.guest().run_within(LIMIT, &script))?;
    print!("{}", output.stdout_if_ok()?);
    Ok(())
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
