//! What becomes of the process that opens the host's side, and of what it started.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Instant;

use lab::driver::{NetDriver, NetOptions};
use lab::net::{Header, Namespace, Net, Packets};
use lab::{Error, children};

use super::common::{NOTHING, SECOND, await_link, frame, read_frame};

/// A program's broker.
fn broker(net: &mut Net) -> u32 {
    let program = net.process().expect("it runs").id();
    let end = Instant::now() + 20 * SECOND;
    loop {
        if let Some((broker, _)) =
            children(program).into_iter().find(|(_, name)| name == "net-broker")
        {
            return broker;
        }
        assert!(Instant::now() < end, "there is no broker");
        std::thread::sleep(SECOND / 100);
    }
}

/// Kills the broker, and waits for the one that takes its place.
fn kill_broker(net: &mut Net) {
    let old = broker(net);
    // SAFETY: kill(2) takes two integers; its parent starts another for one that dies, so that the number is of
    // this one or of none.
    assert_eq!(unsafe { libc::kill(old as libc::pid_t, libc::SIGKILL) }, 0);
    while Path::new(&format!("/proc/{old}")).exists() {
        std::thread::sleep(SECOND / 1000);
    }
    broker(net);
}

#[test]
fn an_interface_stays_when_the_broker_is_killed() -> Result<(), Error> {
    for queues in ["1", "4"] {
        let network = Namespace::new()?;
        let net = Net::new()?.arg("--tap").arg("tap0").arg("--queues").arg(queues);
        let mut net = net.start_in(&network)?;
        network.ip("link set tap0 up")?;
        let packets = Packets::open(&network, "tap0")?;
        let mut driver = NetDriver::connect(&net.socket(), NetOptions::default())?;
        for round in 0..5 {
            let serving = net.serving()?;
            kill_broker(&mut net);
            assert_eq!(net.serving()?, serving, "the guest is served all the while");
            if round > 2 {
                net.kill_serving()?;
                driver.reconnect()?;
            }
            packets.send(Header::default(), &frame(100 + round))?;
            assert!(driver.pair().receive(20 * SECOND)?.expect("a frame").1 == frame(100 + round));
            driver.pair().send(NOTHING, &frame(200 + round))?;
            assert!(packets.receive(20 * SECOND)?.expect("a frame").1 == frame(200 + round));
            driver.pair().flush()?;
        }
    }
    Ok(())
}

#[test]
fn an_interface_that_came_later_is_had_again_by_another_broker() -> Result<(), Error> {
    let network = Namespace::new()?;
    let mut net = Net::new()?.arg("--tap").arg("tap0").start_in(&network)?;
    let mut driver = NetDriver::connect(&net.socket(), NetOptions::default())?;
    network.ip("link del tap0")?;
    driver.pair().send(NOTHING, &frame(300))?;
    await_link(&net, false)?;
    // What the first broker was to do, the second one does.
    kill_broker(&mut net);
    network.ip("tuntap add dev tap0 mode tap multi_queue vnet_hdr")?;
    network.ip("link set tap0 up")?;
    await_link(&net, true)?;
    kill_broker(&mut net);
    net.kill_serving()?;
    driver.reconnect()?;
    await_link(&net, true)?;
    let packets = Packets::open(&network, "tap0")?;
    packets.send(Header::default(), &frame(100))?;
    assert!(driver.pair().receive(20 * SECOND)?.expect("a frame").1 == frame(100));
    Ok(())
}

#[test]
fn a_stream_is_connected_again_by_another_broker() -> Result<(), Error> {
    let net = Net::new()?;
    let path = net.folder().join("peer.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let mut net = net.arg("--stream").arg(path.display().to_string()).start()?;
    let mut driver = NetDriver::connect(&net.socket(), NetOptions::default())?;
    let (mut peer, _) = listener.accept().unwrap();
    kill_broker(&mut net);
    driver.pair().send(NOTHING, &frame(100))?;
    assert!(read_frame(&mut peer) == frame(100), "the stream goes on");
    drop(peer);
    let (mut peer, _) = listener.accept().unwrap();
    kill_broker(&mut net);
    net.kill_serving()?;
    driver.reconnect()?;
    let (mut next, _) = listener.accept().unwrap();
    await_link(&net, true)?;
    driver.pair().send(NOTHING, &frame(200))?;
    assert!(read_frame(&mut next) == frame(200));
    peer.set_read_timeout(Some(SECOND)).unwrap();
    assert_eq!(std::io::Read::read(&mut peer, &mut [0; 4]).unwrap(), 0, "it is closed");
    Ok(())
}
