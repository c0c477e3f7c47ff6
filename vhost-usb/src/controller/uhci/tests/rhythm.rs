//! When the controller runs, and how seldom.

use super::machine::*;
use super::{COMMAND, FRAME_NUMBER, INTERRUPT, STATUS};
use crate::controller::Next;

#[test]
fn it_sleeps_while_it_is_halted() {
    let mut machine = Machine::new();
    assert_eq!(machine.run(), Next::Never);
    machine.set(COMMAND, 1);
    assert!(matches!(machine.run(), Next::At(_)));
}

#[test]
fn without_a_device_it_hardly_ever_runs() {
    let mut machine = Machine::new();
    machine.set(COMMAND, 1);
    machine.pass(MS);
    assert!(machine.pass(1000 * MS) <= 5);
}

#[test]
fn a_device_with_nothing_to_say_costs_few_wake_ups() {
    let (mut machine, _) = Machine::with_toy();
    machine.queue(&[td(IN, 5, 2, 8, DATA).with(IOC)], 0);
    machine.pass(1000 * MS);
    let runs = machine.pass(1000 * MS);
    assert!(runs <= 70, "{runs}");
}

#[test]
fn a_first_transfer_after_a_rest_begins_within_20_ms() {
    let (mut machine, shared) = Machine::with_toy();
    machine.ram.put(DATA, b"12345678");
    for pause in [1, 7, 100, 333, 5003] {
        machine.queue(&[td(IN, 5, 2, 8, DATA)], 0);
        machine.pass(pause * MS + 11_000);
        machine.queue(&[td(OUT, 5, 1, 8, DATA).with(IOC)], 0);
        let before = machine.now;
        machine.pass_until(30 * MS, |this| this.control(0) & ACTIVE == 0);
        assert!(machine.now.since(before) <= 20 * MS);
        assert_eq!(shared.lock().unwrap().got.pop(), Some(b"12345678".to_vec()));
    }
}

#[test]
fn an_interrupt_queue_is_asked_in_its_frames() {
    let (mut machine, shared) = Machine::with_toy();
    // In every eighth frame.
    machine.ram.set(LIST, &[END; 1024]);
    for frame in (3..1024).step_by(8) {
        machine.ram.set(LIST + 4 * frame, &[QH | TO_QH]);
    }
    machine.queue(&[td(IN, 5, 2, 1, DATA), td(IN, 5, 2, 1, DATA + 1)], 0);
    machine.pass(500 * MS);
    shared.lock().unwrap().sends = vec![vec![1], vec![2]];
    machine.stir();
    let runs = machine.pass_until(10 * MS, |this| this.control(0) & ACTIVE == 0);
    let first = machine.get(FRAME_NUMBER);
    machine.pass_until(10 * MS, |this| this.control(1) & ACTIVE == 0);
    assert_eq!((first % 8, machine.get(FRAME_NUMBER).wrapping_sub(first) & 0x7ff), (3, 8));
    assert!(runs < 20, "{runs}");
}

#[test]
fn frames_that_were_missed_are_caught_up_with() {
    let (mut machine, shared) = Machine::with_toy();
    let out = |number: u32| td(OUT, 5, 1, 1, DATA + number);
    machine.queue(&[out(0), out(1), out(2), out(3)], 0);
    machine.stir();
    machine.run();
    machine.now = machine.now.after(10 * MS);
    machine.run();
    assert_eq!(shared.lock().unwrap().got.len(), 4);
}

/// As drivers of streams do, which tell nobody.
#[test]
fn isochronous_packets_that_are_linked_a_little_ahead_are_moved() {
    let (mut machine, shared) = Machine::with_toy();
    let packet = |number: u32| {
        let Td(control, token, buffer) = td(OUT, 5, 1, 4, DATA + 4 * number);
        Td(control & !C_ERR | IOS, token, buffer)
    };
    machine.link(&[packet(0), packet(1), packet(2)], 0);
    let ahead = |machine: &mut Machine, number: u32| {
        let frame = u32::from(machine.get(FRAME_NUMBER)) + 2;
        machine.ram.set(at(number), &[QH | TO_QH]);
        machine.ram.set(LIST + 4 * (frame % 1024), &[at(number)]);
    };
    ahead(&mut machine, 0);
    machine.stir();
    machine.pass(50 * MS);
    ahead(&mut machine, 1);
    machine.pass(3 * MS);
    assert_eq!(shared.lock().unwrap().got.len(), 2);
    // The process has no processor for a while.
    ahead(&mut machine, 2);
    machine.now = machine.now.after(10 * MS);
    machine.run();
    assert_eq!(shared.lock().unwrap().got.len(), 3);
    machine.pass(1000 * MS);
    let runs = machine.pass(1000 * MS);
    assert!(runs <= 70, "{runs}");
}

#[test]
fn a_driver_that_goes_on_at_once_does_not_wait_for_the_next_frame() {
    let (mut machine, shared) = Machine::with_toy();
    machine.ram.set(QH, &[QH | TO_QH]);
    machine.set(INTERRUPT, 0xf);
    machine.queue(&[td(OUT, 5, 1, 31, DATA).with(IOC)], 0);
    machine.pass_until(20 * MS, |this| this.uhci.interrupts());
    let before = machine.now;
    for _ in 0..10 {
        machine.set(STATUS, 1);
        machine.run();
        // The driver needs some time, and does not tell.
        machine.pass(30_000);
        machine.queue(&[td(OUT, 5, 1, 31, DATA).with(IOC)], 0);
        machine.pass_until(20 * MS, |this| this.uhci.interrupts());
    }
    assert_eq!(shared.lock().unwrap().got.len(), 11);
    assert!(machine.now.since(before) < MS, "{}", machine.now.since(before));
}

/// As Linux has it: frames lead to queues of 128, 64, … 1 ms, each linked to the next shorter, and these to
/// the queues of control and bulk transfers.
#[test]
fn a_mouse_in_linux_schedule_costs_few_wake_ups_and_is_heard_in_time() {
    let (mut machine, shared) = Machine::with_toy();
    let skeleton = |period: u32| 0x2100 + 0x10 * period.ilog2();
    for period in (0..8).map(|power| 1 << power) {
        let next = if period == 1 { QH } else { skeleton(period / 2) };
        machine.ram.set(skeleton(period), &[next | TO_QH, END]);
    }
    for frame in 0..1024_u32 {
        let period = 1 << frame.trailing_zeros().min(7);
        machine.ram.set(LIST + 4 * frame, &[skeleton(period) | TO_QH]);
    }
    machine.link(&[td(IN, 5, 2, 8, DATA).with(IOC)], 0);
    machine.ram.set(skeleton(8) + 4, &[TDS]);
    machine.pass(1000 * MS);
    let runs = machine.pass(1000 * MS);
    assert!(runs <= 75, "{runs}");
    shared.lock().unwrap().sends.push(vec![1, 2, 3, 4]);
    machine.stir();
    let before = machine.now;
    machine.pass_until(20 * MS, |this| this.control(0) & ACTIVE == 0);
    assert!(machine.now.since(before) <= 8 * MS);
    assert_eq!(machine.get(FRAME_NUMBER) % 8, 0);
}
