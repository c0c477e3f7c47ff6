use super::*;
use crate::lun::disk::tests::disk;

const NO_DATA: DataLengths = DataLengths { out: 0, room: 4096 };

fn cdb(bytes: &[u8]) -> Cdb {
    let mut cdb = [0; 32];
    cdb[..bytes.len()].copy_from_slice(bytes);
    cdb
}

fn complete(bus: &Bus, address: Address, bytes: &[u8]) -> Reply {
    match bus.snapshot().start(address, &cdb(bytes), NO_DATA) {
        Some(Started { action: Action::Complete(reply), .. }) => reply,
        _ => panic!("not complete"),
    }
}

#[test]
fn addresses_in_both_methods() {
    let at = |target, lun| Some(Address { target, lun });
    assert_eq!(Address::parse([1, 7, 0, 3, 0, 0, 0, 0]), at(7, 3));
    assert_eq!(Address::parse([1, 7, 0x40, 3, 0, 0, 0, 0]), at(7, 3));
    assert_eq!(Address::parse([1, 255, 0x7f, 0xff, 0, 0, 0, 0]), at(255, 16_383));
    assert_eq!(Address::parse([0, 7, 0, 3, 0, 0, 0, 0]), None);
    assert_eq!(Address::parse([1, 7, 0x80, 3, 0, 0, 0, 0]), None);
    assert_eq!(Address::parse([1, 7, 0, 3, 0, 1, 0, 0]), None);
    for lun in [0, 255, 256, 16_383] {
        let address = Address { target: 9, lun };
        assert_eq!(Address::parse(address.bytes()), Some(address));
    }
}

#[test]
fn a_target_without_units_does_not_exist() {
    let bus = Bus::default();
    let address = Address { target: 1, lun: 0 };
    assert!(bus.snapshot().start(address, &cdb(&[0]), NO_DATA).is_none());
}

#[test]
fn a_missing_unit_of_an_existing_target_answers_inquiry_only() {
    let bus = Bus::default();
    bus.insert(Address { target: 1, lun: 5 }, disk(64));
    let zero = Address { target: 1, lun: 0 };
    assert_eq!(complete(&bus, zero, &[0x12, 0, 0, 0, 36, 0]).data[0], 0x7f);
    let reply = complete(&bus, zero, &[0, 0, 0, 0, 0, 0]);
    assert_eq!((reply.status, reply.sense[12]), (2, 0x25));
    assert_eq!(complete(&bus, zero, &[3, 0, 0, 0, 18, 0]).data[12], 0x25);
}

#[test]
fn report_luns_lists_the_target_s_units_in_order() {
    let bus = Bus::default();
    for lun in [300, 0, 5] {
        assert!(bus.insert(Address { target: 2, lun }, disk(64)));
    }
    bus.insert(Address { target: 3, lun: 1 }, disk(64));
    assert!(!bus.insert(Address { target: 3, lun: 1 }, disk(64)));
    let any = Address { target: 2, lun: 9 };
    let data = complete(&bus, any, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]).data;
    assert_eq!(data[..4], 24u32.to_be_bytes());
    let luns: Vec<&[u8]> = data[8..].chunks(8).map(|lun| &lun[..2]).collect();
    assert_eq!(luns, [[0, 0], [0, 5], [0x41, 0x2c]]);
    let well_known = complete(&bus, any, &[0xa0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0]).data;
    assert_eq!(well_known[8..10], [0xc1, 0x01]);
}

#[test]
fn a_unit_that_came_or_went_is_told_of() {
    let bus = Bus::default();
    let first = Address { target: 0, lun: 0 };
    bus.insert(first, disk(64));
    complete(&bus, first, &[0; 6]); // POWER ON
    bus.insert(Address { target: 0, lun: 1 }, disk(64));
    let reply = complete(&bus, first, &[0; 6]);
    assert_eq!(reply.sense[12..14], [0x3f, 0x0e]);
    assert_eq!(complete(&bus, first, &[0; 6]).status, 0);
    assert!(bus.remove(Address { target: 0, lun: 1 }).is_some());
    assert_eq!(complete(&bus, first, &[0; 6]).sense[12..14], [0x3f, 0x0e]);
}
