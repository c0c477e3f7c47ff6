//! A TAP: what its host sends comes to DPDK's driver, which sends it back.

use lab::net::{Header, Namespace, Net, Packets, Testpmd, TestpmdBuilder};
use lab::{Error, Version};

use super::common::{SECOND, comes_back, frame, noise};

/// A card on the TAP `tap0` of a network of its own, whose packets are ours.
fn card(network: &Namespace, arguments: &[&str]) -> Result<(Net, Packets), Error> {
    let mut net = Net::new()?.arg("--tap").arg("tap0").arg("--queues").arg("4");
    for argument in arguments {
        net = net.arg(*argument);
    }
    let net = net.start_in(network)?;
    network.ip("link set tap0 mtu 9000 up")?;
    let packets = Packets::open(network, "tap0")?;
    Ok((net, packets))
}

fn sends_back(
    version: Version,
    how: impl Fn(TestpmdBuilder) -> TestpmdBuilder,
) -> Result<(), Error> {
    let network = Namespace::new()?;
    let (net, packets) = card(&network, &[])?;
    let mut testpmd = how(Testpmd::at(net.socket()).version(version)).launch()?;
    testpmd.start()?;
    comes_back(&packets, (60..=9014).step_by(97).chain([9014]))?;
    testpmd.quit()
}

#[test]
fn frames_of_all_sizes_come_back() -> Result<(), Error> {
    for version in [Version::Bookworm, Version::Sid] {
        for ring in ["in_order=0", "in_order=1"] {
            sends_back(version, |guest| guest.driver(ring).arg("--mbuf-size=2176"))?;
        }
        // For frames in several buffers this driver has indirect tables, which in packed rings begin with
        // a writable buffer, and so are refused.
        for ring in ["mrg_rxbuf=0", "packed_vq=1", "packed_vq=1,in_order=0"] {
            sends_back(version, |guest| guest.driver(ring).arg("--mbuf-size=9728"))?;
        }
        sends_back(version, |guest| guest.queues(4))?;
    }
    Ok(())
}

#[test]
fn segments_of_64_kib_come_and_go() -> Result<(), Error> {
    let network = Namespace::new()?;
    let (net, packets) = card(&network, &[])?;
    let mut testpmd = Testpmd::at(net.socket()).segments(1448).launch()?;
    testpmd.start()?;
    for size in [1449, 9000, 32000, 65000] {
        let payload: Vec<u8> = noise(size as u64).take(size).collect();
        let (header, segments) = Header::tcp(&payload, 1448)?;
        packets.send(header, &segments)?;
        let (received, back) = packets.receive(10 * SECOND)?.unwrap_or_else(|| panic!("{size}"));
        assert_eq!((received.gso_type, received.segment_size), (Header::TCPV4, 1448), "{size}");
        assert!(back[54..] == payload, "{size}");
    }
    comes_back(&packets, [60, 1514].into_iter())?;
    let _ = frame(60);
    testpmd.quit()
}
