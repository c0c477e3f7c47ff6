use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use proptest::prelude::*;

use super::*;
use crate::machine::layout;
use crate::machine::line::tests::Probe;

const PORT: u64 = layout::SERIAL as u64;
const LSR: u64 = PORT + 5;

struct Machine {
    reactor: Reactor,
    ports: Bus,
    line: Arc<Probe>,
    user: UnixStream,
    serial: Arc<Serial>,
}

fn machine() -> Machine {
    let reactor = Reactor::new().unwrap();
    let line = Arc::new(Probe::default());
    let (endpoint, user) = Endpoint::pair();
    let serial = Serial::new(&reactor, Arc::clone(&line) as Arc<dyn Line>, endpoint).unwrap();
    let ports = Bus::default();
    serial.add_to(&ports, layout::SERIAL).unwrap();
    // FIFOs, and interrupts for what is received.
    ports.write(PORT + 2, &[0x01]);
    ports.write(PORT + 1, &[0x01]);
    Machine { reactor, ports, line, user, serial }
}

impl Machine {
    fn read(&self, port: u64) -> u8 {
        let mut value = [0xff];
        self.ports.read(port, &mut value);
        value[0]
    }

    fn is_ready(&self) -> bool {
        self.read(LSR) & 0x20 != 0
    }
}

#[test]
fn input_longer_than_the_fifo_arrives_whole() {
    let mut machine = machine();
    let text: Vec<u8> = (0..200).collect();
    machine.user.write_all(&text).unwrap();
    let mut read = Vec::new();
    while read.len() < text.len() {
        machine.reactor.run(|| !machine.line.is_high()).unwrap();
        while machine.read(LSR) & 0x01 != 0 {
            read.push(machine.read(PORT));
        }
        assert!(!machine.line.is_high());
    }
    assert_eq!(read, text);
}

#[test]
fn a_guest_faster_than_its_user_waits_and_loses_nothing() {
    let mut machine = machine();
    let mut sent = 0usize;
    while machine.is_ready() {
        machine.ports.write(PORT, &[u8::try_from(sent % 251).unwrap()]);
        sent += 1;
    }
    assert!(sent > 60_000, "it had a buffer");
    let reader = std::thread::spawn(move || {
        let mut all = vec![0; sent];
        machine.user.read_exact(&mut all).unwrap();
        all
    });
    machine.reactor.run(|| machine.serial.state().uart.read(5) & 0x20 == 0).unwrap();
    // The rest goes out while the reactor runs, or at the end.
    drop(machine.ports);
    drop(machine.serial);
    let all = reader.join().unwrap();
    assert!(all.iter().enumerate().all(|(at, byte)| usize::from(*byte) == at % 251));
}

#[test]
fn a_break_condition_reaches_the_guest() {
    let machine = machine();
    machine.serial.line_break();
    assert_eq!(machine.read(LSR) & 0x11, 0x11);
    machine.serial.reset();
    assert!(!machine.line.is_high());
}

proptest! {
    #[test]
    fn no_access_panics(accesses in prop::collection::vec((0..9u64, 1..9usize, any::<u64>()), 0..64)) {
        let machine = machine();
        for (offset, width, value) in accesses {
            let mut data = value.to_le_bytes();
            machine.ports.write(PORT + offset, &data[..width]);
            machine.ports.read(PORT + offset, &mut data[..width]);
        }
    }
}
