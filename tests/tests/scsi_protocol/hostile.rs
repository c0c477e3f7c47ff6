//! A driver that breaks every rule of the ring: the process lives, serves the other rings, and the
//! broken one again once it is set up anew.

use std::cell::RefCell;
use std::time::Duration;

use lab::driver::{Command, Data, Initiator, InitiatorOptions, Slots, Space};
use lab::{Error, Scsi};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use vmm_frontend::frontend::QueueSetup;
use vmm_frontend::frontend::ring::{Descriptor, RingFeatures};

use crate::common::{DISK, Sent, inquiry, io, works};

/// Where the hostile driver's buffers are: a region of its own, so that what the device writes there
/// is nobody else's. Large enough for buffers of 4 GiB.
const ARENA: u64 = 1 << 32;
const ARENA_SIZE: u64 = 5 << 30;
const TABLE: u64 = ARENA + 0x1_0000;

/// One hostile act.
#[derive(Clone, Debug)]
struct Act {
    queue: u16,
    lun: [u8; 8],
    cdb: [u8; 32],
    direct: Vec<Descriptor>,
    indirect: Vec<Descriptor>,
    heads: Vec<u16>,
    /// Added to the available index beyond the heads.
    jump: u16,
}

fn descriptor() -> impl Strategy<Value = Descriptor> {
    let address = prop_oneof![
        8 => (0u64..8).prop_map(|page| ARENA + page * 4096),
        4 => Just(TABLE),
        1 => (0u64..4096).prop_map(|back| ARENA + ARENA_SIZE - back),
        1 => any::<u64>().prop_map(|address| address | 1 << 40),
        1 => Just(u64::MAX),
    ];
    let length = prop_oneof![
        4 => prop::sample::select(vec![51u32, 108, 512, 4096, 24, 16]),
        2 => prop::sample::select(vec![0u32, 1, 15, 17, 50, 107, 160, 65536]),
        1 => prop::sample::select(vec![u32::MAX, 0x8000_0000, 0xffff_fff0]),
    ];
    let flags = prop_oneof![8 => 0u16..4, 3 => 0u16..8, 1 => any::<u16>()];
    let next = prop_oneof![8 => 0u16..8, 1 => any::<u16>()];
    (address, length, flags, next).prop_map(|(address, length, flags, next)| Descriptor {
        address,
        length,
        flags,
        next,
    })
}

/// Mostly the shape of a real request: out, then in.
fn request() -> impl Strategy<Value = Vec<Descriptor>> {
    let real = (0usize..3, 0u32..70_000).prop_map(|(extra, length)| {
        let at = |page: u64, length, flags, next| Descriptor {
            address: ARENA + page * 4096,
            length,
            flags,
            next,
        };
        let mut chain = vec![at(0, 51, 1, 1), at(1, 108, 3, 2)];
        chain.extend((0..extra).map(|more| at(2, length, 3, more as u16 + 3)));
        if let Some(last) = chain.last_mut() {
            last.flags &= 2;
        }
        chain
    });
    prop_oneof![2 => real, 3 => prop::collection::vec(descriptor(), 1..9)]
}

fn act() -> impl Strategy<Value = Act> {
    let lun = prop_oneof![3 => Just(DISK.0), 1 => any::<[u8; 8]>()];
    let heads = prop_oneof![
        6 => Just(vec![0]),
        1 => prop::collection::vec(prop_oneof![4 => 0u16..8, 1 => any::<u16>()], 0..4),
    ];
    let jump = prop_oneof![8 => Just(0u16), 1 => any::<u16>()];
    (0u16..3, lun, any::<[u8; 32]>(), request(), request(), heads, jump).prop_map(
        |(queue, lun, cdb, direct, indirect, heads, jump)| Act {
            queue,
            lun,
            cdb,
            direct,
            indirect,
            heads,
            jump,
        },
    )
}

fn head(act: &Act) -> Vec<u8> {
    match act.queue {
        0 => [
            &u32::from(act.cdb[0] % 4).to_le_bytes()[..],
            &u32::from(act.cdb[1] % 9).to_le_bytes(),
            &act.lun,
            &act.cdb,
        ]
        .concat(),
        _ => [&act.lun[..], &[0; 11], &act.cdb].concat(),
    }
}

fn inquire(initiator: &mut Initiator, queue: usize) -> Result<(), Error> {
    let cdb = inquiry(36);
    let command = Command { lun: DISK, tag: 0, cdb: &cdb, data: Data::In(36) };
    initiator.queues[queue].run(&command)?.good();
    Ok(())
}

fn slots(initiator: &mut Initiator, queue: u16) -> &mut Slots {
    match queue {
        0 => &mut initiator.control,
        1 => &mut initiator.events,
        _ => &mut initiator.queues[0].slots,
    }
}

/// Puts the act into memory and ring, and kicks.
fn commit(initiator: &mut Initiator, act: &Act) -> Result<(), Error> {
    let slots = slots(initiator, act.queue);
    slots.write(ARENA, &head(act))?;
    for (index, &Descriptor { address, length, flags, next }) in (0..).zip(&act.indirect) {
        let low = [&address.to_le_bytes()[..], &length.to_le_bytes()].concat();
        let packed = slots.ring.features().packed;
        let high = if packed { [next, flags] } else { [flags, next] }.map(u16::to_le_bytes);
        slots.write(TABLE + index * 16, &[low, high.concat()].concat())?;
    }
    let ring = &mut slots.ring;
    for (index, &descriptor) in (0..).zip(&act.direct) {
        ring.set_raw(index, descriptor);
    }
    act.heads.iter().for_each(|&head| ring.offer_raw(head));
    ring.show_raw(act.jump);
    ring.kick().map_err(|source| io("a kick", source))
}

/// Others are served meanwhile; then the ring is set up anew, and so is it.
fn repair(initiator: &mut Initiator, queue: u16) -> Result<(), Error> {
    inquire(initiator, 1)?;
    initiator.session.stop(queue).sent()?;
    let ring = &mut slots(initiator, queue).ring;
    ring.clear();
    let _ = ring.is_broken(); // forgets what was told of the old one
    let ring = &slots(initiator, queue).ring;
    let (setup, base) = (QueueSetup::of(ring), ring.base());
    let memory = initiator.space.memory.clone();
    initiator.session.device().start_queue(queue, &setup, base, &memory).sent()?;
    inquire(initiator, 0)
}

fn connect(scsi: &Scsi, ring: RingFeatures) -> Result<Initiator, Error> {
    let options = InitiatorOptions { queues: 2, size: 64, ring, ..InitiatorOptions::default() };
    let space = Space::of(&[(0, options.memory()), (ARENA, ARENA_SIZE)])?;
    let mut initiator = Initiator::prepare(&scsi.socket(), options, space)?;
    // Event buffers are hostile too: none of ours are there.
    for queue in 0..4 {
        let ring = match queue {
            0 => &initiator.control.ring,
            1 => &initiator.events.ring,
            _ => &initiator.queues[usize::from(queue) - 2].slots.ring,
        };
        initiator.session.start(queue, ring).sent()?;
    }
    Ok(initiator)
}

#[test]
fn random_chains() -> Result<(), Error> {
    let mut scsi = Scsi::new()?.disk(1 << 20, "")?.start()?;
    let formats = [(true, false), (false, false), (true, true), (false, true)];
    for (full, packed) in formats {
        let ring = RingFeatures { event_index: full, indirect: full, packed };
        let initiator = RefCell::new(connect(&scsi, ring)?);
        let mut runner = TestRunner::new(Config { cases: 1000, ..Config::default() });
        let result = runner.run(&act(), |act| {
            let initiator = &mut initiator.borrow_mut();
            commit(initiator, &act)
                .and_then(|()| repair(initiator, act.queue))
                .map_err(|error| TestCaseError::fail(error.to_string()))
        });
        result.unwrap_or_else(|error| panic!("{error}"));
    }
    assert!(scsi.runs(), "the process lives");
    let options = InitiatorOptions::default();
    let mut next = Initiator::connect(&scsi.socket(), options)?;
    inquire(&mut next, 0)
}

/// What a fuzzer may take long to find, one by one.
#[test]
fn rules_broken_one_by_one() -> Result<(), Error> {
    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    const INDIRECT: u16 = 4;
    let at = |address, length, flags, next| Descriptor { address, length, flags, next };
    let out = |next| at(ARENA, 51, NEXT, next);
    let table = |entries: u32| at(TABLE, entries * 16, INDIRECT, 0);
    let cases: [Case<'_>; 13] = [
        ("a loop", vec![at(ARENA, 51, NEXT, 1), at(ARENA, 1, NEXT, 0)], vec![]),
        ("itself", vec![at(ARENA, 51, NEXT, 0)], vec![]),
        ("past the table", vec![at(ARENA, 51, NEXT, 64)], vec![]),
        ("past guest memory", vec![out(1), at(ARENA + ARENA_SIZE - 100, 108, WRITE, 0)], vec![]),
        ("past the address space", vec![out(1), at(u64::MAX - 7, 108, WRITE, 0)], vec![]),
        ("no response", vec![at(ARENA, 51, 0, 0)], vec![]),
        ("a short response", vec![out(1), at(ARENA, 107, WRITE, 0)], vec![]),
        ("a short head", vec![at(ARENA, 50, NEXT, 1), at(ARENA, 108, WRITE, 0)], vec![]),
        ("out after in", vec![at(ARENA, 108, WRITE | NEXT, 1), at(ARENA, 51, 0, 0)], vec![]),
        ("an empty table", vec![table(0)], vec![]),
        ("half a descriptor", vec![at(TABLE, 24, INDIRECT, 0)], vec![out(1)]),
        ("a table in a table", vec![table(2)], vec![table(2), table(2)]),
        (
            "8 GiB in",
            vec![table(4)],
            vec![
                out(1),
                at(ARENA, 108, WRITE | NEXT, 2),
                at(ARENA, u32::MAX, WRITE | NEXT, 3),
                at(ARENA, u32::MAX, WRITE, 0),
            ],
        ),
    ];
    broken(false, &cases)
}

/// Those of packed rings, whose third field is the flags and whose fourth is the buffer ID.
#[test]
fn rules_of_packed_rings_broken_one_by_one() -> Result<(), Error> {
    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    const INDIRECT: u16 = 4;
    let at = |address, length, flags, next| Descriptor { address, length, flags, next };
    let out = at(ARENA, 51, NEXT, 0);
    let table = |entries: u32, flags| at(TABLE, entries * 16, INDIRECT | flags, 0);
    let past_memory = ARENA + ARENA_SIZE - 100;
    let cases: [Case<'_>; 14] = [
        ("no end", vec![at(ARENA, 1, NEXT, 0); 64], vec![]),
        ("an ID that no chain has", vec![out, at(ARENA, 108, WRITE, 64)], vec![]),
        ("past guest memory", vec![out, at(past_memory, 108, WRITE, 0)], vec![]),
        ("past the address space", vec![out, at(u64::MAX - 7, 108, WRITE, 0)], vec![]),
        ("no response", vec![at(ARENA, 51, 0, 0)], vec![]),
        ("a short response", vec![out, at(ARENA, 107, WRITE, 0)], vec![]),
        ("a short head", vec![at(ARENA, 50, NEXT, 0), at(ARENA, 108, WRITE, 0)], vec![]),
        ("out after in", vec![at(ARENA, 108, WRITE | NEXT, 0), at(ARENA, 51, 0, 0)], vec![]),
        ("an empty table", vec![table(0, 0)], vec![]),
        ("half a descriptor", vec![at(TABLE, 24, INDIRECT, 0)], vec![out]),
        ("a table past guest memory", vec![at(past_memory & !15, 160, INDIRECT, 0)], vec![]),
        ("a table and more", vec![table(2, NEXT), at(ARENA, 108, WRITE, 0)], vec![out, out]),
        ("more and a table", vec![out, table(1, 0)], vec![at(ARENA, 108, WRITE, 0)]),
        (
            "8 GiB in",
            vec![table(4, 0)],
            vec![
                out,
                at(ARENA, 108, WRITE, 0),
                at(ARENA, u32::MAX, WRITE, 0),
                at(ARENA, u32::MAX, WRITE, 0),
            ],
        ),
    ];
    broken(true, &cases)
}

type Case<'a> = (&'a str, Vec<Descriptor>, Vec<Descriptor>);

fn broken(packed: bool, cases: &[Case<'_>]) -> Result<(), Error> {
    let mut scsi = Scsi::new()?.disk(1 << 20, "")?.start()?;
    let ring = RingFeatures { event_index: true, indirect: true, packed };
    let mut initiator = connect(&scsi, ring)?;
    for (name, direct, indirect) in cases.iter().cloned() {
        let act =
            Act { queue: 2, lun: DISK.0, cdb: [0; 32], direct, indirect, heads: vec![0], jump: 0 };
        commit(&mut initiator, &act)?;
        let ring = &mut initiator.queues[0].slots.ring;
        let broken = ring.wait_broken(Duration::from_secs(10));
        assert!(broken.map_err(|source| io("waiting", source))?, "{name}: the frontend is told");
        assert_eq!(ring.take_raw(), None, "{name}: nothing is answered");
        repair(&mut initiator, act.queue)?;
    }
    works(&mut initiator.queues[0])?;
    assert!(scsi.runs());
    Ok(())
}
