//! Network cards whose drivers are hostile, on a switch or a stream whose peer is, too.
//!
//! Whatever comes: nothing is used that was not made available, a ring that has stopped has nothing under
//! way, and a card with a new driver works.

#![no_main]

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arbitrary::{Result, Unstructured};
use fuzz::memfd;
use libfuzzer_sys::fuzz_target;
use vhost_net::frame::Mac;
use vhost_net::host::Kind;
use vhost_net::host::side::Side;
use vhost_net::host::switch::Switch;
use vhost_net::virtio::card::{Backing, Card, Settings, Worker};
use vhost_net::virtio::features::Off;
use vhost_runtime::broker::Channel;
use vhost_runtime::control::Events;
use vhost_runtime::device::{Device, QueueWorker, Queues};
use vhost_runtime::memory::{Memory, RegionSpec};
use vhost_runtime::program::Shutdown;
use vhost_runtime::queue::{Base, Queue, RingSetup};
use vhost_runtime::supervisor::Keeper;
use vm_memory::{Bytes, GuestAddress};

/// Bytes of a guest's memory; its rings are at its beginning.
const MEMORY: u64 = 0x2_0000;
/// Where ring number n lies, and its parts.
const RING: u64 = 0x1000;
const AVAILABLE: u64 = 0x400;
const USED: u64 = 0x800;
/// Descriptors of a ring.
const SIZE: u16 = 16;
/// Where buffers are.
const BUFFERS: u64 = 0x8000;
/// Queues: receive, transmit, control.
const QUEUES: usize = 3;
const VERSION_1: u64 = 1 << 32;

fuzz_target!(|data: &[u8]| {
    let _ = run(&mut Unstructured::new(data));
});

struct Guest {
    card: Arc<Card>,
    memory: Arc<Memory>,
    pair: Worker,
    control: Worker,
    queues: Queues,
    commands: Queues,
    available: [u16; QUEUES],
}

impl Guest {
    fn new(card: Arc<Card>, features: u64) -> Self {
        let file = memfd(MEMORY);
        let region = RegionSpec { guest: 0, size: MEMORY, user: 0, offset: 0, file };
        let memory = Arc::new(Memory::new([region], Arc::default()).expect("memory"));
        card.set_features(features & card.features() | VERSION_1);
        card.activate().expect("a card");
        let worker = |number| Arc::clone(&card).worker(number).expect("a worker");
        let (pair, control) = (worker(0), worker(1));
        let mut guest = Self {
            card,
            memory,
            pair,
            control,
            queues: Queues::default(),
            commands: Queues::default(),
            available: [0; QUEUES],
        };
        guest.start();
        guest
    }

    fn start(&mut self) {
        let queue = |index: usize| {
            let start = index as u64 * RING;
            let setup = RingSetup {
                size: SIZE,
                descriptors: start,
                available: start + AVAILABLE,
                used: start + USED,
                base: Base::Split(0),
                event_index: false,
                indirect: true,
            };
            Queue::start(index, setup, Arc::clone(&self.memory), None).expect("a ring")
        };
        for index in 0..QUEUES {
            // A driver whose index went mad has been reset.
            self.put(index as u64 * RING + AVAILABLE, &[0; 4]);
            self.put(index as u64 * RING + USED, &[0; 4]);
        }
        self.available = [0; QUEUES];
        self.queues = [queue(0), queue(1)].into_iter().collect();
        self.commands = [queue(2)].into_iter().collect();
        self.pair.enabled(0, true);
        self.pair.enabled(1, true);
    }

    fn stop(&mut self) {
        for index in 0..2 {
            if let Some(queue) = self.queues.get_mut(index) {
                self.pair.stop(queue);
            }
        }
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        // What is past the end is not there.
        let _ = self.memory.space().write_slice(bytes, GuestAddress(address));
    }

    fn turn(&mut self) {
        for index in 0..2 {
            if let Some(queue) = self.queues.get_mut(index) {
                self.pair.process(queue);
            }
        }
        self.pair.turn(&mut self.queues);
        if let Some(queue) = self.commands.get_mut(2) {
            self.control.process(queue);
        }
        self.queues.iter_mut().chain(self.commands.iter_mut()).for_each(Queue::notify);
    }

    /// No more is used than was ever made available.
    fn check(&self) {
        for (index, available) in self.available.iter().enumerate() {
            let address = GuestAddress(index as u64 * RING + USED + 2);
            let used: u16 = self.memory.space().read_obj(address).expect("mapped");
            assert!(used <= *available, "queue {index}: {used} of {available}");
        }
    }

    fn offer(&mut self, index: usize, head: u16) {
        let start = index as u64 * RING + AVAILABLE;
        let slot = u64::from(self.available[index] % SIZE);
        self.put(start + 4 + 2 * slot, &head.to_le_bytes());
        self.available[index] += 1;
        self.put(start + 2, &self.available[index].to_le_bytes());
    }

    fn describe(
        &self,
        index: usize,
        number: u16,
        address: u64,
        length: u32,
        flags: u16,
        next: u16,
    ) {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.put(index as u64 * RING + u64::from(number) * 16, &bytes);
    }
}

fn settings(name: &str) -> Settings {
    Settings {
        name: name.to_owned(),
        mac: Mac::of_name(name),
        mtu: None,
        pairs: 1,
        speed: None,
        off: Off::default(),
    }
}

/// Nobody asks for the end.
fn shutdown() -> &'static Shutdown {
    static SHUTDOWN: OnceLock<Shutdown> = OnceLock::new();
    // Signals are taken from the thread that asks for that.
    let take = || std::thread::spawn(Shutdown::new).join().expect("no panic");
    SHUTDOWN.get_or_init(|| take().expect("signals"))
}

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let card = |name: &str, backing| {
        Arc::new(Card::new(settings(name), backing, Events::default(), Keeper::default()))
    };
    let features: [u64; 2] = [input.arbitrary()?, input.arbitrary()?];
    let (mut guests, mut peer): (Vec<Guest>, Option<(UnixStream, Channel)>) =
        if input.ratio(1, 3)? {
            let (ours, theirs) = UnixStream::pair().expect("sockets");
            theirs.set_nonblocking(true).expect("a socket");
            let (near, far) = Channel::pair().expect("sockets");
            // The broker is asked, and answers.
            let broker = std::thread::spawn(move || {
                far.receive().expect("a message");
                far.send(3, &[ours.as_fd()]).expect("a message");
                far
            });
            let side = Side::new(Kind::Stream, near, shutdown()).expect("a stream");
            let far = broker.join().expect("no panic");
            let side = Arc::new(side.expect("nobody wants the end"));
            let stream = card("stream", Backing::Host(Kind::Stream, side));
            (vec![Guest::new(stream, features[0])], Some((theirs, far)))
        } else {
            let switch = Switch::new(2, 1).expect("a switch");
            let port = |number| Backing::Switch(Arc::clone(&switch), number);
            let first = Guest::new(card("a", port(0)), features[0]);
            (vec![first, Guest::new(card("b", port(1)), features[1])], None)
        };
    while !input.is_empty() {
        let count = guests.len();
        let guest = &mut guests[input.choose_index(count)?];
        let index = input.choose_index(QUEUES)?;
        match input.int_in_range(0..=9)? {
            0 => {
                let (number, next) = (input.int_in_range(0..=SIZE)?, input.int_in_range(0..=SIZE)?);
                let address: u64 = if input.ratio(3, 4)? { BUFFERS } else { input.arbitrary()? };
                let length = if input.ratio(3, 4)? {
                    input.int_in_range(0..=3000)?
                } else {
                    input.arbitrary()?
                };
                guest.describe(index, number, address, length, input.int_in_range(0..=7)?, next);
            }
            1 => guest.offer(index, input.int_in_range(0..=SIZE)?),
            2 => {
                let place = BUFFERS + u64::from(input.arbitrary::<u8>()?) * 64;
                let length = input.int_in_range(0..=64)?;
                let bytes = input.bytes(length.min(input.len()))?;
                guest.put(place, bytes);
            }
            3 | 4 => {
                // A buffer to receive into.
                let number = input.int_in_range(0..=SIZE - 1)?;
                let length = u32::from(input.arbitrary::<u16>()?) / 8;
                guest.describe(0, number, BUFFERS + u64::from(number) * 0x1000, length, 2, 0);
                guest.offer(0, number);
            }
            5 | 6 => {
                // A frame, or a command.
                let index = 1 + input.choose_index(2)?;
                let place = BUFFERS + 0x1000;
                let length = input.int_in_range(0..=100)?;
                guest.put(place, input.bytes(length.min(input.len()))?);
                let more = if index == 1 { input.int_in_range(12..=70000)? } else { length as u32 };
                guest.describe(index, 0, place, more, 1, 1);
                guest.describe(index, 1, BUFFERS, 1, if index == 1 { 0 } else { 2 }, 0);
                guest.offer(index, 0);
            }
            7 => match &mut peer {
                Some((peer, _)) => {
                    let length = input.int_in_range(0..=100)?;
                    let bytes = input.bytes(length.min(input.len()))?;
                    let _ = peer.write(bytes);
                    let _ = peer.read(&mut [0; 4096]);
                }
                None => guest.card.plug(input.arbitrary()?),
            },
            8 => {
                let number = input.choose_index(count)?;
                stop(&mut guests, number);
                guests[number].start();
            }
            _ => {
                for guest in &mut guests {
                    guest.turn();
                    guest.check();
                }
            }
        }
    }
    for number in 0..guests.len() {
        stop(&mut guests, number);
    }
    Ok(())
}

/// Stops a guest's rings. Frames that another card has taken of it are given back, sooner or later.
fn stop(guests: &mut [Guest], number: usize) {
    guests[number].stop();
    let end = Instant::now() + Duration::from_secs(1);
    while guests[number].pair.in_flight(1) > 0 {
        guests.iter_mut().for_each(Guest::turn);
        assert!(Instant::now() < end, "a ring does not stop");
    }
}
