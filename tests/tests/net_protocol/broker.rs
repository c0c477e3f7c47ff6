//! What becomes of the process that opens the host's side, and of what it started.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use lab::driver::{NetDriver, NetOptions};
use lab::net::{Header, Namespace, Net, Packets};
use lab::{Error, children, spawn, spawn_listening};

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

/// Whether there is a process of this number.
fn is_alive(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
}

/// Waits until something is so.
#[track_caller]
fn await_that(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + 5 * SECOND;
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(SECOND / 100);
    }
}

/// Gives a program a passt which listens nowhere, and says in the file `passt.pid` who it is.
fn with_passt(net: &Net, command: &mut Command) {
    let program = net.folder().join("passt");
    let text = "#!/bin/sh\necho $$ > \"${0%/*}/new.pid\"\nmv \"${0%/*}/new.pid\" \"$0.pid\"\nexec sleep 1000\n";
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(net.folder().join("run")).unwrap();
    let path = format!("{}:{}", net.folder().display(), std::env::var("PATH").unwrap());
    command.env("PATH", path).env("XDG_RUNTIME_DIR", net.folder().join("run"));
}

fn passt(net: &Net) -> u32 {
    let file = net.folder().join("passt.pid");
    await_that("passt is started", || file.exists());
    fs::read_to_string(file).unwrap().trim().parse().unwrap()
}

/// Nothing is left in the folder for what belongs to the program's run.
fn is_clean(net: &Net) -> bool {
    fs::read_dir(net.folder().join("run")).unwrap().next().is_none()
}

#[test]
fn a_passt_that_does_not_listen_ends_with_the_program() -> Result<(), Error> {
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        let net = Net::new()?.arg("--user");
        let mut command = net.command()?;
        with_passt(&net, &mut command);
        let mut process = spawn(command).unwrap();
        let passt = passt(&net);
        process.signal(signal).unwrap();
        process.wait().unwrap();
        await_that("passt ends", || !is_alive(passt));
        await_that("its folder goes", || is_clean(&net));
    }
    Ok(())
}

#[test]
fn nothing_is_started_that_would_be_of_no_use() -> Result<(), Error> {
    for (arguments, sentence) in [
        ("--user --socket-path SOCKET --queues 2", "--queues 2: a stream has one pair"),
        ("--user --socket-path /nowhere/sock", "--socket-path /nowhere/sock: there is no folder"),
        ("--user --socket-path SOCKET --control /nowhere/sock", "--control /nowhere/sock: there"),
    ] {
        let net = Net::new()?;
        let mut command = Command::new(lab::program("vhost-net")?);
        with_passt(&net, &mut command);
        let words = arguments.replace("SOCKET", &net.socket().display().to_string());
        let output = command.args(words.split_whitespace()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(sentence) && said.lines().count() == 1, "{arguments}: {said}");
        assert!(!net.folder().join("passt.pid").exists() && is_clean(&net), "{arguments}");
    }
    Ok(())
}

#[test]
fn a_peer_of_another_kind_gets_nothing_beside_its_socket() -> Result<(), Error> {
    let net = Net::new()?;
    let folder = net.folder().join("peer");
    fs::create_dir(&folder).unwrap();
    let _listener = UnixListener::bind(folder.join("stream")).unwrap();
    let net = net.arg("--datagram").arg(folder.join("stream").display().to_string());
    let output = net.command()?.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("nobody can be reached there"), "{said}");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    Ok(())
}

/// A listener to which nobody more can connect until it accepts somebody, and who waits there.
fn full_listener(path: &Path) -> (UnixListener, UnixStream) {
    let listener = UnixListener::bind(path).unwrap();
    // SAFETY: listen(2) takes two integers.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    (listener, UnixStream::connect(path).unwrap())
}

#[test]
fn a_peer_that_accepts_nobody_does_not_keep_the_program_from_ending() -> Result<(), Error> {
    for is_served in [false, true] {
        let net = Net::new()?;
        let path = net.folder().join("peer.sock");
        let (listener, mut waiting) = full_listener(&path);
        let net = net.arg("--stream").arg(path.display().to_string());
        let mut process = if is_served {
            drop(listener.accept().unwrap());
            let process = spawn_listening(net.command()?, &net.socket())?;
            let (peer, _) = listener.accept().unwrap();
            waiting = UnixStream::connect(&path).unwrap();
            drop(peer);
            let _driver = NetDriver::connect(&net.socket(), NetOptions::default())?;
            await_link(&net, false)?;
            process
        } else {
            spawn(net.command()?).unwrap()
        };
        std::thread::sleep(SECOND); // it tries
        let all = children(process.id());
        process.signal(libc::SIGTERM).unwrap();
        assert!(process.wait_within(3 * SECOND).unwrap().is_some(), "{is_served}");
        await_that("all end", || all.iter().all(|(child, _)| !is_alive(*child)));
        drop(waiting);
    }
    Ok(())
}
