use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use vmm_sys_util::eventfd::EFD_NONBLOCK;

use super::*;
use crate::frontend::ring::{Buffer, Descriptor, Ring};
use crate::virtio::test_guest::{Guest, raw_chains};

/// What is at the host's end: it keeps what it was given, as far as it has room.
struct Host {
    written: Mutex<Vec<u8>>,
    room: Mutex<usize>,
    changes: AtomicU32,
}

impl Host {
    fn new() -> Arc<Self> {
        let room = Mutex::new(usize::MAX);
        Arc::new(Self { written: Mutex::default(), room, changes: AtomicU32::new(0) })
    }

    fn set_room(&self, room: usize) {
        *self.room.lock().unwrap() = room;
    }

    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.written.lock().unwrap())
    }

    /// It was told of a change since this was asked last.
    fn changed(&self) -> bool {
        self.changes.swap(0, Ordering::Relaxed) > 0
    }
}

impl Endpoint for Host {
    fn write(&self, bytes: &[u8]) -> usize {
        let mut room = self.room.lock().unwrap();
        let count = bytes.len().min(*room);
        *room -= count;
        self.written.lock().unwrap().extend(&bytes[..count]);
        count
    }

    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }
}

/// A driver, its device, and what is behind its ports.
struct Driver {
    guest: Guest,
    device: Console,
    console: Arc<Host>,
    agent: Arc<Host>,
    rings: Vec<Ring>,
    messages: Vec<Buffer>,
}

/// Numbers of queues.
const INPUT: [usize; 2] = [0, 4];
const OUTPUT: [usize; 2] = [1, 5];
const TO_DRIVER: usize = 2;
const FROM_DRIVER: usize = 3;

const AGENT: &str = "org.qemu.guest_agent.0";

impl Driver {
    /// With port 0, a console, or port 1, named as the guest agent's, or both. Not started.
    fn new(with_console: bool, with_agent: bool) -> Self {
        let mut guest = Guest::new();
        let (console, agent) = (Host::new(), Host::new());
        let memory = guest.device_memory();
        let reactor = guest.reactor.clone();
        let first = with_console.then(|| Arc::clone(&console) as Arc<dyn Endpoint>);
        let named = [(String::from(AGENT), Arc::clone(&agent) as Arc<dyn Endpoint>)];
        let named = named.into_iter().filter(|_| with_agent).collect();
        let device = Console::new(reactor, memory, first, named).unwrap();
        let rings = device.queue_sizes().iter().map(|_| guest.ring(8)).collect();
        let messages = (0..8).map(|_| guest.buffer(64)).collect();
        Self { guest, device, console, agent, rings, messages }
    }

    /// With both, which the driver has found and opened. Of what it was told it remembers nothing.
    fn ready() -> Self {
        let mut driver = Self::new(true, true);
        driver.start();
        for port in 0..2 {
            driver.device.port(port).set_open(true);
        }
        driver.add_buffers(8);
        driver.say(&[(u32::MAX, 0, 1), (0, 3, 1), (1, 3, 1), (0, 6, 1), (1, 6, 1)]);
        assert_eq!(driver.hear().len(), 6);
        driver.console.changed();
        driver.agent.changed();
        driver
    }

    fn start(&mut self) {
        let queues =
            (0..).zip(&self.rings).map(|(index, ring)| self.guest.queue(index, ring)).collect();
        self.device.start(self.device.features(), queues).unwrap();
        self.guest.run();
    }

    /// Sends messages of port, event and value.
    fn say(&mut self, messages: &[(u32, u16, u16)]) {
        for &(port, event, value) in messages {
            let bytes = [&port.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes()];
            self.send(FROM_DRIVER, &bytes.concat());
            assert!(self.rings[FROM_DRIVER].take().unwrap().is_some());
        }
    }

    /// Gives the device so many buffers more for messages; those that were used come back by
    /// [`hear`](Self::hear).
    fn add_buffers(&mut self, count: usize) {
        for _ in 0..count {
            let index = self.rings[TO_DRIVER].under_way();
            let buffer = self.messages[usize::from(index)];
            assert!(self.rings[TO_DRIVER].add(&[], &[buffer], index.into()).unwrap());
        }
        self.rings[TO_DRIVER].publish().unwrap();
        self.guest.run();
    }

    /// The messages that have come, as port, event, value and the rest. Their buffers are not given
    /// back to the device.
    fn hear(&mut self) -> Vec<(u32, u16, u16, Vec<u8>)> {
        let mut heard = Vec::new();
        while let Some(used) = self.rings[TO_DRIVER].take().unwrap() {
            let buffer = self.messages[used.token as usize];
            let bytes = self.guest.read(Buffer { length: used.written, ..buffer });
            let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
            let port = u32::from(half(0)) | u32::from(half(2)) << 16;
            heard.push((port, half(4), half(6), bytes[8..].to_vec()));
        }
        heard
    }

    /// Writes `bytes` to a queue, and lets the device serve it.
    fn send(&mut self, queue: usize, bytes: &[u8]) {
        let buffer = self.guest.buffer(bytes.len() as u32);
        self.guest.write(buffer, bytes);
        assert!(self.rings[queue].add(&[buffer], &[], 0).unwrap());
        self.rings[queue].publish().unwrap();
        self.guest.run();
    }

    /// Gives a queue room for so many bytes.
    fn give_room(&mut self, queue: usize, bytes: u32) -> Buffer {
        let buffer = self.guest.buffer(bytes);
        assert!(self.rings[queue].add(&[], &[buffer], 0).unwrap());
        self.rings[queue].publish().unwrap();
        self.guest.run();
        buffer
    }

    /// Chains of a queue that the device gave back since this was asked last.
    fn used(&mut self, queue: usize) -> usize {
        std::iter::from_fn(|| self.rings[queue].take().unwrap()).count()
    }

    fn config(&mut self) -> [u8; 12] {
        let mut bytes = [0xff; 12];
        self.device.read_config(0, &mut bytes);
        bytes
    }
}

fn plain(port: u32, event: u16, value: u16) -> (u32, u16, u16, Vec<u8>) {
    (port, event, value, Vec::new())
}

#[test]
fn a_driver_finds_a_console_and_a_named_port() {
    let mut driver = Driver::new(true, true);
    assert_eq!(driver.device.queue_sizes().len(), 6);
    driver.device.port(0).set_open(true);
    driver.device.port(0).resize(132, 43);
    assert_eq!(driver.config(), [132, 0, 43, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    driver.start();
    driver.add_buffers(8);
    assert_eq!(driver.hear(), [], "the driver says the first word");
    driver.say(&[(u32::MAX, 0, 1)]);
    assert_eq!(driver.hear(), [plain(0, 1, 1), plain(1, 1, 1)]);
    driver.say(&[(0, 3, 1)]);
    assert_eq!(
        driver.hear(),
        [plain(0, 4, 1), (0, 5, 0, vec![132, 0, 43, 0]), plain(0, 6, 1)],
        "a console of this size, and somebody is there"
    );
    driver.say(&[(1, 3, 1)]);
    assert_eq!(driver.hear(), [(1, 7, 1, AGENT.into())], "nobody is there");
    assert!(!driver.device.port(1).guest_open());
    driver.say(&[(1, 6, 1)]);
    assert!(driver.device.port(1).guest_open());
    assert!(driver.agent.changed() && !driver.console.changed());
    driver.say(&[(1, 6, 0)]);
    assert!(!driver.device.port(1).guest_open());
    assert!(driver.agent.changed());
}

#[test]
fn without_a_console_the_first_port_is_not_there() {
    let mut driver = Driver::new(false, true);
    assert_eq!(driver.device.features() & 7, F_MULTIPORT);
    driver.start();
    driver.add_buffers(8);
    driver.say(&[(u32::MAX, 0, 1), (0, 3, 1), (0, 6, 1)]);
    assert_eq!(driver.hear(), [plain(1, 1, 1)]);
    assert!(!driver.device.port(0).guest_open());
    driver.send(OUTPUT[0], b"lost");
    assert_eq!(driver.used(OUTPUT[0]), 1, "a driver that takes it for a console is not held up");
}

#[test]
fn a_console_alone_needs_no_messages() {
    let mut driver = Driver::new(true, false);
    assert_eq!(driver.device.features() & 7, F_SIZE | F_EMERG_WRITE);
    assert_eq!(driver.device.queue_sizes(), [64, 64]);
    let call = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
    driver.device.set_config_call(Arc::clone(&call));
    driver.start();
    let port = driver.device.port(0);
    assert!(port.guest_open() && driver.console.changed());
    port.set_open(true);
    driver.send(OUTPUT[0], b"login: ");
    assert_eq!(driver.console.take(), b"login: ");
    let buffer = driver.give_room(INPUT[0], 16);
    assert_eq!(port.input(b"root\n"), 5);
    assert_eq!(driver.guest.read(Buffer { length: 5, ..buffer }), b"root\n");
    let before = driver.device.config_generation();
    port.resize(80, 25);
    assert!(call.read().is_ok());
    assert_ne!(driver.device.config_generation(), before);
    assert_eq!(driver.config()[..4], [80, 0, 25, 0]);
    port.resize(80, 25);
    assert!(call.read().is_err(), "no change");
}

#[test]
fn a_driver_of_many_ports_may_not_want_them() {
    let mut driver = Driver::new(true, true);
    let queues = (0..2).zip(&driver.rings).map(|(index, ring)| driver.guest.queue(index, ring));
    let queues = queues.collect();
    driver.device.start(driver.device.features() & !F_MULTIPORT, queues).unwrap();
    driver.device.port(0).set_open(true);
    driver.send(OUTPUT[0], b"alone");
    assert_eq!(driver.console.take(), b"alone");
    assert_eq!(driver.device.port(1).wanted(), 0);
}

#[test]
fn output_waits_for_the_endpoint_and_none_of_it_is_lost() {
    let mut driver = Driver::ready();
    driver.agent.set_room(5);
    driver.send(OUTPUT[1], b"one ");
    driver.send(OUTPUT[1], b"two ");
    driver.send(OUTPUT[1], b"three");
    assert_eq!(driver.used(OUTPUT[1]), 1);
    assert_eq!(driver.agent.take(), b"one t");
    driver.agent.set_room(2);
    driver.device.port(1).room();
    assert_eq!(driver.used(OUTPUT[1]), 0);
    driver.agent.set_room(100);
    driver.device.port(1).room();
    assert_eq!(driver.agent.take(), b"wo three");
    assert_eq!(driver.used(OUTPUT[1]), 2);
    driver.send(OUTPUT[1], b"!");
    assert_eq!(driver.agent.take(), b"!", "kicks are wanted again");
}

#[test]
fn output_goes_on_after_a_stop_where_it_was() {
    let mut driver = Driver::ready();
    driver.agent.set_room(5);
    driver.send(OUTPUT[1], b"one two");
    driver.send(OUTPUT[1], b" three");
    driver.device.stop(false);
    driver.agent.set_room(100);
    driver.device.port(1).room();
    assert_eq!(driver.agent.take(), b"one t", "stopped");
    driver.start();
    assert_eq!(driver.agent.take(), b"wo three");
    assert_eq!(driver.used(OUTPUT[1]), 2);
}

#[test]
fn a_turn_of_output_is_bounded_and_others_follow() {
    let mut driver = Driver::ready();
    let bytes: Vec<u8> = (0..200_000u32).map(|at| (at % 251) as u8).collect();
    let buffer = driver.guest.buffer(200_000);
    driver.guest.write(buffer, &bytes);
    driver.rings[OUTPUT[0]].add(&[buffer], &[], 0).unwrap();
    driver.rings[OUTPUT[0]].publish().unwrap();
    driver.device.shared.state().output(0);
    assert_eq!(driver.console.written.lock().unwrap().len(), 64 << 10);
    driver.guest.run();
    assert_eq!(driver.console.take(), bytes);
}

#[test]
fn what_is_written_for_nobody_is_lost() {
    let mut driver = Driver::ready();
    driver.agent.set_room(2);
    driver.send(OUTPUT[1], b"abc");
    driver.device.port(1).set_open(false);
    driver.send(OUTPUT[1], b"def");
    assert_eq!(driver.used(OUTPUT[1]), 2);
    driver.agent.set_room(100);
    driver.device.port(1).set_open(true);
    driver.send(OUTPUT[1], b"ghi");
    assert_eq!(driver.agent.take(), b"abghi");
}

#[test]
fn input_waits_for_the_guests_buffers() {
    let mut driver = Driver::ready();
    let port = driver.device.port(1);
    assert_eq!(port.wanted(), 0);
    let first = driver.give_room(INPUT[1], 4);
    assert!(driver.agent.changed());
    assert_eq!(port.wanted(), 4);
    let second = driver.give_room(INPUT[1], 4);
    assert!(!driver.agent.changed(), "it did not have to wait");
    assert_eq!(port.input(b"abcdefghij"), 8);
    assert_eq!([driver.guest.read(first), driver.guest.read(second)].concat(), b"abcdefgh");
    assert_eq!(driver.used(INPUT[1]), 2);
    assert!(driver.rings[INPUT[1]].events().call.read().is_ok());
    driver.give_room(INPUT[1], 4);
    assert!(driver.agent.changed(), "not all was taken");
    assert_eq!(port.input(b"ij"), 2);
}

#[test]
fn a_port_that_the_driver_has_not_opened_takes_no_input() {
    let mut driver = Driver::ready();
    let port = driver.device.port(1);
    driver.say(&[(1, 6, 0)]);
    driver.give_room(INPUT[1], 4);
    assert_eq!(port.input(b"abcd"), 0);
    driver.agent.changed();
    driver.say(&[(1, 6, 1)]);
    assert!(driver.agent.changed());
    assert_eq!(port.input(b"abcd"), 4);
}

#[test]
fn buffers_without_room_are_given_back() {
    let mut driver = Driver::ready();
    driver.send(INPUT[1], b"readable");
    let buffer = driver.give_room(INPUT[1], 4);
    assert_eq!(driver.device.port(1).input(b"abcd"), 4);
    assert_eq!(driver.guest.read(buffer), b"abcd");
    assert_eq!(driver.used(INPUT[1]), 2);
}

#[test]
fn messages_wait_for_buffers_each_once() {
    let mut driver = Driver::ready();
    let port = driver.device.port(1);
    port.set_open(false);
    port.set_open(true);
    assert_eq!(driver.hear(), [plain(1, 6, 0), plain(1, 6, 1)]);
    assert_eq!(driver.rings[TO_DRIVER].under_way(), 0, "these were the last buffers");
    for _ in 0..1000 {
        port.set_open(false);
        port.set_open(true);
        driver.device.port(0).resize(80, 24);
        driver.device.port(0).resize(80, 25);
    }
    driver.add_buffers(8);
    assert_eq!(
        driver.hear(),
        [(0, 5, 0, vec![80, 0, 25, 0]), plain(1, 6, 0), plain(1, 6, 1)],
        "the driver knows that it was closed in between"
    );
    port.set_open(false);
    driver.guest.run();
    assert_eq!(driver.hear(), [plain(1, 6, 0)]);
}

#[test]
fn an_opening_that_the_driver_never_heard_of_is_not_closed() {
    let mut driver = Driver::new(true, true);
    driver.start();
    driver.add_buffers(2);
    driver.say(&[(u32::MAX, 0, 1)]);
    assert_eq!(driver.hear().len(), 2);
    driver.say(&[(1, 3, 1)]);
    driver.device.port(1).set_open(true);
    driver.device.port(1).set_open(false);
    driver.add_buffers(8);
    assert_eq!(driver.hear(), [(1, 7, 1, AGENT.into())]);
}

#[test]
fn what_no_driver_says_is_not_heard() {
    let mut driver = Driver::ready();
    driver.say(&[(2, 3, 1), (u32::MAX, 6, 1), (0, 1, 1), (0, 99, 1)]);
    driver.send(FROM_DRIVER, &[0, 0, 0, 0, 6, 0, 0]);
    assert_eq!(driver.used(FROM_DRIVER), 1);
    driver.send(FROM_DRIVER, &[0, 0, 0, 0, 6, 0, 0, 0, 1, 1, 1]);
    assert!(!driver.device.port(0).guest_open(), "one that is too long has its beginning heard");
    assert_eq!(driver.hear(), []);
}

#[test]
fn a_reset_forgets_the_driver_and_not_the_host() {
    let mut driver = Driver::ready();
    driver.agent.set_room(1);
    driver.send(OUTPUT[1], b"abc");
    driver.device.stop(true);
    assert!(!driver.device.port(1).guest_open());
    assert!(driver.agent.changed());
    driver.agent.set_room(100);
    driver.rings.iter_mut().for_each(Ring::clear);
    driver.start();
    driver.add_buffers(8);
    assert_eq!(driver.hear(), []);
    driver.say(&[(u32::MAX, 0, 1), (1, 3, 1)]);
    assert_eq!(
        driver.hear(),
        [plain(0, 1, 1), plain(1, 1, 1), (1, 7, 1, AGENT.into()), plain(1, 6, 1)]
    );
    driver.send(OUTPUT[1], b"def");
    assert_eq!(driver.agent.take(), b"adef");
}

#[test]
fn last_words_need_no_queue() {
    let mut driver = Driver::new(true, false);
    driver.device.write_config(8, &[b'x', 0, 0, 0]);
    assert_eq!(driver.console.take(), b"", "nobody is there");
    driver.device.port(0).set_open(true);
    driver.device.write_config(8, &[b'x', 0, 0, 0]);
    driver.device.write_config(0, b"y");
    driver.device.write_config(u32::MAX, b"z");
    driver.device.write_config(8, &[]);
    assert_eq!(driver.console.take(), b"x");
}

#[test]
fn behind_the_configuration_space_is_nothing() {
    let mut driver = Driver::new(true, true);
    let mut bytes = [0xff; 8];
    driver.device.read_config(4, &mut bytes[..2]);
    assert_eq!(bytes[..2], [2, 0]);
    for offset in [12, u32::MAX] {
        driver.device.read_config(offset, &mut bytes);
        assert_eq!(bytes, [0; 8]);
    }
}

#[test]
fn a_device_has_31_ports() {
    let guest = Guest::new();
    let named = |count| {
        let named = (0..count).map(|_| (String::from("a"), Host::new() as Arc<dyn Endpoint>));
        Console::new(guest.reactor.clone(), guest.device_memory(), None, named.collect())
    };
    assert_eq!(named(30).unwrap().queue_sizes().len(), 64);
    assert!(named(31).is_err());
}

#[test]
fn a_queue_that_cannot_be_is_refused_and_none_is_started() {
    let mut driver = Driver::new(true, true);
    let queues: Vec<_> = (0..)
        .zip(&driver.rings)
        .map(|(index, ring)| {
            let queue = driver.guest.queue(index, ring);
            if index == 5 { Queue { available: 1, ..queue } } else { queue }
        })
        .collect();
    assert!(driver.device.start(driver.device.features(), queues).is_err());
    driver.device.port(0).set_open(true);
    driver.rings[OUTPUT[0]].add(&[Buffer { address: 0, length: 1 }], &[], 0).unwrap();
    driver.rings[OUTPUT[0]].publish().unwrap();
    driver.guest.run();
    assert_eq!(driver.used(OUTPUT[0]), 0);
}

#[test]
fn a_broken_queue_leaves_the_others_alone() {
    let mut driver = Driver::ready();
    let ring = &mut driver.rings[OUTPUT[1]];
    ring.set_raw(0, Descriptor { address: 1 << 40, length: 1, flags: 0, next: 0 });
    ring.offer_raw(0);
    ring.show_raw(0);
    ring.kick().unwrap();
    driver.guest.run();
    assert_eq!(driver.used(OUTPUT[1]), 0);
    driver.send(OUTPUT[0], b"still here");
    assert_eq!(driver.console.take(), b"still here");
}

/// What the driver, the host or the machine may do, in any order.
#[derive(Clone, Debug)]
enum Step {
    Offer(usize, Vec<(u16, Descriptor)>, u16),
    Say(u32, u16, u16),
    Input(usize, usize),
    Room(usize, usize),
    Open(usize, bool),
    Resize(u16, u16),
    Restart(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let any_size = prop_oneof![0usize..10_000, Just(usize::MAX)];
    prop_oneof![
        4 => (0usize..6, raw_chains(), prop_oneof![9 => Just(0), 1 => 0u16..12])
            .prop_map(|(queue, chains, more)| Step::Offer(queue, chains, more)),
        4 => (0u32..3, 0u16..9, 0u16..2).prop_map(|(port, event, value)| Step::Say(port, event, value)),
        2 => (0usize..3, 0usize..10_000).prop_map(|(port, count)| Step::Input(port, count)),
        2 => (0usize..3, any_size).prop_map(|(port, room)| Step::Room(port, room)),
        1 => (0usize..3, any::<bool>()).prop_map(|(port, open)| Step::Open(port, open)),
        1 => (any::<u16>(), any::<u16>()).prop_map(|(columns, rows)| Step::Resize(columns, rows)),
        1 => any::<bool>().prop_map(Step::Restart),
    ]
}

proptest! {
    #[test]
    fn whatever_a_driver_does_the_device_can_be_reset(
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let mut driver = Driver::ready();
        for step in steps {
            match step {
                Step::Offer(queue, chains, more) => {
                    let Driver { guest, rings, .. } = &mut driver;
                    guest.offer(&mut rings[queue], &chains, more);
                }
                Step::Say(port, event, value) => {
                    let state = &mut driver.device.shared.state();
                    let mut bytes = [0; 8];
                    bytes[..4].copy_from_slice(&port.to_le_bytes());
                    bytes[4..6].copy_from_slice(&event.to_le_bytes());
                    bytes[6..].copy_from_slice(&value.to_le_bytes());
                    if let Some(message) = control::FromDriver::parse(bytes) {
                        state.hear(message);
                    }
                }
                Step::Input(port, count) => {
                    let port = driver.device.port(port);
                    let wanted = port.wanted();
                    prop_assert!(port.input(&vec![1; count]) >= wanted.min(count));
                }
                Step::Room(port, room) => {
                    driver.console.set_room(room);
                    driver.agent.set_room(room);
                    driver.device.port(port).room();
                }
                Step::Open(port, open) => driver.device.port(port).set_open(open),
                Step::Resize(columns, rows) => driver.device.port(0).resize(columns, rows),
                Step::Restart(reset) => {
                    driver.device.stop(reset);
                    driver.start();
                }
            }
            driver.guest.run();
        }
        driver.device.stop(true);
        driver.rings.iter_mut().for_each(Ring::clear);
        driver.start();
        driver.device.port(1).set_open(true);
        driver.add_buffers(8);
        driver.say(&[(u32::MAX, 0, 1), (1, 3, 1), (1, 6, 1)]);
        prop_assert_eq!(
            driver.hear(),
            [plain(0, 1, 1), plain(1, 1, 1), (1, 7, 1, AGENT.into()), plain(1, 6, 1)]
        );
        driver.agent.take();
        driver.agent.set_room(100);
        driver.send(OUTPUT[1], b"hello");
        prop_assert_eq!(driver.agent.take(), b"hello");
    }
}
