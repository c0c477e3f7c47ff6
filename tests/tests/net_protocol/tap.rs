//! A TAP: what its host sends comes to DPDK's driver, which sends it back.

use lab::driver::{NetDriver, NetOptions};
use lab::net::{Header, Namespace, Net, Packets, Testpmd, TestpmdBuilder};
use lab::{Error, Version};

use super::common::{SECOND, await_driver, comes_back, dropped, frame, noise};

/// A card on the TAP `tap0` of a network of its own, whose packets are ours.
fn card(network: &Namespace, features: &str) -> Result<(Net, Packets), Error> {
    let net = Net::new()?.arg("--tap").arg("tap0").arg("--queues").arg("4");
    let net = net.arg("--features").arg(features).start_in(network)?;
    network.ip("link set tap0 mtu 9000 up")?;
    let packets = Packets::open(network, "tap0")?;
    Ok((net, packets))
}

fn sends_back(
    version: Version,
    features: &str,
    how: impl Fn(TestpmdBuilder) -> TestpmdBuilder,
) -> Result<(), Error> {
    let network = Namespace::new()?;
    let (net, packets) = card(&network, features)?;
    let mut testpmd = how(Testpmd::at(net.socket()).version(version)).launch()?;
    testpmd.start()?;
    await_driver(&net)?;
    comes_back(&packets, (60..=9014).step_by(97).chain([9014]))?;
    testpmd.quit()
}

#[test]
fn frames_of_all_sizes_come_back() -> Result<(), Error> {
    for version in [Version::Bookworm, Version::Sid] {
        for ring in ["in_order=0", "in_order=1"] {
            sends_back(version, "speed=on", |guest| guest.driver(ring).arg("--mbuf-size=2176"))?;
        }
        // Its indirect tables of packed rings begin with a writable buffer, and so would be refused.
        for ring in ["packed_vq=1", "packed_vq=1,in_order=0"] {
            let small = |guest: TestpmdBuilder| guest.driver(ring).arg("--mbuf-size=2176");
            sends_back(version, "indirect_desc=off", small)?;
        }
        for ring in ["mrg_rxbuf=0", "packed_vq=1,mrg_rxbuf=0"] {
            let large = |guest: TestpmdBuilder| guest.driver(ring).arg("--mbuf-size=9728");
            sends_back(version, "speed=on", large)?;
        }
        sends_back(version, "speed=on", |guest| guest.queues(4))?;
    }
    Ok(())
}

#[test]
fn segments_of_64_kib_come_and_go() -> Result<(), Error> {
    for (features, ring) in [("speed=on", "packed_vq=0"), ("indirect_desc=off", "packed_vq=1")] {
        let network = Namespace::new()?;
        let (net, packets) = card(&network, features)?;
        let mut testpmd = Testpmd::at(net.socket()).driver(ring).segments(1448).launch()?;
        testpmd.start()?;
        await_driver(&net)?;
        for size in [1449, 9000, 32000, 65000] {
            let payload: Vec<u8> = noise(size as u64).take(size).collect();
            let (header, segments) = Header::tcp(&payload, 1448)?;
            packets.send(header, &segments)?;
            let (received, back) =
                packets.receive(10 * SECOND)?.unwrap_or_else(|| panic!("{size}"));
            let cut = (received.gso_type, received.segment_size);
            assert_eq!(cut, (Header::TCPV4, 1448), "{size}");
            assert!(back[54..] == payload, "{size}");
        }
        comes_back(&packets, [60, 1514].into_iter())?;
        testpmd.quit()?;
    }
    Ok(())
}

/// What came while there was no driver is old when there is one.
#[test]
fn frames_that_waited_for_nobody_do_not_come() -> Result<(), Error> {
    for queues in ["1", "4"] {
        let network = Namespace::new()?;
        let net = Net::new()?.arg("--tap").arg("tap0").arg("--queues").arg(queues);
        let net = net.start_in(&network)?;
        network.ip("link set tap0 up")?;
        let packets = Packets::open(&network, "tap0")?;
        for round in 0..3 {
            packets.send(Header::default(), &frame(100 + round))?;
            let mut driver = NetDriver::connect(&net.socket(), NetOptions::default())?;
            packets.send(Header::default(), &frame(200 + round))?;
            let (_, first) = driver.pair().receive(SECOND)?.expect("a frame");
            assert!(first == frame(200 + round), "{queues} {round}: {} bytes", first.len());
        }
    }
    Ok(())
}

/// More segments than the driver has buffers for: they wait until it gives more.
#[test]
fn segments_wait_for_a_driver_that_is_late() -> Result<(), Error> {
    let network = Namespace::new()?;
    let (net, packets) = card(&network, "speed=on")?;
    let features = NetOptions::MRG_RXBUF | NetOptions::OFFLOADS;
    let mut driver =
        NetDriver::connect(&net.socket(), NetOptions { features, ..Default::default() })?;
    let payloads = [1, 2, 3, 4, 5].map(|seed| noise(seed).take(60000).collect::<Vec<u8>>());
    for payload in &payloads {
        let (header, segments) = Header::tcp(payload, 1448)?;
        packets.send(header, &segments)?;
    }
    // So long that all were tried.
    std::thread::sleep(SECOND / 10);
    for payload in &payloads {
        let (_, frame) = driver.pair().receive(SECOND)?.expect("a frame");
        assert!(frame[54..] == *payload);
    }
    assert_eq!(dropped(&net, "receive", "no-room")?, 0);
    Ok(())
}

/// Segments that never fit into what the driver gives, and nothing that would wake the card: it does not wait for
/// ever.
#[test]
fn what_never_fits_keeps_nothing_waiting() -> Result<(), Error> {
    let network = Namespace::new()?;
    let (net, packets) = card(&network, "speed=on")?;
    let features = NetOptions::MRG_RXBUF | NetOptions::OFFLOADS;
    let few = NetOptions { features, depth: 8, ..Default::default() };
    let mut driver = NetDriver::connect(&net.socket(), few)?;
    packets.send(Header::default(), &frame(100))?;
    assert!(driver.pair().receive(20 * SECOND)?.expect("a frame").1 == frame(100));
    let (header, segments) = Header::tcp(&noise(1).take(60000).collect::<Vec<u8>>(), 1448)?;
    packets.send(header, &segments)?;
    packets.send(Header::default(), &frame(200))?;
    assert!(driver.pair().receive(20 * SECOND)?.expect("a frame").1 == frame(200));
    assert_eq!(dropped(&net, "receive", "no-room")?, 1);
    Ok(())
}

/// A driver that knows the MTU makes buffers for that (virtio 1.3, 5.1.4.1).
#[test]
fn what_is_longer_than_the_mtu_does_not_come() -> Result<(), Error> {
    let network = Namespace::new()?;
    let net = Net::new()?.arg("--tap").arg("tap0").arg("--mtu").arg("1400").start_in(&network)?;
    network.ip("link set tap0 mtu 9000 up")?;
    let packets = Packets::open(&network, "tap0")?;
    for (features, too_long) in [(NetOptions::MTU, 1), (0, 0)] {
        let features = NetOptions::MRG_RXBUF | NetOptions::OFFLOADS | features;
        let options = NetOptions { features, ..Default::default() };
        let mut driver = NetDriver::connect(&net.socket(), options)?;
        let (header, segments) = Header::tcp(&noise(1).take(6000).collect::<Vec<u8>>(), 1300)?;
        packets.send(Header::default(), &frame(1500))?;
        packets.send(header, &segments)?;
        packets.send(Header::default(), &frame(1414))?;
        let mut sizes = Vec::new();
        while sizes.last() != Some(&1414) {
            sizes.push(driver.pair().receive(20 * SECOND)?.expect("a frame").1.len());
        }
        let all = [1500, segments.len(), 1414];
        assert_eq!(sizes, all[too_long..]);
        assert_eq!(dropped(&net, "receive", "too-long")?, 1);
    }
    Ok(())
}
