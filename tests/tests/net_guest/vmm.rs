//! Guests of vmm-frontend's, whose control queue the card answers.

use lab::{Error, Host, Kernel, Machine, Nested, Shell, net};

use super::card::Card;
use super::frames::{self, Announced, arrive};
use super::qemu::{datagrams, ping_under_load};
use super::{iperf, offloads, queues};

const MAC: &str = "02:00:00:00:00:11";
const OTHER: &str = "02:00:00:00:00:99";
const GROUP: &str = "01:00:5e:00:00:63";

/// A card on a TAP, of whose medium something is said.
const TAP: &str = "--cpus 2 --net tap=tap0,mac=02:00:00:00:00:11,speed=10000,control=/run/tap0.ctl";

fn with_guest(
    prepare: impl Fn(&Host) -> Result<(), Error>,
    more: &str,
    test: impl Fn(&Host, Card<'_>, &Nested<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    Host::test(|| {
        let host = Host::boot(|builder| builder)?;
        net::make_lan(&host)?;
        super::card::make_tap(&host, "tap0")?;
        prepare(&host)?;
        let arguments = format!("{TAP} {more}");
        let guest = host.boot_vmm_guest(Kernel::Backports, "", &arguments)?;
        let address = net::lease(&guest)?;
        assert!(address.starts_with("192.0.2."), "{address}");
        test(&host, Card::at(&host, "tap0"), &guest)
    })
}

#[test]
fn the_card_does_what_the_driver_says_and_outlives_kills() -> Result<(), Error> {
    with_guest(
        |_| Ok(()),
        "",
        |host, card, guest| {
            offloads::are_on(guest)?;
            offloads::datagrams_are_cut(host, card, guest)?;
            offloads::sending_takes_effect(card, guest)?;
            offloads::receiving_takes_effect(card, guest)?;
            queues::both_are_used(card, guest)?;
            ping_under_load(guest)?;
            datagrams(guest)?;
            what_is_said_of_the_medium(host, card, guest)?;
            filters(host, card, guest)?;
            vlans(host, guest)?;
            iperf::outlive_kills(card, guest, 3)
        },
    )
}

#[test]
#[ignore = "takes 3 minutes: cargo lab soak"]
fn connections_outlive_twenty_kills() -> Result<(), Error> {
    with_guest(|_| Ok(()), "", |_, card, guest| iperf::outlive_kills(card, guest, 20))
}

/// Speed, the cable, and that the network is to be told where the guest is.
fn what_is_said_of_the_medium(
    host: &Host,
    card: Card<'_>,
    guest: &Nested<'_>,
) -> Result<(), Error> {
    let said = guest.run("ethtool eth0")?.stdout_if_ok()?;
    assert!(said.contains("Speed: 10000Mb/s") && said.contains("Duplex: Full"), "{said}");
    for (state, carrier) in [("down", "0"), ("up", "1")] {
        card.ctl(&format!("link {state}"))?;
        let wait = format!(
            "for i in $(seq 100); do [ $(</sys/class/net/eth0/carrier) = {carrier} ] && exit; sleep 0.1; done; exit 1"
        );
        guest.run(&wait)?.stdout_if_ok()?;
    }
    let announced = Announced::on(host, "tap0")?;
    card.ctl("announce")?;
    assert_eq!(announced.by()?, MAC);
    Ok(())
}

/// Which frames pass: its own, and what the driver has asked for.
fn filters(host: &Host, card: Card<'_>, guest: &Nested<'_>) -> Result<(), Error> {
    frames::look_out(guest)?;
    let said = |script: &str| guest.run(script)?.stdout_if_ok();
    let three = [(MAC, 0), (OTHER, 0), (GROUP, 0)];
    assert_eq!(arrive(host, "tap0", guest, three)?, [true, false, false]);

    said("ip link set eth0 promisc on")?;
    assert_eq!(card.describe()?["promiscuous"], true);
    assert_eq!(arrive(host, "tap0", guest, three)?, [true, true, true]);
    said("ip link set eth0 promisc off")?;
    assert_eq!(card.describe()?["promiscuous"], false);

    said(&format!("ip maddr add {GROUP} dev eth0"))?;
    assert_eq!(arrive(host, "tap0", guest, three)?, [true, false, true]);
    said(&format!("ip maddr del {GROUP} dev eth0"))?;

    said(&format!("ip link set eth0 address {OTHER}"))?;
    assert_eq!(card.describe()?["mac"], OTHER);
    assert_eq!(arrive(host, "tap0", guest, three)?, [false, true, false]);
    said(&format!("ping -c 2 {}", net::SERVER))?;
    said(&format!("ip link set eth0 address {MAC}")).map(drop)
}

/// An interface in a VLAN, as long as it is there.
fn vlans(host: &Host, guest: &Nested<'_>) -> Result<(), Error> {
    const MAKE: &str = "
modprobe 8021q
ip link add link INTERFACE name vlan10 type vlan id 10 && ip addr add ADDRESS/24 dev vlan10 &&
    ip link set vlan10 up";
    let make =
        |interface, address| MAKE.replace("INTERFACE", interface).replace("ADDRESS", address);
    let two = [(MAC, 10), (MAC, 11)];
    assert_eq!(arrive(host, "tap0", guest, two)?, [false, false]);
    host.guest().run(&make("lan0", "198.51.100.1"))?.stdout_if_ok()?;
    guest.run(&make("eth0", "198.51.100.2"))?.stdout_if_ok()?;
    guest.run("ping -c 2 198.51.100.1")?.stdout_if_ok()?;
    assert_eq!(arrive(host, "tap0", guest, two)?, [true, false]);
    guest.run("ip link del vlan10")?.stdout_if_ok()?;
    assert_eq!(arrive(host, "tap0", guest, two)?, [false, false]);
    Ok(())
}

/// passt, where programs are looked for, and an address for it to hand on.
fn install_passt(host: &Host) -> Result<(), Error> {
    const INSTALL: &str = r#"
cat >/usr/bin/passt <<'END' && chmod 755 /usr/bin/passt || exit 1
#!/bin/sh
libraries=/job/passt/usr/lib/x86_64-linux-gnu
exec $libraries/ld-linux-x86-64.so.2 --library-path $libraries /job/passt/usr/bin/passt "$@"
END
modprobe dummy
ip link add dummy0 type dummy && ip link set dummy0 up || exit 1
ip addr add 203.0.113.2/24 dev dummy0 && ip route add default via 203.0.113.1"#;
    host.share(&Machine::passt()?, "passt")?;
    host.guest().run(INSTALL)?.stdout_if_ok().map(drop)
}

/// Interfaces of macvtap's on the other end of a cable of the lab's network.
const MACVTAP: &str = "
modprobe -a veth macvtap
ip link add cable type veth peer name far && ip link set cable master lan0 up && ip link set far up || exit 1
for name in mac1 mac2; do
    ip link add link far name $name type macvtap mode bridge && ip link set $name up || exit 1
done";

/// A queue of an interface of macvtap's that is open already, or two.
const OPEN: &str = "--tap-fd 3,4 3<>/dev/tap$(</sys/class/net/mac2/ifindex) \
    4<>/dev/tap$(</sys/class/net/mac2/ifindex)";

/// A second card, which needs no privilege; and others, which come and go, each with another kind of interface.
#[test]
fn more_cards_at_the_start_and_while_the_guest_runs() -> Result<(), Error> {
    const ADD: &str = r#"qmp({"execute": "device_add", "arguments": {
        "driver": "vhost-user-net-pci", "id": "more", "socket": "SOCKET"}}, '"return"')"#;
    const DELETE: &str =
        r#"qmp({"execute": "device_del", "arguments": {"id": "more"}}, "DEVICE_DELETED")"#;
    with_guest(install_passt, "--net user --qmp /run/vmm.qmp", |host, _, guest| {
        assert_eq!(net::lease_for(guest, "eth1")?, "203.0.113.2");
        let iperf = "iperf3 --client 203.0.113.1 --time 2";
        for direction in ["", "--reverse"] {
            guest.run(&format!("{iperf} {direction}"))?.stdout_if_ok()?;
        }

        host.guest().run(MACVTAP)?.stdout_if_ok()?;
        let cards = [
            Card::on_tap(host, "tap1", "--queues 2")?,
            Card::start(host, "mac1", "--tap mac1 --queues 2")?,
            Card::start(host, "mac2", OPEN)?,
        ];
        guest.run("ip link set eth0 down")?.stdout_if_ok()?;
        for (number, more) in cards.into_iter().enumerate() {
            host.tell(&ADD.replace("SOCKET", &more.socket()))?;
            let address = net::lease_for(guest, "eth2")?;
            assert!(address.starts_with("192.0.2."), "{address}");
            let measured = net::measure(guest, 2, "")?;
            assert!(measured.bits_per_second > 0.0, "{measured:?}");
            assert!(more.count("transmit", "frames")?[0] > 0, "{number}");
            host.tell(DELETE)?;
            guest.run("! ls -d /sys/class/net/eth2")?.stdout_if_ok()?;
        }
        Ok(())
    })
}
