//! vhost-usb's controllers beside QEMU's own, in one guest of QEMU's: ours by vfio-user, without KVM.
//!
//! `cargo bench --package tests --bench usb -- [WORD…]` runs what has all of the words in its title.
//!
//! What a register access costs by vfio-user bounds what can be reached here: processes have to take turns
//! for each read. QEMU's xHCI tells how long the guest takes for the same transfers with next to no
//! accesses, as it has a doorbell. Both together are the bound.

mod guest;
mod table;

use std::process::ExitCode;

use lab::{Error, benchmark, wanted};

use guest::{Bus, Sticks};

const ROUNDS: usize = 5;

fn main() -> ExitCode {
    benchmark(run)
}

fn run(words: &[String]) -> Result<(), Error> {
    for bus in [Bus::Ehci, Bus::Uhci].into_iter().filter(|bus| wanted(bus.title(), words)) {
        let sticks = Sticks::boot(bus)?;
        let access = sticks.measure_access()?;
        let rounds = (0..ROUNDS).map(|round| sticks.measure(round));
        println!("{}", table::of(bus, access, &rounds.collect::<Result<Vec<_>, _>>()?));
    }
    Ok(())
}
