use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::backend::{MOST, Status};
use super::*;
use crate::device::host::{self, Asked, setup};
use crate::usb::data::Buffer;

/// What a backend was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Reset,
    Submit(Id, Transfer),
    Cancel(Id),
    Start(Endpoint),
    Stop(Endpoint),
    Send(Endpoint, Vec<u8>),
}

/// A device with nothing behind it but what a test says.
#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) told: Vec<Told>,
    pub(crate) events: VecDeque<Event>,
    pub(crate) pipes: BTreeMap<Endpoint, Pipe>,
    pub(crate) gone: Arc<AtomicBool>,
}

impl Backend for Fake {
    fn speed(&self) -> Speed {
        Speed::High
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    fn pipe(&self, endpoint: Endpoint) -> Option<Pipe> {
        self.pipes.get(&endpoint).copied()
    }

    fn jitter(&self) -> u32 {
        1
    }

    fn reset(&mut self) {
        self.told.push(Told::Reset);
    }

    fn submit(&mut self, id: Id, transfer: Transfer) {
        self.told.push(Told::Submit(id, transfer));
    }

    fn cancel(&mut self, id: Id) {
        self.told.push(Told::Cancel(id));
    }

    fn start(&mut self, endpoint: Endpoint) {
        self.told.push(Told::Start(endpoint));
    }

    fn stop(&mut self, endpoint: Endpoint) {
        self.told.push(Told::Stop(endpoint));
    }

    fn send(&mut self, endpoint: Endpoint, packet: Vec<u8>) {
        self.told.push(Told::Send(endpoint, packet));
    }

    fn take(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn events(&self) -> Vec<RawFd> {
        Vec::new()
    }
}

const BULK_IN: Endpoint = Endpoint::of_address(0x81);
const BULK_OUT: Endpoint = Endpoint::of_address(0x01);
const INTERRUPT: Endpoint = Endpoint::of_address(0x82);
const ISO_IN: Endpoint = Endpoint::of_address(0x83);
const ISO_OUT: Endpoint = Endpoint::of_address(0x03);
const AHEAD: Endpoint = Endpoint::of_address(0x84);

/// A device that is there until it is said not to be, in any port.
pub(crate) fn fickle() -> (Box<dyn Device>, Arc<AtomicBool>) {
    let mut device = device();
    device.line.backend.pipes.retain(|endpoint, _| *endpoint == INTERRUPT);
    let gone = Arc::clone(&device.line.backend.gone);
    (Box::new(device), gone)
}

fn device() -> Remote<Fake> {
    let pipe = |kind, max_packet, interface| Pipe {
        interface,
        kind,
        max_packet,
        interval: 1,
        ahead: false,
    };
    let pipes = BTreeMap::from([
        (BULK_IN, pipe(Kind::Bulk, 512, 0)),
        (BULK_OUT, pipe(Kind::Bulk, 512, 0)),
        (INTERRUPT, pipe(Kind::Interrupt, 8, 1)),
        (ISO_IN, pipe(Kind::Isochronous, 1024, 2)),
        (ISO_OUT, pipe(Kind::Isochronous, 1024, 2)),
        (AHEAD, Pipe { ahead: true, ..pipe(Kind::Bulk, 512, 3) }),
    ]);
    Remote::new(Fake { pipes, ..Fake::default() })
}

impl Remote<Fake> {
    fn told(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.line.backend.told)
    }

    /// The last thing that was submitted, whose id is to be used.
    fn submitted(&mut self) -> (Id, Transfer) {
        match self.told().pop() {
            Some(Told::Submit(id, transfer)) => (id, transfer),
            other => panic!("{other:?}"),
        }
    }

    fn end(&mut self, id: Id, status: Status, data: &[u8], taken: usize) {
        let event = Event::Ended { id, status, data: data.to_vec(), taken };
        self.line.backend.events.push_back(event);
    }

    fn packet(&mut self, endpoint: Endpoint, status: Status, data: &[u8]) {
        let event = Event::Packet { endpoint, status, data: data.to_vec() };
        self.line.backend.events.push_back(event);
    }

    fn read(&mut self, endpoint: u8, room: usize) -> (Answer, Vec<u8>) {
        let mut buffer = Buffer::new(room);
        let answer = self.data_in(endpoint, &mut buffer);
        (answer, buffer.data().to_vec())
    }

    fn write(&mut self, endpoint: u8, data: &[u8]) -> Answer {
        self.data_out(endpoint, &data)
    }
}

fn short(bytes: usize) -> Answer {
    Answer::Moved { bytes, short: true }
}

#[test]
fn a_request_is_answered_when_its_answer_has_come() {
    let mut device = device();
    let asks = setup(0x80, request::GET_DESCRIPTOR, 0x300, 0, 255);
    assert_eq!(device.setup(0, asks), Answer::moved(8));
    let (id, transfer) = device.submitted();
    assert_eq!(transfer, Transfer::Control { setup: asks, data: vec![] });
    assert_eq!(device.read(0, 255).0, Answer::Nak);
    device.end(id, Status::Done, &[4, 3, 9, 4], 0);
    assert_eq!(device.read(0, 3), (Answer::moved(3), vec![4, 3, 9]));
    assert_eq!(device.read(0, 64), (short(1), vec![4]));
    assert_eq!(device.write(0, &[]), Answer::moved(0));
    // More than was asked for, a stall, and something broken.
    for (status, length, answer) in [
        (Status::Done, 256, Answer::Babble),
        (Status::Stall, 0, Answer::Stall),
        (Status::Failed, 0, Answer::Silent),
    ] {
        device.setup(0, asks);
        let (id, _) = device.submitted();
        device.end(id, status, &vec![1; length], 0);
        assert_eq!(device.read(0, 255).0, answer);
    }
}

#[test]
fn a_request_with_data_is_made_once_they_are_there() {
    let mut device = device();
    let sets = setup(0x21, 9, 0x200, 0, 3);
    assert_eq!(device.setup(0, sets), Answer::moved(8));
    assert_eq!(device.write(0, &[1, 2]), Answer::moved(2));
    assert_eq!(device.told(), []);
    assert_eq!(device.write(0, &[3]), Answer::moved(1));
    let (id, transfer) = device.submitted();
    assert_eq!(transfer, Transfer::Control { setup: sets, data: vec![1, 2, 3] });
    assert_eq!(device.read(0, 0).0, Answer::Nak);
    device.end(id, Status::Done, &[], 3);
    assert_eq!(device.read(0, 0).0, short(0));
    device.setup(0, sets);
    assert_eq!(device.write(0, &[1, 2, 3, 4]), Answer::Stall);
    // More than there is to it is refused, and it goes on.
    device.setup(0, sets);
    device.write(0, &[1, 2, 3]);
    let (id, _) = device.submitted();
    assert_eq!(device.write(0, &[4]), Answer::Stall);
    device.setup(0, sets);
    assert_eq!(device.told(), [Told::Cancel(id)]);
    // A new request ends the last one.
    device.setup(0, sets);
    device.write(0, &[1, 2, 3]);
    let (id, _) = device.submitted();
    device.setup(0, sets);
    assert_eq!(device.told(), [Told::Cancel(id)]);
    device.end(id, Status::Stall, &[], 0);
    assert_eq!(device.write(0, &[1, 2, 3]), Answer::moved(3));
}

#[test]
fn the_bus_and_the_settings_are_told_apart_from_other_requests() {
    let mut device = device();
    host::write(&mut device, setup(0, request::SET_ADDRESS, 5, 0, 0), &[]).unwrap();
    assert_eq!((device.address(), device.told()), (5, vec![]));
    assert!(device.find(5).is_some() && device.find(0).is_none());
    for (asked, transfer) in [
        (setup(0, request::SET_CONFIGURATION, 2, 0, 0), Transfer::SetConfiguration(2)),
        (
            setup(1, request::SET_INTERFACE, 3, 1, 0),
            Transfer::SetInterface { interface: 1, alternate: 3 },
        ),
        (setup(2, request::CLEAR_FEATURE, 0, 0x81, 0), Transfer::ClearHalt(BULK_IN)),
    ] {
        assert_eq!(device.setup(0, asked), Answer::moved(8));
        let (id, submitted) = device.submitted();
        assert_eq!(submitted, transfer);
        assert_eq!(device.read(0, 0).0, Answer::Nak);
        device.end(id, Status::Done, &[], 0);
        assert_eq!(device.read(0, 0).0, short(0));
    }
    assert_eq!(device.setup(0, setup(0, request::SET_ADDRESS, 128, 0, 0)), Answer::moved(8));
    assert_eq!(device.read(0, 0).0, Answer::Stall);
    assert_eq!(device.setup(1, setup(0, request::SET_ADDRESS, 1, 0, 0)), Answer::Silent);
    device.reset();
    assert_eq!((device.address(), device.told()), (0, vec![Told::Reset]));
}

#[test]
fn a_super_speed_device_looks_like_a_high_speed_one() {
    let mut device = device();
    device.setup(0, setup(0x80, request::GET_DESCRIPTOR, 0x100, 0, 18));
    let (id, _) = device.submitted();
    device.end(id, Status::Done, &[18, 1, 0, 3, 0, 0, 0, 9], 0);
    assert_eq!(device.read(0, 18).1, [18, 1, 0, 3, 0, 0, 0, 64]);
}

#[test]
fn a_bulk_endpoint_is_asked_for_what_the_host_has_room_for() {
    let mut device = device();
    assert_eq!(device.read(1, 1024).0, Answer::Nak);
    let (id, transfer) = device.submitted();
    assert_eq!(transfer, Transfer::In { endpoint: BULK_IN, length: 1024 });
    assert_eq!((device.read(1, 1024).0, device.told()), (Answer::Nak, vec![]));
    device.end(id, Status::Done, &[7; 1024], 0);
    assert_eq!(device.read(1, 1024), (Answer::moved(1024), vec![7; 1024]));
    // A short packet, and an empty one.
    for data in [&[1, 2, 3][..], &[]] {
        device.read(1, 1024);
        let (id, _) = device.submitted();
        device.end(id, Status::Done, data, 0);
        assert_eq!(device.read(1, 1024), (short(data.len()), data.to_vec()));
    }
    // The host wants something else, and gets nothing that was not wanted.
    device.read(1, 1024);
    let (old, _) = device.submitted();
    device.read(1, 13);
    let told = device.told();
    assert_eq!(told[0], Told::Cancel(old));
    device.end(old, Status::Done, &[1; 1024], 0);
    assert_eq!(device.read(1, 13).0, Answer::Nak);
    // A lot is asked for in pieces.
    device.read(1, 1 << 20);
    let (id, transfer) = device.submitted();
    assert_eq!(transfer, Transfer::In { endpoint: BULK_IN, length: MOST });
    device.end(id, Status::Done, &vec![1; MOST], 0);
    assert_eq!(device.read(1, 1 << 20).0, Answer::moved(MOST));
    // What was asked for comes in less room.
    device.read(1, 8);
    let (id, _) = device.submitted();
    device.end(id, Status::Done, &[1, 2, 3, 4, 5], 0);
    assert_eq!(device.read(1, 4), (Answer::moved(4), vec![1, 2, 3, 4]));
    assert_eq!(device.read(1, 4), (short(1), vec![5]));
    assert_eq!(device.read(9, 4).0, Answer::Silent);
}

#[test]
fn a_halted_endpoint_stays_so_until_it_is_cleared() {
    let mut device = device();
    device.read(1, 512);
    let (id, _) = device.submitted();
    // What came before is not lost.
    device.end(id, Status::Stall, &[1, 2], 0);
    assert_eq!(device.read(1, 512), (Answer::moved(2), vec![1, 2]));
    for _ in 0..2 {
        assert_eq!((device.read(1, 510).0, device.told()), (Answer::Stall, vec![]));
    }
    device.setup(0, setup(2, request::CLEAR_FEATURE, 0, 0x81, 0));
    let (id, _) = device.submitted();
    device.end(id, Status::Done, &[], 0);
    assert_eq!(device.read(0, 0).0, short(0));
    assert_eq!(device.read(1, 512).0, Answer::Nak);
    // What is wrong otherwise is told once.
    for (status, answer) in [(Status::Failed, Answer::Silent), (Status::Babble, Answer::Babble)] {
        device.read(1, 512);
        let (id, _) = device.submitted();
        device.end(id, status, &[], 0);
        assert_eq!(device.read(1, 512).0, answer);
        assert_eq!(device.read(1, 512).0, Answer::Nak);
    }
    device.read(1, 511);
    let (id, _) = device.submitted();
    device.end(id, Status::Done, &[1; 512], 0);
    assert_eq!(device.read(1, 511).0, Answer::Babble);
}

#[test]
fn what_the_host_sends_is_sent_once() {
    let mut device = device();
    assert_eq!(device.write(1, b"first"), Answer::Nak);
    let (id, transfer) = device.submitted();
    assert_eq!(transfer, Transfer::Out { endpoint: BULK_OUT, data: b"first".to_vec() });
    assert_eq!((device.write(1, b"first"), device.told()), (Answer::Nak, vec![]));
    device.end(id, Status::Done, &[], 5);
    assert_eq!(device.write(1, b"first"), Answer::moved(5));
    // The same again is another transfer.
    assert_eq!(device.write(1, b"first"), Answer::Nak);
    let (again, _) = device.submitted();
    assert_ne!(id, again);
    // Something else before it has ended, and after.
    assert_eq!(device.write(1, b"other"), Answer::Nak);
    assert_eq!(device.told()[0], Told::Cancel(again));
    assert_eq!(device.write(1, b"third"), Answer::Nak);
    let (id, _) = device.submitted();
    device.end(id, Status::Done, &[], 5);
    assert_eq!(device.write(1, b"more, and a stall"), Answer::Nak);
    let (id, _) = device.submitted();
    device.end(id, Status::Stall, &[], 4);
    assert_eq!(device.write(1, b"more, and a stall"), Answer::moved(4));
    assert_eq!(device.write(1, b", and a stall"), Answer::Stall);
    assert_eq!(device.write(1, b""), Answer::Stall);
    device.cancel(BULK_OUT);
    assert_eq!(device.write(1, b""), Answer::Stall);
    // As many as were sent, at most.
    device.reset();
    device.write(1, b"");
    let (id, _) = device.submitted();
    device.end(id, Status::Done, &[], 99);
    assert_eq!(device.write(1, b""), Answer::moved(0));
    device.write(1, b"given up");
    let (id, _) = device.submitted();
    device.cancel(BULK_OUT);
    assert_eq!(device.told(), [Told::Cancel(id)]);
}

#[test]
fn interrupt_packets_wait_until_they_are_asked_for() {
    let mut device = device();
    assert_eq!(device.read(2, 8).0, Answer::Nak);
    assert_eq!(device.told(), [Told::Start(INTERRUPT)]);
    device.packet(INTERRUPT, Status::Done, &[1, 2, 3]);
    device.packet(INTERRUPT, Status::Done, &[4; 8]);
    device.packet(INTERRUPT, Status::Done, &[5; 8]);
    assert_eq!(device.read(2, 16), (short(3), vec![1, 2, 3]));
    assert_eq!(device.read(2, 16), (Answer::moved(8), vec![4; 8]));
    assert_eq!(device.read(2, 4), (Answer::Babble, vec![]));
    assert_eq!((device.read(2, 8).0, device.told()), (Answer::Nak, vec![]));
    // Too many: no more are received until these are taken.
    for _ in 0..2000 {
        device.packet(INTERRUPT, Status::Done, &[6]);
    }
    device.turn();
    assert_eq!(device.told(), [Told::Stop(INTERRUPT)]);
    let mut count = 0;
    while device.read(2, 8).0 == short(1) {
        count += 1;
    }
    assert!((256..1024).contains(&count), "{count}");
    assert_eq!(device.told(), [Told::Start(INTERRUPT)]);
    // It stops by itself, since it is halted.
    let stopped = Event::Stopped { endpoint: INTERRUPT, status: Status::Stall };
    device.line.backend.events.push_back(stopped);
    assert_eq!(device.read(2, 8).0, Answer::Stall);
    assert_eq!((device.read(2, 8).0, device.told()), (Answer::Stall, vec![]));
    // Settings of its interface begin anew, and others do not.
    device.setup(0, setup(1, request::SET_INTERFACE, 0, 0, 0));
    assert_eq!(device.read(2, 8).0, Answer::Stall);
    device.setup(0, setup(1, request::SET_INTERFACE, 0, 1, 0));
    assert_eq!(device.read(2, 8).0, Answer::Nak);
    device.packet(INTERRUPT, Status::Done, &[0; 4000]);
    assert_eq!(device.read(2, 8).0, Answer::Babble);
}

#[test]
fn what_is_read_ahead_waits_and_has_a_bound() {
    let mut device = device();
    assert_eq!(device.read(4, 4096).0, Answer::Nak);
    assert_eq!(device.told(), [Told::Start(AHEAD)]);
    for _ in 0..2048 {
        device.packet(AHEAD, Status::Done, &[7; 512]);
    }
    device.turn();
    assert_eq!(device.told(), [Told::Stop(AHEAD)]);
    // Those that were on their way are not lost, as many as can be.
    for _ in 0..5000 {
        device.packet(AHEAD, Status::Done, &[8; 512]);
    }
    for count in 0..4096 {
        let byte = if count < 2048 { 7 } else { 8 };
        assert_eq!(device.read(4, 4096), (Answer::moved(512), vec![byte; 512]));
        let told = if count == 3071 { vec![Told::Start(AHEAD)] } else { vec![] };
        assert_eq!(device.told(), told, "half of {count}");
    }
    assert_eq!(device.read(4, 4096).0, Answer::Nak);
    // Nobody need be woken for it.
    device.setup(0, setup(0, request::SET_FEATURE, feature::DEVICE_REMOTE_WAKEUP, 0, 0));
    device.set_suspended(true);
    device.packet(AHEAD, Status::Done, &[9; 512]);
    device.packet(AHEAD, Status::Done, &[9; 513]);
    device.turn();
    assert!(!device.wakes());
    assert_eq!(device.read(4, 4096).0, Answer::moved(512));
    assert_eq!(device.read(4, 4096).0, Answer::Babble, "no packet is so long");
}

#[test]
fn an_interrupt_endpoint_is_sent_packets() {
    let mut device = device();
    let pipe = Pipe { max_packet: 8, ..device.line.backend.pipes[&INTERRUPT] };
    device.line.backend.pipes.insert(Endpoint::of_address(2), pipe);
    assert_eq!(device.write(2, &[5; 20]), Answer::Nak);
    let (id, transfer) = device.submitted();
    assert_eq!(transfer, Transfer::Out { endpoint: Endpoint::of_address(2), data: vec![5; 8] });
    device.end(id, Status::Done, &[], 8);
    assert_eq!(device.write(2, &[5; 20]), Answer::moved(8));
}

#[test]
fn a_high_speed_device_is_left_out_of_a_full_speed_port_that_its_packets_do_not_fit() {
    let mut device = device();
    assert!(device.is_present());
    device.set_high_speed(false);
    assert!(!device.is_present());
    assert_eq!(device.setup(0, setup(0x80, 6, 0x100, 0, 8)), Answer::Silent);
    device.set_high_speed(true);
    assert!(device.is_present() && !device.take_change());
    // A keyboard's fit, and what is chosen later does not take it out of its port.
    let all = std::mem::take(&mut device.line.backend.pipes);
    device.set_high_speed(false);
    assert_eq!((device.is_present(), device.speed()), (true, Speed::Full));
    device.line.backend.pipes = all;
    assert!(device.is_present() && !device.take_change());
    // The next device is another matter.
    device.line.backend.gone.store(true, Ordering::Relaxed);
    assert!(device.take_change() && !device.is_present());
    device.line.backend.gone.store(false, Ordering::Relaxed);
    assert!(!device.take_change() && !device.is_present());
}

#[test]
fn isochronous_packets_are_gathered_first() {
    let mut device = device();
    assert_eq!(device.read(3, 1024).0, Answer::Nak);
    assert_eq!(device.told(), [Told::Start(ISO_IN)]);
    // A millisecond has eight of them.
    for number in 0..7 {
        device.packet(ISO_IN, Status::Done, &[number]);
    }
    assert_eq!(device.read(3, 1024).0, Answer::Nak);
    device.packet(ISO_IN, Status::Failed, &[]);
    for number in 0..7 {
        assert_eq!(device.read(3, 1024), (short(1), vec![number]));
    }
    assert_eq!(device.read(3, 1024).0, Answer::Silent);
    // Late: they are gathered again.
    assert_eq!(device.read(3, 1024).0, Answer::Nak);
    device.packet(ISO_IN, Status::Done, &[7]);
    assert_eq!(device.read(3, 1024).0, Answer::Nak);
    // Nobody listens: the stream ends, and begins when somebody does.
    for number in 0..100 {
        device.packet(ISO_IN, Status::Done, &[number]);
    }
    device.turn();
    assert_eq!(device.told(), [Told::Stop(ISO_IN)]);
    assert_eq!(device.read(3, 1024).0, Answer::Nak);
    assert_eq!(device.told(), [Told::Start(ISO_IN)]);
    // A stream that ends by itself begins anew.
    let status = Status::Stall;
    device.line.backend.events.push_back(Event::Stopped { endpoint: ISO_IN, status });
    assert_eq!(device.read(3, 1024).0, Answer::Silent);
    assert_eq!(device.read(3, 1024).0, Answer::Nak);
    assert_eq!(device.told(), [Told::Start(ISO_IN)]);
}

#[test]
fn a_clock_that_is_too_fast_costs_packets_and_no_more() {
    let mut device = device();
    device.read(3, 1024);
    let mut got = 0;
    for _ in 0..1000 {
        device.packet(ISO_IN, Status::Done, &[1]);
        device.packet(ISO_IN, Status::Done, &[1]);
        got += usize::from(device.read(3, 1024).0 == short(1));
    }
    assert!(got > 990, "{got}");
    assert_eq!(device.told(), [Told::Start(ISO_IN)]);
}

#[test]
fn isochronous_packets_are_sent_at_once() {
    let mut device = device();
    assert_eq!(device.write(3, &[1, 2]), Answer::moved(2));
    assert_eq!(device.write(3, &[3]), Answer::moved(1));
    assert_eq!(
        device.told(),
        [Told::Start(ISO_OUT), Told::Send(ISO_OUT, vec![1, 2]), Told::Send(ISO_OUT, vec![3])]
    );
    device.reset();
    assert_eq!(device.told(), [Told::Stop(ISO_OUT), Told::Reset]);
}

#[test]
fn one_that_is_gone_does_not_answer() {
    let mut device = device();
    assert!(device.is_present() && !device.take_change());
    device.line.backend.gone.store(true, Ordering::Relaxed);
    assert!(!device.is_present() && device.take_change() && !device.take_change());
    assert!(device.find(0).is_none());
    assert_eq!(device.setup(0, Setup::default()), Answer::Silent);
    assert_eq!(device.read(0, 1).0, Answer::Silent);
    assert_eq!(device.write(1, &[1]), Answer::Silent);
}

#[test]
fn input_wakes_a_host_that_allows_it() {
    let mut device = device();
    device.read(2, 8);
    device.set_suspended(true);
    device.packet(INTERRUPT, Status::Done, &[1]);
    device.turn();
    assert!(!device.wakes());
    device.setup(0, setup(0, request::SET_FEATURE, feature::DEVICE_REMOTE_WAKEUP, 0, 0));
    assert!(device.wakes());
    device.set_suspended(false);
    assert!(!device.wakes());
}

fn event() -> impl Strategy<Value = Event> {
    let status =
        || prop::sample::select(&[Status::Done, Status::Stall, Status::Babble, Status::Failed][..]);
    let endpoint =
        || (0..5u8, any::<bool>()).prop_map(|(n, i)| Endpoint::of_address(n | u8::from(i) << 7));
    let data = || prop::collection::vec(any::<u8>(), 0..70);
    prop_oneof![
        (0..40u32, status(), data(), 0..99usize)
            .prop_map(|(id, status, data, taken)| Event::Ended { id, status, data, taken }),
        (endpoint(), status(), data()).prop_map(|(endpoint, status, data)| Event::Packet {
            endpoint,
            status,
            data
        }),
        (endpoint(), status()).prop_map(|(endpoint, status)| Event::Stopped { endpoint, status }),
    ]
}

proptest! {
    #[test]
    fn whatever_is_asked_and_answered_no_more_moves_than_can(
        all in prop::collection::vec((any::<Asked>(), prop::collection::vec(event(), 0..3)), 0..60)
    ) {
        let mut device = device();
        for (asked, events) in all {
            device.line.backend.events.extend(events);
            host::ask(&mut device, &[asked]);
        }
        device.reset();
        host::write(&mut device, setup(0, request::SET_ADDRESS, 3, 0, 0), &[]).unwrap();
        prop_assert_eq!(device.address(), 3);
    }
}
