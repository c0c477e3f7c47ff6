use proptest::prelude::*;

use super::*;
use crate::redirect::packet::{Command, DeviceInfo, Ended, InterfaceInfo, Packet};
use crate::redirect::parse::{Parser, ProtocolError};
use crate::usb::setup::Setup;

/// All packets, or why there are no more.
fn parse(ours: Capabilities, pieces: &[&[u8]]) -> (Vec<(u64, Packet)>, Option<ProtocolError>) {
    let mut parser = Parser::new(ours);
    let mut all = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        loop {
            match parser.next(&mut rest) {
                Ok(Some(packet)) => all.push(packet),
                Ok(None) => break,
                Err(error) => return (all, Some(error)),
            }
        }
        assert!(rest.is_empty());
    }
    (all, None)
}

fn one(kind: u32, body: &[u8]) -> Result<Packet, ProtocolError> {
    let bytes = [hello(CAPABILITIES), said(kind, 7, body)].concat();
    match parse(CAPABILITIES, &[&bytes]) {
        (mut all, None) => {
            assert_eq!(all.len(), 2);
            let (id, packet) = all.remove(1);
            assert_eq!(id, 7);
            Ok(packet)
        }
        (_, Some(error)) => Err(error),
    }
}

#[test]
fn a_device_is_announced() {
    let (all, error) = parse(CAPABILITIES, &[&stick()]);
    assert_eq!(error, None);
    let all: Vec<Packet> = all.into_iter().map(|(_, packet)| packet).collect();
    let device = DeviceInfo {
        speed: 2,
        class: [0; 3],
        vendor: 0x1234,
        product: 0x5678,
        version: Some(0x100),
    };
    let endpoints = vec![info(0, 0, 64), info(2, 2, 512), info(0x80, 0, 64), info(0x81, 2, 512)];
    assert_eq!(
        all,
        [
            Packet::Hello { version: "a host".into(), capabilities: Capabilities::all() },
            Packet::Endpoints(endpoints),
            Packet::Interfaces(vec![InterfaceInfo { number: 0, class: [8, 6, 0x50] }]),
            Packet::Connect(device),
        ]
    );
}

#[test]
fn what_was_not_agreed_upon_has_its_older_form() {
    let none = Capabilities::empty();
    let old = |kind, body: &[u8]| frame(kind, 3, none, body);
    let bytes = [
        hello(none),
        old(kind::DEVICE_CONNECT, &[0, 1, 2, 3, 4, 5, 6, 7]),
        old(kind::EP_INFO, &[255; 96]),
        old(kind::BULK_PACKET, &[0x81, 0, 1, 0, 0, 0, 0, 0, 9]),
    ];
    let (all, error) = parse(Capabilities::all(), &[&bytes.concat()]);
    assert_eq!((all.len(), error), (4, None));
    let ended = Packet::Ended { kind: Ended::Bulk, status: 0, length: 1, data: vec![9] };
    assert_eq!(all[3], (3, ended));
    for (kind, length) in [(kind::FILTER_FILTER, 4), (20, 9), (27, 6), (104, 10)] {
        let bytes = [hello(none), old(kind, &vec![0; length])].concat();
        assert_eq!(parse(Capabilities::all(), &[&bytes]).1, Some(ProtocolError::Type(kind)));
    }
    // What only one of both can do is not agreed upon, nor is one without what it needs.
    let streams = hello(Capabilities::BULK_STREAMS | Capabilities::IDS_64_BITS);
    let bytes = [streams, frame(kind::EP_INFO, 0, Capabilities::IDS_64_BITS, &[255; 96])].concat();
    assert_eq!(parse(Capabilities::all(), &[&bytes]).1, None);
    let with = Capabilities::BULK_STREAMS | Capabilities::EP_INFO_MAX_PACKET_SIZE;
    let bytes = [hello(with), frame(kind::EP_INFO, 0, with, &[255; 288])].concat();
    assert_eq!(parse(Capabilities::all(), &[&bytes]).1, None);
}

#[test]
fn what_no_host_may_say_ends_the_connection() {
    use ProtocolError::{Length, Order, Type, Value};
    let first = |bytes: Vec<u8>| parse(CAPABILITIES, &[&bytes]).1;
    assert_eq!(first(frame(1, 0, Capabilities::empty(), &[])), Some(Order(1)));
    assert_eq!(first(frame(0, 0, Capabilities::empty(), &[0; 60])), Some(Length(0, 60)));
    assert_eq!(one(kind::HELLO, &[0; 68]), Err(Order(0)));
    for kind in [3, 6, 12, 21, 22, 24, 28, 99, 105, u32::MAX] {
        assert_eq!(one(kind, &[]), Err(Type(kind)));
    }
    for (kind, length) in [(1, 9), (1, 11), (2, 1), (4, 131), (5, 96), (8, 1), (100, 9), (101, 8)] {
        let told = u32::try_from(length).unwrap();
        assert_eq!(one(kind, &vec![0; length]), Err(Length(kind, told)));
    }
    // A length that is too much is not waited for.
    let mut bytes = said(kind::BULK_PACKET, 1, &[]);
    bytes[4..8].copy_from_slice(&(1u32 << 30).to_le_bytes());
    assert_eq!(first([hello(CAPABILITIES), bytes].concat()), Some(Length(101, 1 << 30)));
    let mut too_many = [0; 132];
    too_many[0] = 33;
    assert_eq!(one(kind::INTERFACE_INFO, &too_many), Err(Value(4)));
    assert_eq!(one(kind::EP_INFO, &[4; 288]), Err(Value(5)));
    assert_eq!(one(kind::FILTER_FILTER, b"1,2"), Err(Value(23)));
    assert_eq!(one(kind::ISO_STREAM_STATUS, &[0, 0x11]), Err(Value(14)), "no endpoint");
    assert_eq!(one(kind::INTERRUPT_RECEIVING_STATUS, &[0, 1]), Err(Value(17)), "none that sends");
    // Lengths that are not those of the data: more, fewer, or some where there are none.
    for body in [&[0x81, 0, 2, 0, 1][..], &[0x81, 0, 0, 0, 1], &[1, 0, 1, 0, 1]] {
        assert_eq!(one(kind::INTERRUPT_PACKET, body), Err(Value(103)));
        assert_eq!(one(kind::ISO_PACKET, body), Err(Value(102)));
    }
    assert_eq!(one(kind::ISO_PACKET, &[1, 0, 0, 0]), Err(Value(102)), "none comes from there");
    let bulk = |endpoint, length| [&[endpoint, 0, length, 0, 0, 0, 0, 0, 0, 0][..], &[5]].concat();
    assert!(one(kind::BULK_PACKET, &bulk(0x81, 1)).is_ok());
    assert_eq!(one(kind::BULK_PACKET, &bulk(0x81, 2)), Err(Value(101)));
    assert_eq!(one(kind::BULK_PACKET, &bulk(1, 1)), Err(Value(101)));
    let buffered =
        |endpoint, length| [&[0, 0, 0, 0, length, 0, 0, 0, endpoint, 0][..], &[5]].concat();
    assert!(one(kind::BUFFERED_BULK_PACKET, &buffered(0x81, 1)).is_ok());
    assert_eq!(one(kind::BUFFERED_BULK_PACKET, &buffered(0x81, 2)), Err(Value(104)));
    assert_eq!(one(kind::BUFFERED_BULK_PACKET, &buffered(1, 1)), Err(Value(104)));
    assert_eq!(one(kind::BULK_RECEIVING_STATUS, &[0, 0, 0, 0, 1, 0]), Err(Value(27)));
    let control =
        |endpoint, length| [&[endpoint, 0, 0, 0, 0, 0, 0, 0, length, 0][..], &[5]].concat();
    assert!(one(kind::CONTROL_PACKET, &control(0x80, 1)).is_ok());
    assert_eq!(one(kind::CONTROL_PACKET, &control(0, 1)), Err(Value(100)));
}

#[test]
fn commands_have_their_bytes() {
    let written = |command: Command<'_>, agreed| {
        let mut bytes = Vec::new();
        command.write(0x0102_0304, agreed, &mut bytes);
        bytes
    };
    let (none, all) = (Capabilities::empty(), Capabilities::all());
    assert_eq!(written(Command::Reset, none), [3, 0, 0, 0, 0, 0, 0, 0, 4, 3, 2, 1]);
    assert_eq!(written(Command::Reset, all), [3, 0, 0, 0, 0, 0, 0, 0, 4, 3, 2, 1, 0, 0, 0, 0]);
    let body = |command, agreed: Capabilities| {
        let header = if agreed.contains(Capabilities::IDS_64_BITS) { 16 } else { 12 };
        written(command, agreed)[header..].to_vec()
    };
    let (into, out) = (Endpoint::of_address(0x81), Endpoint::of_address(2));
    assert_eq!(body(Command::BulkIn(into, 0x200), none), [0x81, 0, 0, 2, 0, 0, 0, 0]);
    assert_eq!(body(Command::BulkIn(into, 0x1_0200), all), [0x81, 0, 0, 2, 0, 0, 0, 0, 1, 0]);
    assert_eq!(body(Command::BulkOut(out, &[5]), none), [2, 0, 1, 0, 0, 0, 0, 0, 5]);
    assert_eq!(body(Command::Interrupt(out, &[5, 6]), all), [2, 0, 2, 0, 5, 6]);
    let start = Command::StartBulk { endpoint: into, bytes: 512, transfers: 8 };
    assert_eq!(body(start, all), [0, 0, 0, 0, 0, 2, 0, 0, 0x81, 8]);
    assert_eq!(body(Command::StopBulk(into), all), [0, 0, 0, 0, 0x81]);
    assert_eq!(body(Command::Isochronous(out, &[]), all), [2, 0, 0, 0]);
    let reads = Setup::parse([0x80, 6, 0, 1, 2, 3, 18, 0]);
    assert_eq!(body(Command::Control(reads, &[]), all), [0x80, 6, 0x80, 0, 0, 1, 2, 3, 18, 0]);
    let sets = Setup::parse([0x21, 9, 0, 2, 0, 0, 1, 0]);
    assert_eq!(body(Command::Control(sets, &[7]), all), [0, 9, 0x21, 0, 0, 2, 0, 0, 1, 0, 7]);
    assert_eq!(body(Command::Filter("a"), all), [b'a', 0]);
    let hello = body(Command::Hello { version: &"x".repeat(99), capabilities: all }, none);
    assert_eq!((hello.len(), hello[62], hello[63], hello[64]), (68, b'x', 0, 0xff));
}

fn body() -> impl Strategy<Value = (u32, Vec<u8>)> {
    let kind = prop_oneof![
        prop::sample::select(&[1u32, 2, 4, 5, 8, 11, 14, 17, 23, 27, 100, 101, 102, 103, 104][..]),
        0u32..110
    ];
    (kind, prop::collection::vec(any::<u8>(), 0..40))
}

proptest! {
    #[test]
    fn any_bytes_are_packets_or_an_error(
        all in prop::collection::vec(body(), 0..20),
        rest in prop::collection::vec(any::<u8>(), 0..100),
        capabilities: u8,
    ) {
        let theirs = Capabilities::from_bits_truncate(capabilities.into());
        let agreed = theirs & CAPABILITIES;
        let mut bytes = hello(theirs);
        for (kind, body) in all {
            bytes.extend(frame(kind, 5, agreed, &body));
        }
        bytes.extend(rest);
        parse(CAPABILITIES, &[&bytes]);
    }

    /// Wherever they are cut.
    #[test]
    fn pieces_mean_what_the_whole_means(
        status: u8,
        data in prop::collection::vec(any::<u8>(), 0..200),
        cuts in prop::collection::vec(0usize..900, 0..8),
    ) {
        let mut packet = vec![0x81, status];
        packet.extend(u16::try_from(data.len()).unwrap().to_le_bytes());
        packet.extend(&data);
        let bytes = [
            stick(),
            said(kind::INTERRUPT_PACKET, 0, &packet),
            said(kind::DEVICE_DISCONNECT, 0, &[]),
        ].concat();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        let (all, error) = parse(CAPABILITIES, &pieces);
        prop_assert_eq!((all.len(), error), (6, None));
        let endpoint = Endpoint::of_address(0x81);
        prop_assert_eq!(&all[4].1, &Packet::Interrupt { endpoint, status, data });
    }
}
