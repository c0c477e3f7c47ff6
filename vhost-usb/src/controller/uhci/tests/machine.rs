//! A host with a controller.

use std::cell::{Cell, RefCell};
use std::sync::{Arc, Mutex};

use super::super::{Uhci, register};
use super::toy::{Shared, toy};
use crate::controller::ports::Ports;
use crate::controller::{Memory, Next, Time};
use crate::usb::Speed;
use crate::usb::setup::Setup;

pub(super) const SIZE: u32 = 0x2_0000;
pub(super) const LIST: u32 = 0x1000;
/// The queue that all frames lead to.
pub(super) const QH: u32 = 0x2000;
/// Another one, for tests that link it.
pub(super) const QH_2: u32 = 0x2010;
pub(super) const TDS: u32 = 0x3000;
/// Where data are.
pub(super) const DATA: u32 = 0x1_0000;
/// A link's bits.
pub(super) const END: u32 = 1;
pub(super) const TO_QH: u32 = 2;
pub(super) const DEPTH: u32 = 4;
pub(super) const MS: u64 = 1_000_000;

/// The host's memory.
pub(super) struct Ram {
    pub(super) bytes: RefCell<Vec<u8>>,
    pub(super) accesses: Cell<u32>,
    /// Where was written.
    pub(super) written: RefCell<Vec<u32>>,
}

impl Ram {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes: bytes.into(), accesses: Cell::new(0), written: RefCell::default() }
    }

    pub(super) fn set(&self, address: u32, words: &[u32]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.put(address, &bytes);
    }

    pub(super) fn put(&self, address: u32, bytes: &[u8]) {
        let at = address as usize;
        self.bytes.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(super) fn get(&self, address: u32, length: usize) -> Vec<u8> {
        self.bytes.borrow()[address as usize..][..length].to_vec()
    }

    pub(super) fn word(&self, address: u32) -> u32 {
        u32::from_le_bytes(self.get(address, 4).try_into().unwrap())
    }
}

impl Memory for Ram {
    fn load(&self, address: u32) -> Option<u32> {
        assert_eq!(address % 4, 0);
        let mut bytes = [0; 4];
        self.read(address, &mut bytes)?;
        Some(u32::from_le_bytes(bytes))
    }

    fn store(&self, address: u32, value: u32) -> Option<()> {
        assert_eq!(address % 4, 0);
        self.write(address, &value.to_le_bytes())
    }

    fn read(&self, address: u32, to: &mut [u8]) -> Option<()> {
        self.accesses.set(self.accesses.get() + 1);
        let bytes = self.bytes.borrow();
        to.copy_from_slice(bytes.get(address as usize..)?.get(..to.len())?);
        Some(())
    }

    fn write(&self, address: u32, from: &[u8]) -> Option<()> {
        self.accesses.set(self.accesses.get() + 1);
        self.written.borrow_mut().push(address);
        let mut bytes = self.bytes.borrow_mut();
        bytes.get_mut(address as usize..)?.get_mut(..from.len())?.copy_from_slice(from);
        Some(())
    }
}

/// A descriptor's tokens.
pub(super) const OUT: u32 = 0xe1;
pub(super) const IN: u32 = 0x69;
pub(super) const SETUP: u32 = 0x2d;

/// Bits of a descriptor's control word.
pub(super) const ACTIVE: u32 = 1 << 23;
pub(super) const STALLED: u32 = 1 << 22;
pub(super) const BABBLE: u32 = 1 << 20;
pub(super) const NAK: u32 = 1 << 19;
pub(super) const TIMEOUT: u32 = 1 << 18;
pub(super) const IOC: u32 = 1 << 24;
pub(super) const IOS: u32 = 1 << 25;
pub(super) const SPD: u32 = 1 << 29;
/// Three errors are too many.
pub(super) const C_ERR: u32 = 3 << 27;

/// A transfer descriptor: control, token and buffer.
#[derive(Clone, Copy)]
pub(super) struct Td(pub(super) u32, pub(super) u32, pub(super) u32);

pub(super) fn td(pid: u32, device: u32, endpoint: u32, length: u32, buffer: u32) -> Td {
    let max_length = length.wrapping_sub(1) & 0x7ff;
    Td(ACTIVE | C_ERR, pid | device << 8 | endpoint << 15 | max_length << 21, buffer)
}

impl Td {
    pub(super) fn with(self, bits: u32) -> Self {
        Self(self.0 | bits, self.1, self.2)
    }
}

/// The address of the descriptor with a number.
pub(super) fn at(number: u32) -> u32 {
    TDS + 0x10 * number
}

/// A controller that runs, with its memory, and what is plugged in.
pub(super) struct Machine {
    pub(super) uhci: Uhci,
    pub(super) ports: Ports,
    pub(super) ram: Ram,
    pub(super) now: Time,
    /// When the controller wants to run.
    due: Next,
}

impl Machine {
    /// One with nothing plugged in; all frames lead to an empty queue.
    pub(super) fn new() -> Self {
        let ram = Ram::new(vec![0; SIZE as usize]);
        ram.set(LIST, &[QH | TO_QH; 1024]);
        ram.set(QH, &[END, END, 0, 0, END, END]);
        let (mut uhci, mut ports) = (Uhci::new(0), Ports::for_companions(2));
        uhci.reset(&mut ports);
        let mut this = Self { uhci, ports, ram, now: Time(5 * MS), due: Next::Now };
        this.write(register::FRAME_LIST, &LIST.to_le_bytes());
        this
    }

    /// One with a device, which has address 5 and its configuration.
    pub(super) fn with_toy() -> (Self, Arc<Mutex<Shared>>) {
        let mut this = Self::new();
        let (device, shared) = toy(Speed::Full);
        this.ports.plug(0, device);
        this.enable(register::PORT_1);
        this.set(register::COMMAND, 1);
        assert_eq!(this.request(0, [0, 5, 5, 0, 0, 0, 0, 0]), Some(vec![]));
        assert_eq!(this.request(5, [0, 9, 1, 0, 0, 0, 0, 0]), Some(vec![]));
        (this, shared)
    }

    pub(super) fn write(&mut self, offset: u32, bytes: &[u8]) {
        self.uhci.write(offset, bytes, self.now, &mut self.ports);
        self.due = Next::Now;
    }

    pub(super) fn set(&mut self, offset: u32, value: u16) {
        self.write(offset, &value.to_le_bytes());
    }

    pub(super) fn get(&self, offset: u32) -> u16 {
        let mut bytes = [0; 2];
        self.uhci.read(offset, &mut bytes, self.now);
        u16::from_le_bytes(bytes)
    }

    /// As a driver resets and enables a port.
    pub(super) fn enable(&mut self, port: u32) {
        self.uhci.update_ports(&mut self.ports);
        self.set(port, 0x200);
        assert_eq!(self.get(port) & 0x204, 0x200);
        self.set(port, 0);
        self.set(port, 0xe);
    }

    /// Lets it run now.
    pub(super) fn run(&mut self) -> Next {
        self.due = self.uhci.run(self.now, &mut self.ports, &self.ram);
        self.due
    }

    /// Lets so much time pass, and the controller run whenever it wants to; returns how often.
    pub(super) fn pass(&mut self, nanoseconds: u64) -> u32 {
        self.pass_until(nanoseconds, |_| false)
    }

    /// Likewise, until something is so.
    pub(super) fn pass_until(&mut self, most: u64, is: impl Fn(&Self) -> bool) -> u32 {
        let end = self.now.after(most);
        let mut runs = 0;
        while !is(self) {
            match self.due {
                Next::At(time) if time <= end => self.now = self.now.max(time),
                Next::Now => {}
                Next::At(_) | Next::Never => {
                    self.now = end;
                    break;
                }
            }
            let next = self.run();
            assert!(next > Next::At(self.now), "it would run for ever");
            runs += 1;
        }
        runs
    }

    /// A device has news.
    pub(super) fn stir(&mut self) {
        self.uhci.stir(self.now);
        self.due = Next::Now;
    }

    /// Puts descriptors into memory, each linked to the next, with these bits in the links.
    pub(super) fn link(&self, tds: &[Td], bits: u32) {
        for (number, Td(control, token, buffer)) in (0..).zip(tds) {
            let last = number + 1 == u32::try_from(tds.len()).unwrap();
            let link = if last { END } else { at(number + 1) | bits };
            self.ram.set(at(number), &[link, *control, *token, *buffer]);
        }
    }

    /// Likewise, in the queue. The driver tells nobody.
    pub(super) fn queue(&self, tds: &[Td], bits: u32) {
        self.link(tds, bits);
        self.ram.set(QH + 4, &[TDS]);
    }

    pub(super) fn element(&self) -> u32 {
        self.ram.word(QH + 4)
    }

    /// A descriptor's control word.
    pub(super) fn control(&self, number: u32) -> u32 {
        self.ram.word(at(number) + 4)
    }

    /// How many bytes of a descriptor's have moved.
    pub(super) fn actual(&self, number: u32) -> u32 {
        (self.control(number) + 1) & 0x7ff
    }

    /// A control transfer, as a driver makes it, packets of 8 bytes; `None`: it has failed.
    pub(super) fn request(&mut self, address: u32, setup: [u8; 8]) -> Option<Vec<u8>> {
        let setup = Setup::parse(setup);
        self.ram.put(DATA, &setup.bytes());
        let mut tds = vec![td(SETUP, address, 0, 8, DATA)];
        let wanted = u32::from(setup.length);
        let packets = wanted.div_ceil(8);
        for packet in 0..packets {
            let rest = wanted - 8 * packet;
            tds.push(td(IN, address, 0, rest.min(8), DATA + 0x100 + 8 * packet).with(SPD));
        }
        let status = if wanted > 0 { OUT } else { IN };
        tds.push(td(status, address, 0, 0, 0).with(IOC));
        self.queue(&tds, 0);
        let last = u32::try_from(tds.len()).unwrap() - 1;
        self.pass_until(40 * MS, |this| {
            (0..=last).all(|number| this.control(number) & ACTIVE == 0)
                || (0..=last).any(|number| this.control(number) & STALLED != 0)
        });
        let done = (0..=last).all(|number| this_done(self.control(number)));
        let count: u32 = (1..=packets).map(|number| self.actual(number)).sum();
        self.set(register::STATUS, 0x1f);
        self.ram.set(QH + 4, &[END]);
        done.then(|| self.ram.get(DATA + 0x100, count as usize))
    }
}

fn this_done(control: u32) -> bool {
    control & (ACTIVE | STALLED) == 0
}
