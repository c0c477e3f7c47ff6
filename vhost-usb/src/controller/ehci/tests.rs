//! A driver with a memory of its own, and a device that echoes.

use std::cell::RefCell;
use std::sync::atomic::Ordering;

use super::structures::token;
use super::*;
use crate::device::emulated::tests::Echo;
use crate::device::remote::tests::fickle;
use crate::usb::setup::{Setup, request};

/// A host's memory, from address 0 on.
struct Ram(RefCell<Vec<u8>>);

impl Ram {
    fn new() -> Self {
        Self(RefCell::new(vec![0; 0x10_0000]))
    }

    fn put(&self, address: u32, words: &[u32]) {
        for (place, word) in (address..).step_by(4).zip(words) {
            self.store(place, *word).unwrap();
        }
    }

    fn bytes(&self, address: u32, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.read(address, &mut bytes).unwrap();
        bytes
    }
}

impl Memory for Ram {
    fn load(&self, address: u32) -> Option<u32> {
        assert_eq!(address % 4, 0);
        let mut bytes = [0; 4];
        self.read(address, &mut bytes)?;
        Some(u32::from_le_bytes(bytes))
    }

    fn store(&self, address: u32, value: u32) -> Option<()> {
        assert_eq!(address % 4, 0);
        self.write(address, &value.to_le_bytes())
    }

    fn read(&self, address: u32, to: &mut [u8]) -> Option<()> {
        let start = address as usize;
        to.copy_from_slice(self.0.borrow().get(start..start.checked_add(to.len())?)?);
        Some(())
    }

    fn write(&self, address: u32, from: &[u8]) -> Option<()> {
        let start = address as usize;
        self.0.borrow_mut().get_mut(start..start.checked_add(from.len())?)?.copy_from_slice(from);
        Some(())
    }
}

const OUT: u32 = 0;
const IN: u32 = 1 << 8;
const SETUP: u32 = 2 << 8;
const END: u32 = 1;
/// Three errors are allowed.
const TRIES: u32 = 3 << 10;

/// Where the tests have what.
const HEAD: u32 = 0x1000;
const QH: u32 = 0x1100;
const QTD: u32 = 0x2000;
const DATA: u32 = 0x1_0000;
const FRAMES: u32 = 0x8000;

struct Host {
    ehci: Ehci,
    ports: Ports,
    ram: Ram,
    now: Time,
}

impl Host {
    /// A controller that runs, with one device, in the default state.
    fn new() -> Self {
        let mut this = Self {
            ehci: Ehci::new(4, 0),
            ports: Ports::new(4),
            ram: Ram::new(),
            now: Time(1_000_000_000),
        };
        assert!(this.ports.plug(1, Box::new(Echo::new())));
        this.ehci.reset(&mut this.ports);
        this.set(register::CONFIG_FLAG, 1);
        this.set(register::INTERRUPT, status::EVENTS);
        // A head that has nothing to do, and the endpoint's.
        this.ram.put(HEAD, &[QH | 2, 1 << 15, 0, 0, END, END, token::HALTED]);
        this.queue(0, 0, 64, END);
        this.set(register::ASYNC_LIST, HEAD);
        this.set(register::COMMAND, command::RUN | command::ASYNCHRONOUS);
        this.reset_port();
        this
    }

    fn set(&mut self, offset: u32, value: u32) {
        self.ehci.write(offset, value, self.now, &mut self.ports);
    }

    fn get(&self, offset: u32) -> u32 {
        self.ehci.read(offset, self.now)
    }

    fn port(&self) -> u32 {
        self.get(register::PORTS + 4)
    }

    fn reset_port(&mut self) {
        self.set(register::PORTS + 4, 1 << 8);
        self.set(register::PORTS + 4, 0);
        assert_eq!(self.port() & 0x105, 5, "connected, enabled, not reset");
    }

    /// The queue head of an endpoint whose transfers begin at a link.
    fn queue(&self, address: u32, endpoint: u32, packet: u32, first: u32) {
        let characteristics = address | endpoint << 8 | 2 << 12 | 1 << 14 | packet << 16;
        self.ram.put(QH, &[HEAD | 2, characteristics, 1 << 30, 0, first, END, 0]);
    }

    /// A transfer descriptor.
    fn qtd(&self, number: u32, next: u32, token: u32, bytes: u32, data: u32) -> u32 {
        let place = QTD + number * 0x40;
        let page = |page: u32| (data & !0xfff).wrapping_add(page * 0x1000);
        let token = token | bytes << 16 | token::ACTIVE | TRIES;
        self.ram.put(place, &[next, END, token, data, page(1), page(2), page(3), page(4)]);
        place
    }

    fn token(&self, number: u32) -> u32 {
        self.ram.load(QTD + number * 0x40 + 8).unwrap()
    }

    fn run(&mut self) -> Next {
        self.ehci.run(self.now, &mut self.ports, &self.ram)
    }

    fn pass(&mut self, nanoseconds: u64) {
        self.now = self.now.after(nanoseconds);
    }

    /// A control transfer without data.
    fn request(&mut self, address: u32, setup: Setup) {
        self.ram.write(DATA, &setup.bytes()).unwrap();
        self.qtd(1, END, IN | 1 << 31, 0, 0);
        let first = self.qtd(0, QTD + 0x40, SETUP, 8, DATA);
        self.queue(address, 0, 64, first);
        self.run();
        assert_eq!((self.token(0) & 0xff, self.token(1) & 0xff), (0, 0));
    }

    /// Configures the device, at address 1.
    fn configure(&mut self) {
        let setup = |request, value| Setup { request, value, ..Setup::default() };
        self.request(0, setup(request::SET_ADDRESS, 1));
        self.request(1, setup(request::SET_CONFIGURATION, 1));
    }
}

#[test]
fn registers_are_as_after_a_reset() {
    let ehci = Ehci::new(6, 3);
    let read = |offset| ehci.read(offset, Time(0));
    assert_eq!(read(register::CAPABILITIES), 0x0100_0020);
    assert_eq!(read(register::STRUCTURAL), 6 | 2 << 8 | 3 << 12);
    assert_eq!((read(register::COMMAND), read(register::STATUS)), (0x8_0000, 0x1000));
    assert_eq!((read(register::FRAME_INDEX), read(register::CONFIG_FLAG)), (0, 0));
    assert_eq!((read(register::PORTS), read(register::PORTS + 24), read(0x1000)), (0x1000, 0, 0));
}

#[test]
fn a_device_is_found_reset_and_asked_for_its_descriptor() {
    let mut host = Host::new();
    assert_eq!(host.get(register::STATUS) & status::PORT_CHANGE, status::PORT_CHANGE);
    let setup = Setup::parse([0x80, request::GET_DESCRIPTOR, 0, 1, 0, 0, 64, 0]);
    host.ram.write(DATA, &setup.bytes()).unwrap();
    host.qtd(2, END, OUT | 1 << 31 | token::INTERRUPT, 0, 0);
    host.qtd(1, QTD + 0x80, IN | 1 << 31, 64, DATA + 0x100);
    let first = host.qtd(0, QTD + 0x40, SETUP, 8, DATA);
    host.queue(0, 0, 64, first);
    host.run();
    for number in 0..3 {
        assert_eq!(host.token(number) & 0xff, 0, "{number}");
    }
    assert_eq!(host.token(1) >> 16 & 0x7fff, 64 - 18, "a short packet");
    assert_eq!(host.ram.bytes(DATA + 0x100, 2), [18, 1]);
    assert!(host.ehci.interrupts());
    host.set(register::STATUS, status::EVENTS);
    assert!(!host.ehci.interrupts());
}

#[test]
fn data_cross_pages_and_transfers_follow_each_other() {
    let mut host = Host::new();
    host.configure();
    let sent: Vec<u8> = (0..9000u32).map(|number| number as u8).collect();
    host.ram.write(DATA + 0xf00, &sent).unwrap();
    host.qtd(1, END, IN, 9000, DATA + 0x8080);
    let first = host.qtd(0, END, OUT, 9000, DATA + 0xf00);
    host.queue(1, 1, 512, first);
    host.run();
    assert_eq!(host.token(0) & (token::BYTES | 0xff), 0);
    host.queue(1, 1, 512, QTD + 0x40);
    host.run();
    assert!(host.ram.bytes(DATA + 0x8080, 9000) == sent);
    assert_eq!(host.token(1) & (token::BYTES | 0xff), 0);
}

#[test]
fn a_device_that_has_nothing_is_asked_again_when_it_has() {
    let mut host = Host::new();
    host.configure();
    let first = host.qtd(0, END, IN | token::INTERRUPT, 64, DATA);
    host.queue(1, 1, 512, first);
    host.set(register::STATUS, status::EVENTS);
    host.run();
    assert_eq!(host.token(0) & 0xff, token::ACTIVE);
    assert!(!host.ehci.interrupts());
    let second = host.qtd(1, END, OUT, 3, DATA + 0x100);
    host.ram.write(DATA + 0x100, b"abc").unwrap();
    host.queue(1, 1, 512, second);
    host.run();
    host.queue(1, 1, 512, first);
    host.run();
    assert_eq!(host.token(0) & 0xff, 0);
    assert_eq!(host.ram.bytes(DATA, 3), b"abc");
}

#[test]
fn a_stall_and_a_silent_device_halt_the_queue() {
    let mut host = Host::new();
    host.configure();
    host.ram.write(DATA, b"bad").unwrap();
    let first = host.qtd(0, QTD + 0x40, OUT, 3, DATA);
    host.qtd(1, END, OUT, 3, DATA);
    host.queue(1, 1, 512, first);
    host.set(register::STATUS, status::EVENTS);
    host.run();
    assert_eq!(host.token(0) & 0xff, token::HALTED);
    assert_eq!(host.token(1) & 0xff, token::ACTIVE, "it is not gone on");
    assert_eq!(host.get(register::STATUS) & status::EVENTS, status::ERROR_INTERRUPT);
    let first = host.qtd(0, END, OUT, 3, DATA);
    host.queue(9, 1, 512, first);
    host.run();
    assert_eq!(host.token(0) & 0xff, token::HALTED | token::XACT_ERROR);
    assert_eq!(host.token(0) & TRIES, 0);
}

#[test]
fn more_than_the_pages_hold_is_a_buffer_error_and_a_packet_of_no_bytes_another() {
    let mut host = Host::new();
    host.configure();
    let first = host.qtd(0, END, OUT, 0x5000, DATA + 1);
    host.queue(1, 1, 512, first);
    host.run();
    assert_eq!(host.token(0) & 0xff, token::HALTED | token::DATA_BUFFER_ERROR);
    let first = host.qtd(0, END, OUT, 5, DATA);
    host.queue(1, 1, 0, first);
    host.run();
    assert_eq!(host.token(0) & 0xff, token::HALTED | token::XACT_ERROR);
}

#[test]
fn what_is_not_memory_is_a_system_error_and_halts_the_controller() {
    for place in [HEAD, QH] {
        let mut host = Host::new();
        host.ram.put(place, &[0xffff_f002]);
        host.run();
        assert_eq!(host.get(register::STATUS) & 0x1010, status::SYSTEM_ERROR | status::HALTED);
        assert_eq!(host.get(register::COMMAND) & command::RUN, 0);
        assert_eq!(host.run(), Next::Never);
    }
    let mut host = Host::new();
    host.configure();
    let first = host.qtd(0, END, OUT, 8, 0xffff_fff0);
    host.queue(1, 1, 512, first);
    host.run();
    assert_eq!(host.get(register::STATUS) & 0x1010, status::SYSTEM_ERROR | status::HALTED);
}

#[test]
fn transfers_in_a_circle_leave_others_their_turn() {
    let mut host = Host::new();
    host.configure();
    // Each leads to the other, and is active again whenever it is looked at.
    let first = host.qtd(0, QTD, OUT, 0, DATA);
    host.queue(1, 1, 512, first);
    let before = std::time::Instant::now();
    host.run();
    host.ram.put(QH, &[QH | 2]);
    host.run();
    assert!(before.elapsed().as_secs() < 5, "it has an end");
}

#[test]
fn the_doorbell_is_answered() {
    let mut host = Host::new();
    host.set(register::STATUS, status::EVENTS);
    let on = command::RUN | command::ASYNCHRONOUS;
    host.set(register::COMMAND, on | command::DOORBELL);
    assert_eq!(host.get(register::COMMAND) & command::DOORBELL, command::DOORBELL);
    host.run();
    assert_eq!(host.get(register::COMMAND), on);
    assert_eq!(host.get(register::STATUS) & status::EVENTS, status::ADVANCED);
}

#[test]
fn a_queue_head_that_is_unlinked_is_left_for_one_that_stays() {
    let mut host = Host::new();
    host.set(register::ASYNC_LIST, QH);
    host.run();
    assert_eq!(host.get(register::ASYNC_LIST), QH);
    // The head leads to itself: the other still leads to it.
    host.ram.put(HEAD, &[HEAD | 2]);
    host.run();
    assert_eq!(host.get(register::ASYNC_LIST), HEAD);
}

#[test]
fn it_is_looked_for_new_transfers_ever_more_rarely() {
    let mut host = Host::new();
    assert_eq!(host.run(), Next::Now);
    let mut looks = 0;
    let begun = host.now;
    while host.now.since(begun) < 10_000_000_000 {
        match host.run() {
            Next::Now => host.pass(1_000),
            Next::At(time) => {
                looks += 1;
                host.now = time;
            }
            Next::Never => panic!("it runs"),
        }
    }
    assert!((30..150).contains(&looks), "{looks}");
    let Next::At(next) = host.run() else { panic!("a pause") };
    assert!(next.since(host.now) <= 250_000_000);
}

#[test]
fn frames_follow_the_clock_and_stop_with_the_controller() {
    let mut host = Host::new();
    let begun = host.get(register::FRAME_INDEX);
    host.pass(1_000_000);
    assert_eq!(host.get(register::FRAME_INDEX), begun + 8);
    host.set(register::FRAME_INDEX, 0);
    assert_eq!(host.get(register::FRAME_INDEX), begun + 8, "only while it is halted");
    host.set(register::COMMAND, 0);
    host.pass(1_000_000);
    assert_eq!(host.get(register::FRAME_INDEX), begun + 8);
    host.set(register::FRAME_INDEX, 0x3fff);
    host.set(register::COMMAND, command::RUN);
    host.pass(125_000);
    assert_eq!(host.get(register::FRAME_INDEX), 0);
}

/// A frame list of which every eighth frame leads to the queue head of an interrupt endpoint.
fn interrupt(host: &mut Host, first: u32) {
    host.queue(1, 1, 8, first);
    host.ram.put(QH, &[END]);
    host.ram.put(QH + 8, &[1 << 30 | 1]);
    for frame in 0..1024 {
        let link = if frame % 8 == 3 { QH | 2 } else { END };
        host.ram.put(FRAMES + frame * 4, &[link]);
    }
    host.set(register::PERIODIC_LIST, FRAMES);
    host.set(register::COMMAND, command::RUN | command::PERIODIC);
}

#[test]
fn an_interrupt_endpoint_is_asked_in_its_frames_one_packet_each() {
    let mut host = Host::new();
    host.configure();
    let begun = u64::from(host.get(register::FRAME_INDEX)) / 8;
    host.ram.write(DATA, b"0123456789").unwrap();
    let first = host.qtd(0, END, OUT, 10, DATA);
    interrupt(&mut host, first);
    let Next::At(time) = host.run() else { panic!("it waits for the frame") };
    assert_eq!(time.since(host.now), (3 - begun) * 1_000_000);
    host.now = time;
    let Next::At(time) = host.run() else { panic!("it waits for the next") };
    assert_eq!(host.token(0) & 0xff, token::ACTIVE);
    assert_eq!(time.since(host.now), 8_000_000);
    host.now = time;
    host.run();
    assert_eq!(host.token(0) & (token::BYTES | 0xff), 0);
}

#[test]
fn an_endpoint_without_news_is_not_asked_for_ever() {
    let mut host = Host::new();
    host.configure();
    let first = host.qtd(0, END, IN, 8, DATA);
    interrupt(&mut host, first);
    let mut looks = 0;
    let begun = host.now;
    while host.now.since(begun) < 10_000_000_000 {
        let Next::At(time) = host.run() else { panic!("it is not busy") };
        assert!(time > host.now);
        host.now = time;
        looks += 1;
    }
    // One turn of the list, and 4 looks a second.
    assert!(looks < 128 + 50, "{looks}");
    host.ehci.stir(host.now);
    let Next::At(time) = host.run() else { panic!("it is not busy") };
    assert!(time.since(host.now) <= 8_000_000, "it is asked again after news");
}

#[test]
fn an_isochronous_transfer_moves_a_packet_each_microframe() {
    let mut host = Host::new();
    host.configure();
    let itd = 0x3000;
    let transaction = |length: u32, offset: u32, bits: u32| 1 << 31 | length << 16 | offset | bits;
    host.ram.put(itd, &[END, transaction(3, 0, 0), 0, transaction(5, 0xffe, 1 << 15)]);
    host.ram.put(itd + 36, &[DATA | 1 | 1 << 8, (DATA + 0x1000) | 512, 1]);
    host.ram.write(DATA + 0xffe, b"hello").unwrap();
    for frame in 0..1024 {
        host.ram.put(FRAMES + frame * 4, &[itd]);
    }
    host.set(register::STATUS, status::EVENTS);
    host.set(register::PERIODIC_LIST, FRAMES);
    host.set(register::COMMAND, command::RUN | command::PERIODIC);
    host.pass(2_000_000);
    host.run();
    assert_eq!(host.ram.load(itd + 4), Some(3 << 16));
    assert_eq!(host.ram.load(itd + 12), Some(5 << 16 | 0xffe | 1 << 15));
    assert!(host.ehci.interrupts());
    // What it was sent last, it sends.
    host.ram.put(itd, &[END, transaction(64, 0x100, 0)]);
    host.ram.put(itd + 40, &[(DATA + 0x1000) | 512 | 1 << 11]);
    host.pass(1_000_000);
    host.run();
    assert_eq!(host.ram.load(itd + 4), Some(5 << 16 | 0x100));
    assert_eq!(host.ram.bytes(DATA + 0x100, 5), b"hello");
}

/// As drivers of streams do, which tell nobody.
#[test]
fn isochronous_packets_that_are_linked_a_little_ahead_are_moved() {
    let mut host = Host::new();
    host.configure();
    host.ram.put(FRAMES, &[END; 1024]);
    host.set(register::PERIODIC_LIST, FRAMES);
    host.set(register::COMMAND, command::RUN | command::PERIODIC);
    let ahead = |host: &Host, number: u32| {
        let itd = 0x3000 + number * 0x40;
        host.ram.put(itd, &[END, 1 << 31 | 3 << 16]);
        host.ram.put(itd + 36, &[DATA | 1 | 1 << 8, (DATA + 0x1000) | 512, 1]);
        let frame = (host.get(register::FRAME_INDEX) / 8 + 2) % 1024;
        host.ram.put(FRAMES + frame * 4, &[itd]);
    };
    let is_done = |host: &Host, number: u32| host.ram.load(0x3004 + number * 0x40) == Some(3 << 16);
    let pass = |host: &mut Host, milliseconds: u64| {
        let (end, mut runs) = (host.now.after(milliseconds * 1_000_000), 0);
        while let Next::At(time) = host.run()
            && time <= end
        {
            (host.now, runs) = (time, runs + 1);
        }
        host.now = end;
        runs
    };
    ahead(&host, 0);
    pass(&mut host, 50);
    ahead(&host, 1);
    pass(&mut host, 3);
    assert!(is_done(&host, 0) && is_done(&host, 1));
    // The process has no processor for a while.
    ahead(&host, 2);
    host.pass(10_000_000);
    host.run();
    assert!(is_done(&host, 2));
    pass(&mut host, 1000);
    let runs = pass(&mut host, 1000);
    assert!(runs <= 5, "{runs}");
}

#[test]
fn a_split_isochronous_transfer_moves_its_packet() {
    let mut host = Host::new();
    host.configure();
    let sitd = 0x3000;
    host.ram.write(DATA + 0xffd, b"hello").unwrap();
    let state = 1 << 31 | 5 << 16 | 1 << 7;
    host.ram.put(sitd, &[END, 1 | 1 << 8, 0x1c01, state, DATA + 0xffd, DATA + 0x1000, END]);
    for frame in 0..1024 {
        host.ram.put(FRAMES + frame * 4, &[sitd | 4]);
    }
    host.set(register::STATUS, status::EVENTS);
    host.set(register::PERIODIC_LIST, FRAMES);
    host.set(register::COMMAND, command::RUN | command::PERIODIC);
    host.pass(2_000_000);
    host.run();
    assert_eq!(host.ram.load(sitd + 12), Some(1 << 31));
    assert!(host.ehci.interrupts());
    let state = 1 << 30 | 64 << 16 | 1 << 7;
    host.ram.put(sitd, &[END, 1 << 31 | 1 | 1 << 8, 0x1c01, state, DATA + 0x100, DATA + 0x2000]);
    host.pass(1_000_000);
    host.run();
    assert_eq!(host.ram.load(sitd + 12), Some(1 << 30 | 59 << 16));
    assert_eq!(host.ram.bytes(DATA + 0x2100, 5), b"hello");
}

#[test]
fn a_port_is_suspended_and_wakes_up() {
    let mut host = Host::new();
    host.configure();
    let setup = Setup { request: request::SET_FEATURE, value: 1, ..Setup::default() };
    host.request(1, setup);
    host.set(register::STATUS, status::EVENTS);
    host.set(register::PORTS + 4, 0x84);
    assert_eq!(host.port() & 0x84, 0x84, "suspended");
    host.run();
    assert_eq!(host.port() & 0x40, 0x40, "the echo always wants to go on");
    assert_eq!(host.get(register::STATUS) & status::EVENTS, status::PORT_CHANGE);
    host.set(register::PORTS + 4, 0x84);
    assert_eq!(host.port() & 0xc4, 4);
}

#[test]
fn unplugging_is_seen_and_what_is_under_way_fails() {
    let mut host = Host::new();
    host.configure();
    host.set(register::PORTS + 4, 6);
    host.set(register::STATUS, status::EVENTS);
    assert!(host.ports.unplug(1).is_some());
    let first = host.qtd(0, END, IN, 8, DATA);
    host.queue(1, 1, 512, first);
    host.run();
    assert_eq!(host.port() & 7, 2, "gone, and not enabled");
    assert_eq!(host.token(0) & 0xff, token::HALTED | token::XACT_ERROR);
    assert_eq!(host.get(register::STATUS) & status::PORT_CHANGE, status::PORT_CHANGE);
    host.set(register::PORTS + 4, 2);
    assert_eq!(host.port() & 7, 0);
}

#[test]
fn a_device_that_goes_by_itself_keeps_its_port() {
    let mut host = Host::new();
    let (device, gone) = fickle();
    host.ports.plug(1, device);
    host.run();
    host.reset_port();
    host.set(register::PORTS + 4, 6);
    gone.store(true, Ordering::Relaxed);
    host.run();
    assert_eq!(host.port() & 7, 2, "gone, and not enabled");
    assert_eq!((host.ports.free(), host.ports.is_taken(1)), (Some(0), true));
    assert!(host.ports.device(1).is_none());
    gone.store(false, Ordering::Relaxed);
    host.run();
    assert_eq!(host.port() & 7, 3);
    // It was away for so short a time that nobody has looked.
    host.reset_port();
    host.set(register::PORTS + 4, 6);
    for is_gone in [true, false] {
        gone.store(is_gone, Ordering::Relaxed);
        host.ports.give_back(1);
    }
    host.run();
    assert_eq!(host.port() & 7, 3, "connected anew");
    // A companion's port goes back once the companion has seen that nothing is there.
    let mut ports = Ports::for_companions(1);
    let (device, gone) = fickle();
    ports.plug(0, device);
    assert!(ports.take_change(0, Owner::Companion));
    gone.store(true, Ordering::Relaxed);
    ports.give_back(0);
    assert_eq!(ports.owner(0), Owner::Companion);
    assert!(ports.take_change(0, Owner::Companion));
    ports.give_back(0);
    assert_eq!(ports.owner(0), Owner::Ehci);
}

#[test]
fn ports_are_the_companions_until_the_driver_configures() {
    let mut ports = Ports::new(2);
    ports.plug(0, Box::new(Echo::new()));
    let mut ehci = Ehci::new(2, 1);
    ehci.reset(&mut ports);
    assert_eq!(ehci.read(register::PORTS, Time(0)), 0x3000);
    assert_eq!(ports.owner(0), Owner::Companion);
    ehci.write(register::CONFIG_FLAG, 1, Time(0), &mut ports);
    assert_eq!(ehci.read(register::PORTS, Time(0)) & 0x2003, 3);
    ehci.write(register::PORTS, 0x2000, Time(0), &mut ports);
    assert_eq!(
        (ehci.read(register::PORTS, Time(0)) & 0x2001, ports.owner(0)),
        (0x2000, Owner::Companion)
    );
    ehci.write(register::PORTS, 0, Time(0), &mut ports);
    assert_eq!(ehci.read(register::PORTS, Time(0)) & 0x2003, 3);
    // What is unplugged at a companion's port is new to EHCI when it is plugged in again.
    ehci.write(register::PORTS, 0x2000, Time(0), &mut ports);
    assert!(ports.take_change(0, Owner::Companion));
    ports.unplug(0);
    ehci.update_ports(&mut ports);
    assert_eq!(ports.owner(0), Owner::Companion, "its companion has not seen it");
    assert!(ports.take_change(0, Owner::Companion));
    ehci.update_ports(&mut ports);
    assert_eq!(ports.owner(0), Owner::Ehci);
    ports.plug(0, Box::new(Echo::new()));
    ehci.update_ports(&mut ports);
    assert_eq!(ehci.read(register::PORTS, Time(0)) & 0x2003, 3);
}

#[test]
fn a_current_pointer_that_the_driver_made_up_is_of_a_transfer() {
    let mut host = Host::new();
    host.configure();
    // An active overlay for a device that is not there, and reserved bits in what it is said to be of.
    let characteristics = 64 << 16 | 1 << 15 | 2 << 12 | 9;
    host.ram
        .put(0x20, &[0x22, characteristics, 1 << 30, 0x295, 1, 1, 8 << 16 | 1 << 10 | IN | 0x80]);
    host.set(register::ASYNC_LIST, 0x20);
    host.set(register::COMMAND, command::RUN | command::ASYNCHRONOUS);
    host.run();
    let token = host.ram.load(0x280 + 8).unwrap();
    assert_eq!((host.ram.load(0x2c), token & 0xc0), (Some(0x280), 0x40), "{token:#x}");
}

#[test]
fn a_reset_of_the_controller_forgets_everything() {
    let mut host = Host::new();
    host.configure();
    host.set(register::COMMAND, command::RESET);
    assert_eq!(host.get(register::COMMAND), command::INITIAL);
    assert_eq!(host.get(register::STATUS) & 0xffc0, status::HALTED);
    assert_eq!(host.port() & 7, 3, "what is plugged in is found as new");
    assert_eq!(host.run(), Next::Never);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    /// Whatever is in memory, and whatever is written when.
    #[test]
    fn any_schedule_has_an_end(
        words in proptest::collection::vec((0u32..0x800, 0u32..0x2000), 1..200),
        writes in proptest::collection::vec((0u32..0x20, 0u32..), 0..40),
    ) {
        let mut host = Host::new();
        host.configure();
        for (place, value) in words {
            host.ram.put(place * 4, &[value]);
        }
        for (register, value) in writes {
            host.set(0x20 + register * 4, value);
            host.set(register::PERIODIC_LIST, 0);
            host.set(register::ASYNC_LIST, 0x20);
            let on = command::RUN | command::ASYNCHRONOUS | command::PERIODIC;
            host.set(register::COMMAND, on);
            host.run();
            host.pass(u64::from(value) % 10_000_000);
        }
    }
}
