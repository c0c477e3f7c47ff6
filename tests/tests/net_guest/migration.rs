//! A guest moves from one card to another in the same network, and keeps its connections.

use std::thread;
use std::time::Duration;

use lab::{Error, Host, Shell, net};

use super::card::Card;
use super::frames::Announced;
use super::iperf::Iperf;

const MAC: &str = "52:54:00:12:34:56";

/// Moves so often, each time under load, there and back.
fn moves(times: usize) -> Result<(), Error> {
    Host::test(|| {
        let host = Host::boot(|builder| builder.memory(3072))?;
        net::make_lan(&host)?;
        let names = ["tap0", "tap1"];
        let start = |name| Card::on_tap(&host, name, "--queues 2");
        let cards = [start(names[0])?, start(names[1])?];
        let arguments = |at: usize| format!("-smp 2 {}", cards[at].qemu(2, "mq=on,vectors=6"));
        let mut guest = host.boot_qemu_guest(&arguments(0))?;
        net::lease(&guest)?;
        for number in 1..=times {
            let to = number % 2;
            let iperf = Iperf::start(&guest, 25)?;
            thread::sleep(Duration::from_secs(3));
            let announced = Announced::on(&host, names[to])?;
            eprintln!("stood still for {:?}", guest.migrate(&arguments(to))?);
            assert_eq!(announced.by()?, MAC);
            let stations = host.guest().run("bridge fdb show br lan0 | grep -v permanent")?;
            let stations = stations.stdout_if_ok()?;
            let there = format!("{MAC} dev {} ", names[to]);
            assert!(stations.contains(&there), "{stations}");
            eprintln!("{:.0?} bits a second", iperf.end(&guest)?);
        }
        guest.run(&format!("ping -c 2 {}", net::SERVER))?.stdout_if_ok().map(drop)
    })
}

#[test]
fn connections_outlive_a_migration() -> Result<(), Error> {
    moves(1)
}

#[test]
#[ignore = "takes 5 minutes: cargo lab soak"]
fn connections_outlive_five_migrations() -> Result<(), Error> {
    moves(5)
}
