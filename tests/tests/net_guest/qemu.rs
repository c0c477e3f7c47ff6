//! Guests of QEMU's, which answers their control queue itself.

use lab::{Error, Host, Nested, Shell, net};

use super::card::Card;
use super::{iperf, offloads, queues};

/// How a guest is started, but for its card.
const SIX_1: &str = "-smp 2 -kernel /job/vmlinuz-linux-6.1 -initrd /job/initrd-linux-6.1";
const SIX_12: &str = "-smp 2";
/// Of the card.
const DEVICE: &str = "mq=on,vectors=6";
const PACKED: &str = "mq=on,vectors=6,packed=on";

fn with_guest(
    how: &str,
    device: &str,
    test: impl Fn(&Host, Card<'_>, &Nested<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    Host::test(|| {
        let host = Host::boot(|builder| builder)?;
        net::make_lan(&host)?;
        let card = Card::on_tap(&host, "tap0", "--queues 2")?;
        let guest = host.boot_qemu_guest(&format!("{how} {}", card.qemu(2, device)))?;
        test(&host, card, &guest)
    })
}

/// Feature 34 of the card, RING_PACKED.
const RING_PACKED: &str = "cut -c 35 /sys/class/net/eth0/device/features";

/// Echoes come back while connections use what there is of the line.
pub(crate) fn ping_under_load(guest: &impl Shell) -> Result<(), Error> {
    let iperf = iperf::Iperf::start(guest, 5)?;
    let ping = format!("ping -c 8 -i 0.5 -W 5 {}", net::SERVER);
    let said = guest.run(&ping)?.stdout_if_ok()?;
    assert!(said.contains(" 0% packet loss"), "{said}");
    eprintln!("under load: {:.0?} bits a second", iperf.end(guest)?);
    Ok(())
}

/// UDP at a rate that an emulated machine can do.
pub(crate) fn datagrams(guest: &impl Shell) -> Result<(), Error> {
    for direction in ["", "--reverse"] {
        let arguments = format!("--udp --bitrate 2M --length 1400 {direction}");
        let measured = net::measure(guest, 2, &arguments)?;
        assert!(measured.packets_per_second > 0.0 && measured.lost_percent < 50.0, "{measured:?}");
    }
    Ok(())
}

#[test]
fn linux_6_12_uses_all_that_is_offered_and_outlives_kills() -> Result<(), Error> {
    with_guest(SIX_12, DEVICE, |_, card, guest| {
        let address = net::lease(guest)?;
        assert!(address.starts_with("192.0.2."), "{address}");
        offloads::are_on(guest)?;
        offloads::sending_takes_effect(card, guest)?;
        queues::both_are_used(card, guest)?;
        ping_under_load(guest)?;
        datagrams(guest)?;
        iperf::outlive_kills(card, guest, 3)
    })
}

#[test]
fn linux_6_1_uses_all_that_is_offered_by_packed_rings() -> Result<(), Error> {
    const STATIC: &str =
        "modprobe virtio_net && ip link set eth0 up && ip addr add 192.0.2.40/24 dev eth0";
    with_guest(SIX_1, PACKED, |_, card, guest| {
        assert!(guest.run("uname -r")?.stdout_if_ok()?.starts_with("6.1."));
        guest.run(STATIC)?.stdout_if_ok()?;
        assert_eq!(guest.run(RING_PACKED)?.stdout_if_ok()?, "1\n");
        offloads::are_on(guest)?;
        offloads::sending_takes_effect(card, guest)?;
        queues::both_are_used(card, guest)?;
        ping_under_load(guest)
    })
}

#[test]
#[ignore = "takes 3 minutes: cargo lab soak"]
fn connections_outlive_twenty_kills() -> Result<(), Error> {
    with_guest(SIX_12, DEVICE, |_, card, guest| {
        net::lease(guest)?;
        iperf::outlive_kills(card, guest, 20)
    })
}
