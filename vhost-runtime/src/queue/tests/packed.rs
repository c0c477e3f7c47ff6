use super::*;
use proptest::prelude::*;
use virtio_queue::desc::packed::Descriptor;
use vm_memory::{ByteValued, Bytes, GuestAddress};

const SIZE: u16 = 5;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const DRIVER: u64 = 0x100;
const DEVICE: u64 = 0x200;

const SETUP: RingSetup = RingSetup {
    size: SIZE,
    descriptors: 0,
    available: DRIVER,
    used: DEVICE,
    base: Base::Packed { available: Position::START, used: Position::START },
    event_index: false,
    indirect: true,
};

/// A driver that keeps to the rules as far as a test wants.
struct Driver {
    memory: Arc<Memory>,
    size: u16,
    available: Position,
    used: Position,
}

impl Driver {
    fn new() -> Self {
        let (available, used) = (Position::START, Position::START);
        Self { memory: memory(), size: SIZE, available, used }
    }

    fn start(&self, setup: RingSetup, region: Option<&Arc<Region>>) -> Queue {
        Queue::start(0, setup, Arc::clone(&self.memory), region).unwrap()
    }

    fn put(&self, address: u64, descriptor: Descriptor) {
        self.memory.space().write_slice(descriptor.as_slice(), GuestAddress(address)).unwrap();
    }

    /// Makes a chain of writable buffers of 16 bytes available, one for each set of flags.
    fn offer(&mut self, id: u16, flags: &[u16]) {
        for &flags in flags {
            let flags = flags | self.available.available();
            let address = u64::from(self.available.index) * 16;
            self.put(address, Descriptor::new(0x1000 + u64::from(id) * 16, 16, id, flags));
            self.available = self.available.after(1, self.size);
        }
    }

    /// A chain of so many buffers.
    fn chain(&mut self, id: u16, length: usize) {
        let mut flags = vec![WRITE | NEXT; length - 1];
        flags.push(WRITE);
        self.offer(id, &flags);
    }

    /// The next used descriptor of a chain of so many: its ID and length.
    fn take(&mut self, length: u16) -> Option<(u16, u32)> {
        let mut bytes = [0; 16];
        let address = u64::from(self.used.index) * 16;
        self.memory.space().read_slice(&mut bytes, GuestAddress(address)).unwrap();
        let used: Descriptor = *Descriptor::from_slice(&bytes).unwrap();
        if Position::owner(used.flags()) != self.used.used() {
            return None;
        }
        assert_eq!(used.flags() & WRITE != 0, used.len() > 0);
        self.used = self.used.after(length, self.size);
        Some((used.id(), used.len()))
    }

    /// Wants to be told of nothing (1), everything (0), or of one descriptor (2).
    fn want(&self, flags: u16, position: Position) {
        let wanted = u32::from(position.value()) | u32::from(flags) << 16;
        self.memory.space().write_obj(wanted.to_le(), GuestAddress(DRIVER)).unwrap();
    }

    /// What the device wants to be told of.
    fn wanted(&self) -> (u16, Position) {
        let wanted: u32 = self.memory.space().read_obj(GuestAddress(DEVICE)).unwrap();
        ((wanted >> 16) as u16, Position::of(wanted as u16))
    }
}

fn drain(queue: &mut Queue) -> Vec<Chain> {
    std::iter::from_fn(|| queue.pop()).collect()
}

fn ids(queue: &mut Queue) -> Vec<u16> {
    drain(queue).iter().map(Chain::head).collect()
}

fn at(index: u16, wrap: bool) -> Position {
    Position { index, wrap }
}

#[test]
fn chains_go_round_the_ring_and_come_back_in_any_order() {
    let mut driver = Driver::new();
    let mut queue = driver.start(SETUP, None);
    for round in 0..100 {
        driver.chain(3, 1);
        driver.chain(1, 3);
        let [first, second] = drain(&mut queue).try_into().unwrap();
        assert_eq!((first.head(), first.writable().len()), (3, 16));
        assert_eq!((second.head(), second.writable().len()), (1, 48));
        queue.complete(second, round);
        queue.complete(first, 7);
        queue.publish();
        assert_eq!(driver.take(3), Some((1, round)));
        assert_eq!(driver.take(1), Some((3, 7)));
        assert_eq!(driver.take(1), None);
        assert!(queue.is_idle());
    }
    assert_eq!(queue.base(), Base::Packed { available: driver.available, used: driver.used });
}

#[test]
fn the_driver_sees_completions_together() {
    let mut driver = Driver::new();
    let mut queue = driver.start(SETUP, None);
    driver.chain(0, 1);
    driver.chain(1, 1);
    for chain in drain(&mut queue) {
        queue.complete(chain, 1);
        assert_eq!(driver.take(1), None);
    }
    queue.publish();
    assert_eq!([driver.take(1), driver.take(1)], [Some((0, 1)), Some((1, 1))]);
}

#[test]
fn a_broken_driver_breaks_its_queue() {
    let unused = |_: &mut Driver| {};
    let indirect = |length, flags| {
        move |driver: &mut Driver| {
            let flags = flags | INDIRECT | driver.available.available();
            driver.put(0, Descriptor::new(0x2000, length, 0, flags));
        }
    };
    type Act<'a> = &'a dyn Fn(&mut Driver);
    let cases: [(&str, Act<'_>, bool); 9] = [
        ("nothing", &unused, true),
        ("a chain that never ends", &|driver| driver.offer(0, &[NEXT; SIZE as usize]), false),
        ("an ID beyond the ring", &|driver| driver.chain(SIZE, 1), false),
        (
            "an ID of two chains",
            &|driver| {
                driver.chain(1, 1);
                driver.chain(1, 1);
            },
            false,
        ),
        ("readable after writable", &|driver| driver.offer(0, &[WRITE | NEXT, 0]), false),
        ("an indirect table within a chain", &|driver| driver.offer(0, &[NEXT, INDIRECT]), false),
        ("an indirect table with NEXT", &indirect(16, NEXT), false),
        ("an indirect table of half a descriptor", &indirect(24, 0), false),
        ("an indirect table outside memory", &indirect(0x10000, 0), false),
    ];
    for (name, act, valid) in cases {
        let mut driver = Driver::new();
        let error = event();
        let mut queue = driver.start(SETUP, None);
        queue.set_error(Some(error.try_clone().unwrap()));
        act(&mut driver);
        drain(&mut queue);
        assert_eq!(!queue.is_broken(), valid, "{name}");
        assert_eq!(error.read().is_err(), valid, "{name}");
    }
}

#[test]
fn more_descriptors_than_the_ring_has_break_the_queue() {
    let mut driver = Driver::new();
    let mut queue = driver.start(SETUP, None);
    driver.chain(0, 4);
    let first = queue.pop().unwrap();
    driver.chain(1, 2);
    assert!(queue.pop().is_none() && queue.is_broken(), "one of them is the first chain's");
    drop(first);

    let mut driver = Driver::new();
    let mut queue = driver.start(SETUP, None);
    driver.chain(0, 5);
    let _first = queue.pop().unwrap();
    driver.chain(1, 1);
    assert!(queue.pop().is_none() && queue.is_broken());
}

/// All entries count, whatever their flags say but WRITE.
#[test]
fn an_indirect_table_is_taken_by_its_length() {
    let mut driver = Driver::new();
    let mut queue = driver.start(SETUP, None);
    driver.put(0x2000, Descriptor::new(0x3000, 4, 9, NEXT | INDIRECT));
    driver.put(0x2010, Descriptor::new(0x3000, 8, 9, 0));
    driver.put(0x2020, Descriptor::new(0x3000, 16, 9, WRITE | NEXT));
    let flags = INDIRECT | WRITE | driver.available.available();
    driver.put(0, Descriptor::new(0x2000, 48, 2, flags));
    let chain = queue.pop().unwrap();
    assert_eq!((chain.head(), chain.readable().len(), chain.writable().len()), (2, 12, 16));
    queue.complete(chain, 16);
    queue.publish();
    assert_eq!(driver.take(1), Some((2, 16)));

    let mut queue = driver.start(RingSetup { indirect: false, ..SETUP }, None);
    driver.put(0, Descriptor::new(0x2000, 48, 2, flags));
    assert!(queue.pop().is_none() && queue.is_broken(), "not negotiated");
}

#[test]
fn rings_outside_memory_or_of_a_wrong_size_are_refused() {
    let available = at(3, true);
    for setup in [
        RingSetup { used: 0x10000, ..SETUP },
        RingSetup { available: u64::MAX - 3, ..SETUP },
        RingSetup { available: 2, ..SETUP },
        RingSetup { descriptors: 8, ..SETUP },
        RingSetup { descriptors: 0xfff0, ..SETUP },
        RingSetup { size: 0, ..SETUP },
        RingSetup { size: 0x8001, ..SETUP },
        RingSetup { base: Base::Packed { available, used: at(4, true) }, ..SETUP },
        RingSetup { base: Base::Packed { available, used: at(2, false) }, ..SETUP },
        RingSetup { base: Base::Packed { available, used: at(5, false) }, ..SETUP },
    ] {
        assert!(Queue::start(0, setup, memory(), None).is_err(), "{setup:?}");
    }
}

#[test]
fn the_driver_is_told_when_it_wants_to_be() {
    let call = event();
    let mut driver = Driver::new();
    let mut queue = driver.start(RingSetup { event_index: true, ..SETUP }, None);
    queue.set_call(Some(call.try_clone().unwrap()));
    call.read().unwrap();
    let mut told = |flags, position, chains: &[u16]| {
        driver.want(flags, position);
        for &length in chains {
            driver.chain(0, length.into());
            let chain = queue.pop().unwrap();
            queue.complete(chain, 1);
            queue.publish();
            driver.take(length).unwrap();
        }
        queue.notify();
        call.read().is_ok()
    };
    assert!(told(0, at(0, false), &[1])); // 0
    assert!(!told(1, at(0, false), &[1])); // 1
    assert!(!told(2, at(4, true), &[2])); // 2 and 3
    assert!(told(2, at(4, true), &[1])); // 4
    assert!(!told(2, at(0, true), &[1]), "not in this lap"); // 0
    assert!(told(2, at(2, false), &[3])); // 1 to 3
    assert!(told(2, at(0, true), &[1, 1])); // 4 and 0
    assert!(told(2, at(3, false), &[1; 7]), "it has been passed long since");
}

#[test]
fn the_device_is_kicked_when_it_wants_to_be() {
    let mut driver = Driver::new();
    let mut queue = driver.start(SETUP, None);
    queue.disable_kicks();
    assert_eq!(driver.wanted().0, 1);
    assert!(!queue.enable_kicks());
    assert_eq!(driver.wanted().0, 0);

    let mut queue = driver.start(RingSetup { event_index: true, ..SETUP }, None);
    driver.chain(0, 3);
    assert!(queue.enable_kicks(), "nobody has looked yet");
    assert_eq!(driver.wanted(), (2, at(3, true)), "at the next");
    assert!(!queue.enable_kicks() && !queue.has_news(), "left in the ring on purpose");
    driver.chain(1, 2);
    assert!(queue.has_news());
    assert!(!queue.enable_kicks());
    assert_eq!(driver.wanted(), (2, at(0, false)));
    assert_eq!(ids(&mut queue), [0, 1]);
    assert!(!queue.has_news());
}

#[test]
fn what_is_given_back_comes_again_in_its_order() {
    let mut driver = Driver::new();
    let (file, size) = Region::create(Shape::of_queues(1, SIZE)).unwrap();
    let region = || Region::map(&file, Shape::of_queues(1, SIZE), size, 0).unwrap();
    let mut queue = driver.start(SETUP, Some(&region()));
    driver.chain(2, 1);
    driver.chain(0, 2);
    driver.chain(4, 2);
    let [first, second, third] = drain(&mut queue).try_into().unwrap();
    queue.give_back(third);
    queue.complete(first, 1);
    queue.publish();
    queue.give_back(second);
    assert_eq!(queue.base(), Base::Packed { available: at(1, true), used: at(1, true) });
    assert!(!queue.has_news(), "left in the ring on purpose");
    let second = queue.pop().unwrap();
    assert_eq!(second.head(), 0);
    drop((second, queue)); // killed
    let mut queue = driver.start(SETUP, Some(&region()));
    assert_eq!(ids(&mut queue), [0, 4]);
}

#[test]
fn a_killed_process_s_requests_are_done_again_and_only_those() {
    let mut driver = Driver::new();
    let (file, size) = Region::create(Shape::of_queues(1, SIZE)).unwrap();
    let region = || Region::map(&file, Shape::of_queues(1, SIZE), size, 0).unwrap();
    let mut queue = driver.start(SETUP, Some(&region()));
    driver.chain(0, 2);
    driver.chain(1, 2);
    let [first, second] = drain(&mut queue).try_into().unwrap();
    queue.complete(second, 5);
    queue.publish(); // over the first one's descriptor
    assert_eq!(driver.take(2), Some((1, 5)));
    driver.chain(3, 2);
    driver.chain(4, 1);
    assert_eq!(queue.pop().unwrap().head(), 3);
    drop((queue, first)); // killed

    let mut queue = driver.start(SETUP, Some(&region()));
    assert!(!queue.is_idle() && queue.enable_kicks());
    let chains = drain(&mut queue);
    assert_eq!(chains.iter().map(Chain::head).collect::<Vec<_>>(), [0, 3, 4]);
    assert_eq!(chains[0].writable().len(), 32);
    chains.into_iter().for_each(|chain| queue.complete(chain, 9));
    queue.publish();
    assert_eq!(
        [driver.take(2), driver.take(2), driver.take(1)].map(Option::unwrap),
        [(0, 9), (3, 9), (4, 9)]
    );
}

/// The next one completes them in another order, and the driver must not see what was left there.
#[test]
fn a_batch_that_the_driver_did_not_see_is_done_again() {
    let mut driver = Driver::new();
    let (file, size) = Region::create(Shape::of_queues(1, SIZE)).unwrap();
    let region = || Region::map(&file, Shape::of_queues(1, SIZE), size, 0).unwrap();
    let mut queue = driver.start(SETUP, Some(&region()));
    driver.chain(0, 1);
    driver.chain(1, 1);
    driver.chain(2, 1);
    let [first, second, third] = drain(&mut queue).try_into().unwrap();
    queue.complete(third, 1);
    queue.complete(first, 1);
    drop((queue, second)); // killed

    let mut queue = driver.start(SETUP, Some(&region()));
    let [first, second, third] = drain(&mut queue).try_into().unwrap();
    assert_eq!([first.head(), second.head(), third.head()], [0, 1, 2]);
    queue.complete(second, 7);
    queue.publish();
    assert_eq!([driver.take(1), driver.take(1)], [Some((1, 7)), None]);
    queue.complete(third, 8);
    queue.complete(first, 9);
    queue.publish();
    assert_eq!([driver.take(1), driver.take(1)], [Some((2, 8)), Some((0, 9))]);
}

/// Frontends keep the region while the driver sets its rings up anew, in either format.
#[test]
fn a_record_does_not_outlive_its_ring() {
    let (file, size) = Region::create(Shape::of_queues(1, SIZE)).unwrap();
    let region = || Region::map(&file, Shape::of_queues(1, SIZE), size, 0).unwrap();
    let mut driver = Driver::new();
    let mut queue = driver.start(SETUP, Some(&region()));
    driver.chain(1, 2);
    drop(queue.pop().unwrap());
    queue.fail(&QueueError::Request("a request that is none"));
    let base = queue.close();
    assert_eq!(base, Base::Packed { available: at(2, true), used: at(0, true) });
    assert!(region().is_in_use());
    assert_eq!(region().queue(0, 4).unwrap().recover(0), Some(vec![]));

    let mut driver = Driver::new();
    let mut queue = driver.start(SETUP, Some(&region()));
    driver.chain(3, 1);
    assert_eq!(ids(&mut queue), [3]);
    drop(queue); // killed
    assert_eq!(region().queue(0, 4).unwrap().recover(0), None, "a record of the other format");
}

/// Where the former process was killed: its ring and record may be in any state between two steps.
#[derive(Clone, Copy, Debug)]
enum Step {
    Offer(usize),
    Pop,
    Complete(usize),
    Publish,
    GiveBack,
    Kill,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1usize..4).prop_map(Step::Offer),
        4 => Just(Step::Pop),
        4 => (0usize..8).prop_map(Step::Complete),
        3 => Just(Step::Publish),
        1 => Just(Step::GiveBack),
        1 => Just(Step::Kill),
    ];
    proptest::collection::vec(step, 1..200)
}

proptest! {
    #[test]
    fn each_request_is_answered_once_however_often_the_process_is_killed(steps in steps()) {
        let (file, size) = Region::create(Shape::of_queues(1, SIZE)).unwrap();
        let region = || Region::map(&file, Shape::of_queues(1, SIZE), size, 0).unwrap();
        let mut driver = Driver::new();
        let mut queue = driver.start(SETUP, Some(&region()));
        let mut lengths = [0u16; SIZE as usize]; // of the chains under way, by their IDs
        let mut held: Vec<Chain> = Vec::new();
        let mut order: Vec<u16> = Vec::new(); // as they were offered
        let mut newest = None; // of those taken
        let finish = [Step::Kill, Step::Pop, Step::Pop, Step::Pop, Step::Pop, Step::Pop];
        for step in steps.into_iter().chain(finish) {
            match step {
                Step::Offer(length) => {
                    let length = length as u16;
                    let id = (0..SIZE).find(|&id| lengths[usize::from(id)] == 0);
                    let room = SIZE - lengths.iter().sum::<u16>();
                    if let Some(id) = id && length <= room {
                        driver.chain(id, length.into());
                        lengths[usize::from(id)] = length;
                        order.push(id);
                    }
                }
                Step::Pop => {
                    let popped = queue.pop();
                    newest = popped.as_ref().map(Chain::head).or(newest);
                    held.extend(popped);
                }
                Step::Complete(which) if !held.is_empty() => {
                    let chain = held.remove(which % held.len());
                    newest = newest.filter(|&newest| newest != chain.head());
                    let written = u32::from(chain.head()) + 1;
                    prop_assert_eq!(
                        chain.writable().len(),
                        16 * u64::from(lengths[usize::from(chain.head())])
                    );
                    queue.complete(chain, written);
                }
                Step::Publish => queue.publish(),
                Step::GiveBack => {
                    let last = held.pop_if(|chain| Some(chain.head()) == newest);
                    if let Some(chain) = last {
                        queue.give_back(chain);
                        newest = None;
                    }
                }
                Step::Kill => {
                    held.clear();
                    drop(queue);
                    queue = driver.start(SETUP, Some(&region()));
                }
                Step::Complete(_) => {}
            }
            prop_assert!(!queue.is_broken());
            // The driver, which knows how long its chains are.
            let peek = |driver: &Driver| {
                let address = u64::from(driver.used.index) * 16 + 12;
                driver.memory.space().read_obj::<u16>(GuestAddress(address)).unwrap()
            };
            loop {
                let id = peek(&driver);
                let length = lengths.get(usize::from(id)).copied().unwrap_or(0);
                let Some((id, written)) = driver.take(length) else { break };
                prop_assert!(length > 0, "{} was not under way", id);
                prop_assert_eq!(written, u32::from(id) + 1);
                lengths[usize::from(id)] = 0;
                order.retain(|&other| other != id);
            }
        }
        // What is left is under way with the last process, which was just started.
        let mut left: Vec<u16> = held.iter().map(Chain::head).collect();
        left.sort_unstable();
        order.sort_unstable();
        prop_assert_eq!(left, order);
    }

    #[test]
    fn any_ring_and_any_record_give_chains_within_memory_or_an_error(
        descriptors in proptest::collection::vec(
            (0u64..0x12000, 0u32..0x3000, 0u16..8, 0u16..4, 0u16..7), 5),
        record in proptest::collection::vec(any::<u8>(), 192),
        is_ours: bool,
        base: u32,
        events: u64,
    ) {
        use std::os::unix::fs::FileExt;
        const OWNERS: [u16; 4] = [0, 0x80, 0x8000, 0x8080];
        let driver = Driver::new();
        for (index, (address, length, flags, owner, id)) in (0..).zip(descriptors) {
            let flags = flags | OWNERS[usize::from(owner)];
            driver.put(index * 16, Descriptor::new(address, length, id, flags));
        }
        driver.memory.space().write_obj(events, GuestAddress(DRIVER)).unwrap();
        let (file, size) = Region::create(Shape::of_queues(1, SIZE)).unwrap();
        file.write_all_at(&record, 0).unwrap();
        if is_ours {
            let header = [(1u64 << 34).to_ne_bytes().to_vec(), 1u16.to_ne_bytes().to_vec(),
                SIZE.to_ne_bytes().to_vec()].concat();
            file.write_all_at(&header, 0).unwrap();
        }
        let region = Region::map(&file, Shape::of_queues(1, SIZE), size, 0).unwrap();
        let base = Base::parse(base & 0x8003_8003, true).unwrap();
        let setup = RingSetup { base, event_index: true, ..SETUP };
        let memory = Arc::clone(&driver.memory);
        let Ok(mut queue) = Queue::start(0, setup, memory, Some(&region)) else { return Ok(()) };
        let mut count = 0;
        while let Some(chain) = queue.pop() {
            count += 1;
            prop_assert!(count <= 2 * SIZE, "more than were recorded and offered");
            for buffers in [chain.readable(), chain.writable()] {
                let total: usize = buffers.iovecs().map(|vector| vector.iov_len).sum();
                prop_assert_eq!(total as u64, buffers.len());
                prop_assert_eq!(buffers.to_vec().len() as u64, buffers.len());
            }
            queue.complete(chain, 1);
            let _ = queue.enable_kicks();
            queue.notify();
            queue.disable_kicks();
        }
        let _ = queue.has_news();
        queue.close();
    }
}
