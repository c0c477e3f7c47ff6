//! Both sides of channels come, go, are silent, and hostile. The tests are vhost-usb here.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use lab::{Error, Process, serving, spawn_listening};
use vhost_usb::device::Device;
use vhost_usb::device::remote::Remote;
use vhost_usb::redirect::packet::{Capabilities, Command};
use vhost_usb::redirect::session::Session;
use vhost_usb::usb::Answer;
use vhost_usb::usb::data::Buffer;
use vhost_usb::usb::setup::Setup;

use crate::common::{Bench, soon, used};

const SECOND: Duration = Duration::from_secs(1);

/// vhost-usb's side of a channel.
struct Peer {
    stream: UnixStream,
    device: Remote<Session>,
}

impl Peer {
    fn new(stream: UnixStream) -> Self {
        stream.set_nonblocking(true).unwrap();
        let mut device = Remote::new(Session::new(None));
        device.backend().greet();
        Self { stream, device }
    }

    /// The next one that connects.
    fn accept(listener: &UnixListener) -> Self {
        listener.set_nonblocking(true).unwrap();
        let mut found = None;
        assert!(soon(|| {
            found = listener.accept().ok();
            found.is_some()
        }));
        Self::new(found.unwrap().0)
    }

    /// Reads and answers what there is; `false`: the connection has ended.
    fn turn(&mut self) -> bool {
        let output = std::mem::take(self.device.backend().output());
        let sent = self.stream.write_all(&output);
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => false,
            Ok(count) => {
                self.device.backend().take_input(&bytes[..count]).unwrap();
                true
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock && sent.is_ok(),
        }
    }

    /// A device is redirected to it.
    fn has_device(&mut self) -> bool {
        soon(|| {
            assert!(self.turn(), "the connection has ended");
            self.device.is_present()
        })
    }

    fn has_ended(&mut self) -> bool {
        soon(|| !self.turn())
    }
}

/// For the device's own descriptor.
fn get_descriptor() -> Setup {
    Setup::parse([0x80, 6, 0, 1, 0, 0, 18, 0])
}

/// Sends these bytes again and again, at most so many, until they are not taken any more. How many they were.
fn flood(stream: &mut UnixStream, bytes: &[u8], most: usize) -> usize {
    let (mut sent, mut last) = (0, Instant::now());
    while last.elapsed() < SECOND && sent < most {
        match stream.write(&bytes[sent % bytes.len()..]) {
            Ok(count) => (sent, last) = (sent + count, Instant::now()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(error) => panic!("{error}"),
        }
    }
    sent
}

fn listener(bench: &Bench, name: &str) -> (UnixListener, String) {
    let path = bench.path(name);
    (UnixListener::bind(&path).unwrap(), format!("unix:{}", path.display()))
}

/// Waits for a socket of the program's.
fn connected(path: &Path) -> UnixStream {
    let mut found = None;
    assert!(soon(|| {
        found = UnixStream::connect(path).ok();
        found.is_some()
    }));
    found.unwrap()
}

/// It sleeps while nobody has anything to say.
fn is_idle(server: &Process) -> bool {
    let process = serving(server.id()).unwrap();
    // What is going on may go on a little longer.
    soon(|| {
        let before = used(process);
        thread::sleep(SECOND);
        used(process) - before <= 2
    })
}

#[test]
fn each_side_may_go_and_come_back_and_the_other_channel_stays() -> Result<(), Error> {
    let bench = Bench::new()?;
    let (listener, way) = listener(&bench, "0");
    let other = bench.path("1");
    let server = bench.start(&[], &[way, format!("unix:{},server", other.display())])?;
    let (one, two) = (bench.blank("1.iso"), bench.blank("2.iso"));
    let mut client = bench.client(&[], &[&one, &two]);
    let mut first = Peer::accept(&listener);
    let mut second = Peer::new(connected(&other));
    assert!(first.has_device() && second.has_device());

    // vhost-usb is started again: the client hears of a new channel, and redirects its CD there.
    drop(first);
    let mut first = Peer::accept(&listener);
    assert!(first.has_device());
    assert!(second.turn());
    // So is a client.
    client.kill().unwrap();
    assert!(first.has_ended() && second.has_ended());
    let _client = bench.client(&[], &[&one, &two]);
    let mut first = Peer::accept(&listener);
    let mut second = Peer::new(connected(&other));
    assert!(first.has_device() && second.has_device());
    assert!(is_idle(&server));
    Ok(())
}

#[test]
fn a_process_that_was_killed_is_followed_by_one_that_serves() -> Result<(), Error> {
    let bench = Bench::new()?;
    let (listener, way) = listener(&bench, "0");
    let mut server = bench.start(&[], &[way])?;
    let cd = bench.blank("cd.iso");
    let _client = bench.client(&[], &[&cd]);
    let mut peer = Peer::accept(&listener);
    assert!(peer.has_device());
    let before = serving(server.id()).unwrap();
    // SAFETY: it takes two integers.
    assert_eq!(unsafe { libc::kill(before.cast_signed(), libc::SIGKILL) }, 0);
    assert!(peer.has_ended());
    let _client = bench.client(&[], &[&cd]);
    let mut peer = Peer::accept(&listener);
    assert!(peer.has_device());
    assert_ne!(serving(server.id()), Some(before));

    server.signal(libc::SIGTERM).unwrap();
    let status = server.wait_within(10 * SECOND).unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(peer.has_ended() && !bench.path("spice").exists());
    Ok(())
}

#[test]
fn a_vhost_usb_that_was_killed_is_joined_again() -> Result<(), Error> {
    let bench = Bench::new()?;
    let (log, way) = (bench.path("log"), format!("unix:{}", bench.path("redirect").display()));
    let mut usb = std::process::Command::new(lab::program("vhost-usb")?);
    usb.arg("--vfio-user").arg(bench.folder.path()).arg("--redirect").arg(format!("{way},server"));
    usb.env("RUST_LOG", "info").stderr(fs::File::create(&log).unwrap());
    let usb = spawn_listening(usb, &bench.path("7.sock"))?;
    let joined = || fs::read_to_string(&log).unwrap().matches("a host is connected").count();
    let _server = bench.start(&[], &[way])?;
    let cd = bench.blank("cd.iso");
    let _client = bench.client(&[], &[&cd]);
    for times in 1..4 {
        assert!(soon(|| joined() == times), "{times}");
        let process = serving(usb.id()).unwrap();
        // SAFETY: it takes two integers.
        assert_eq!(unsafe { libc::kill(process.cast_signed(), libc::SIGKILL) }, 0);
    }
    Ok(())
}

#[test]
fn a_client_that_takes_nothing_is_waited_for() -> Result<(), Error> {
    let bench = Bench::new()?;
    let (listener, way) = listener(&bench, "0");
    let server = bench.start(&[], &[way])?;
    let cd = bench.blank("cd.iso");
    let mut client = bench.client(&[], &[&cd]);
    let mut peer = Peer::accept(&listener);
    assert!(peer.has_device());

    client.signal(libc::SIGSTOP).unwrap();
    let mut cancel = Vec::new();
    let capabilities = Capabilities::IDS_64_BITS;
    (0..1024).for_each(|id| Command::Cancel.write(id, capabilities, &mut cancel));
    let sent = flood(&mut peer.stream, &cancel, 64 << 20);
    assert!(sent < 64 << 20, "it takes all");
    assert!(is_idle(&server));
    // Once it takes them, all come, in their order: anything else would end the connection.
    client.signal(libc::SIGCONT).unwrap();
    peer.stream.set_nonblocking(false).unwrap();
    peer.stream.write_all(&cancel[sent % cancel.len()..]).unwrap();
    peer.stream.set_nonblocking(true).unwrap();
    assert_eq!(peer.device.setup(0, get_descriptor()), Answer::moved(8));
    let mut descriptor = Buffer::new(18);
    assert!(soon(|| {
        assert!(peer.turn());
        peer.device.turn();
        peer.device.data_in(0, &mut descriptor) == Answer::moved(18)
    }));
    assert_eq!(descriptor.data()[..2], [18, 1]);
    assert!(is_idle(&server));
    Ok(())
}

#[test]
fn what_a_client_has_said_last_does_not_reach_the_next_ones_vhost_usb() -> Result<(), Error> {
    let bench = Bench::new()?;
    let (listener, way) = listener(&bench, "0");
    let server = bench.start(&[], &[way])?;
    let cd = bench.blank("cd.iso");
    let mut client = bench.client(&[], &[&cd]);
    let mut peer = Peer::accept(&listener);
    assert!(peer.has_device());
    // Its answers are not taken: they wait here, in the library, and there.
    let mut requests = Vec::new();
    let capabilities = Capabilities::IDS_64_BITS;
    (0..4096).for_each(|id| {
        Command::Control(get_descriptor(), &[]).write(id, capabilities, &mut requests);
    });
    flood(&mut peer.stream, &requests, requests.len());
    assert!(is_idle(&server));
    let process = serving(server.id());
    client.kill().unwrap();
    let _client = bench.client(&[], &[&cd]);
    assert!(Peer::accept(&listener).has_device());
    assert_eq!(serving(server.id()), process, "it has not died");
    Ok(())
}

#[test]
fn who_is_silent_or_talks_nonsense_keeps_nobody_out() -> Result<(), Error> {
    let bench = Bench::new()?;
    let (listener, way) = listener(&bench, "0");
    let _server = bench.start(&[], &[way])?;
    let connect = || UnixStream::connect(bench.path("spice")).unwrap();
    let silent: Vec<UnixStream> = (0..100).map(|_| connect()).collect();
    let nonsense: Vec<UnixStream> = (0..20_u8)
        .map(|seed| {
            let mut stream = connect();
            let bytes: Vec<u8> = (0..200).map(|n: u8| n.wrapping_mul(seed)).collect();
            let magic = if seed % 2 == 0 { &b"REDQ\x02\0\0\0\x02\0\0\0"[..] } else { b"" };
            // It may have been sent away already.
            let _ = stream.write_all(&[magic, &bytes].concat());
            stream
        })
        .collect();
    let cd = bench.blank("cd.iso");
    let _client = bench.client(&[], &[&cd]);
    assert!(Peer::accept(&listener).has_device());
    // Those that were too many went at once, the last one after ten seconds.
    for stream in [&silent[0], &silent[99]] {
        let mut stream = stream;
        stream.set_read_timeout(Some(60 * SECOND)).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
    drop(nonsense);
    Ok(())
}

#[test]
fn a_password_is_asked_for() -> Result<(), Error> {
    let bench = Bench::new()?;
    let (listener, way) = listener(&bench, "0");
    let password = bench.path("password");
    fs::write(&password, "open sesame\nand more\n").unwrap();
    let mut command = bench.command(&["--channel", &way])?;
    command.arg("--password-file").arg(&password);
    let _server = spawn_listening(command, &bench.path("spice"))?;
    let cd = bench.blank("cd.iso");
    let wrong = bench.client(&["--password=open barley"], &[&cd]);
    thread::sleep(3 * SECOND);
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err());
    drop(wrong);
    let _client = bench.client(&["--password=open sesame"], &[&cd]);
    assert!(Peer::accept(&listener).has_device());
    Ok(())
}

#[test]
fn what_is_wrong_is_said_in_a_sentence() -> Result<(), Error> {
    let bench = Bench::new()?;
    let long = bench.path("long");
    fs::write(&long, "x".repeat(61)).unwrap();
    let long = long.display().to_string();
    let way = ["--disable-ticketing", "--channel"];
    for (arguments, sentence) in [
        (
            &[way[0], way[1], "unix:/x,filter=1"][..],
            "--channel unix:/x,filter=1: filter=1 is unknown to it; there is server",
        ),
        (
            &["--channel", "unix:/x", "--password-file", &long],
            &format!(
                "--password-file {long}: its first line must be a password of at most 60 bytes"
            ),
        ),
        (
            &["--channel", "unix:/x", "--password-file", "/nowhere"],
            "--password-file /nowhere: No such file or directory (os error 2)",
        ),
        (
            &[way[0], way[1], "unix:/x", "--port", "1", "--addr", "192.0.2.1"],
            "--port 1 of --addr 192.0.2.1: cannot listen there: Cannot assign requested address \
             (os error 99)",
        ),
    ] {
        let output = bench.command(arguments)?.stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(said, format!("vhost-usb-spice: {sentence}\n"));
    }
    Ok(())
}
