//! Sound cards whose driver is hostile.
//!
//! Whatever comes: nothing is used that was not made available, a ring that has stopped has nothing under
//! way, and a card whose driver was reset plays.

#![no_main]

use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use fuzz::memfd;
use libfuzzer_sys::fuzz_target;
use vhost_runtime::device::{Device, QueueWorker, Queues};
use vhost_runtime::memory::{Memory, RegionSpec};
use vhost_runtime::queue::{Base, Queue, RingSetup};
use vhost_runtime::supervisor::Keeper;
use vhost_sound::host::helper::process::Helpers;
use vhost_sound::options::Options;
use vhost_sound::streams;
use vhost_sound::virtio::card::Card;
use vhost_sound::virtio::worker::Worker;
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
/// Queues: control, event, transmit, receive.
const QUEUES: usize = 4;
/// Descriptor flags.
const NEXT: u16 = 1;
const WRITE: u16 = 2;
/// PCM_SET_PARAMS of 100 bytes a period, and the codes that move a stream on.
const SET_PARAMS: u32 = 0x101;
const PREPARE: u32 = 0x102;
const START: u32 = 0x104;

fuzz_target!(|data: &[u8]| {
    let _ = run(&mut Unstructured::new(data));
});

struct Guest {
    card: Arc<Card>,
    memory: Arc<Memory>,
    worker: Worker,
    queues: Queues,
    available: [u16; QUEUES],
}

impl Guest {
    fn new() -> Self {
        let file = memfd(MEMORY);
        let region = RegionSpec { guest: 0, size: MEMORY, user: 0, offset: 0, file };
        let memory = Arc::new(Memory::new([region], Arc::default()).expect("memory"));
        let arguments = [
            "vhost-sound",
            "--socket-path=/s",
            "--playback=speaker,backend=loopback,channels=1-8",
            "--capture=mic,backend=loopback",
            "--capture=line-in,backend=tone",
            "--controls",
        ];
        let options = <Options as clap::Parser>::parse_from(arguments);
        let streams = streams::open(&options.playback, &options.capture, &mut Helpers::default())
            .expect("streams");
        let card = Card::new(streams, Keeper::default()).expect("a card").with_controls();
        card.set_features(card.features());
        let card = Arc::new(card);
        card.activate().expect("a card");
        let worker = Arc::clone(&card).worker(0).expect("a worker");
        let queues = Queues::default();
        let mut guest = Self { card, memory, worker, queues, available: [0; QUEUES] };
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
        self.queues = (0..QUEUES).map(queue).collect();
        (0..QUEUES).for_each(|index| self.worker.enabled(index, true));
    }

    fn reset(&mut self) {
        for index in 0..QUEUES {
            if let Some(queue) = self.queues.get_mut(index) {
                self.worker.stop(queue);
            }
            assert_eq!(self.worker.in_flight(index), 0);
        }
        self.card.reset();
        self.start();
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        // What is past the end is not there.
        let _ = self.memory.space().write_slice(bytes, GuestAddress(address));
    }

    fn turn(&mut self) {
        for index in 0..QUEUES {
            if let Some(queue) = self.queues.get_mut(index) {
                self.worker.process(queue);
            }
        }
        self.worker.turn(&mut self.queues);
        self.queues.iter_mut().for_each(Queue::notify);
    }

    fn used(&self, index: usize) -> u16 {
        let address = GuestAddress(index as u64 * RING + USED + 2);
        self.memory.space().read_obj(address).expect("mapped")
    }

    /// No more is used than was ever made available.
    fn check(&self) {
        for (index, available) in self.available.iter().enumerate() {
            let used = self.used(index);
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

    fn describe(&self, index: usize, number: u16, place: (u64, u32), flags: u16, next: u16) {
        let (address, length) = place;
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.put(index as u64 * RING + u64::from(number) * 16, &bytes);
    }

    /// Sends a request.
    fn request(&mut self, request: &[u8]) {
        self.put(BUFFERS, request);
        self.describe(0, 0, (BUFFERS, request.len() as u32), NEXT, 1);
        self.describe(0, 1, (BUFFERS + 0x800, 0x400), WRITE, 0);
        self.offer(0, 0);
    }

    /// Gives a stream a buffer, behind one another in a few places.
    fn buffer(&mut self, index: usize, number: u16, stream: u32, length: u32) {
        let (head, place) = (3 * number, BUFFERS + 0x1000 + u64::from(number) * 0x1000);
        self.put(place, &stream.to_le_bytes());
        let flags = if index == 3 { WRITE } else { 0 };
        self.describe(index, head, (place, 4), NEXT, head + 1);
        self.describe(index, head + 1, (place + 16, length), NEXT | flags, head + 2);
        self.describe(index, head + 2, (place + 8, 8), WRITE, 0);
        self.offer(index, head);
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let mut guest = Guest::new();
    while !input.is_empty() {
        let index = input.choose_index(QUEUES)?;
        let stream = input.int_in_range(0..=3)?;
        match input.int_in_range(0..=11)? {
            0 => {
                let (number, next) = (input.int_in_range(0..=SIZE)?, input.int_in_range(0..=SIZE)?);
                let address = if input.ratio(3, 4)? { BUFFERS } else { input.arbitrary()? };
                let length = if input.ratio(3, 4)? {
                    input.int_in_range(0..=3000)?
                } else {
                    input.arbitrary()?
                };
                guest.describe(index, number, (address, length), input.int_in_range(0..=7)?, next);
            }
            1 => guest.offer(index, input.int_in_range(0..=SIZE)?),
            2 => {
                let length = input.int_in_range(0..=64)?;
                let bytes = input.bytes(length.min(input.len()))?.to_vec();
                guest.request(&bytes);
            }
            3 => {
                // Any stream, mostly as it can be.
                let period: u32 = if input.ratio(3, 4)? { 96 } else { input.arbitrary()? };
                let kind = [input.int_in_range(0..=9)?, 5, input.int_in_range(0..=13)?, 0];
                let last = u32::from_le_bytes(kind);
                let buffer = period.wrapping_mul(4);
                guest.request(&words(&[SET_PARAMS, stream, buffer, period, 16, last]));
            }
            4 | 5 => guest.request(&words(&[input.int_in_range(0x100..=0x106)?, stream, 4, 32])),
            6 | 7 => {
                let (index, number) = (2 + input.choose_index(2)?, input.int_in_range(0..=4)?);
                let length = if input.ratio(3, 4)? { 96 } else { input.int_in_range(0..=3000)? };
                guest.buffer(index, number, stream, length);
            }
            8 => {
                guest.card.plug("mic", input.arbitrary()?);
                guest.offer(1, 0);
            }
            9 => {
                // Any element, mostly with values that it can have.
                let code = input.int_in_range(0x300..=0x307)?;
                let mut request = vec![code, input.int_in_range(0..=7)?];
                for _ in 0..input.int_in_range(0..=9)? {
                    let any = input.ratio(1, 16)?;
                    request.push(if any {
                        input.arbitrary()?
                    } else {
                        input.int_in_range(0..=101)?
                    });
                }
                guest.request(&words(&request));
            }
            10 => {
                let volume = Some(input.arbitrary()?).filter(|volume| *volume <= 100);
                guest.card.set_volume("speaker", volume, input.arbitrary()?);
                guest.offer(1, 0);
            }
            _ => guest.reset(),
        }
        guest.turn();
        guest.check();
    }
    // Whatever was done before, a new driver can play.
    guest.reset();
    guest.request(&words(&[SET_PARAMS, 0, 16, 4, 0, u32::from_le_bytes([2, 5, 12, 0])]));
    guest.turn();
    for code in [PREPARE, START] {
        guest.buffer(2, 0, 0, 4);
        guest.request(&words(&[code, 0]));
        guest.turn();
    }
    let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while guest.used(2) < 2 && std::time::Instant::now() < end {
        guest.turn();
    }
    assert_eq!((guest.used(0), guest.used(2)), (3, 2));
    Ok(())
}
