//! The driver's side against the device's (`vhost_runtime::queue`), in both formats: what one does
//! at any time, the other understands, and each request is answered once.

use std::sync::Arc;

use proptest::prelude::*;
use vhost_runtime::chain::Chain;
use vhost_runtime::inflight::{Region, Shape};
use vhost_runtime::memory::Memory as DeviceMemory;
use vhost_runtime::queue::{Queue, RingSetup};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::frontend::memory::Allocator;
use crate::virtio::queue;

/// Where the buffers are, one page for each token.
const BUFFERS: u64 = 1 << 20;
const PAGE: u64 = 4096;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The driver.
    Add(usize),
    Publish,
    Take,
    EnableCalls,
    DisableCalls,
    /// The device.
    Pop,
    Complete(usize),
    GiveBack,
    Notify,
    EnableKicks,
    DisableKicks,
    /// The process ends with everything done or given back, or at once; another goes on.
    Stop,
    Kill,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (1usize..5).prop_map(Step::Add),
        6 => Just(Step::Publish),
        6 => Just(Step::Take),
        2 => Just(Step::EnableCalls),
        1 => Just(Step::DisableCalls),
        10 => Just(Step::Pop),
        8 => (0usize..16).prop_map(Step::Complete),
        1 => Just(Step::GiveBack),
        6 => Just(Step::Notify),
        2 => Just(Step::EnableKicks),
        1 => Just(Step::DisableKicks),
        1 => Just(Step::Stop),
        1 => Just(Step::Kill),
    ];
    proptest::collection::vec(step, 1..400)
}

struct Both {
    guest: Memory,
    memory: Arc<DeviceMemory>,
    region: Arc<Region>,
    ring: Ring,
    queue: Queue,
    /// Taken by the device, and whether the last of them is the newest.
    held: Vec<Chain>,
    newest_is_held: bool,
    /// By the driver.
    under_way: Vec<u64>,
    next: u64,
    /// The device does not see all of it yet.
    unpublished: bool,
    /// Who is asleep, until it is told.
    driver_sleeps: bool,
    device_sleeps: bool,
}

impl Both {
    fn new(size: u16, features: RingFeatures) -> Self {
        let guest = Memory::new(&[(0, 4 << 20)]).unwrap();
        let layout = Layout::allocate(&mut Allocator::new(0, BUFFERS), size).unwrap();
        let ring = Ring::new(&guest, layout, features).unwrap();
        let memory = queue::memory(&guest, Arc::default()).unwrap();
        let shape = Shape::of_queues(1, size);
        let (file, bytes) = Region::create(shape).unwrap();
        let region = Region::map(&file, shape, bytes, 0).unwrap();
        let queue = Self::start(&ring, &memory, &region, Base::start(features.packed));
        Self {
            guest,
            memory,
            region,
            ring,
            queue,
            held: Vec::new(),
            newest_is_held: false,
            under_way: Vec::new(),
            next: 0,
            unpublished: false,
            driver_sleeps: false,
            device_sleeps: false,
        }
    }

    fn start(ring: &Ring, memory: &Arc<DeviceMemory>, region: &Arc<Region>, base: Base) -> Queue {
        let Layout { size, descriptors, available, used, .. } = ring.layout();
        let RingFeatures { event_index, indirect, .. } = ring.features();
        let setup = RingSetup { size, descriptors, available, used, base, event_index, indirect };
        let mut queue = Queue::start(0, setup, Arc::clone(memory), Some(region)).unwrap();
        queue.set_call(Some(ring.events().call.try_clone().unwrap()));
        queue
    }

    /// Another process goes on.
    fn restart(&mut self, base: Base) {
        self.held.clear();
        self.newest_is_held = false;
        self.device_sleeps = false;
        self.queue = Self::start(&self.ring, &self.memory, &self.region, base);
    }

    fn place(token: u64) -> u64 {
        BUFFERS + token % 512 * PAGE
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Add(count) => {
                let token = self.next;
                let out = Buffer { address: Self::place(token), length: 8 };
                self.guest.space().write_obj(token, GuestAddress(out.address)).unwrap();
                let back = Buffer { address: out.address + 64, length: 8 };
                if self.ring.add(&[out], &vec![back; count], token).unwrap() {
                    self.under_way.push(token);
                    self.next += 1;
                    self.unpublished = true;
                }
            }
            Step::Publish => {
                let is_kicked = self.ring.show();
                let is_needed = std::mem::take(&mut self.unpublished) && self.device_sleeps;
                assert!(is_kicked || !is_needed, "the device was not told");
                self.device_sleeps &= !is_kicked;
            }
            Step::Take => self.take(),
            Step::EnableCalls => {
                let _ = self.ring.events().call.read();
                self.driver_sleeps = !self.ring.enable_calls();
            }
            Step::DisableCalls => {
                self.ring.disable_calls();
                self.driver_sleeps = false;
            }
            Step::Pop => {
                if let Some(chain) = self.queue.pop() {
                    self.held.push(chain);
                    self.newest_is_held = true;
                }
            }
            Step::Complete(which) if !self.held.is_empty() => {
                let which = which % self.held.len();
                self.newest_is_held &= which + 1 < self.held.len();
                let chain = self.held.remove(which);
                let mut token = [0; 8];
                assert_eq!(chain.readable().read(&mut token), 8);
                chain.writable().write(&token);
                let written = u32::try_from(chain.writable().len()).unwrap();
                self.queue.complete(chain, written);
            }
            Step::Complete(_) => {}
            Step::GiveBack => {
                if std::mem::take(&mut self.newest_is_held) {
                    self.queue.give_back(self.held.pop().unwrap());
                }
            }
            Step::Notify => {
                self.queue.notify();
                if self.ring.events().call.read().is_ok() {
                    self.driver_sleeps = false;
                }
                let before = self.under_way.len();
                if self.driver_sleeps {
                    self.take();
                }
                assert_eq!(self.under_way.len(), before, "the driver was not told");
            }
            Step::EnableKicks => self.device_sleeps = !self.queue.enable_kicks(),
            Step::DisableKicks => {
                self.queue.disable_kicks();
                self.device_sleeps = false;
            }
            Step::Stop => {
                while !self.held.is_empty() {
                    self.step(Step::Complete(0));
                }
                self.step(Step::Notify);
                // A former process's requests are its successor's first.
                while !self.is_idle() {
                    self.step(Step::Pop);
                    self.step(Step::Complete(0));
                    self.step(Step::Notify);
                }
                assert_eq!(self.queue.base(), self.ring.base());
                self.restart(self.ring.base());
            }
            // The frontend does not know more than where the ring began.
            Step::Kill => self.restart(Base::start(self.ring.features().packed)),
        }
        assert!(!self.queue.is_broken());
    }

    fn is_idle(&self) -> bool {
        self.queue.base() == self.ring.base()
    }

    fn take(&mut self) {
        while let Some(Used { token, written }) = self.ring.take().unwrap() {
            let place = self.under_way.iter().position(|&other| other == token);
            self.under_way.swap_remove(place.expect("a request is answered once"));
            assert!(written > 0 && written.is_multiple_of(8));
            let answer = GuestAddress(Self::place(token) + 64);
            assert_eq!(self.guest.space().read_obj::<u64>(answer).unwrap(), token);
        }
    }
}

fn run(size: u16, features: RingFeatures, steps: Vec<Step>) {
    let mut both = Both::new(size, features);
    steps.into_iter().for_each(|step| both.step(step));
    // In the end all is answered.
    both.step(Step::Publish);
    for _ in 0..=size {
        both.step(Step::Pop);
        both.step(Step::Complete(0));
    }
    while !both.held.is_empty() {
        both.step(Step::Complete(0));
    }
    both.step(Step::Notify);
    both.take();
    assert_eq!(both.under_way, [0; 0]);
    assert_eq!(both.ring.under_way(), 0);
}

proptest! {
    #[test]
    fn each_request_is_answered_once_in_a_split_ring(
        event_index: bool, indirect: bool, power in 3u32..6, steps in steps(),
    ) {
        run(1 << power, RingFeatures { event_index, indirect, packed: false }, steps);
    }

    #[test]
    fn each_request_is_answered_once_in_a_packed_ring(
        event_index: bool, indirect: bool, size in 5u16..40, steps in steps(),
    ) {
        run(size, RingFeatures { event_index, indirect, packed: true }, steps);
    }
}

const PACKED: RingFeatures = RingFeatures { event_index: true, indirect: false, packed: true };
const OUT: Buffer = Buffer { address: BUFFERS, length: 8 };
const IN: Buffer = Buffer { address: BUFFERS + 64, length: 8 };

#[test]
fn what_a_hostile_device_uses_is_refused_in_a_packed_ring() {
    const USED: u64 = 0x8080;
    const WRITE: u64 = 2;
    let take = |id: u64, written: u64, flags: u64| {
        let mut both = Both::new(5, PACKED);
        both.ring.add(&[OUT], &[IN], 7).unwrap();
        both.ring.show();
        let place = GuestAddress(both.ring.layout().descriptors + 8);
        both.guest.space().write_obj(written | id << 32 | flags << 48, place).unwrap();
        both.ring.take()
    };
    // IDs are taken from 0 on.
    assert_eq!(take(0, 8, USED | WRITE).unwrap(), Some(Used { token: 7, written: 8 }));
    assert_eq!(take(0, 9, USED).unwrap(), Some(Used { token: 7, written: 0 }), "without a length");
    assert_eq!(take(0, 8, 0x8000).unwrap(), None, "as it was in the lap before");
    let length = take(0, 9, USED | WRITE);
    assert!(matches!(length, Err(RingError::UsedLength { room: 8, written: 9, .. })));
    assert!(matches!(take(1, 0, USED), Err(RingError::UsedId(1))), "nobody has it");
    assert!(matches!(take(5, 0, USED), Err(RingError::UsedId(5))), "nobody can have it");
}

#[test]
fn chains_are_offered_again_in_their_order_in_a_packed_ring() {
    let mut both = Both::new(5, PACKED);
    for _ in 0..3 {
        for token in 0..2 {
            both.ring.add(&[OUT], &[IN], token).unwrap();
        }
        both.ring.show();
        let [first, second] = [both.queue.pop().unwrap(), both.queue.pop().unwrap()];
        both.queue.complete(second, 0);
        both.queue.publish();
        assert_eq!(both.ring.take().unwrap().unwrap().token, 1);
        both.ring.add(&[OUT], &[], 2).unwrap();
        drop(first);
        both.ring.offer_again();
        // A process without a record.
        both.region = Both::new(5, PACKED).region;
        both.restart(Base::start(true));
        let chains = [both.queue.pop().unwrap(), both.queue.pop().unwrap()];
        let lengths = chains.each_ref().map(|chain| chain.writable().len());
        assert_eq!(lengths, [8, 0]);
        chains.into_iter().for_each(|chain| both.queue.complete(chain, 0));
        both.queue.publish();
        let tokens = [both.ring.take().unwrap(), both.ring.take().unwrap()];
        assert_eq!(tokens.map(|used| used.unwrap().token), [0, 2]);
    }
}

#[test]
fn a_packed_ring_has_any_size() {
    let memory = Memory::new(&[(0, 8 << 20)]).unwrap();
    let layout =
        |size| Layout { size, descriptors: 0, available: 1 << 20, used: 2 << 20, tables: 0 };
    for (size, valid) in [(1, true), (5, true), (128, true), (0, false), (0x8001, false)] {
        assert_eq!(Ring::new(&memory, layout(size), PACKED).is_ok(), valid, "{size}");
    }
}
