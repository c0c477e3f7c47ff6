use super::*;
use crate::device::Device;
use crate::device::host::setup;
use crate::device::remote::Remote;
use crate::redirect::filter::Filter;
use crate::redirect::parse::ProtocolError;
use crate::redirect::session::Session;
use crate::usb::data::Buffer;
use crate::usb::setup::request;
use crate::usb::{Answer, Speed};

/// A session with a host that has said that, and all that it was sent since hello: types, ids, bodies.
fn session(filter: Option<&str>, bytes: &[u8]) -> Remote<Session> {
    let filter = filter.map(|text| Filter::parse(text).unwrap());
    let mut session = Session::new(filter);
    session.greet();
    assert_eq!(session.output().len(), 12 + 64 + 4);
    session.output().clear();
    session.take_input(bytes).unwrap();
    Remote::new(session)
}

fn sent(device: &mut Remote<Session>) -> Vec<(u32, u64, Vec<u8>)> {
    let mut bytes = std::mem::take(device.backend().output());
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let word = |at: usize| u32::from_le_bytes(bytes[at..][..4].try_into().unwrap());
        let (kind, length) = (word(0), word(4) as usize);
        let id = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
        all.push((kind, id, bytes[16..16 + length].to_vec()));
        bytes.drain(..16 + length);
    }
    all
}

fn tell(device: &mut Remote<Session>, kind: u32, id: u64, body: &[u8]) {
    device.backend().take_input(&said(kind, id, body)).unwrap();
}

fn read(device: &mut Remote<Session>, endpoint: u8, room: usize) -> (Answer, Vec<u8>) {
    let mut buffer = Buffer::new(room);
    let answer = device.data_in(endpoint, &mut buffer);
    (answer, buffer.data().to_vec())
}

#[test]
fn a_device_comes_and_goes() {
    let mut device = session(None, &stick());
    assert!(device.is_present() && device.backend().take_change());
    assert_eq!(device.speed(), Speed::High);
    tell(&mut device, kind::DEVICE_DISCONNECT, 0, &[]);
    assert!(!device.is_present() && device.backend().take_change());
    assert_eq!(sent(&mut device), [(kind::DEVICE_DISCONNECT_ACK, 0, vec![])]);
    assert_eq!(device.setup(0, setup(0x80, 6, 0x100, 0, 8)), Answer::Silent);
    // Another one on the same connection.
    for (speed, told) in [(0, Speed::Low), (1, Speed::Full), (3, Speed::High), (255, Speed::Full)] {
        let bytes = [interfaces(&[[3, 1, 1]]), connect(speed)].concat();
        device.backend().take_input(&bytes).unwrap();
        assert_eq!((device.is_present(), device.speed()), (true, told));
        tell(&mut device, kind::DEVICE_DISCONNECT, 0, &[]);
    }
}

#[test]
fn a_device_that_is_not_described_or_is_there_twice_is_an_error() {
    let mut session = Session::new(None);
    let alone = [hello(Capabilities::all()), connect(2)].concat();
    assert_eq!(session.take_input(&alone), Err(ProtocolError::Device));
    let mut session = Session::new(None);
    let twice = [stick(), connect(2)].concat();
    assert_eq!(session.take_input(&twice), Err(ProtocolError::Device));
}

#[test]
fn the_filter_decides() {
    let mut device = session(Some("8:-1:-1:-1:0|-1:-1:-1:-1:1"), &stick());
    assert!(!device.is_present());
    let text = b"0x08,-1,-1,-1,0|-1,-1,-1,-1,1\0".to_vec();
    assert_eq!(
        sent(&mut device),
        [(kind::FILTER_FILTER, 0, text), (kind::FILTER_REJECT, 0, vec![])]
    );
    // Another configuration has other interfaces.
    let keyboard = [hello(Capabilities::all()), interfaces(&[[3, 1, 1]]), connect(2)].concat();
    let mut device = session(Some("3:-1:-1:-1:1"), &keyboard);
    assert!(device.is_present());
    sent(&mut device);
    device.backend().take_input(&interfaces(&[[3, 1, 1], [8, 6, 0x50]])).unwrap();
    assert!(!device.is_present());
    assert_eq!(sent(&mut device), [(kind::FILTER_REJECT, 0, vec![])]);
    // It stays out until another one is there.
    device.backend().take_input(&interfaces(&[[3, 1, 1]])).unwrap();
    assert!(!device.is_present());
}

#[test]
fn what_no_controller_can_serve_is_rejected() {
    for (kind, max_packet) in [(1, 3073), (3, 4096)] {
        let bytes = [
            hello(Capabilities::all()),
            endpoints(&[(0x81, kind, max_packet)]),
            interfaces(&[[1, 2, 0]]),
            connect(3),
        ];
        let mut device = session(None, &bytes.concat());
        assert!(!device.is_present());
        assert_eq!(sent(&mut device).pop().unwrap().0, kind::FILTER_REJECT);
    }
}

#[test]
fn requests_and_settings_are_answered() {
    let mut device = session(None, &stick());
    device.setup(0, setup(0x80, request::GET_DESCRIPTOR, 0x100, 0, 4));
    let all = sent(&mut device);
    let (kind, id, body) = &all[0];
    assert_eq!((*kind, &body[..]), (100, &[0x80, 6, 0x80, 0, 0, 1, 0, 0, 4, 0][..]));
    assert_eq!(read(&mut device, 0, 4).0, Answer::Nak);
    let answer = [0x80, 6, 0x80, 0, 0, 1, 0, 0, 2, 0, 18, 1];
    tell(&mut device, 100, *id, &answer);
    assert_eq!(read(&mut device, 0, 4).1, [18, 1]);
    device.setup(0, setup(0, request::SET_CONFIGURATION, 1, 0, 0));
    let all = sent(&mut device);
    assert_eq!((all[0].0, &all[0].2[..]), (kind::SET_CONFIGURATION, &[1][..]));
    // An answer to something else does not count, nor one that was given already.
    tell(&mut device, 100, all[0].1, &[0; 10]);
    tell(&mut device, kind::CONFIGURATION_STATUS, all[0].1 + 1, &[0, 1]);
    assert_eq!(read(&mut device, 0, 0).0, Answer::Nak);
    tell(&mut device, kind::CONFIGURATION_STATUS, all[0].1, &[0, 1]);
    tell(&mut device, kind::CONFIGURATION_STATUS, all[0].1, &[4, 1]);
    assert_eq!(read(&mut device, 0, 0).0, Answer::Moved { bytes: 0, short: true });
    device.setup(0, setup(1, request::SET_INTERFACE, 2, 1, 0));
    let all = sent(&mut device);
    assert_eq!((all[0].0, &all[0].2[..]), (kind::SET_ALT_SETTING, &[1, 2][..]));
    tell(&mut device, kind::ALT_SETTING_STATUS, all[0].1, &[4, 1, 2]);
    assert_eq!(read(&mut device, 0, 0).0, Answer::Stall);
    device.setup(0, setup(2, request::CLEAR_FEATURE, 0, 0x81, 0));
    let all = sent(&mut device);
    assert_eq!((all[0].0, &all[0].2[..]), (100, &[0, 1, 2, 0, 0, 0, 0x81, 0, 0, 0][..]));
    device.reset();
    let all: Vec<u32> = sent(&mut device).iter().map(|(kind, ..)| *kind).collect();
    assert_eq!(all, [kind::CANCEL_DATA_PACKET, kind::RESET]);
}

#[test]
fn bulk_data_move() {
    let mut device = session(None, &stick());
    assert_eq!(read(&mut device, 1, 512).0, Answer::Nak);
    let all = sent(&mut device);
    assert_eq!((all[0].0, &all[0].2[..]), (101, &[0x81, 0, 0, 2, 0, 0, 0, 0, 0, 0][..]));
    let body = [&[0x81, 0, 3, 0, 0, 0, 0, 0, 0, 0][..], b"abc"].concat();
    tell(&mut device, 101, all[0].1, &body);
    assert_eq!(
        read(&mut device, 1, 512),
        (Answer::Moved { bytes: 3, short: true }, b"abc".to_vec())
    );
    let data: &[u8] = b"xyz";
    assert_eq!(device.data_out(2, &data), Answer::Nak);
    let all = sent(&mut device);
    assert_eq!(&all[0].2[10..], b"xyz");
    tell(&mut device, 101, all[0].1, &[2, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(device.data_out(2, &data), Answer::moved(3));
    // Cancelled, and ended nevertheless.
    read(&mut device, 1, 512);
    let id = sent(&mut device)[0].1;
    device.cancel(Endpoint::of_address(0x81));
    assert_eq!(sent(&mut device), [(kind::CANCEL_DATA_PACKET, id, vec![])]);
    tell(&mut device, 101, id, &body);
    assert_eq!(read(&mut device, 1, 512).0, Answer::Nak);
}

#[test]
fn packets_come_and_go_by_themselves() {
    let all = [(0x81, 3, 8), (2, 3, 8), (0x83, 1, 192), (3, 1, 192)];
    let bytes = [hello(Capabilities::all()), endpoints(&all), interfaces(&[[3, 0, 0]]), connect(1)];
    let mut device = session(None, &bytes.concat());
    // Nobody has asked for that one.
    tell(&mut device, kind::INTERRUPT_PACKET, 0, &[0x81, 0, 1, 0, 9]);
    assert_eq!(read(&mut device, 1, 8).0, Answer::Nak);
    assert_eq!(sent(&mut device), [(kind::START_INTERRUPT_RECEIVING, 0, vec![0x81])]);
    tell(&mut device, kind::INTERRUPT_RECEIVING_STATUS, 0, &[0, 0x81]);
    tell(&mut device, kind::INTERRUPT_PACKET, 0, &[0x81, 0, 1, 0, 5]);
    // It is none of that kind.
    tell(&mut device, kind::ISO_PACKET, 0, &[0x81, 0, 1, 0, 6]);
    assert_eq!(read(&mut device, 1, 8).1, [5]);
    assert_eq!(read(&mut device, 1, 8).0, Answer::Nak);
    tell(&mut device, kind::INTERRUPT_RECEIVING_STATUS, 0, &[4, 0x81]);
    assert_eq!(read(&mut device, 1, 8).0, Answer::Stall);
    let data: &[u8] = &[7];
    assert_eq!(device.data_out(2, &data), Answer::Nak);
    let all = sent(&mut device);
    assert_eq!((all[0].0, &all[0].2[..]), (kind::INTERRUPT_PACKET, &[2, 0, 1, 0, 7][..]));
    tell(&mut device, kind::INTERRUPT_PACKET, all[0].1, &[2, 0, 1, 0]);
    assert_eq!(device.data_out(2, &data), Answer::moved(1));
    // A thousand packets a second: ten of them a hundred times, 60 ms of them, and as many again to send.
    read(&mut device, 3, 192);
    device.data_out(3, &data);
    let all = sent(&mut device);
    assert_eq!(all[0], (kind::START_ISO_STREAM, 0, vec![0x83, 10, 6]));
    assert_eq!(all[1], (kind::START_ISO_STREAM, 0, vec![3, 10, 12]));
    assert_eq!(all[2], (kind::ISO_PACKET, 0, vec![3, 0, 1, 0, 7]));
    for _ in 0..60 {
        tell(&mut device, kind::ISO_PACKET, 0, &[0x83, 0, 1, 0, 8]);
    }
    assert_eq!(read(&mut device, 3, 192).1, [8]);
    device.reset();
    let kinds: Vec<u32> = sent(&mut device).iter().map(|(kind, ..)| *kind).collect();
    assert_eq!(kinds, [kind::STOP_ISO_STREAM, kind::STOP_ISO_STREAM, kind::RESET]);
}

/// What a device of such a class and vendor is asked for by a guest that reads endpoint 1.
fn first_asked(class: u8, vendor: u16, max_packet: u16) -> (Remote<Session>, Vec<(u32, Vec<u8>)>) {
    let all = [(0x81, 2, max_packet), (2, 2, 512)];
    let interfaces = interfaces(&[[class, 0, 0]]);
    let bytes =
        [hello(CAPABILITIES), endpoints(&all), interfaces, connect_from(vendor, 2)].concat();
    let mut device = session(None, &bytes);
    assert_eq!(read(&mut device, 1, 4096).0, Answer::Nak);
    let all = sent(&mut device).into_iter().map(|(kind, _, body)| (kind, body)).collect();
    (device, all)
}

#[test]
fn what_is_on_its_way_when_an_endpoint_is_stopped_is_seen() {
    let bytes = [
        hello(Capabilities::all()),
        endpoints(&[(0x81, 3, 8)]),
        interfaces(&[[3, 0, 0]]),
        connect(1),
    ];
    let mut device = session(None, &bytes.concat());
    read(&mut device, 1, 8);
    for byte in 0..=255 {
        tell(&mut device, kind::INTERRUPT_PACKET, 0, &[0x81, 0, 1, 0, byte]);
    }
    device.turn();
    let kinds: Vec<u32> = sent(&mut device).iter().map(|(kind, ..)| *kind).collect();
    assert_eq!(kinds, [kind::START_INTERRUPT_RECEIVING, kind::STOP_INTERRUPT_RECEIVING]);
    tell(&mut device, kind::INTERRUPT_PACKET, 0, &[0x81, 0, 1, 0, 7]);
    let mut all = (0..=255).chain([7]);
    assert!(all.all(|byte| read(&mut device, 1, 8).1 == [byte]));
}

#[test]
fn only_a_stall_stops_what_runs() {
    let all = [(0x81, 3, 8), (3, 1, 192)];
    let bytes = [hello(Capabilities::all()), endpoints(&all), interfaces(&[[3, 0, 0]]), connect(1)];
    let mut device = session(None, &bytes.concat());
    let (invalid, stall) = (2, 4);
    // It was never started.
    read(&mut device, 1, 8);
    tell(&mut device, kind::INTERRUPT_RECEIVING_STATUS, 0, &[invalid, 0x81]);
    assert_eq!(read(&mut device, 1, 8).0, Answer::Silent);
    // It was.
    read(&mut device, 1, 8);
    tell(&mut device, kind::INTERRUPT_RECEIVING_STATUS, 0, &[0, 0x81]);
    tell(&mut device, kind::INTERRUPT_RECEIVING_STATUS, 0, &[invalid, 0x81]);
    assert_eq!(read(&mut device, 1, 8).0, Answer::Nak);
    // Packets that were on their way when a stream had stopped have such an answer each.
    let data: &[u8] = &[7];
    device.data_out(3, &data);
    tell(&mut device, kind::ISO_STREAM_STATUS, 0, &[stall, 3]);
    assert_eq!(device.data_out(3, &data), Answer::Silent);
    sent(&mut device);
    device.data_out(3, &data);
    let kinds: Vec<u32> = sent(&mut device).iter().map(|(kind, ..)| *kind).collect();
    assert_eq!(kinds, [kind::START_ISO_STREAM, kind::ISO_PACKET]);
    tell(&mut device, kind::ISO_STREAM_STATUS, 0, &[invalid, 3]);
    device.data_out(3, &data);
    let kinds: Vec<u32> = sent(&mut device).iter().map(|(kind, ..)| *kind).collect();
    assert_eq!(kinds, [kind::ISO_PACKET]);
}

#[test]
fn serial_converters_are_read_before_the_guest_asks() {
    let start = (kind::START_BULK_RECEIVING, vec![0, 0, 0, 0, 0, 2, 0, 0, 0x81, 8]);
    let (mut device, asked) = first_asked(0xff, 0x0403, 512);
    assert_eq!(asked, std::slice::from_ref(&start));
    tell(&mut device, kind::BULK_RECEIVING_STATUS, 0, &[0, 0, 0, 0, 0x81, 0]);
    let packet = |length: u16, byte: u8| {
        let mut body = vec![0; 4];
        body.extend(u32::from(length).to_le_bytes());
        body.extend([0x81, 0]);
        body.resize(body.len() + usize::from(length), byte);
        body
    };
    tell(&mut device, kind::BUFFERED_BULK_PACKET, 0, &packet(512, 1));
    tell(&mut device, kind::BUFFERED_BULK_PACKET, 1, &packet(3, 2));
    // Each is what it would be on a bus: a transfer ends with a packet that is not full.
    assert_eq!(read(&mut device, 1, 4096), (Answer::moved(512), vec![1; 512]));
    let short = Answer::Moved { bytes: 3, short: true };
    assert_eq!(read(&mut device, 1, 3584), (short, vec![2; 3]));
    assert_eq!(read(&mut device, 1, 4096).0, Answer::Nak);
    assert_eq!(sent(&mut device), []);
    // What the guest sends goes as ever.
    let data: &[u8] = b"AT";
    assert_eq!(device.data_out(2, &data), Answer::Nak);
    assert_eq!(sent(&mut device)[0].0, kind::BULK_PACKET);
    // It has stopped: once the guest has cleared that, it is started again.
    tell(&mut device, kind::BULK_RECEIVING_STATUS, 0, &[0, 0, 0, 0, 0x81, 4]);
    assert_eq!(read(&mut device, 1, 4096).0, Answer::Stall);
    device.setup(0, setup(2, request::CLEAR_FEATURE, 0, 0x81, 0));
    sent(&mut device);
    assert_eq!(read(&mut device, 1, 4096).0, Answer::Nak);
    assert_eq!(sent(&mut device), [(start.0, 0, start.1)]);
    device.reset();
    let kinds: Vec<u32> = sent(&mut device).iter().map(|(kind, ..)| *kind).collect();
    let cancel = kind::CANCEL_DATA_PACKET;
    assert_eq!(kinds, [cancel, kind::STOP_BULK_RECEIVING, cancel, kind::RESET]);
}

#[test]
fn other_bulk_endpoints_are_read_when_the_guest_asks() {
    for (class, vendor, max_packet) in
        // Another vendor's; a stick; a modem; packets of no size, and of a size that none have.
        [
            (0xff, 0x1234, 512),
            (8, 0x0403, 512),
            (0x0a, 0x0403, 512),
            (0xff, 0x0403, 0),
            (0xff, 0x0403, 65535),
        ]
    {
        assert_eq!(first_asked(class, vendor, max_packet).1[0].0, kind::BULK_PACKET);
    }
}
