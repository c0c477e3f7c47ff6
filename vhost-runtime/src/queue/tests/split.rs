use super::*;
use vm_memory::{ByteValued, Bytes, GuestAddress};

const SETUP: RingSetup = RingSetup {
    size: 4,
    descriptors: 0,
    available: 0x100,
    used: 0x200,
    base: Base::Split(0),
    event_index: false,
    indirect: true,
};

fn set(memory: &Memory, address: u64, value: u16) {
    memory.space().write_obj(value, GuestAddress(address)).unwrap();
}

fn get(memory: &Memory, address: u64) -> u16 {
    memory.space().read_obj(GuestAddress(address)).unwrap()
}

/// Makes descriptors 0.. of 16 writable bytes each, and makes `heads` available.
fn offer(memory: &Memory, heads: &[u16]) {
    for head in 0..4u64 {
        let descriptor = virtio_queue::desc::split::Descriptor::new(0x1000 + head * 16, 16, 2, 0);
        memory.space().write_slice(descriptor.as_slice(), GuestAddress(head * 16)).unwrap();
    }
    for (slot, head) in heads.iter().enumerate() {
        set(memory, 0x104 + 2 * slot as u64, *head);
    }
    set(memory, 0x102, heads.len() as u16);
}

#[test]
fn requests_come_out_in_order_and_completions_reach_the_driver() {
    let memory = memory();
    offer(&memory, &[2, 0]);
    let call = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let mut queue = Queue::start(0, SETUP, Arc::clone(&memory), None).unwrap();
    queue.set_call(Some(call.try_clone().unwrap()));
    assert_eq!(call.read().unwrap(), 1, "whatever a former process did not tell");
    let first = queue.pop().unwrap();
    let second = queue.pop().unwrap();
    assert_eq!((first.head(), second.head()), (2, 0));
    assert!(queue.pop().is_none());
    queue.complete(second, 5);
    queue.complete(first, 7);
    queue.notify();
    assert_eq!(call.read().unwrap(), 1);
    queue.notify();
    assert!(call.read().is_err(), "told once");
    assert_eq!(get(&memory, 0x202), 2);
    assert_eq!((get(&memory, 0x204), get(&memory, 0x208)), (0, 5));
    assert_eq!((get(&memory, 0x20c), get(&memory, 0x210)), (2, 7));
    assert_eq!(queue.base(), Base::Split(2));
}

#[test]
fn a_driver_that_wants_no_interrupt_gets_none() {
    let memory = memory();
    offer(&memory, &[0]);
    set(&memory, 0x100, 1);
    let call = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let mut queue = Queue::start(0, SETUP, Arc::clone(&memory), None).unwrap();
    queue.set_call(Some(call.try_clone().unwrap()));
    call.read().unwrap();
    let chain = queue.pop().unwrap();
    queue.complete(chain, 0);
    queue.notify();
    assert!(call.read().is_err());
}

#[test]
fn completions_before_the_call_event_are_told_when_it_comes() {
    let memory = memory();
    offer(&memory, &[0]);
    let call = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let mut queue = Queue::start(0, SETUP, Arc::clone(&memory), None).unwrap();
    let chain = queue.pop().unwrap();
    queue.complete(chain, 0);
    queue.notify();
    queue.set_call(Some(call.try_clone().unwrap()));
    assert_eq!(call.read().unwrap(), 1);
}

/// QEMU signals the ring's start with an event of its own, discards what came there, and only then
/// hands over the guest's.
#[test]
fn a_call_event_that_replaces_another_is_signalled_at_once() {
    let [first, second] = [0, 1].map(|_| EventFd::new(libc::EFD_NONBLOCK).unwrap());
    let memory = memory();
    offer(&memory, &[0]);
    let mut queue = Queue::start(0, SETUP, Arc::clone(&memory), None).unwrap();
    queue.set_call(Some(first));
    let chain = queue.pop().unwrap();
    queue.complete(chain, 0);
    queue.notify();
    queue.set_call(Some(second.try_clone().unwrap()));
    assert_eq!(second.read().unwrap(), 1);
}

#[test]
fn an_available_index_past_the_ring_breaks_the_queue_and_the_frontend_is_told() {
    let memory = memory();
    set(&memory, 0x102, 5);
    let error = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let mut queue = Queue::start(0, SETUP, Arc::clone(&memory), None).unwrap();
    queue.set_error(Some(error.try_clone().unwrap()));
    assert!(queue.pop().is_none());
    assert!(queue.is_broken());
    assert_eq!(error.read().unwrap(), 1);
    set(&memory, 0x102, 1);
    assert!(queue.pop().is_none(), "stays broken");
    assert!(!queue.enable_kicks());
}

#[test]
fn a_malformed_chain_breaks_the_queue() {
    let memory = memory();
    offer(&memory, &[9]);
    let mut queue = Queue::start(0, SETUP, Arc::clone(&memory), None).unwrap();
    assert!(queue.pop().is_none());
    assert!(queue.is_broken());
}

#[test]
fn rings_outside_memory_or_of_a_wrong_size_are_refused() {
    for setup in [
        RingSetup { used: 0x10000, ..SETUP },
        RingSetup { available: u64::MAX - 1, ..SETUP },
        RingSetup { descriptors: 8, ..SETUP },
        RingSetup { size: 3, ..SETUP },
        RingSetup { size: 0, ..SETUP },
    ] {
        assert!(Queue::start(0, setup, memory(), None).is_err(), "{setup:?}");
    }
}

#[test]
fn a_killed_process_s_requests_are_done_again_and_only_those() {
    let memory = memory();
    offer(&memory, &[1, 3, 0]);
    let (file, bytes) = Region::create(Shape::of_queues(1, 4)).unwrap();
    let region = || Region::map(&file, Shape::of_queues(1, 4), bytes, 0).unwrap();
    let mut queue = Queue::start(0, SETUP, Arc::clone(&memory), Some(&region())).unwrap();
    let one = queue.pop().unwrap();
    let three = queue.pop().unwrap();
    queue.complete(three, 0);
    queue.publish();
    drop((queue, one)); // killed

    // The frontend does not know how far the old process was.
    let mut queue = Queue::start(0, SETUP, Arc::clone(&memory), Some(&region())).unwrap();
    assert!(queue.enable_kicks());
    let heads: Vec<u16> = std::iter::from_fn(|| queue.pop()).map(|chain| chain.head()).collect();
    assert_eq!(heads, [1, 0]);
    assert_eq!(queue.base(), Base::Split(3));
}

#[test]
fn the_driver_sees_completions_together() {
    let memory = memory();
    offer(&memory, &[1, 3, 0]);
    let (file, bytes) = Region::create(Shape::of_queues(1, 4)).unwrap();
    let region = || Region::map(&file, Shape::of_queues(1, 4), bytes, 0).unwrap();
    let mut queue = Queue::start(0, SETUP, Arc::clone(&memory), Some(&region())).unwrap();
    for (number, head) in [1, 3].into_iter().enumerate() {
        let chain = queue.pop().unwrap();
        queue.complete(chain, 7);
        assert_eq!(get(&memory, 0x204 + 8 * number as u64), head);
        assert_eq!(get(&memory, 0x202), 0, "none yet");
    }
    queue.publish();
    assert_eq!(get(&memory, 0x202), 2);
    drop(queue); // killed
    let mut queue = Queue::start(0, SETUP, Arc::clone(&memory), Some(&region())).unwrap();
    assert_eq!(queue.pop().unwrap().head(), 0);
}

/// cloud-hypervisor names the driver's available index after a reconnect.
#[test]
fn requests_that_a_killed_process_had_not_taken_are_done_whatever_the_base() {
    let memory = memory();
    offer(&memory, &[1]);
    let (file, bytes) = Region::create(Shape::of_queues(1, 4)).unwrap();
    let region = || Region::map(&file, Shape::of_queues(1, 4), bytes, 0).unwrap();
    let mut queue = Queue::start(0, SETUP, Arc::clone(&memory), Some(&region())).unwrap();
    let one = queue.pop().unwrap();
    queue.complete(one, 0);
    queue.publish();
    drop(queue); // killed
    offer(&memory, &[1, 3, 0]);
    let setup = RingSetup { base: Base::Split(3), ..SETUP };
    let mut queue = Queue::start(0, setup, Arc::clone(&memory), Some(&region())).unwrap();
    let heads: Vec<u16> = std::iter::from_fn(|| queue.pop()).map(|chain| chain.head()).collect();
    assert_eq!(heads, [3, 0]);
}

/// Frontends keep the region while the driver sets its rings up anew.
#[test]
fn a_request_that_broke_the_ring_is_not_done_again_in_the_next_ring() {
    let memory = memory();
    offer(&memory, &[2]);
    let (file, bytes) = Region::create(Shape::of_queues(1, 4)).unwrap();
    let region = || Region::map(&file, Shape::of_queues(1, 4), bytes, 0).unwrap();
    let mut queue = Queue::start(0, SETUP, Arc::clone(&memory), Some(&region())).unwrap();
    drop(queue.pop().unwrap());
    queue.fail(&QueueError::Request("a request that is none"));
    assert_eq!(queue.close(), Base::Split(1));
    offer(&memory, &[1]);
    let mut queue = Queue::start(0, SETUP, Arc::clone(&memory), Some(&region())).unwrap();
    let heads: Vec<u16> = std::iter::from_fn(|| queue.pop()).map(|chain| chain.head()).collect();
    assert_eq!(heads, [1]);
}

#[test]
fn the_event_index_suppresses_notifications() {
    let memory = memory();
    offer(&memory, &[0, 1]);
    let setup = RingSetup { event_index: true, ..SETUP };
    let call = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let mut queue = Queue::start(0, setup, Arc::clone(&memory), None).unwrap();
    queue.set_call(Some(call.try_clone().unwrap()));
    call.read().unwrap();
    set(&memory, 0x104 + 8, 1); // used_event: tell me after the second
    let chain = queue.pop().unwrap();
    queue.complete(chain, 0);
    queue.notify();
    assert!(call.read().is_err());
    let chain = queue.pop().unwrap();
    queue.complete(chain, 0);
    queue.notify();
    assert_eq!(call.read().unwrap(), 1);
    assert!(!queue.enable_kicks());
    assert_eq!(get(&memory, 0x204 + 32), 2, "avail_event: kick me at the next");
}

#[test]
fn what_a_device_leaves_in_the_ring_does_not_keep_its_worker_busy() {
    let memory = memory();
    offer(&memory, &[0, 1]);
    let mut queue = Queue::start(0, SETUP, Arc::clone(&memory), None).unwrap();
    assert!(queue.enable_kicks(), "nobody has looked yet");
    assert!(!queue.enable_kicks(), "nothing new");
    set(&memory, 0x102, 3);
    assert!(queue.enable_kicks());
    assert_eq!(queue.pop().unwrap().head(), 0);
}

#[test]
fn news_are_news_once() {
    let memory = memory();
    offer(&memory, &[0, 1]);
    let mut queue = Queue::start(0, SETUP, Arc::clone(&memory), None).unwrap();
    assert!(queue.has_news());
    assert!(!queue.has_news(), "left in the ring on purpose");
    assert!(!queue.enable_kicks());
    set(&memory, 0x102, 3);
    assert!(queue.has_news());
}

/// As a driver of the event queue has it: its buffers wait in the ring until there is an event.
#[test]
fn the_driver_kicks_for_what_comes_after_what_was_left_in_the_ring() {
    let memory = memory();
    offer(&memory, &[0, 1]);
    let setup = RingSetup { event_index: true, ..SETUP };
    let mut queue = Queue::start(0, setup, Arc::clone(&memory), None).unwrap();
    let _ = queue.enable_kicks();
    assert_eq!(get(&memory, 0x204 + 32), 2, "kick me at the third");
    let chain = queue.pop().unwrap();
    queue.complete(chain, 0);
    set(&memory, 0x102, 3);
    assert!(queue.enable_kicks());
    assert_eq!(get(&memory, 0x204 + 32), 3);
}

#[test]
fn what_is_given_back_comes_again_in_its_order() {
    let memory = memory();
    offer(&memory, &[2, 0, 3]);
    let mut queue = Queue::start(0, SETUP, Arc::clone(&memory), None).unwrap();
    let [first, second, third] = std::array::from_fn(|_| queue.pop().unwrap());
    queue.complete(first, 1);
    queue.give_back(third);
    queue.give_back(second);
    assert_eq!(queue.base(), Base::Split(1));
    assert_eq!((queue.pop().unwrap().head(), queue.base()), (0, Base::Split(2)));
    assert_eq!((queue.pop().unwrap().head(), queue.base()), (3, Base::Split(3)));
    assert!(queue.pop().is_none());
}

#[test]
fn what_is_given_back_is_not_under_way() {
    let memory = memory();
    offer(&memory, &[1, 2]);
    let shape = Shape::of_queues(1, 4);
    let (file, size) = Region::create(shape).unwrap();
    let region = || Region::map(&file, shape, size, 0).unwrap();
    let mut queue = Queue::start(0, SETUP, Arc::clone(&memory), Some(&region())).unwrap();
    let [first, second] = std::array::from_fn(|_| queue.pop().unwrap());
    queue.give_back(second);
    drop((first, queue)); // killed
    let mut queue = Queue::start(0, SETUP, Arc::clone(&memory), Some(&region())).unwrap();
    let heads: Vec<u16> = std::iter::from_fn(|| queue.pop()).map(|chain| chain.head()).collect();
    assert_eq!(heads, [1, 2], "one from the record, one from the ring");
}
