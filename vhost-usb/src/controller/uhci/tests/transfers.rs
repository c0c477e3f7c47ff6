//! What descriptors and queues come to.

use super::machine::*;
use super::toy::toy;
use super::{COMMAND, FRAME_NUMBER, INTERRUPT, PORT_2, STATUS};
use crate::usb::{Answer, Speed};

#[test]
fn a_device_is_enumerated() {
    let mut machine = Machine::new();
    machine.ports.plug(1, toy(Speed::Low).0);
    machine.enable(PORT_2);
    machine.set(COMMAND, 1);
    let device = machine.request(0, [0x80, 6, 0, 1, 0, 0, 64, 0]);
    assert_eq!(device, None, "the packet was short: the driver goes on to the status stage itself");
    let device = machine.request(0, [0x80, 6, 0, 1, 0, 0, 18, 0]).unwrap();
    assert_eq!(
        (device.len(), &device[..2], &device[8..12]),
        (18, &[18, 1][..], &b"\x34\x12\x78\x56"[..])
    );
    assert_eq!(machine.request(0, [0, 5, 9, 0, 0, 0, 0, 0]), Some(vec![]));
    assert_eq!(machine.request(0, [0x80, 8, 0, 0, 0, 0, 1, 0]), None, "nobody has that address");
    assert_eq!(machine.request(9, [0, 9, 1, 0, 0, 0, 0, 0]), Some(vec![]));
    assert_eq!(machine.request(9, [0x80, 8, 0, 0, 0, 0, 1, 0]), Some(vec![1]));
    assert_eq!(machine.request(9, [0x80, 6, 0, 9, 0, 0, 8, 0]), None, "a stall");
}

#[test]
fn a_queue_that_is_breadth_first_has_one_packet_a_frame() {
    let (mut machine, shared) = Machine::with_toy();
    machine.ram.put(DATA, b"onetwosix");
    let out = |number: u32| td(OUT, 5, 1, 3, DATA + 3 * number);
    machine.queue(&[out(0), out(1), out(2).with(IOC)], 0);
    machine.now = machine.now.after(MS);
    machine.stir();
    machine.run();
    assert_eq!(shared.lock().unwrap().got, [b"one"]);
    assert_eq!((machine.element(), machine.get(STATUS)), (at(1), 0));
    machine.pass(3 * MS);
    assert_eq!(shared.lock().unwrap().got, [b"one", b"two", b"six"]);
    assert_eq!((machine.element(), machine.get(STATUS)), (END, 1));
    assert_eq!((machine.control(2) & ACTIVE, machine.actual(2)), (0, 3));
}

#[test]
fn a_queue_that_is_depth_first_goes_on_at_once() {
    let (mut machine, shared) = Machine::with_toy();
    shared.lock().unwrap().sends = vec![vec![1; 64], vec![2; 64], vec![3; 64]];
    let packet = |number: u32| td(IN, 5, 1, 64, DATA + 64 * number);
    machine.queue(&[packet(0), packet(1), packet(2)], DEPTH);
    machine.now = machine.now.after(MS);
    machine.stir();
    machine.run();
    assert_eq!(machine.element(), END);
    assert_eq!(machine.ram.get(DATA + 128, 64), [3; 64]);
}

#[test]
fn queues_in_a_ring_have_all_of_the_frame() {
    let (mut machine, shared) = Machine::with_toy();
    shared.lock().unwrap().sends = vec![vec![7; 64]; 200];
    let tds: Vec<Td> = (0..100).map(|number| td(IN, 5, 1, 64, DATA + 64 * number)).collect();
    machine.queue(&tds, 0);
    // The second queue leads back to itself.
    machine.ram.set(QH, &[QH_2 | TO_QH, END, 0, 0, QH_2 | TO_QH, TDS]);
    machine.now = machine.now.after(MS);
    machine.stir();
    machine.run();
    assert_eq!((machine.ram.word(QH_2 + 4), shared.lock().unwrap().sends.len()), (END, 100));
    // What the driver adds soon after is not left for the next frame.
    machine.ram.set(QH_2 + 4, &[at(90)]);
    machine.ram.set(at(90) + 4, &[ACTIVE | C_ERR]);
    let before = machine.now;
    machine.pass_until(MS, |this| this.control(90) & ACTIVE == 0);
    assert!(machine.now.since(before) < MS / 10);
}

#[test]
fn an_endpoint_that_has_nothing_is_asked_again_after_an_event() {
    let (mut machine, shared) = Machine::with_toy();
    machine.queue(&[td(IN, 5, 2, 8, DATA).with(IOC)], 0);
    machine.pass(100 * MS);
    assert_eq!(machine.control(0), ACTIVE | C_ERR | IOC | NAK);
    assert_eq!((machine.element(), machine.get(STATUS)), (TDS, 0));
    shared.lock().unwrap().sends.push(b"key down".to_vec());
    machine.stir();
    machine.pass_until(2 * MS, |this| this.get(STATUS) == 1);
    assert_eq!(machine.control(0), C_ERR | IOC | 7);
    assert_eq!((machine.ram.get(DATA, 8), machine.element()), (b"key down".to_vec(), END));
}

#[test]
fn a_short_packet_stops_a_queue_that_wants_to_know() {
    let (mut machine, shared) = Machine::with_toy();
    machine.set(INTERRUPT, 8);
    let packet = |number: u32| td(IN, 5, 1, 64, DATA + 64 * number);
    for (bits, next, status, told) in [(0, END, 0, false), (SPD, TDS, 1, true)] {
        shared.lock().unwrap().sends = vec![vec![1; 10], vec![2; 64]];
        machine.queue(&[packet(0).with(bits), packet(1)], DEPTH);
        machine.stir();
        machine.pass(3 * MS);
        assert_eq!((machine.element(), machine.actual(0)), (next, 10));
        assert_eq!((machine.get(STATUS), machine.uhci.interrupts()), (status, told));
    }
    assert_eq!(machine.control(0) & (ACTIVE | STALLED), 0);
    // Who wants to know of completed descriptors alone is not told of short ones.
    machine.set(INTERRUPT, 4);
    assert!(!machine.uhci.interrupts());
    machine.set(INTERRUPT, 8);
    machine.set(STATUS, 1);
    assert!(!machine.uhci.interrupts());
}

#[test]
fn a_stall_ends_a_descriptor_and_stops_its_queue() {
    let (mut machine, shared) = Machine::with_toy();
    machine.set(INTERRUPT, 1);
    shared.lock().unwrap().answer = Some(Answer::Stall);
    machine.queue(&[td(OUT, 5, 1, 8, DATA).with(IOC), td(OUT, 5, 1, 8, DATA)], DEPTH);
    machine.pass(20 * MS);
    assert_eq!(machine.control(0) & (ACTIVE | STALLED | BABBLE | TIMEOUT | C_ERR), STALLED | C_ERR);
    assert_eq!((machine.actual(0), machine.element()), (0, TDS));
    assert_eq!((machine.get(STATUS), machine.uhci.interrupts()), (3, true));
    assert_eq!(machine.control(1), ACTIVE | C_ERR);
}

#[test]
fn who_does_not_answer_is_tried_as_often_as_the_driver_wants() {
    let (mut machine, _) = Machine::with_toy();
    machine.queue(&[td(OUT, 6, 1, 8, DATA)], 0);
    machine.pass(20 * MS);
    assert_eq!(machine.control(0), STALLED | TIMEOUT | 0x7ff);
    assert_eq!((machine.element(), machine.get(STATUS)), (TDS, 2));
    machine.set(STATUS, 2);
    let Td(control, token, buffer) = td(OUT, 6, 1, 8, DATA);
    machine.queue(&[Td(control & !C_ERR, token, buffer)], 0);
    machine.pass(20 * MS);
    assert_eq!((machine.control(0), machine.get(STATUS)), (ACTIVE | TIMEOUT, 0), "for ever");
}

#[test]
fn a_device_that_babbles_is_stopped() {
    let (mut machine, shared) = Machine::with_toy();
    shared.lock().unwrap().sends = vec![vec![1; 64]];
    machine.queue(&[td(IN, 5, 1, 8, DATA)], 0);
    machine.pass(20 * MS);
    assert_eq!(machine.control(0) & (ACTIVE | STALLED | BABBLE), STALLED | BABBLE);
    assert_eq!((machine.get(STATUS), machine.ram.get(DATA + 8, 8)), (2, vec![0; 8]));
}

#[test]
fn a_descriptor_tells_its_frames_end_even_if_it_does_nothing() {
    let (mut machine, _) = Machine::with_toy();
    machine.set(INTERRUPT, 4);
    // As Linux does, whose drivers want to be told of the next frame.
    machine.queue(&[Td(IOC, td(IN, 0x7f, 0, 0, 0).1, 0)], 0);
    machine.pass_until(20 * MS, |this| this.uhci.interrupts());
    assert!(machine.uhci.interrupts());
    machine.set(STATUS, 1);
    machine.run();
    assert!(!machine.uhci.interrupts(), "not again in the same frame");
    machine.pass(MS);
    assert!(machine.uhci.interrupts());
    assert_eq!(machine.control(0), IOC);
}

#[test]
fn lengths_are_coded_from_none_to_1280() {
    let (mut machine, shared) = Machine::with_toy();
    for length in [0, 1, 64, 1023, 1280] {
        machine.queue(&[td(OUT, 5, 1, length, DATA)], 0);
        machine.stir();
        machine.pass(2 * MS);
        assert_eq!(machine.actual(0), length);
        assert_eq!(shared.lock().unwrap().got.pop().unwrap().len(), length as usize);
    }
}

#[test]
fn isochronous_packets_go_in_their_frames_and_are_not_tried_again() {
    let (mut machine, shared) = Machine::with_toy();
    let frame = u32::from(machine.get(FRAME_NUMBER));
    let packet = |number: u32| {
        let Td(control, token, buffer) = td(OUT, 5, 1, 4, DATA + 4 * number);
        Td(control & !C_ERR | IOS, token, buffer)
    };
    machine.ram.put(DATA, b"abcdefgh");
    machine.link(&[packet(0), packet(1), packet(2)], 0);
    // Each comes before the frame's queue.
    for number in 0..3 {
        machine.ram.set(at(number), &[QH | TO_QH]);
        machine.ram.set(LIST + 4 * ((frame + 20 + 5 * number) % 1024), &[at(number)]);
    }
    let wait = |machine: &mut Machine, number: u32| {
        machine.pass_until(40 * MS, |this| this.control(number) & ACTIVE == 0);
        u32::from(machine.get(FRAME_NUMBER)) - frame
    };
    assert_eq!((wait(&mut machine, 0), wait(&mut machine, 1)), (20, 25));
    assert_eq!(shared.lock().unwrap().got, [b"abcd", b"efgh"]);
    shared.lock().unwrap().answer = Some(Answer::Silent);
    assert_eq!(wait(&mut machine, 2), 30);
    assert_eq!(machine.control(2) & (ACTIVE | STALLED | TIMEOUT), TIMEOUT);
}

#[test]
fn only_control_words_and_element_pointers_are_written() {
    let (mut machine, shared) = Machine::with_toy();
    shared.lock().unwrap().sends = vec![vec![1; 64]];
    machine.ram.written.borrow_mut().clear();
    machine.queue(&[td(IN, 5, 1, 64, DATA), td(OUT, 5, 1, 3, DATA)], DEPTH);
    machine.pass(20 * MS);
    let mut written = machine.ram.written.take();
    written.sort_unstable();
    written.dedup();
    assert_eq!(written, [QH + 4, at(0) + 4, at(1) + 4, DATA]);
}

#[test]
fn a_packet_is_whole_though_its_device_moves_it_in_pieces() {
    let (mut machine, shared) = Machine::with_toy();
    shared.lock().unwrap().in_pieces = true;
    shared.lock().unwrap().sends = vec![b"abc".to_vec(), b"defgh".to_vec(), b"ij".to_vec()];
    machine.queue(&[td(IN, 5, 1, 8, DATA), td(IN, 5, 1, 8, DATA + 8)], DEPTH);
    machine.pass(20 * MS);
    assert_eq!((machine.actual(0), machine.actual(1)), (8, 2));
    assert_eq!(machine.ram.get(DATA, 10), b"abcdefghij");
}
