mod hostile;
mod machine;
mod rhythm;
mod toy;
mod transfers;

use super::register;
use crate::controller::ports::{Owner, Ports};
use crate::controller::{Next, Time};
use crate::usb::Speed;
use machine::{MS, Machine};
use toy::toy;

const COMMAND: u32 = register::COMMAND;
const STATUS: u32 = register::STATUS;
const INTERRUPT: u32 = register::INTERRUPT;
const FRAME_NUMBER: u32 = register::FRAME_NUMBER;
const PORT_1: u32 = register::PORT_1;
const PORT_2: u32 = register::PORT_2;

#[test]
fn registers_are_as_at_power_on() {
    let machine = Machine::new();
    let mut bytes = [0xff; 0x24];
    machine.uhci.read(0, &mut bytes, machine.now);
    let mut expected = [0; 0x24];
    (expected[2], expected[9], expected[0xc]) = (0x20, 0x10, 0x40);
    (expected[0x10], expected[0x12]) = (0x80, 0x80);
    assert_eq!(bytes, expected);
}

#[test]
fn a_driver_counts_two_ports() {
    let machine = Machine::new();
    let is_port = |offset| {
        let value = machine.get(offset);
        value & 0x80 != 0 && value != 0xffff
    };
    assert_eq!((0x10..0x20).step_by(2).take_while(|offset| is_port(*offset)).count(), 2);
}

#[test]
fn accesses_of_any_width_meet_the_registers() {
    let mut machine = Machine::new();
    machine.write(INTERRUPT, &[0xff, 0xff, 0x23, 0x01]);
    assert_eq!(
        (machine.get(INTERRUPT), machine.get(FRAME_NUMBER)),
        (0xf, 0x123),
        "USBINTR and FRNUM"
    );
    machine.write(7, &[7]);
    assert_eq!(machine.get(FRAME_NUMBER), 0x723);
    machine.write(0xc, &[0xff]);
    machine.write(9, &[0x65, 0x43, 0x21]);
    let mut bytes = [0; 6];
    machine.uhci.read(7, &mut bytes, machine.now);
    assert_eq!(bytes, [7, 0, 0x60, 0x43, 0x21, 0x7f]);
    // A byte of a register does not clear what the other has.
    machine.ports.plug(0, toy(Speed::Low).0);
    machine.uhci.update_ports(&mut machine.ports);
    machine.write(PORT_1 + 1, &[0]);
    assert_eq!(machine.get(PORT_1), 0x1a3);
    machine.write(PORT_1, &[2]);
    assert_eq!(machine.get(PORT_1), 0x1a1);
    machine.write(0x1e, &[1; 8]);
}

#[test]
fn a_port_tells_what_is_plugged_in_and_out() {
    let mut machine = Machine::new();
    machine.ports.plug(0, toy(Speed::Full).0);
    machine.ports.plug(1, toy(Speed::Low).0);
    machine.enable(PORT_1);
    assert_eq!(machine.get(PORT_1), 0x95, "connected, enabled, D+");
    assert_eq!(machine.get(PORT_2), 0x1a3, "connected, change, D-, low speed");
    machine.set(PORT_1, 4);
    machine.ports.unplug(0);
    machine.run();
    assert_eq!(machine.get(PORT_1), 0x8a, "both changes");
    machine.set(PORT_1, 0xe);
    assert_eq!(machine.get(PORT_1), 0x80, "an empty port can't be enabled");
    // Another device in its place, between two looks.
    machine.ports.unplug(1);
    machine.ports.plug(1, toy(Speed::Full).0);
    machine.run();
    assert_eq!(machine.get(PORT_2), 0x93);
}

#[test]
fn a_port_reset_resets_the_device() {
    let (mut machine, shared) = Machine::with_toy();
    assert_eq!(shared.lock().unwrap().resets, 1);
    assert!(machine.request(5, [0x80, 8, 0, 0, 0, 0, 1, 0]).is_some());
    machine.set(PORT_1, 0x204);
    assert_eq!(machine.get(PORT_1) & 0x204, 0x200, "disabled");
    machine.set(PORT_1, 0);
    assert_eq!(machine.get(PORT_1) & 0x204, 0);
    assert_eq!(shared.lock().unwrap().resets, 2);
    machine.set(PORT_1, 4);
    assert_eq!(machine.request(0, [0x80, 8, 0, 0, 0, 0, 1, 0]), Some(vec![0]));
}

#[test]
fn hcreset_is_complete_at_once_and_finds_devices_as_new() {
    let (mut machine, _) = Machine::with_toy();
    machine.set(INTERRUPT, 0xf);
    machine.set(COMMAND, 0xc3);
    assert_eq!((machine.get(COMMAND), machine.get(STATUS), machine.get(INTERRUPT)), (0, 0x20, 0));
    assert_eq!(machine.get(PORT_1), 0x9b, "connected, not enabled, both changes");
    assert_eq!(machine.run(), Next::Never);
}

#[test]
fn greset_resets_the_bus_until_the_driver_ends_it() {
    let (mut machine, shared) = Machine::with_toy();
    machine.set(COMMAND, 0x4);
    machine.set(COMMAND, 0x5);
    assert_eq!((machine.get(COMMAND), machine.get(STATUS)), (4, 0x20));
    assert_eq!(shared.lock().unwrap().resets, 2, "once");
    machine.set(COMMAND, 0);
    assert_eq!((machine.get(COMMAND), machine.get(PORT_1) & 7), (0, 3));
}

#[test]
fn run_and_stop_show_at_once() {
    let mut machine = Machine::new();
    machine.set(COMMAND, 0xe1);
    assert_eq!((machine.get(COMMAND), machine.get(STATUS)), (0xe1, 0));
    machine.set(COMMAND, 0xc0);
    machine.set(STATUS, 0x20);
    assert_eq!(machine.get(STATUS), 0x20);
}

#[test]
fn the_frame_number_follows_the_clock() {
    let mut machine = Machine::new();
    machine.set(FRAME_NUMBER, 0x7fe);
    machine.now = machine.now.after(50 * MS);
    assert_eq!(machine.get(FRAME_NUMBER), 0x7fe, "it is halted");
    machine.set(COMMAND, 1);
    machine.now = machine.now.after(3 * MS + MS / 2);
    assert_eq!(machine.get(FRAME_NUMBER), 1);
    machine.set(FRAME_NUMBER, 100);
    assert_eq!(machine.get(FRAME_NUMBER), 1, "it runs");
    machine.set(COMMAND, 0);
    machine.now = machine.now.after(50 * MS);
    assert_eq!(machine.get(FRAME_NUMBER), 1);
}

#[test]
fn a_suspended_port_resumes_when_the_driver_or_its_device_wants() {
    let (mut machine, shared) = Machine::with_toy();
    machine.request(5, [0, 3, 1, 0, 0, 0, 0, 0]).unwrap(); // may wake the host
    machine.set(PORT_1, 0x1004);
    assert_eq!(machine.request(5, [0x80, 8, 0, 0, 0, 0, 1, 0]), None, "nobody answers");
    machine.set(PORT_1, 0x1044);
    assert_eq!(machine.get(PORT_1) & 0x1044, 0x1044);
    machine.set(PORT_1, 0x4);
    assert_eq!(machine.get(PORT_1) & 0x1044, 0x4);
    assert_eq!(machine.request(5, [0x80, 8, 0, 0, 0, 0, 1, 0]), Some(vec![1]));
    machine.set(PORT_1, 0x1004);
    machine.run();
    assert_eq!(machine.get(PORT_1) & 0x1044, 0x1004);
    shared.lock().unwrap().wakes = true;
    machine.run();
    assert_eq!(machine.get(PORT_1) & 0x1044, 0x1044);
    assert_eq!(machine.get(STATUS) & 4, 0, "that is the whole bus's (2.1.2)");
    machine.set(PORT_1, 0x4);
    machine.run();
    assert_eq!(machine.get(PORT_1) & 0x1044, 0x4);
}

#[test]
fn a_suspended_bus_resumes_when_a_device_wakes_it() {
    let (mut machine, shared) = Machine::with_toy();
    machine.request(5, [0, 3, 1, 0, 0, 0, 0, 0]).unwrap();
    machine.set(INTERRUPT, 2);
    machine.set(COMMAND, 0);
    machine.set(COMMAND, 8);
    assert_eq!((machine.run(), machine.get(COMMAND)), (Next::Never, 8));
    shared.lock().unwrap().wakes = true;
    machine.run();
    assert_eq!((machine.get(COMMAND), machine.get(STATUS)), (0x18, 0x24));
    assert!(machine.uhci.interrupts());
    machine.set(STATUS, 4);
    machine.run();
    assert!(!machine.uhci.interrupts(), "it is told once");
    machine.set(COMMAND, 0);
    machine.set(COMMAND, 1);
    assert!(machine.request(5, [0x80, 8, 0, 0, 0, 0, 1, 0]).is_some());
}

#[test]
fn a_suspended_bus_resumes_when_something_is_plugged_in() {
    let mut machine = Machine::new();
    machine.set(INTERRUPT, 2);
    machine.set(COMMAND, 8);
    machine.run();
    assert!(!machine.uhci.interrupts());
    machine.ports.plug(1, toy(Speed::Full).0);
    machine.run();
    assert!(machine.uhci.interrupts());
    assert_eq!((machine.get(COMMAND), machine.get(PORT_2) & 3), (0x18, 3));
}

#[test]
fn ports_are_handed_over_by_their_owner() {
    let mut machine = Machine::new();
    machine.ports = Ports::new(4);
    machine.uhci = super::Uhci::new(2);
    machine.uhci.reset(&mut machine.ports);
    machine.ports.plug(0, toy(Speed::Full).0);
    machine.ports.plug(3, toy(Speed::Full).0);
    machine.run();
    assert_eq!((machine.get(PORT_1), machine.get(PORT_2)), (0x80, 0x80), "EHCI has them");
    machine.ports.set_owner(0, Owner::Companion);
    machine.ports.set_owner(3, Owner::Companion);
    machine.run();
    assert_eq!((machine.get(PORT_1), machine.get(PORT_2)), (0x80, 0x93), "0 is another's");
    machine.enable(PORT_2);
    machine.ports.set_owner(3, Owner::Ehci);
    machine.run();
    assert_eq!(machine.get(PORT_2), 0x8a);
    assert!(machine.ports.take_change(3, Owner::Ehci), "it is left for EHCI to find");
}

#[test]
fn another_process_goes_on_by_the_registers() {
    let (mut machine, _) = Machine::with_toy();
    machine.set(INTERRUPT, 0xf);
    machine.now = machine.now.after(7 * MS);
    let (uhci, now) = (&machine.uhci, machine.now);
    let mut image = [0; 0x20];
    uhci.read(0, &mut image, now);
    let word = |place: u32| u32::from_le_bytes(image[place as usize..][..4].try_into().unwrap());
    let mut other = super::Uhci::new(0);
    other.restore(&word, Time(MS), &mut machine.ports);
    let mut again = [0; 0x20];
    other.read(0, &mut again, Time(MS));
    assert_eq!(again, image);
    (machine.uhci, machine.now) = (other, Time(MS));
    assert_eq!(machine.request(5, [0x80, 8, 0, 0, 0, 0, 1, 0]), Some(vec![1]));
}
