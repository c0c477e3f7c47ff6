//! vhost-usb's side of usbredir, beside usbredir's own parser.

mod oracle;

use oracle::{Called, Oracle, callback};
use proptest::prelude::*;
use vhost_usb::redirect::filter::Filter;
use vhost_usb::redirect::packet::{
    Capabilities, Command, DeviceInfo, Ended, EndpointInfo, InterfaceInfo, Packet,
};
use vhost_usb::redirect::parse::Parser;
use vhost_usb::redirect::session::CAPABILITIES;
use vhost_usb::usb::setup::Setup;
use vhost_usb::usb::{Direction, Endpoint};

fn capabilities() -> impl Strategy<Value = Capabilities> {
    any::<u8>().prop_map(|bits| {
        let mut all = Capabilities::from_bits_truncate(bits.into());
        if !all.contains(Capabilities::EP_INFO_MAX_PACKET_SIZE) {
            all.remove(Capabilities::BULK_STREAMS);
        }
        all
    })
}

fn hello(capabilities: Capabilities) -> Vec<u8> {
    let mut bytes = Vec::new();
    Command::Hello { version: "tests", capabilities }.write(0, Capabilities::empty(), &mut bytes);
    bytes
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    (0..16u8, any::<bool>()).prop_map(|(number, is_in)| {
        Endpoint::new(number, if is_in { Direction::In } else { Direction::Out })
    })
}

/// A number that the protocol has in 16 bits.
fn short(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap().to_le_bytes()
}

fn bulk_header(endpoint: Endpoint, status: u8, length: usize) -> Vec<u8> {
    let mut header = vec![endpoint.address(), status];
    header.extend(short(length));
    header.extend([0; 6]);
    header
}

/// What the device's side is to make of all commands.
fn commands<'a>(
    out: Endpoint,
    other: u8,
    setup: Setup,
    data: &'a [u8],
) -> Vec<(Command<'a>, Called)> {
    let address = out.address();
    let into = Endpoint::new(out.number(), Direction::In);
    let none = Vec::new;
    let reads = Setup { request_type: setup.request_type | 0x80, ..setup };
    let sets = Setup {
        request_type: setup.request_type & 0x7f,
        length: u16::try_from(data.len()).unwrap(),
        ..setup
    };
    let control = |setup: Setup| {
        let direction = if setup.direction() == Direction::In { 0x80 } else { 0 };
        let mut header = vec![direction, setup.request, setup.request_type, 0];
        for field in [setup.value, setup.index, setup.length] {
            header.extend(field.to_le_bytes());
        }
        header
    };
    let mut packet = vec![address, 0];
    packet.extend(short(data.len()));
    let rule: Vec<u8> = [8i32, -1, 0x1234, 5, 1].iter().flat_map(|it| it.to_ne_bytes()).collect();
    vec![
        (Command::Reset, (callback::RESET, 0, none(), none())),
        (Command::SetConfiguration(other), (callback::SET_CONFIGURATION, 9, vec![other], none())),
        (
            Command::SetAlternate { interface: other, alternate: 3 },
            (callback::SET_ALT_SETTING, 9, vec![other, 3], none()),
        ),
        (
            Command::StartIsochronous { endpoint: out, packets: other, transfers: 4 },
            (callback::START_ISO_STREAM, 9, vec![address, other, 4], none()),
        ),
        (Command::StopIsochronous(out), (callback::STOP_ISO_STREAM, 9, vec![address], none())),
        (
            Command::StartInterrupt(into),
            (callback::START_INTERRUPT_RECEIVING, 9, vec![into.address()], none()),
        ),
        (
            Command::StopInterrupt(into),
            (callback::STOP_INTERRUPT_RECEIVING, 9, vec![into.address()], none()),
        ),
        (
            Command::StartBulk { endpoint: into, bytes: 0x400, transfers: other },
            (
                callback::START_BULK_RECEIVING,
                9,
                vec![0, 0, 0, 0, 0, 4, 0, 0, into.address(), other],
                none(),
            ),
        ),
        (
            Command::StopBulk(into),
            (callback::STOP_BULK_RECEIVING, 9, vec![0, 0, 0, 0, into.address()], none()),
        ),
        (Command::Cancel, (callback::CANCEL_DATA_PACKET, 9, none(), none())),
        (Command::FilterReject, (callback::FILTER_REJECT, 0, none(), none())),
        (Command::Filter("0x08,-1,0x1234,0x0005,1"), (callback::FILTER_FILTER, 0, none(), rule)),
        (Command::DisconnectAck, (callback::DEVICE_DISCONNECT_ACK, 0, none(), none())),
        (Command::Control(reads, &[]), (callback::CONTROL_PACKET, 9, control(reads), none())),
        (Command::Control(sets, data), (callback::CONTROL_PACKET, 9, control(sets), data.to_vec())),
        (
            Command::BulkIn(into, 0x7fff),
            (callback::BULK_PACKET, 9, bulk_header(into, 0, 0x7fff), none()),
        ),
        (
            Command::BulkOut(out, data),
            (callback::BULK_PACKET, 9, bulk_header(out, 0, data.len()), data.to_vec()),
        ),
        (Command::Isochronous(out, data), (callback::ISO_PACKET, 9, packet.clone(), data.to_vec())),
        (Command::Interrupt(out, data), (callback::INTERRUPT_PACKET, 9, packet, data.to_vec())),
    ]
}

/// All packets; `None`: some of it is no packet.
fn parse(parser: &mut Parser, mut bytes: &[u8]) -> Option<Vec<(u64, Packet)>> {
    let mut all = Vec::new();
    loop {
        match parser.next(&mut bytes) {
            Ok(Some(packet)) => all.push(packet),
            Ok(None) => return Some(all),
            Err(_) => return None,
        }
    }
}

/// A host that has said hello, and what has been agreed upon with it.
fn host(ours: Capabilities, theirs: Capabilities) -> (Oracle, Parser) {
    let mut host = Oracle::new(true, theirs.bits());
    let mut parser = Parser::new(ours);
    let said = parse(&mut parser, &host.written()).unwrap();
    assert!(matches!(&said[..], [(0, Packet::Hello { .. })]));
    assert_eq!(parser.agreed(), ours & theirs);
    let called = host.read(&hello(ours)).unwrap();
    assert_eq!(called[0].0, callback::HELLO);
    (host, parser)
}

proptest! {
    #[test]
    fn hosts_understand_all_commands(
        ours in capabilities(),
        theirs in capabilities(),
        number in 1..16u8,
        other: u8,
        setup: [u8; 8],
        data in prop::collection::vec(any::<u8>(), 1..600),
    ) {
        let (mut host, parser) = host(ours, theirs);
        let agreed = parser.agreed();
        let out = Endpoint::new(number, Direction::Out);
        for (command, expected) in commands(out, other, Setup::parse(setup), &data) {
            let needs = match command {
                Command::FilterReject | Command::Filter(_) => Capabilities::FILTER,
                Command::DisconnectAck => Capabilities::DEVICE_DISCONNECT_ACK,
                Command::StartBulk { .. } | Command::StopBulk(_) => Capabilities::BULK_RECEIVING,
                _ => Capabilities::empty(),
            };
            if agreed.contains(needs) {
                let mut bytes = Vec::new();
                command.write(9, agreed, &mut bytes);
                let mut called = host.read(&bytes);
                if let Some([(callback::BULK_PACKET, _, header, _)]) = called.as_deref_mut()
                    && !agreed.contains(Capabilities::BULK_LENGTH_32_BITS)
                {
                    // The rest of the structure is whatever was there.
                    header[8..].fill(0);
                }
                prop_assert_eq!(called, Some(vec![expected]), "{:?}", command);
            }
        }
    }

    #[test]
    fn what_hosts_say_is_understood(
        ours in capabilities(),
        theirs in capabilities(),
        status: u8,
        classes in prop::collection::vec(any::<[u8; 3]>(), 0..=32),
        endpoints in prop::collection::vec((0..32usize, 0..=3u8, 1u8.., any::<u8>(), any::<u16>()), 0..9),
        device: [u8; 10],
        from in endpoint(),
        data in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let (mut host, mut parser) = host(ours, theirs);
        let has = |capability| (ours & theirs).contains(capability);
        let mut expected = Vec::new();

        let mut header = vec![0; 288];
        header[..32].fill(255);
        let mut infos = std::collections::BTreeMap::new();
        for (place, kind, interval, interface, max_packet) in endpoints {
            (header[place], header[32 + place], header[64 + place]) = (kind, interval, interface);
            header[96 + 2 * place..][..2].copy_from_slice(&max_packet.to_le_bytes());
            let direction = if place < 16 { Direction::Out } else { Direction::In };
            let endpoint = Endpoint::new(u8::try_from(place % 16).unwrap(), direction);
            let told = has(Capabilities::EP_INFO_MAX_PACKET_SIZE);
            let max_packet = told.then_some(max_packet);
            infos.insert(place, EndpointInfo { endpoint, kind, interval, interface, max_packet });
        }
        host.send_unsolicited("ep_info", &header);
        expected.push((0, Packet::Endpoints(infos.into_values().collect())));

        let mut header = vec![0; 132];
        header[0] = u8::try_from(classes.len()).unwrap();
        let mut interfaces = Vec::new();
        for (place, class) in classes.into_iter().enumerate() {
            let number = u8::try_from(place * 3).unwrap();
            header[4 + place] = number;
            for (field, value) in class.iter().enumerate() {
                header[36 + 32 * field + place] = *value;
            }
            interfaces.push(InterfaceInfo { number, class });
        }
        host.send_unsolicited("interface_info", &header);
        expected.push((0, Packet::Interfaces(interfaces)));

        host.send_unsolicited("device_connect", &device);
        let [speed, c0, c1, c2, v0, v1, p0, p1, r0, r1] = device;
        let version = u16::from_le_bytes([r0, r1]);
        expected.push((0, Packet::Connect(DeviceInfo {
            speed,
            class: [c0, c1, c2],
            vendor: u16::from_le_bytes([v0, v1]),
            product: u16::from_le_bytes([p0, p1]),
            version: has(Capabilities::CONNECT_DEVICE_VERSION).then_some(version),
        })));

        host.send_status("configuration_status", 5, &[status, 1]);
        expected.push((5, Packet::Configuration { status }));
        host.send_status("alt_setting_status", 6, &[status, 1, 2]);
        expected.push((6, Packet::Alternate { status }));
        host.send_status("iso_stream_status", 7, &[status, from.address()]);
        expected.push((7, Packet::IsochronousStatus { status, endpoint: from }));
        let into = Endpoint::new(from.number(), Direction::In);
        host.send_status("interrupt_receiving_status", 8, &[status, into.address()]);
        expected.push((8, Packet::InterruptStatus { status, endpoint: into }));

        // What was sent has a length, and no data come back.
        let is_in = from.direction() == Direction::In;
        let back: &[u8] = if is_in { &data } else { &[] };
        let length = u32::try_from(data.len()).unwrap();
        let ended = |kind| Packet::Ended { kind, status, length, data: back.to_vec() };
        let mut control = vec![from.address() & 0x80, 1, from.address() & 0x80, status, 0, 0, 0, 0];
        control.extend(short(data.len()));
        host.send_data("control_packet", 9, &control, back);
        expected.push((9, ended(Ended::Control)));
        let bulk = bulk_header(from, status, data.len());
        host.send_data("bulk_packet", 10, &bulk, back);
        expected.push((10, ended(Ended::Bulk)));
        let mut packet = vec![from.address(), status];
        packet.extend(short(data.len()));
        host.send_data("interrupt_packet", 11, &packet, back);
        expected.push((11, match is_in {
            true => Packet::Interrupt { endpoint: from, status, data: data.clone() },
            false => ended(Ended::Interrupt),
        }));
        let all = data.clone();
        if is_in {
            host.send_data("iso_packet", 12, &packet, back);
            expected.push((12, Packet::Isochronous { endpoint: from, status, data }));
        }
        if has(Capabilities::BULK_RECEIVING) {
            host.send_status("bulk_receiving_status", 13, &[0, 0, 0, 0, into.address(), status]);
            expected.push((13, Packet::BulkStatus { status, endpoint: into }));
            let mut header = vec![0; 4];
            header.extend(length.to_le_bytes());
            header.extend([into.address(), status]);
            host.send_data("buffered_bulk_packet", 14, &header, &all);
            expected.push((14, Packet::BufferedBulk { endpoint: into, status, data: all }));
        }
        host.send_unsolicited("device_disconnect", &[]);
        expected.push((0, Packet::Disconnect));
        prop_assert_eq!(parse(&mut parser, &host.written()), Some(expected));
    }

    /// What is taken for a packet here is one for others too.
    #[test]
    fn no_more_is_believed_than_others_believe(
        theirs in capabilities(),
        kind in prop::sample::select(
            &[0u32, 1, 2, 3, 4, 5, 6, 8, 11, 14, 17, 20, 21, 23, 24, 27, 100, 101, 102, 103, 104][..]
        ),
        id: u32,
        more in 0..4usize,
        mut body in prop::collection::vec(0..4u8, 0..12),
        lengths: bool,
    ) {
        let ours = CAPABILITIES;
        let mut guest = Oracle::new(false, ours.bits());
        let mut parser = Parser::new(ours);
        let hello = hello(theirs);
        prop_assert!(guest.read(&hello).is_some() && parse(&mut parser, &hello).is_some());
        let fixed = match kind { 1 => 10, 4 => 132, 5 => 288, _ => body.len() };
        body.resize(fixed, 255);
        if lengths && kind == 104 {
            body = vec![0, 0, 0, 0, u8::try_from(more).unwrap(), 0, 0, 0, 0x81, 0];
            body.resize(10 + more, 7);
        } else if lengths && body.len() >= 4 {
            // Of an interrupt or isochronous packet.
            body[0] |= 0x80;
            body[2..4].copy_from_slice(&short(more));
            body.truncate(4);
            body.resize(4 + more, 7);
        }
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
        bytes.extend(id.to_le_bytes());
        if (ours & theirs).contains(Capabilities::IDS_64_BITS) {
            bytes.extend([0; 4]);
        }
        bytes.extend(&body);
        if let Some(packets) = parse(&mut parser, &bytes)
            && !packets.is_empty()
        {
            // A filter that is no filter is an error there; here nobody looks at it.
            let called = guest.read(&bytes);
            prop_assert!(called.is_some() || kind == 23, "{} {:?}", kind, body);
        }
    }

    #[test]
    fn filters_decide_alike(
        rules in prop::collection::vec((-1..4i32, -1..2i32, -1..2i32, -1..2i32, 0..2i32), 1..5),
        device in (prop::sample::select(&[0, 1, 3, 0xef][..]), 0..2u16, 0..2u16, 0..2u16),
        interfaces in prop::collection::vec([0..4u8, 0..2u8, 0..2u8], 1..5),
    ) {
        let rules: Vec<String> = rules
            .into_iter()
            .map(|(class, vendor, product, version, allow)| {
                format!("{class}:{vendor}:{product}:{version}:{allow}")
            })
            .collect();
        let filter = Filter::parse(&rules.join("|")).unwrap();
        let (class, vendor, product, version) = device;
        let info = DeviceInfo {
            speed: 2,
            class: [class, 0, 0],
            vendor,
            product,
            version: Some(version),
        };
        let all: Vec<InterfaceInfo> =
            interfaces.iter().map(|class| InterfaceInfo { number: 0, class: *class }).collect();
        let theirs = oracle::allows(&filter.to_string(), device, &interfaces);
        prop_assert_eq!(filter.allows(&info, &all), theirs, "{}", filter);
    }
}
