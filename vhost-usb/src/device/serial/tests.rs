use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use vhost_runtime::pty;

use super::*;
use crate::channel::connector::Connector;
use crate::channel::place::Place;
use crate::device::Device;
use crate::device::emulated::Emulated;
use crate::device::host::{Asked, ask, configure, is_ready, read, setup, write};
use crate::usb::data::Buffer;
use crate::usb::setup::request;

fn serial(peer: Peer) -> Emulated<Serial> {
    let mut serial = Emulated::new(Serial::new(Speed::High, peer).unwrap(), Speed::High);
    configure(&mut serial, 1);
    serial
}

/// A port, and the far end of its host's side.
fn connected() -> (Emulated<Serial>, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    (serial(Peer::stream(near.into()).unwrap()), far)
}

/// As the guest opens the port, or closes it.
fn set_ready(serial: &mut dyn Device, ready: bool) {
    let control = setup(0x21, SET_CONTROL_LINE_STATE, ready.into(), 0, 0);
    assert_eq!(write(serial, control, &[]), Ok(()));
}

/// Gives it its turns until something is so; then it has nothing left to do.
fn until(serial: &mut Emulated<Serial>, mut so: impl FnMut(&mut Emulated<Serial>) -> bool) {
    let begin = Instant::now();
    while !so(serial) {
        assert!(begin.elapsed() < Duration::from_secs(60));
        if is_ready(serial) {
            serial.turn();
        } else {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    serial.turn();
    assert!(!is_ready(serial));
}

/// Waits for that to be the line's state.
fn told(serial: &mut Emulated<Serial>, state: u8) {
    until(serial, |serial| notification(serial) == Some(state));
}

/// What the guest reads, with room for that many bytes.
fn receive(serial: &mut dyn Device, room: usize) -> Option<Vec<u8>> {
    let mut buffer = Buffer::new(room);
    match serial.data_in(BULK, &mut buffer) {
        Answer::Moved { .. } => Some(buffer.data().to_vec()),
        Answer::Nak => None,
        other => panic!("{other:?}"),
    }
}

/// The line's state that the guest is told of.
fn notification(serial: &mut dyn Device) -> Option<u8> {
    let mut buffer = Buffer::new(16);
    match serial.data_in(NOTIFICATIONS, &mut buffer) {
        Answer::Moved { bytes: 10, short: true } => {
            assert_eq!(buffer.data()[..8], [0xa1, 0x20, 0, 0, 0, 0, 2, 0]);
            Some(buffer.data()[8])
        }
        Answer::Nak => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn bytes_go_both_ways() {
    let (mut serial, mut far) = connected();
    assert_eq!(receive(&mut serial, 512), None);
    assert!(!is_ready(&serial));
    far.write_all(b"login: ").unwrap();
    assert!(is_ready(&serial));
    serial.turn();
    assert!(!is_ready(&serial), "it is read already");
    let mut buffer = Buffer::new(512);
    assert_eq!(serial.data_in(BULK, &mut buffer), Answer::Moved { bytes: 7, short: true });
    assert_eq!(buffer.data(), b"login: ");
    assert_eq!(serial.data_out(BULK, &&b"root\n"[..]), Answer::moved(5));
    let mut bytes = [0; 5];
    far.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"root\n");
}

#[test]
fn a_transfer_that_ends_with_a_full_packet_is_ended_by_an_empty_one() {
    let (mut serial, mut far) = connected();
    far.write_all(&[7; 512]).unwrap();
    let mut buffer = Buffer::new(512);
    assert_eq!(serial.data_in(BULK, &mut buffer), Answer::moved(512));
    assert_eq!(receive(&mut serial, 512).unwrap(), b"");
    assert_eq!(receive(&mut serial, 512), None);
}

#[test]
fn a_guest_that_sends_more_than_is_read_waits() {
    let (mut serial, mut far) = connected();
    let data = vec![b'x'; 1 << 20];
    let mut sent = 0;
    while let Answer::Moved { bytes, .. } = serial.data_out(BULK, &&data[..]) {
        sent += bytes;
        assert!(sent < 100 << 20, "it has bounds");
    }
    assert!(!is_ready(&serial));
    let mut got = vec![0; 1 << 20];
    let mut taken = far.read(&mut got).unwrap();
    while !is_ready(&serial) {
        taken += far.read(&mut got).unwrap();
    }
    serial.turn();
    assert!(matches!(serial.data_out(BULK, &&data[..]), Answer::Moved { bytes, .. } if bytes > 0));
    assert!(taken > 0);
}

#[test]
fn a_host_that_sends_more_than_is_read_waits() {
    let (mut serial, mut far) = connected();
    far.set_nonblocking(true).unwrap();
    assert_eq!(receive(&mut serial, 10), None);
    while far.write(&[1; 4096]).is_ok() {
        serial.turn();
        assert!(!is_ready(&serial), "what is there was read, as far as it may");
    }
    assert!(receive(&mut serial, 1 << 20).unwrap().len() > 16 << 10);
}

#[test]
fn the_carrier_drops_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("serial");
    let connector = Connector::new(Place::Unix(path.clone()), true).unwrap();
    let mut serial = serial(Peer::Socket(connector));
    told(&mut serial, 0);
    assert_eq!(serial.data_out(BULK, &&b"lost"[..]), Answer::moved(4));
    let mut far = UnixStream::connect(&path).unwrap();
    told(&mut serial, 3);
    // One at a time.
    let mut next = UnixStream::connect(&path).unwrap();
    far.write_all(b"bye").unwrap();
    drop(far);
    assert!(is_ready(&serial));
    serial.turn();
    assert!(!is_ready(&serial));
    assert_eq!(notification(&mut serial), None, "not before all is read");
    assert_eq!(receive(&mut serial, 512).unwrap(), b"bye");
    assert!(is_ready(&serial), "the guest is to be told");
    serial.turn();
    assert_eq!(notification(&mut serial), Some(0));
    assert_eq!(receive(&mut serial, 512), None);
    assert_eq!(serial.data_out(BULK, &&b"lost"[..]), Answer::moved(4));
    told(&mut serial, 3);
    assert_eq!(serial.data_out(BULK, &&b"back"[..]), Answer::moved(4));
    let mut bytes = [0; 4];
    next.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"back");
}

#[test]
fn a_peer_is_looked_for_until_it_is_there_and_when_it_has_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("serial");
    let connector = Connector::new(Place::Unix(path.clone()), false).unwrap();
    let mut serial = serial(Peer::Socket(connector));
    told(&mut serial, 0);
    assert!(!is_ready(&serial), "not at once again");
    let listener = UnixListener::bind(&path).unwrap();
    for _ in 0..2 {
        told(&mut serial, 3);
        let (mut far, _) = listener.accept().unwrap();
        far.write_all(b"here").unwrap();
        until(&mut serial, |serial| receive(serial, 512).is_some_and(|bytes| bytes == b"here"));
        drop(far);
        told(&mut serial, 0);
    }
}

/// A port on a pseudo-terminal, and what opens its other end.
fn terminal() -> (Emulated<Serial>, impl Fn() -> File) {
    let (master, name) = pty::new().unwrap();
    let open = move || open(&name);
    (serial(Peer::terminal(master).unwrap()), open)
}

fn open(name: &Path) -> File {
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    rustix::fs::open(name, flags, rustix::fs::Mode::empty()).map(OwnedFd::into).unwrap()
}

#[test]
fn a_terminal_is_a_line_while_somebody_has_it_open() {
    let (mut serial, open) = terminal();
    set_ready(&mut serial, true);
    assert_eq!(notification(&mut serial), Some(0));
    for _ in 0..2 {
        assert_eq!(serial.data_out(BULK, &&[b'x'; 100_000][..]), Answer::moved(100_000));
        assert_eq!(receive(&mut serial, 512), None);
        let mut terminal = open();
        told(&mut serial, 3);
        terminal.write_all(b"hello\r\x03").unwrap();
        until(&mut serial, |serial| {
            receive(serial, 512).is_some_and(|bytes| bytes == b"hello\r\x03")
        });
        assert_eq!(
            serial.data_out(
                BULK,
                &&b"world
"[..]
            ),
            Answer::moved(6)
        );
        let mut bytes = [0; 6];
        terminal.read_exact(&mut bytes).unwrap();
        assert_eq!(
            &bytes,
            b"world
"
        );
        drop(terminal);
        told(&mut serial, 0);
    }
}

#[test]
fn a_terminal_is_looked_at_only_while_the_guest_has_the_port_open() {
    let (mut serial, open) = terminal();
    told(&mut serial, 0);
    let terminal = open();
    std::thread::sleep(Duration::from_millis(1100));
    assert!(!is_ready(&serial));
    set_ready(&mut serial, true);
    assert_eq!(notification(&mut serial), Some(3));
    drop(terminal);
    told(&mut serial, 0);
    set_ready(&mut serial, false);
    std::thread::sleep(Duration::from_millis(1100));
    assert!(!is_ready(&serial));
    // Who does not say that the port is open is seen when it sends something.
    let mut terminal = open();
    assert_eq!(serial.data_out(BULK, &&b"word"[..]), Answer::moved(4));
    let mut bytes = [0; 4];
    terminal.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"word");
}

#[test]
fn what_somebody_wrote_to_a_terminal_and_went_is_read() {
    let (mut serial, open) = terminal();
    open()
        .write_all(
            b"reset
",
        )
        .unwrap();
    set_ready(&mut serial, true);
    until(&mut serial, |serial| {
        receive(serial, 512).is_some_and(|bytes| {
            bytes
                == b"reset
"
        })
    });
    assert_eq!(notification(&mut serial), Some(0));
    assert_eq!(receive(&mut serial, 512), None);
}

#[test]
fn a_guest_that_writes_when_nobody_is_there_sees_no_error() {
    let (mut serial, far) = connected();
    drop(far);
    for _ in 0..3 {
        assert_eq!(serial.data_out(BULK, &&b"hello"[..]), Answer::moved(5));
        serial.turn();
    }
    assert!(!is_ready(&serial));
}

#[test]
fn the_guest_sets_the_line() {
    let (mut serial, _far) = connected();
    let get = setup(0xa1, GET_LINE_CODING, 0, 0, 7);
    assert_eq!(read(&mut serial, get), Ok(vec![0x80, 0x25, 0, 0, 0, 0, 8]));
    let set = setup(0x21, SET_LINE_CODING, 0, 0, 0);
    assert_eq!(write(&mut serial, set, &[0, 0xc2, 1, 0, 2, 2, 7]), Ok(()));
    let coding = Coding { rate: 115_200, stop_bits: 2, parity: 2, data_bits: 7 };
    assert_eq!(serial.function().line().coding(), coding);
    assert_eq!(write(&mut serial, set, &[0, 0xc2, 1, 0, 2, 5, 7]), Err(Answer::Stall));
    assert_eq!(write(&mut serial, set, &[0, 0xc2, 1, 0, 2, 2]), Err(Answer::Stall));
    set_ready(&mut serial, true);
    let line = serial.function().line();
    assert_eq!((line.is_ready(), line.wants_to_send()), (true, false));
    assert_eq!(write(&mut serial, setup(0x21, SEND_BREAK, 250, 0, 0), &[]), Ok(()));
    let line = serial.function().line();
    assert_eq!((line.take_break(), line.take_break()), (Some(250), None));
    serial.reset();
    let line = serial.function().line();
    assert_eq!((line.coding(), line.is_ready()), (Coding::default(), false));
}

#[test]
fn bytes_wake_a_host_that_wants_it() {
    let (mut serial, mut far) = connected();
    write(&mut serial, setup(0, request::SET_FEATURE, 1, 0, 0), &[]).unwrap();
    assert_eq!((receive(&mut serial, 512), notification(&mut serial)), (None, Some(3)));
    serial.set_suspended(true);
    assert!(!serial.wakes());
    far.write_all(b"!").unwrap();
    serial.turn();
    assert!(serial.wakes());
}

#[test]
fn its_interfaces_are_a_unit() {
    let (mut serial, _far) = connected();
    let asked = setup(0x80, request::GET_DESCRIPTOR, 0x200, 0, 255);
    let configuration = read(&mut serial, asked).unwrap();
    assert_eq!(configuration[4], 2, "interfaces");
    assert_eq!(configuration[18..37], FUNCTIONAL);
    assert_eq!(configuration.len(), 9 + 9 + 19 + 7 + 9 + 7 + 7);
}

proptest::proptest! {
    /// Whatever a host asks for, in whatever order.
    #[test]
    fn any_request_is_answered(
        asked in proptest::collection::vec(proptest::prelude::any::<Asked>(), 0..40),
        data in proptest::collection::vec(0u8.., 0..2000),
    ) {
        let (mut serial, mut far) = connected();
        far.write_all(&data).unwrap();
        ask(&mut serial, &asked);
        drop(far);
        ask(&mut serial, &asked);
    }
}
