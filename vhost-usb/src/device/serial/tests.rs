use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::*;
use crate::device::Device;
use crate::device::emulated::Emulated;
use crate::device::host::{Asked, ask, configure, is_ready, read, setup, write};
use crate::usb::data::Buffer;
use crate::usb::setup::request;

/// A port, and the far end of its host's side.
fn connected() -> (Emulated<Serial>, Arc<Line>, UnixStream) {
    let serial = Serial::new(Speed::High).unwrap();
    let line = serial.line();
    let mut serial = Emulated::new(serial, Speed::High);
    configure(&mut serial, 1);
    let far = connect(&mut serial, &line);
    (serial, line, far)
}

fn connect(serial: &mut Emulated<Serial>, line: &Line) -> UnixStream {
    let (near, far) = UnixStream::pair().unwrap();
    line.connect(near.into()).unwrap();
    assert!(is_ready(serial));
    serial.turn();
    far
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
    let (mut serial, _, mut far) = connected();
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
    let (mut serial, _, mut far) = connected();
    far.write_all(&[7; 512]).unwrap();
    let mut buffer = Buffer::new(512);
    assert_eq!(serial.data_in(BULK, &mut buffer), Answer::moved(512));
    assert_eq!(receive(&mut serial, 512).unwrap(), b"");
    assert_eq!(receive(&mut serial, 512), None);
}

#[test]
fn a_guest_that_sends_more_than_is_read_waits() {
    let (mut serial, _, mut far) = connected();
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
    let (mut serial, _, mut far) = connected();
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
    let (mut serial, line, mut far) = connected();
    assert_eq!(notification(&mut serial), Some(3));
    assert_eq!(notification(&mut serial), None);
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
    let mut far = connect(&mut serial, &line);
    assert_eq!(notification(&mut serial), Some(3));
    assert_eq!(serial.data_out(BULK, &&b"back"[..]), Answer::moved(4));
    let mut bytes = [0; 4];
    far.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"back");
    line.disconnect();
    serial.turn();
    assert_eq!((notification(&mut serial), far.read(&mut bytes).unwrap()), (Some(0), 0));
}

/// A pseudo-terminal's master, and what opens its other end.
fn terminal() -> (OwnedFd, impl Fn() -> File) {
    let master = File::options().read(true).write(true).open("/dev/ptmx").unwrap();
    let unlocked: libc::c_int = 0;
    // SAFETY: the call reads the number, which outlives it.
    let result = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) };
    assert_eq!(result, 0);
    let again = master.try_clone().unwrap();
    let open = move || {
        let flags = libc::O_RDWR | libc::O_NOCTTY;
        // SAFETY: the call has no pointers.
        let fd = unsafe { libc::ioctl(again.as_raw_fd(), libc::TIOCGPTPEER, flags) };
        assert!(fd >= 0);
        // SAFETY: the kernel has just made it, for nobody else.
        unsafe { File::from_raw_fd(fd) }
    };
    (master.into(), open)
}

/// A terminal's bytes come a little later.
fn wait_until_ready(serial: &Emulated<Serial>) {
    let begin = Instant::now();
    while !is_ready(serial) {
        assert!(begin.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_terminal_is_there_until_who_had_it_open_closes_it() {
    let (mut serial, line, _far) = connected();
    let (master, open) = terminal();
    line.connect(master).unwrap();
    serial.turn();
    assert_eq!((notification(&mut serial), receive(&mut serial, 512)), (Some(3), None));
    assert!(!is_ready(&serial), "nobody has opened it yet");
    let mut terminal = open();
    terminal.write_all(b"hello").unwrap();
    wait_until_ready(&serial);
    serial.turn();
    assert_eq!(receive(&mut serial, 512).unwrap(), b"hello");
    assert_eq!(serial.data_out(BULK, &&b"world\n"[..]), Answer::moved(6));
    let mut bytes = [0; 6];
    terminal.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"world\n");
    drop(terminal);
    wait_until_ready(&serial);
    serial.turn();
    assert!(!is_ready(&serial));
    // What the terminal has echoed comes first.
    while receive(&mut serial, 512).is_some() {}
    serial.turn();
    assert_eq!(notification(&mut serial), Some(0));
}

#[test]
fn a_guest_that_writes_when_nobody_is_there_sees_no_error() {
    let (mut serial, _, far) = connected();
    drop(far);
    for _ in 0..3 {
        assert_eq!(serial.data_out(BULK, &&b"hello"[..]), Answer::moved(5));
        serial.turn();
    }
    assert!(!is_ready(&serial));
}

#[test]
fn the_guest_sets_the_line() {
    let (mut serial, line, _far) = connected();
    let get = setup(0xa1, GET_LINE_CODING, 0, 0, 7);
    assert_eq!(read(&mut serial, get), Ok(vec![0x80, 0x25, 0, 0, 0, 0, 8]));
    let set = setup(0x21, SET_LINE_CODING, 0, 0, 0);
    assert_eq!(write(&mut serial, set, &[0, 0xc2, 1, 0, 2, 2, 7]), Ok(()));
    let coding = Coding { rate: 115_200, stop_bits: 2, parity: 2, data_bits: 7 };
    assert_eq!(line.coding(), coding);
    assert_eq!(write(&mut serial, set, &[0, 0xc2, 1, 0, 2, 5, 7]), Err(Answer::Stall));
    assert_eq!(write(&mut serial, set, &[0, 0xc2, 1, 0, 2, 2]), Err(Answer::Stall));
    let control = |value| setup(0x21, SET_CONTROL_LINE_STATE, value, 0, 0);
    assert_eq!(write(&mut serial, control(1), &[]), Ok(()));
    assert_eq!((line.is_ready(), line.wants_to_send()), (true, false));
    assert_eq!(write(&mut serial, setup(0x21, SEND_BREAK, 250, 0, 0), &[]), Ok(()));
    assert_eq!((line.take_break(), line.take_break()), (Some(250), None));
    serial.reset();
    assert_eq!((line.coding(), line.is_ready()), (Coding::default(), false));
}

#[test]
fn bytes_wake_a_host_that_wants_it() {
    let (mut serial, _, mut far) = connected();
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
    let (mut serial, _, _far) = connected();
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
        let (mut serial, _, mut far) = connected();
        far.write_all(&data).unwrap();
        ask(&mut serial, &asked);
        drop(far);
        ask(&mut serial, &asked);
    }
}
