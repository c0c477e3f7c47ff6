//! What a driver can't do.

use proptest::collection::vec;
use proptest::prelude::*;

use super::machine::*;
use super::{COMMAND, STATUS};
use crate::controller::Next;
use crate::usb::Answer;

/// Accesses of memory in one run: looking through all frames, and visiting some.
const MOST_ACCESSES: u32 = 200_000;

fn runs_within_bounds(machine: &mut Machine) {
    for _ in 0..10 {
        machine.ram.accesses.set(0);
        let next = machine.run();
        assert!(machine.ram.accesses.get() <= MOST_ACCESSES, "{}", machine.ram.accesses.get());
        match next {
            Next::At(time) => machine.now = machine.now.max(time),
            Next::Now => {}
            Next::Never => return,
        }
    }
}

#[test]
fn a_ring_that_does_nothing_ends() {
    let (mut machine, _) = Machine::with_toy();
    machine.ram.set(QH, &[QH | TO_QH]);
    machine.ram.accesses.set(0);
    machine.stir();
    machine.run();
    // All elements of the list are read at once.
    assert!(machine.ram.accesses.get() < 50, "{}", machine.ram.accesses.get());
}

#[test]
fn descriptors_and_queues_that_lead_to_themselves_end() {
    let (mut machine, _) = Machine::with_toy();
    let Td(control, token, buffer) = td(OUT, 5, 1, 8, DATA);
    for link in [at(0), at(0) | DEPTH, QH | TO_QH] {
        for element in [at(0), QH | TO_QH] {
            machine.ram.set(LIST, &[at(0), QH | TO_QH]);
            machine.ram.set(at(0), &[link, control, token, buffer]);
            machine.ram.set(QH, &[QH | TO_QH, element]);
            machine.stir();
            runs_within_bounds(&mut machine);
            assert_eq!(machine.get(STATUS) & 0x38, 0, "it goes on");
        }
    }
}

#[test]
fn a_schedule_that_is_too_long_is_cut() {
    let (mut machine, shared) = Machine::with_toy();
    // Descriptors in all of the memory, each linked to the next, in a ring of two queues.
    let count = (DATA - TDS) / 16;
    let packet = td(OUT, 5, 1, 1280, DATA);
    let tds: Vec<Td> = (0..count).map(|_| packet).collect();
    machine.queue(&tds, DEPTH);
    machine.ram.set(at(count - 1), &[at(0)]);
    machine.ram.set(QH, &[QH_2 | TO_QH, at(0), 0, 0, QH | TO_QH, at(count / 2)]);
    machine.now = machine.now.after(20 * MS);
    machine.stir();
    machine.run();
    let made = shared.lock().unwrap().got.len();
    assert!((512..=2048).contains(&made), "{made}");
}

#[test]
fn what_lies_outside_of_memory_stops_the_controller() {
    let outside = SIZE + 0x100;
    let places: [(&str, u32, u32); 5] = [
        ("a frame", LIST, outside),
        ("a queue", QH, outside | TO_QH),
        ("an element", QH + 4, outside),
        ("a buffer", at(0) + 12, outside),
        ("a buffer's end", at(0) + 12, u32::MAX - 3),
    ];
    for (what, place, value) in places {
        let (mut machine, _) = Machine::with_toy();
        machine.queue(&[td(OUT, 5, 1, 8, DATA)], 0);
        match place {
            LIST => machine.ram.set(LIST, &[value; 1024]),
            _ => machine.ram.set(place, &[value]),
        }
        machine.stir();
        machine.pass(20 * MS);
        assert_eq!((machine.get(STATUS), machine.get(COMMAND)), (0x28, 0), "{what}");
        assert!(machine.uhci.interrupts(), "{what}: it can't be masked");
    }
    let (mut machine, _) = Machine::with_toy();
    machine.write(8, &0xffff_f000_u32.to_le_bytes());
    machine.pass(2 * MS);
    assert_eq!(machine.get(STATUS), 0x28);
}

#[test]
fn a_descriptor_that_is_none_stops_the_controller() {
    let wrong_pid = td(0xa5, 5, 1, 8, DATA);
    let wrong_length = td(OUT, 5, 1, 1281, DATA);
    for wrong in [wrong_pid, wrong_length] {
        let (mut machine, shared) = Machine::with_toy();
        machine.queue(&[wrong], 0);
        machine.pass(20 * MS);
        assert_eq!((machine.get(STATUS), machine.get(COMMAND)), (0x30, 0));
        assert!(machine.uhci.interrupts() && shared.lock().unwrap().got.is_empty());
        machine.set(STATUS, 0x10);
        assert!(!machine.uhci.interrupts());
    }
}

/// A link, a queue head's word or a descriptor's: near something that is there.
fn word() -> impl Strategy<Value = u32> {
    let near = (0u32..0x400, 0u32..8).prop_map(|(at, bits)| (QH + 0x10 * at) | bits);
    let token = (0usize..4, 0u32..0x800, 0u32..16).prop_map(|(pid, length, endpoint)| {
        [OUT, IN, SETUP, 0][pid] | 5 << 8 | endpoint << 15 | length << 21
    });
    prop_oneof![4 => near, 2 => token, 2 => any::<u32>().prop_map(|it| it | ACTIVE), 1 => any::<u32>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever is in memory, and whatever the driver writes.
    #[test]
    fn nothing_panics_or_goes_on_for_ever(
        list in vec(word(), 1..64),
        words in vec(word(), 0x400),
        writes in vec((0u32..0x24, vec(any::<u8>(), 1..5), any::<bool>()), 0..30),
        answer in prop_oneof![
            Just(None), Just(Some(Answer::Nak)), Just(Some(Answer::Moved { bytes: 9999, short: false })),
            Just(Some(Answer::Silent)),
        ],
    ) {
        let (mut machine, shared) = Machine::with_toy();
        shared.lock().unwrap().sends = vec![vec![3; 8]; 100];
        shared.lock().unwrap().answer = answer;
        let all: Vec<u32> = list.iter().copied().cycle().take(1024).collect();
        machine.ram.set(LIST, &all);
        machine.ram.set(QH, &words);
        machine.stir();
        runs_within_bounds(&mut machine);
        for (offset, bytes, starts) in writes {
            machine.write(offset, &bytes);
            if starts {
                machine.write(8, &LIST.to_le_bytes());
                machine.set(COMMAND, 1);
                machine.ram.set(QH, &words);
            }
            runs_within_bounds(&mut machine);
        }
    }
}
