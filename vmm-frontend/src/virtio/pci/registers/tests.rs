use proptest::prelude::*;

use super::*;

const VECTORS: u16 = 3;
const SIZES: [u16; 2] = [64, 16];

const FEATURES: u64 = 0x0c;
const STATUS: u64 = 0x14;
const SELECT: u64 = 0x16;
const SIZE: u64 = 0x18;
const QUEUE_VECTOR: u64 = 0x1a;
const ENABLE: u64 = 0x1c;
const DESCRIPTORS: u64 = 0x20;

struct Driver(Common);

impl Driver {
    /// Of a device that offers these features besides VERSION_1.
    fn new(offered: u64) -> Self {
        Self(Common::new(offered | VERSION_1, &SIZES))
    }

    fn write(&mut self, offset: u64, value: u64, length: usize) -> Action {
        self.0.write(offset, &value.to_le_bytes()[..length], VECTORS)
    }

    fn read(&self, offset: u64, length: usize) -> u64 {
        let mut bytes = [0; 8];
        self.0.read(offset, &mut bytes[..length], 0);
        u64::from_le_bytes(bytes)
    }

    fn accept(&mut self, features: u64) {
        for half in 0..2 {
            self.write(0x08, half, 4);
            self.write(FEATURES, features >> (32 * half) & 0xffff_ffff, 4);
        }
    }

    /// Up to FEATURES_OK, if the device is content with the features.
    fn settle(&mut self, features: u64) {
        self.accept(features | VERSION_1);
        for status in [1, 3, 11] {
            self.write(STATUS, status, 1);
        }
    }

    fn size_after(&mut self, size: u64) -> u64 {
        self.write(SIZE, size, 2);
        self.read(SIZE, 2)
    }
}

#[test]
fn a_split_rings_size_is_a_power_of_two_within_the_devices() {
    let mut driver = Driver::new(RING_PACKED);
    driver.settle(0);
    assert_eq!(driver.size_after(32), 32);
    for refused in [0, 7, 33, 128, 0x8000] {
        assert_eq!(driver.size_after(refused), 32, "{refused}");
    }
}

#[test]
fn a_packed_rings_size_is_any_within_the_devices() {
    let mut driver = Driver::new(RING_PACKED);
    driver.settle(RING_PACKED);
    assert_eq!(driver.size_after(7), 7);
    assert_eq!(driver.size_after(64), 64);
    for refused in [0, 65, 0xffff] {
        assert_eq!(driver.size_after(refused), 64, "{refused}");
    }
}

/// Until then a driver can take back what it accepted, and its ring would be a split one.
#[test]
fn packed_rings_count_once_the_features_are_settled() {
    let mut driver = Driver::new(RING_PACKED);
    driver.accept(RING_PACKED | VERSION_1);
    assert_eq!(driver.size_after(7), 64);

    let mut driver = Driver::new(0);
    driver.settle(RING_PACKED);
    assert_eq!(driver.read(STATUS, 1), 3, "it was not offered");
    assert_eq!(driver.size_after(7), 64);
}

#[test]
fn only_offered_features_with_version_1_are_settled_and_then_stay() {
    let mut driver = Driver::new(1);
    driver.accept(1);
    driver.write(STATUS, 11, 1);
    assert_eq!(driver.read(STATUS, 1), 3);
    driver.settle(2);
    assert_eq!(driver.read(STATUS, 1), 3);
    driver.settle(1);
    assert_eq!(driver.read(STATUS, 1), 11);
    driver.accept(0);
    assert_eq!(driver.0.features(), VERSION_1 | 1);
}

#[test]
fn a_device_starts_once_and_after_its_features_are_settled() {
    let mut driver = Driver::new(0);
    assert_eq!(driver.write(STATUS, 7, 1), Action::None);
    assert_eq!(driver.read(STATUS, 1), 3);
    driver.settle(0);
    assert_eq!(driver.write(STATUS, 15, 1), Action::Start);
    assert_eq!(driver.write(STATUS, 15, 1), Action::None);
    driver.write(STATUS, 1, 1);
    assert_eq!(driver.read(STATUS, 1), 15, "no step back");
    assert_eq!(driver.write(STATUS, 0, 1), Action::Reset);
}

#[test]
fn a_queue_is_left_alone_once_it_is_enabled() {
    let mut driver = Driver::new(0);
    driver.settle(0);
    driver.write(DESCRIPTORS, 0x1_0000_1000, 8);
    driver.write(DESCRIPTORS, 0x2000, 4);
    driver.write(ENABLE, 1, 2);
    driver.write(DESCRIPTORS, 0, 8);
    driver.write(ENABLE, 0, 2);
    assert_eq!(driver.size_after(8), 64);
    let queues: Vec<_> =
        driver.0.queues().map(|(index, queue)| (index, queue.descriptors)).collect();
    assert_eq!(queues, [(0, 0x1_0000_2000)]);
}

#[test]
fn a_started_devices_queues_are_left_alone() {
    let mut driver = Driver::new(0);
    driver.settle(0);
    driver.write(STATUS, 15, 1);
    driver.write(ENABLE, 1, 2);
    assert_eq!(driver.size_after(8), 64);
    assert_eq!(driver.0.queues().count(), 0);
}

#[test]
fn a_queue_that_is_not_there_has_no_size_and_takes_nothing() {
    let mut driver = Driver::new(0);
    driver.settle(0);
    driver.write(SELECT, 2, 2);
    driver.write(ENABLE, 1, 2);
    assert_eq!(driver.size_after(1), 0);
    assert_eq!(driver.write(QUEUE_VECTOR, 0, 2), Action::None);
    assert_eq!(driver.read(QUEUE_VECTOR, 2), u64::from(NO_VECTOR));
    assert_eq!(driver.0.queues().count(), 0);
}

#[test]
fn a_vector_that_is_not_there_is_none() {
    let mut driver = Driver::new(0);
    driver.write(SELECT, 1, 2);
    assert_eq!(driver.write(QUEUE_VECTOR, 2, 2), Action::QueueVector(1, 2));
    assert_eq!(driver.read(QUEUE_VECTOR, 2), 2);
    assert_eq!(driver.write(QUEUE_VECTOR, 3, 2), Action::QueueVector(1, NO_VECTOR));
    assert_eq!(driver.read(QUEUE_VECTOR, 2), u64::from(NO_VECTOR));
    assert_eq!(driver.write(0x10, 3, 2), Action::ConfigVector(NO_VECTOR));
}

#[test]
fn a_reset_leaves_nothing() {
    let mut driver = Driver::new(0);
    driver.settle(0);
    driver.write(SIZE, 8, 2);
    driver.write(ENABLE, 1, 2);
    driver.0.set_needs_reset();
    driver.0.reset(VERSION_1);
    let fresh = Driver::new(0);
    assert_eq!(format!("{:?}", driver.0), format!("{:?}", fresh.0));
}

/// What a driver may write: mostly registers by their width, and values that mean something there.
fn write() -> impl Strategy<Value = (u64, u64, usize)> {
    let register = prop_oneof![
        1 => Just((STATUS, 1)),
        2 => Just((0x08, 4)),
        3 => Just((FEATURES, 4)),
        3 => Just((SIZE, 2)),
        1 => Just((ENABLE, 2)),
        1 => (0u64..0x38, 0usize..9),
    ];
    let value = prop_oneof![Just(1), 0u64..16, Just(RING_PACKED >> 32 | 1), any::<u64>()];
    (register, value).prop_map(|((offset, length), value)| (offset, value, length.min(8)))
}

proptest! {
    #[test]
    fn whatever_is_written_queues_are_what_the_device_can_serve(
        offered in prop_oneof![Just(0), Just(RING_PACKED)],
        writes in proptest::collection::vec(write(), 0..64),
    ) {
        let mut driver = Driver::new(offered);
        for (offset, value, length) in writes {
            driver.write(offset, value, length);
            let packed = driver.0.features() & RING_PACKED & offered != 0;
            for (queue, most) in driver.0.queues.iter().zip(SIZES) {
                prop_assert!(queue.size > 0 && queue.size <= most);
                prop_assert!(queue.size.is_power_of_two() || packed);
            }
        }
    }
}
