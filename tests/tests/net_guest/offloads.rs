//! What a guest's driver leaves to the card, by ethtool.

use std::collections::BTreeMap;
use std::time::Duration;

use lab::net::measure;
use lab::{Error, Host, Shell};

use super::card::Card;

/// What ethtool calls what is offered on a TAP, and QEMU and Linux 6.1 know.
const OFFERED: [&str; 7] = [
    "rx-checksumming",
    "tx-checksum-ip-generic",
    "tx-scatter-gather",
    "tx-tcp-segmentation",
    "tx-tcp6-segmentation",
    "tx-tcp-ecn-segmentation",
    "rx-gro-hw",
];
/// Which are on.
fn features(guest: &impl Shell) -> Result<BTreeMap<String, bool>, Error> {
    let said = guest.run("ethtool -k eth0")?.stdout_if_ok()?;
    let lines = said.lines().filter_map(|line| line.trim().split_once(": "));
    Ok(lines.map(|(name, state)| (name.to_owned(), state.starts_with("on"))).collect())
}

pub(crate) fn are_on(guest: &impl Shell) -> Result<(), Error> {
    let features = features(guest)?;
    let off = OFFERED.into_iter().filter(|name| features.get(*name) != Some(&true));
    assert_eq!(off.collect::<Vec<_>>(), [""; 0], "{features:?}");
    Ok(())
}

/// Switches something off and on: whether segments longer than frames pass in the direction is so.
fn take_effect(
    card: Card<'_>,
    guest: &impl Shell,
    feature: &str,
    direction: &str,
    arguments: &str,
) -> Result<(), Error> {
    for state in ["off", "on"] {
        guest.run(&format!("ethtool -K eth0 {feature} {state}"))?.stdout_if_ok()?;
        let long = || Ok::<u64, Error>(card.count(direction, "unsegmented")?.iter().sum());
        let before = long()?;
        let measured = measure(guest, 2, arguments)?;
        eprintln!("{feature} {state}: {:.0} bits a second", measured.bits_per_second);
        assert!(measured.bits_per_second > 0.0);
        assert_eq!(long()? > before, state == "on", "{feature} {state}");
    }
    Ok(())
}

/// What the guest sends is cut by it, or not.
pub(crate) fn sending_takes_effect(card: Card<'_>, guest: &impl Shell) -> Result<(), Error> {
    take_effect(card, guest, "tso", "transmit", "")
}

/// What the guest receives is cut before, or not.
pub(crate) fn receiving_takes_effect(card: Card<'_>, guest: &impl Shell) -> Result<(), Error> {
    take_effect(card, guest, "rx-gro-hw", "receive", "--reverse")
}

/// Receives ten datagrams.
const RECEIVE: &str = r#"
exec python3 - <<'END'
import pathlib, socket
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("192.0.2.1", 5300))
datagrams.settimeout(60)
pathlib.Path("/run/receives").touch()
print(*(len(datagrams.recv(65536)) for _ in range(10)))
END"#;

/// Sends them in one piece.
const SEND: &str = r#"
ethtool -K eth0 tx-udp-segmentation on || exit 1
exec python3 - <<'END'
import socket
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
SOL_UDP, UDP_SEGMENT = 17, 103
datagrams.setsockopt(SOL_UDP, UDP_SEGMENT, 1000)
datagrams.sendto(bytes(9500), ("192.0.2.1", 5300))
END"#;

/// Datagrams that the guest sends are cut by the host. QEMU withholds this from any vhost-user card's guest, and Linux
/// has to be asked for it.
pub(crate) fn datagrams_are_cut(
    host: &Host,
    card: Card<'_>,
    guest: &impl Shell,
) -> Result<(), Error> {
    let host = host.guest();
    let receives = host.start(RECEIVE)?;
    host.run("for i in $(seq 100); do [ -e /run/receives ] && exit; sleep 0.1; done; exit 1")?
        .stdout_if_ok()?;
    let long = || Ok::<u64, Error>(card.count("transmit", "unsegmented")?.iter().sum());
    let before = long()?;
    guest.run(SEND)?.stdout_if_ok()?;
    let sizes = receives.wait(host, Duration::from_secs(60))?.stdout_if_ok()?;
    assert_eq!(sizes, "1000 1000 1000 1000 1000 1000 1000 1000 1000 500\n");
    assert_eq!(long()?, before + 1);
    Ok(())
}
