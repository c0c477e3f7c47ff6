//! What becomes of the host's side: interfaces that are taken away, peers that go and come.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::{Duration, Instant};

use lab::driver::{NetDriver, NetOptions};
use lab::net::{Header, Namespace, Net, Packets};
use lab::{Error, spawn_listening};

use super::common::{NOTHING, SECOND, await_link, dropped, frame, noise, read_frame};

#[test]
fn an_interface_that_is_taken_away_is_picked_up_again() -> Result<(), Error> {
    let network = Namespace::new()?;
    network.ip("tuntap add dev tap0 mode tap multi_queue vnet_hdr")?;
    let net = Net::new()?.arg("--tap").arg("tap0").start_in(&network)?;
    network.ip("link set tap0 up")?;
    let mut driver = NetDriver::connect(&net.socket(), NetOptions::default())?;
    for round in 0..3 {
        let packets = Packets::open(&network, "tap0")?;
        packets.send(Header::default(), &frame(100 + round))?;
        assert!(driver.pair().receive(20 * SECOND)?.expect("a frame").1 == frame(100 + round));
        driver.pair().send(NOTHING, &frame(200 + round))?;
        assert!(packets.receive(20 * SECOND)?.expect("a frame").1 == frame(200 + round));

        network.ip("link del tap0")?;
        driver.pair().send(NOTHING, &frame(300))?;
        driver.pair().flush()?;
        await_link(&net, false)?;
        assert!(driver.session.device().config_changed().expect("the channel"));
        network.ip("tuntap add dev tap0 mode tap multi_queue vnet_hdr")?;
        network.ip("link set tap0 up")?;
        await_link(&net, true)?;
    }
    Ok(())
}

/// While nobody uses it, while a driver does, and before one does.
#[test]
fn that_an_interface_is_taken_away_is_seen_and_said_once() -> Result<(), Error> {
    let network = Namespace::new()?;
    let net = Net::new()?.arg("--tap").arg("tap0").arg("--queues").arg("4");
    let log = net.folder().join("log");
    let mut command = net.command()?;
    network.confine(&mut command)?;
    command.stderr(File::create(&log).unwrap());
    let _process = spawn_listening(command, &net.socket())?;
    let said = |what: &str| {
        let log = fs::read_to_string(&log).unwrap();
        log.lines().filter(|line| line.contains(what)).count()
    };
    let add = || network.ip("tuntap add dev tap0 mode tap multi_queue vnet_hdr");
    let await_return = |times: usize| -> Result<(), Error> {
        let end = Instant::now() + 20 * SECOND;
        while said("there again") < times {
            assert!(Instant::now() < end, "{times}");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!((said("WARN"), said("is lost: the interface was deleted")), (times, times));
        await_link(&net, true)
    };
    network.ip("link del tap0")?;
    await_link(&net, false)?;
    add()?;
    await_return(1)?;

    let options = || NetOptions { features: NetOptions::OFFLOADS, ..NetOptions::default() };
    let driver = NetDriver::connect(&net.socket(), options())?;
    network.ip("link del tap0")?;
    await_link(&net, false)?;
    add()?;
    await_return(2)?;

    drop(driver);
    network.ip("link del tap0")?;
    add()?;
    let _driver = NetDriver::connect(&net.socket(), options())?;
    await_return(3)
}

#[test]
fn an_interface_that_it_made_stays_when_the_process_is_killed() -> Result<(), Error> {
    let network = Namespace::new()?;
    let net = Net::new()?.arg("--tap").arg("tap0").start_in(&network)?;
    network.ip("link set tap0 up")?;
    let packets = Packets::open(&network, "tap0")?;
    let mut driver = NetDriver::connect(&net.socket(), NetOptions::default())?;
    for round in 0..10 {
        net.kill_serving()?;
        // It waits in the interface, and in the ring.
        packets.send(Header::default(), &frame(100 + round))?;
        driver.pair().send(NOTHING, &frame(200 + round))?;
        driver.reconnect()?;
        assert!(driver.pair().receive(20 * SECOND)?.expect("a frame").1 == frame(100 + round));
        assert!(packets.receive(20 * SECOND)?.expect("a frame").1 == frame(200 + round));
        // Else the next process would send it once more.
        driver.pair().flush()?;
    }
    drop(net);
    let end = Instant::now() + 5 * SECOND;
    while network.ip("link show tap0").is_ok() {
        assert!(Instant::now() < end, "it goes with the program");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn write_frame(stream: &mut UnixStream, frame: &[u8]) {
    let length = (frame.len() as u32).to_be_bytes();
    stream.write_all(&[&length, frame].concat()).unwrap();
}

#[test]
fn a_stream_whose_peer_goes_is_connected_again() -> Result<(), Error> {
    let net = Net::new()?;
    let path = net.folder().join("peer.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let net = net.arg("--stream").arg(path.display().to_string()).start()?;
    let mut driver = NetDriver::connect(&net.socket(), NetOptions::default())?;
    for round in 0..3 {
        let (mut peer, _) = listener.accept().unwrap();
        await_link(&net, true)?;
        for size in [60, 1514, 9014, 65000] {
            driver.pair().send(NOTHING, &frame(size + round))?;
            assert!(read_frame(&mut peer) == frame(size + round), "{size}");
            write_frame(&mut peer, &frame(size + round));
            let (header, back) = driver.pair().receive(20 * SECOND)?.expect("a frame");
            assert!(back == frame(size + round) && header[..10] == [0; 10], "{size}");
        }
        match round {
            // A length that no frame has.
            1 => peer.write_all(&[0xff; 4]).unwrap(),
            _ => drop(peer),
        }
        if round < 2 {
            // It is told, and connects at once.
            let end = Instant::now() + 10 * SECOND;
            while !driver.session.device().config_changed().expect("the channel") {
                assert!(Instant::now() < end);
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
    Ok(())
}

#[test]
fn that_a_peer_goes_is_seen_without_a_driver() -> Result<(), Error> {
    let net = Net::new()?;
    let path = net.folder().join("peer.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let net = net.arg("--stream").arg(path.display().to_string()).start()?;
    let (peer, _) = listener.accept().unwrap();
    await_link(&net, true)?;
    drop((listener, peer));
    await_link(&net, false)?;
    fs::remove_file(&path).unwrap();
    let _listener = UnixListener::bind(&path).unwrap();
    await_link(&net, true)
}

#[test]
fn a_stream_goes_on_in_the_middle_of_a_frame_with_the_next_driver() -> Result<(), Error> {
    let net = Net::new()?;
    let path = net.folder().join("peer.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let net = net.arg("--stream").arg(path.display().to_string()).start()?;
    let (mut peer, _) = listener.accept().unwrap();
    let whole = frame(3000);
    let bytes = [&3000u32.to_be_bytes()[..], &whole].concat();
    for cut in [2, 4, 1000] {
        let mut driver = NetDriver::connect(&net.socket(), NetOptions::default())?;
        write_frame(&mut peer, &frame(100));
        peer.write_all(&bytes[..cut]).unwrap();
        assert!(driver.pair().receive(20 * SECOND)?.expect("a frame").1 == frame(100));
        drop(driver);
        let mut driver = NetDriver::connect(&net.socket(), NetOptions::default())?;
        peer.write_all(&bytes[cut..]).unwrap();
        assert!(driver.pair().receive(20 * SECOND)?.expect("a frame").1 == whole, "{cut}");
    }
    Ok(())
}

#[test]
fn a_peer_that_does_not_read_keeps_the_guest_waiting_but_not_the_process() -> Result<(), Error> {
    let net = Net::new()?;
    let path = net.folder().join("peer.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let net = net.arg("--stream").arg(path.display().to_string()).start()?;
    let mut driver = NetDriver::connect(&net.socket(), NetOptions::default())?;
    let (mut peer, _) = listener.accept().unwrap();
    for number in 0..64 {
        driver.pair().send(NOTHING, &frame(60000 + number))?;
    }
    // The other way goes on.
    write_frame(&mut peer, &frame(100));
    assert!(driver.pair().receive(20 * SECOND)?.expect("a frame").1 == frame(100));
    assert!(driver.pair().transmit.ring.under_way() > 0, "the stream is full");
    for number in 0..64 {
        assert!(read_frame(&mut peer) == frame(60000 + number), "{number}");
    }
    driver.pair().flush()?;
    driver.pair().send(NOTHING, &frame(70))?;
    assert!(read_frame(&mut peer) == frame(70));
    Ok(())
}

#[test]
fn a_datagram_is_a_frame() -> Result<(), Error> {
    let net = Net::new()?;
    let path = net.folder().join("peer.sock");
    let peer = UnixDatagram::bind(&path).unwrap();
    let net = net.arg("--datagram").arg(path.display().to_string()).start()?;
    let mut driver = NetDriver::connect(&net.socket(), NetOptions::default())?;
    let mut bytes = vec![0; 70000];
    let (count, address) = peer.recv_from(&mut bytes).unwrap();
    assert_eq!(&bytes[..count], b"VFKT");
    let own = address.as_pathname().expect("a name to answer to").to_owned();
    for size in [60, 1514, 9014, 65000] {
        driver.pair().send(NOTHING, &frame(size))?;
        let count = peer.recv(&mut bytes).unwrap();
        assert!(bytes[..count] == frame(size), "{size}");
        peer.send_to(&frame(size), &own).unwrap();
        assert!(driver.pair().receive(20 * SECOND)?.expect("a frame").1 == frame(size), "{size}");
    }
    // It is no matter of the peer's that the process is killed.
    net.kill_serving()?;
    driver.reconnect()?;
    driver.pair().send(NOTHING, &frame(77))?;
    let count = peer.recv(&mut bytes).unwrap();
    assert!(bytes[..count] == frame(77));
    // More than there is room for at once.
    let sender = std::thread::spawn(move || {
        (0..64).all(|number| {
            let count = peer.recv(&mut bytes).unwrap();
            bytes[..count] == noise(number).take(30000).collect::<Vec<_>>()
        })
    });
    for number in 0..64 {
        driver.pair().send(NOTHING, &noise(number).take(30000).collect::<Vec<_>>())?;
    }
    assert!(sender.join().unwrap());
    Ok(())
}

/// Sends what is too short for an Ethernet header between a frame and another, both ways.
fn short_ones_are_dropped(
    net: &Net,
    mut to_guest: impl FnMut(&[u8]),
    mut from_guest: impl FnMut() -> Vec<u8>,
) -> Result<(), Error> {
    let mut driver = NetDriver::connect(&net.socket(), NetOptions::default())?;
    let all = [&frame(60)[..], &[], &[0xff; 13], &frame(14)];
    for bytes in all {
        to_guest(bytes);
        driver.pair().send(NOTHING, bytes)?;
    }
    for whole in [frame(60), frame(14)] {
        assert_eq!(driver.pair().receive(20 * SECOND)?.expect("a frame").1, whole);
        assert_eq!(from_guest(), whole);
    }
    assert_eq!(dropped(net, "receive", "malformed")?, 2);
    assert_eq!(dropped(net, "transmit", "malformed")?, 2);
    Ok(())
}

#[test]
fn what_is_too_short_for_a_frame_is_dropped_and_counted() -> Result<(), Error> {
    let net = Net::new()?;
    let path = net.folder().join("stream.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let net = net.arg("--stream").arg(path.display().to_string()).start()?;
    let (mut peer, _) = listener.accept().unwrap();
    let mut other = peer.try_clone().unwrap();
    short_ones_are_dropped(&net, |bytes| write_frame(&mut other, bytes), || read_frame(&mut peer))?;

    let net = Net::new()?;
    let path = net.folder().join("datagram.sock");
    let peer = UnixDatagram::bind(&path).unwrap();
    let net = net.arg("--datagram").arg(path.display().to_string()).start()?;
    let mut bytes = vec![0; 2000];
    let (_, address) = peer.recv_from(&mut bytes).unwrap();
    let own = address.as_pathname().expect("a name to answer to");
    short_ones_are_dropped(
        &net,
        |bytes| assert_eq!(peer.send_to(bytes, own).unwrap(), bytes.len()),
        || {
            let count = peer.recv(&mut bytes).unwrap();
            bytes[..count].to_vec()
        },
    )
}

#[test]
fn an_interface_is_had_by_one_process() -> Result<(), Error> {
    let network = Namespace::new()?;
    network.ip("tuntap add dev made mode tap multi_queue")?;
    for interface in ["made", "tap0"] {
        let card = || -> Result<Net, Error> {
            Ok(Net::new()?.arg("--tap").arg(interface).arg("--queues").arg("4"))
        };
        let first = card()?.start_in(&network)?;
        let second = card()?;
        let mut command = second.command()?;
        network.confine(&mut command)?;
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("another process uses it"), "{said}");
        drop(first);
        card()?.start_in(&network)?;
    }
    Ok(())
}

#[test]
fn what_cannot_be_had_is_told_in_one_sentence() -> Result<(), Error> {
    let network = Namespace::new()?;
    for (arguments, sentence) in [
        ("--tap lo", "--tap lo: it is no TAP or macvtap interface"),
        (
            "--tap much-too-long-a-name",
            "--tap much-too-long-a-name: an interface's name has 1 to 15",
        ),
        ("--tap a:b", "--tap a:b: an interface's name has 1 to 15"),
        ("--tap-fd 77", "--tap-fd 77: no open TAP or macvtap interface"),
        ("--tap-fd 7,7", "--tap-fd 7: it is there twice"),
        ("--tap-fd -1", "--tap-fd -1: no open TAP or macvtap interface"),
        ("--tap-fd 0", "--tap-fd 0: no open TAP or macvtap interface"),
        ("--stream /nowhere/sock", "--stream /nowhere/sock: nobody can be reached there"),
        ("--stream host:65536", "65536 is no port: those are 1 to 65535"),
        ("--datagram /nowhere/sock", "--datagram /nowhere/sock: nobody can be reached there"),
        ("--stream 127.0.0.1:1 --queues 2", "--queues 2: a stream has one pair of queues"),
        ("--tap t --queues -1", "'-1' for '--queues <N>': -1 is not in 1..=64"),
        ("--tap t --mtu -1", "'-1' for '--mtu <BYTES>': -1 is not in 68..=65535"),
        ("--tap t --speed -1", "'-1' for '--speed <N>': -1 is not in 0..=2147483647"),
        ("--user --features tso=off", "error: there is no feature tso"),
        ("--tap t --mac 1:2:3", "write it as six bytes"),
        ("", "required arguments were not provided"),
    ] {
        let net = arguments.split_whitespace().fold(Net::new()?, Net::arg);
        let mut command = net.command()?;
        network.confine(&mut command)?;
        let output = command.env("PATH", "/nowhere").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.lines().count() == 1, "{arguments}: {said}");
        let sentence = sentence.trim_start_matches("error: ");
        assert!(said.contains(sentence), "{arguments}: {said}");
    }
    let net = Net::switch(1)?;
    let path = net.port(0).display().to_string();
    let output = net.arg("--switch").arg(&path).command()?.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&format!("--switch {path}: this path is given twice")), "{said}");
    let net = Net::new()?.arg("--user");
    let output = net.command()?.env("PATH", "/nowhere").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("--user: passt is not installed"), "{said}");
    Ok(())
}
