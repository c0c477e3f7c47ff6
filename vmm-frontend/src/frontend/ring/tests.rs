use std::time::Duration;

use super::*;
use proptest::prelude::*;
use virtio_queue::{DescriptorChain, Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use crate::frontend::memory::{AddressSpace, Allocator};

const BOTH: [RingFeatures; 4] = [
    RingFeatures { event_index: false, indirect: false, packed: false },
    RingFeatures { event_index: false, indirect: true, packed: false },
    RingFeatures { event_index: true, indirect: false, packed: false },
    RingFeatures { event_index: true, indirect: true, packed: false },
];

/// A driver's ring, and a device's end of it.
struct Pair {
    memory: Memory,
    ring: Ring,
    device: Queue,
}

impl Pair {
    fn new(size: u16, features: RingFeatures) -> Self {
        let memory = Memory::new(&[(0, 1 << 20)]).unwrap();
        let layout = Layout::allocate(&mut Allocator::new(0, 1 << 20), size).unwrap();
        let ring = Ring::new(&memory, layout, features).unwrap();
        let device = Self::device(layout, features);
        Self { memory, ring, device }
    }

    fn device(layout: Layout, features: RingFeatures) -> Queue {
        let mut device = Queue::new(layout.size).unwrap();
        device.try_set_desc_table_address(GuestAddress(layout.descriptors)).unwrap();
        device.try_set_avail_ring_address(GuestAddress(layout.available)).unwrap();
        device.try_set_used_ring_address(GuestAddress(layout.used)).unwrap();
        device.set_event_idx(features.event_index);
        device.set_ready(true);
        device
    }

    fn pop(&mut self) -> Option<DescriptorChain<&AddressSpace>> {
        self.device.pop_descriptor_chain(self.memory.space())
    }

    fn add_used(&mut self, head: u16, written: u32) {
        self.device.add_used(self.memory.space(), head, written).unwrap();
    }

    /// Writes a used element without any care, and the used index after it.
    fn forge(&self, id: u32, written: u32) {
        let used = self.ring.layout().used;
        let space = self.memory.space();
        space.write_obj(id.to_le(), GuestAddress(used + 4)).unwrap();
        space.write_obj(written.to_le(), GuestAddress(used + 8)).unwrap();
        space.write_obj(1u16.to_le(), GuestAddress(used + 2)).unwrap();
    }
}

const OUT: Buffer = Buffer { address: 0x1000, length: 51 };
const IN: Buffer = Buffer { address: 0x2000, length: 108 };

#[test]
fn a_chain_goes_to_the_device_and_back() {
    for features in BOTH {
        let mut pair = Pair::new(4, features);
        for round in 0..100 {
            assert!(pair.ring.add(&[OUT], &[IN, IN], round).unwrap());
            pair.ring.publish().unwrap();
            let chain = pair.pop().unwrap();
            let head = chain.head_index();
            let seen: Vec<_> = chain
                .map(|buffer| (buffer.addr().0, buffer.len(), buffer.is_write_only()))
                .collect();
            assert_eq!(seen, [(0x1000, 51, false), (0x2000, 108, true), (0x2000, 108, true)]);
            assert_eq!(pair.ring.take().unwrap(), None);
            pair.add_used(head, 7);
            assert_eq!(pair.ring.take().unwrap(), Some(Used { token: round, written: 7 }));
            assert_eq!(pair.ring.under_way(), 0);
        }
    }
}

#[test]
fn a_full_ring_takes_no_more() {
    let mut pair = Pair::new(4, BOTH[0]);
    assert!(pair.ring.add(&[OUT], &[IN], 1).unwrap());
    assert!(pair.ring.add(&[OUT], &[IN], 2).unwrap());
    assert!(!pair.ring.add(&[OUT], &[IN], 3).unwrap());
    assert!(matches!(pair.ring.add(&[OUT; 5], &[], 3), Err(RingError::Chain(5))));
    assert!(matches!(pair.ring.add(&[], &[], 3), Err(RingError::Chain(0))));
    pair.ring.publish().unwrap();
    let _first = pair.pop().unwrap().head_index();
    let second = pair.pop().unwrap().head_index();
    pair.add_used(second, 0);
    assert_eq!(pair.ring.take().unwrap().unwrap().token, 2);
    assert!(pair.ring.add(&[OUT], &[IN], 3).unwrap());
}

#[test]
fn the_device_is_kicked_when_it_wants_to_be() {
    for features in BOTH {
        let mut pair = Pair::new(8, features);
        let kicked = |pair: &mut Pair| {
            pair.ring.add(&[OUT], &[], 0).unwrap();
            pair.ring.publish().unwrap();
            pair.ring.events().kick.read().is_ok()
        };
        assert!(kicked(&mut pair));
        while pair.pop().is_some() {}
        pair.device.disable_notification(pair.memory.space()).unwrap();
        assert!(!kicked(&mut pair) || features.event_index);
        assert!(!kicked(&mut pair));
        while pair.pop().is_some() {}
        pair.device.enable_notification(pair.memory.space()).unwrap();
        assert!(kicked(&mut pair));
    }
}

#[test]
fn the_driver_is_called_when_it_wants_to_be() {
    for features in BOTH.into_iter().filter(|features| features.event_index) {
        let mut pair = Pair::new(8, features);
        for _ in 0..4 {
            pair.ring.add(&[OUT], &[], 0).unwrap();
        }
        pair.ring.publish().unwrap();
        let complete = |pair: &mut Pair| {
            let head = pair.pop().unwrap().head_index();
            pair.add_used(head, 0);
            pair.device.needs_notification(pair.memory.space()).unwrap()
        };
        complete(&mut pair); // the first one is always told
        assert!(!complete(&mut pair));
        while pair.ring.take().unwrap().is_some() {}
        assert!(!pair.ring.enable_calls());
        assert!(complete(&mut pair));
        assert!(pair.ring.enable_calls(), "there is one already");
    }
}

#[test]
fn a_wait_is_not_ended_by_an_event_for_nothing() {
    let mut pair = Pair::new(8, BOTH[3]);
    pair.ring.add(&[OUT], &[], 0).unwrap();
    pair.ring.publish().unwrap();
    let call = pair.ring.events().call.clone();
    call.write(1).unwrap();
    assert!(!pair.ring.wait(Duration::ZERO).unwrap());
    let head = pair.pop().unwrap().head_index();
    let (memory, mut device) = (pair.memory.clone(), pair.device);
    let late = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        device.add_used(memory.space(), head, 0).unwrap();
        call.write(1).unwrap();
    });
    assert!(pair.ring.wait(Duration::from_secs(20)).unwrap());
    late.join().unwrap();
}

#[test]
fn what_a_hostile_device_uses_is_refused() {
    let pair = |id, written| {
        let mut pair = Pair::new(4, BOTH[0]);
        pair.ring.add(&[OUT], &[IN], 0).unwrap();
        pair.ring.publish().unwrap();
        pair.forge(id, written);
        pair.ring.take()
    };
    assert!(pair(0, 108).is_ok());
    assert!(matches!(pair(0, 109), Err(RingError::UsedLength { room: 108, .. })));
    assert!(matches!(pair(1, 0), Err(RingError::UsedId(1))), "not a head");
    assert!(matches!(pair(4, 0), Err(RingError::UsedId(4))), "beyond the table");
    assert!(matches!(pair(0x1_0000, 0), Err(RingError::UsedId(0x1_0000))));
    let mut idle = Pair::new(4, BOTH[0]);
    idle.forge(0, 0);
    assert!(matches!(idle.ring.take(), Err(RingError::UsedIndex { under_way: 0, .. })));
}

#[test]
fn a_chain_is_used_once() {
    let mut pair = Pair::new(4, BOTH[1]);
    pair.ring.add(&[OUT], &[IN], 0).unwrap();
    pair.ring.add(&[OUT], &[IN], 1).unwrap();
    pair.ring.publish().unwrap();
    let head = pair.pop().unwrap().head_index();
    pair.add_used(head, 0);
    pair.add_used(head, 0);
    assert!(pair.ring.take().unwrap().is_some());
    assert!(matches!(pair.ring.take(), Err(RingError::UsedId(_))));
}

#[test]
fn chains_are_offered_again_in_their_order() {
    for features in BOTH {
        let mut pair = Pair::new(16, features);
        for token in 0..5 {
            pair.ring.add(&[OUT], &[IN], token).unwrap();
        }
        pair.ring.publish().unwrap();
        let heads: Vec<u16> = (0..5).map(|_| pair.pop().unwrap().head_index()).collect();
        pair.add_used(heads[1], 0);
        pair.add_used(heads[3], 0);
        while pair.ring.take().unwrap().is_some() {}
        pair.ring.add(&[OUT], &[IN], 5).unwrap(); // takes a descriptor that was free
        pair.ring.offer_again();
        pair.device = Pair::device(pair.ring.layout(), features);
        let mut tokens = Vec::new();
        while let Some(head) = pair.pop().map(|chain| chain.head_index()) {
            pair.add_used(head, 0);
            tokens.push(pair.ring.take().unwrap().unwrap().token);
        }
        assert_eq!(tokens, [0, 2, 4, 5]);
    }
}

#[test]
fn areas_must_be_guest_memory() {
    let memory = Memory::new(&[(0, 0x10000)]).unwrap();
    let layout = Layout::allocate(&mut Allocator::new(0, 0x10000), 4).unwrap();
    let make = |layout| Ring::new(&memory, layout, BOTH[0]);
    assert!(make(layout).is_ok());
    assert!(matches!(
        make(Layout { used: 0xfff8, ..layout }),
        Err(RingError::Unmapped { guest: 0xfff8, length: 38 })
    ));
    assert!(make(Layout { descriptors: 8, ..layout }).is_err());
    assert!(make(Layout { size: 3, ..layout }).is_err());
}

proptest! {
    #[test]
    fn any_order_of_completion_keeps_the_books(
        steps in proptest::collection::vec((0usize..4, 1usize..4), 1..300), which in 0usize..4,
    ) {
        let mut pair = Pair::new(16, BOTH[which]);
        let mut with_device: Vec<(u16, u64)> = Vec::new();
        let mut token = 0;
        for (step, count) in steps {
            match step {
                0 | 1 => {
                    if pair.ring.add(&vec![OUT; count], &[IN], token).unwrap() {
                        pair.ring.publish().unwrap();
                        let head = pair.pop().unwrap().head_index();
                        with_device.push((head, token));
                        token += 1;
                    }
                }
                _ if with_device.is_empty() => {}
                _ => {
                    let (head, token) = with_device.swap_remove(count % with_device.len());
                    pair.add_used(head, 5);
                    prop_assert_eq!(
                        pair.ring.take().unwrap(),
                        Some(Used { token, written: 5 })
                    );
                }
            }
            prop_assert_eq!(usize::from(pair.ring.under_way()), with_device.len());
        }
    }
}
