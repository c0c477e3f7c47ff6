//! The control queue, and what control clients do.

use std::time::Duration;

use lab::Error;
use lab::driver::{NET_HEADER, NetDriver, NetOptions};
use lab::net::{Header, Namespace, Net, Packets};

use super::common::{SECOND, addressed, frame};

const NOTHING: [u8; NET_HEADER] = [0; NET_HEADER];
const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const CONTROLLED: NetOptions = NetOptions {
    pairs: 2,
    size: 256,
    depth: 64,
    buffer: 2048,
    ring: vmm_frontend::frontend::ring::RingFeatures {
        event_index: true,
        indirect: true,
        packed: false,
    },
    features: NetOptions::MRG_RXBUF | NetOptions::OFFLOADS | NetOptions::CONTROL,
};

fn card(network: &Namespace) -> Result<(Net, Packets), Error> {
    let net = Net::new()?.arg("--tap").arg("tap0").arg("--mac").arg("02:00:00:00:00:01");
    let net = net.arg("--queues").arg("2").start_in(network)?;
    network.ip("link set tap0 up")?;
    Ok((net, Packets::open(network, "tap0")?))
}

fn to(destination: [u8; 6]) -> Vec<u8> {
    let mut frame = frame(100);
    frame[..6].copy_from_slice(&destination);
    frame
}

/// Whether a frame that the host sends comes through.
fn comes(driver: &mut NetDriver, packets: &Packets, frame: &[u8]) -> Result<bool, Error> {
    packets.send(Header::default(), frame)?;
    let received = driver.pair().receive(Duration::from_millis(200))?;
    if let Some((_, received)) = &received {
        assert_eq!(received, frame);
    }
    Ok(received.is_some())
}

#[test]
fn frames_are_filtered_as_the_driver_says() -> Result<(), Error> {
    let network = Namespace::new()?;
    let (net, packets) = card(&network)?;
    let mut driver = NetDriver::connect(&net.socket(), CONTROLLED)?;
    let (other, group) = ([2, 0, 0, 0, 0, 9], [1, 0, 0x5e, 0, 0, 1]);
    assert!(comes(&mut driver, &packets, &to(other))?, "nobody has said anything yet");

    assert!(driver.control(&[0, 0, 0])?); // not promiscuous
    assert!(comes(&mut driver, &packets, &to(OWN))?);
    assert!(comes(&mut driver, &packets, &to([0xff; 6]))?);
    assert!(!comes(&mut driver, &packets, &to(other))?);
    assert!(!comes(&mut driver, &packets, &to(group))?);

    let table = [&[1, 0, 1, 0, 0, 0][..], &other, &[1, 0, 0, 0], &group].concat();
    assert!(driver.control(&table)?);
    assert!(comes(&mut driver, &packets, &to(other))?);
    assert!(comes(&mut driver, &packets, &to(group))?);

    assert!(driver.control(&[1, 1, 2, 0, 0, 0, 0, 7])?); // another address
    assert!(!comes(&mut driver, &packets, &to(OWN))?);
    assert!(comes(&mut driver, &packets, &to([2, 0, 0, 0, 0, 7]))?);
    let stats = net.ctl(&["stats"])?;
    assert_eq!(stats[0]["pairs"][0]["receive"]["dropped"]["filtered"], 3, "{stats}");

    for wrong in
        [&[][..], &[9, 9], &[0, 0], &[4, 0, 0, 0], &[4, 0, 3, 0], &[1, 0, 0xff, 0xff, 0xff, 0xff]]
    {
        assert!(!driver.control(wrong)?, "{wrong:?}");
    }
    Ok(())
}

#[test]
fn what_the_driver_set_outlives_a_killed_process() -> Result<(), Error> {
    let network = Namespace::new()?;
    let (net, packets) = card(&network)?;
    let mut driver = NetDriver::connect(&net.socket(), CONTROLLED)?;
    assert!(driver.control(&[4, 0, 2, 0])?); // both pairs
    assert!(driver.control(&[0, 0, 0])?);
    let other = to([2, 0, 0, 0, 0, 9]);
    assert!(!comes(&mut driver, &packets, &other)?);
    for _ in 0..3 {
        net.kill_serving()?;
        driver.reconnect()?;
        assert!(!comes(&mut driver, &packets, &other)?);
        let cards = net.ctl(&["list"])?;
        assert_eq!(cards[0]["queues-used"], 2, "{cards}");
    }
    // Frames for the card come by either pair.
    let frame = to(OWN);
    packets.send(Header::default(), &frame)?;
    let mut came = false;
    for pair in &mut driver.pairs {
        came |= pair.receive(SECOND / 5)?.is_some();
    }
    assert!(came);
    Ok(())
}

#[test]
fn queues_of_a_former_guest_take_nothing_from_the_next_one() -> Result<(), Error> {
    let network = Namespace::new()?;
    let (net, packets) = card(&network)?;
    let mut driver = NetDriver::connect(&net.socket(), CONTROLLED)?;
    assert!(driver.control(&[4, 0, 2, 0])?);
    net.kill_serving()?;
    drop(driver);
    let mut driver = NetDriver::connect(&net.socket(), NetOptions::default())?;
    for flow in 0..32 {
        // The host spreads flows over the queues in use.
        let (_, mut packet) = Header::tcp(&[flow; 100], 1448)?;
        packet[34] = flow;
        assert!(comes(&mut driver, &packets, &packet)?, "{flow}");
    }
    Ok(())
}

#[test]
fn the_cable_is_plugged_in_and_out() -> Result<(), Error> {
    let network = Namespace::new()?;
    let (net, packets) = card(&network)?;
    let mut driver = NetDriver::connect(&net.socket(), CONTROLLED)?;
    let status = |driver: &mut NetDriver| {
        let config = driver.session.device().config(6, 2).expect("the status");
        u16::from_le_bytes([config[0], config[1]])
    };
    assert_eq!(status(&mut driver), 1);
    net.ctl(&["link", "down"])?;
    assert!(driver.session.device().config_changed().expect("the channel"));
    assert_eq!(status(&mut driver), 0);
    assert!(!comes(&mut driver, &packets, &to(OWN))?);
    driver.pair().send(NOTHING, &addressed(9, 1, 100))?;
    driver.pair().flush()?;
    assert!(packets.receive(SECOND / 10)?.is_none());
    // It is so in the next process, too.
    net.kill_serving()?;
    driver.reconnect()?;
    assert_eq!(status(&mut driver), 0);
    net.ctl(&["link", "up"])?;
    assert_eq!(status(&mut driver), 1);
    assert!(comes(&mut driver, &packets, &to(OWN))?, "and nothing from before");

    net.ctl(&["announce"])?;
    assert_eq!(status(&mut driver), 3);
    assert!(driver.control(&[3, 0])?);
    assert_eq!(status(&mut driver), 1);
    Ok(())
}
