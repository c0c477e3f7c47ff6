//! The Universal Host Controller Interface (UHCI 1.1): USB 1.1's controller, and EHCI's companion.
//!
//! - [`Uhci`]: its registers, and when it is to be run;
//! - [`registers`]: their places and bits;
//! - [`root_port`]: a port's register;
//! - [`pace`]: when frames are visited; [`survey`]: which of them have something to do;
//! - [`clock`]: which frame it is; [`found`]: who has an address;
//! - [`frame`]: what a frame leads to; [`transaction`]: what a transfer descriptor does;
//! - [`structures`], [`data`]: what they find in the host's memory.

mod clock;
mod data;
mod found;
mod frame;
mod pace;
mod registers;
mod root_port;
mod structures;
mod survey;
#[cfg(test)]
mod tests;
mod transaction;

use super::ports::Ports;
use super::{Memory, Next, Time};
use clock::Clock;
use found::Found;
use pace::Pace;
pub use registers::register;
use registers::{LAYOUT, command, enable, status};
use root_port::RootPort;
use structures::List;

/// Ports of a controller.
pub const PORTS: usize = 2;
/// FRNUM has 11 bits (2.1.4).
const NUMBER_MASK: u64 = 0x7ff;
/// SOFMOD at power-on (2.1.6): frames of 12,000 bit times.
const SOF_INITIAL: u8 = 0x40;
/// Bytes of the registers.
const SIZE: usize = 0x20;

/// Why the controller stops (2.1.2, bits 3 and 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The host's memory does not have what its driver has pointed to.
    System,
    /// A transfer descriptor is none.
    Process,
}

/// What is told at the end of a frame (4).
#[derive(Clone, Copy, Debug, Default)]
struct Events {
    /// A descriptor is done that says so (IOC).
    complete: bool,
    /// A packet was short (SPD).
    short: bool,
    /// A descriptor has ended by an error.
    error: bool,
}

/// The controller.
pub struct Uhci {
    first_port: usize,
    command: u16,
    status: u16,
    /// Why USBINT is set: drivers may want to know of just one of both.
    complete: bool,
    short: bool,
    interrupt: u16,
    clock: Clock,
    list: u32,
    sof_modify: u8,
    ports: [RootPort; PORTS],
    pace: Pace,
}

impl Uhci {
    /// One that serves two of the ports, from that one on, while they are a companion's.
    #[must_use]
    pub fn new(first_port: usize) -> Self {
        Self {
            first_port,
            command: 0,
            status: status::HALTED,
            complete: false,
            short: false,
            interrupt: 0,
            clock: Clock::default(),
            list: 0,
            sof_modify: SOF_INITIAL,
            ports: [RootPort::default(); PORTS],
            pace: Pace::default(),
        }
    }

    /// Its ports' registers, with their numbers among all ports.
    fn each_port(&mut self) -> impl Iterator<Item = (usize, &mut RootPort)> {
        (self.first_port..).zip(self.ports.iter_mut())
    }

    /// Is as at power-on (also by HCRESET, 2.1.1).
    pub fn reset(&mut self, ports: &mut Ports) {
        *self = Self { ports: self.ports, ..Self::new(self.first_port) };
        for (number, port) in self.each_port() {
            port.reset(number, ports);
        }
        self.update_ports(ports);
    }

    /// GRESET (2.1.1): all of the bus is reset, too, until the driver ends it.
    fn reset_bus(&mut self, ports: &mut Ports) {
        if self.command & command::GLOBAL_RESET == 0 {
            self.reset(ports);
            for (number, port) in self.each_port() {
                port.signal_reset(number, ports);
            }
        }
        self.command = command::GLOBAL_RESET;
    }

    fn is_running(&self) -> bool {
        self.status & status::HALTED == 0
    }

    /// The bus is suspended, and does not resume yet.
    fn is_suspended(&self) -> bool {
        self.command & (command::GLOBAL_SUSPEND | command::GLOBAL_RESUME) == command::GLOBAL_SUSPEND
    }

    /// Its interrupt request: it is to be raised again while this is so. Fatal errors can't be masked
    /// (2.1.3).
    #[must_use]
    pub fn interrupts(&self) -> bool {
        let on = |status, enable| self.status & status != 0 && self.interrupt & enable != 0;
        self.status & (status::SYSTEM_ERROR | status::PROCESS_ERROR) != 0
            || on(status::ERROR_INTERRUPT, enable::ERROR)
            || on(status::RESUME, enable::RESUME)
            || self.complete && on(status::INTERRUPT, enable::COMPLETE)
            || self.short && on(status::INTERRUPT, enable::SHORT)
    }

    fn frame_number(&self, now: Time) -> u16 {
        let number = match self.is_running() {
            true => self.clock.frame(now),
            false => self.clock.number,
        };
        u16::try_from(number & NUMBER_MASK).unwrap_or(0)
    }

    /// A register's value.
    fn value(&self, place: u32, now: Time) -> u32 {
        let [first, second] = self.ports;
        match place {
            register::COMMAND => self.command.into(),
            register::STATUS => self.status.into(),
            register::INTERRUPT => self.interrupt.into(),
            register::FRAME_NUMBER => self.frame_number(now).into(),
            register::FRAME_LIST => self.list,
            register::SOF_MODIFY => self.sof_modify.into(),
            register::PORT_1 => first.read().into(),
            register::PORT_2 => second.read().into(),
            _ => 0,
        }
    }

    /// The driver reads bytes of the registers, as many as it wants. Behind the ports there are zeroes,
    /// by which it knows how many ports there are: their bit 7 is set.
    pub fn read(&self, offset: u32, to: &mut [u8], now: Time) {
        let mut image = [0; SIZE];
        for (place, size) in LAYOUT {
            let bytes = self.value(place, now).to_le_bytes();
            let to = usize::try_from(place).ok().and_then(|place| image.get_mut(place..));
            let to = to.unwrap_or_default().iter_mut().take(size);
            to.zip(bytes).for_each(|(to, from)| *to = from);
        }
        registers::read(&image, offset, to);
    }

    /// The driver writes bytes of the registers, as many as it wants: each register that they meet is
    /// written, its other bytes as they are.
    pub fn write(&mut self, offset: u32, from: &[u8], now: Time, ports: &mut Ports) {
        self.stir(now);
        for (place, size) in LAYOUT {
            let before = match place {
                // Ones clear something.
                register::STATUS => 0,
                register::PORT_1 | register::PORT_2 => {
                    self.value(place, now) & !u32::from(root_port::CHANGES)
                }
                _ => self.value(place, now),
            };
            if let Some(value) = registers::merge((place, size), before, offset, from) {
                self.write_register(place, value, now, ports);
            }
        }
    }

    fn write_register(&mut self, place: u32, value: u32, now: Time, ports: &mut Ports) {
        let [low, high, ..] = value.to_le_bytes();
        let word = u16::from_le_bytes([low, high]);
        match place {
            register::COMMAND => self.write_command(word, now, ports),
            register::STATUS => {
                self.status &= !(word & status::EVENTS);
                if self.status & status::INTERRUPT == 0 {
                    (self.complete, self.short) = (false, false);
                }
            }
            register::INTERRUPT => self.interrupt = word & enable::ALL,
            // Only while it is halted (2.1.4).
            register::FRAME_NUMBER if !self.is_running() => {
                self.clock.number = u64::from(word) & NUMBER_MASK;
            }
            register::FRAME_LIST => self.list = value & !0xfff,
            register::SOF_MODIFY => self.sof_modify = low & 0x7f,
            register::PORT_1 => self.write_port(0, word, ports),
            register::PORT_2 => self.write_port(1, word, ports),
            _ => {}
        }
    }

    fn write_port(&mut self, number: usize, value: u16, ports: &mut Ports) {
        let (first, global) = (self.first_port, self.is_suspended());
        if let Some(port) = self.ports.get_mut(number) {
            port.write(value, first.saturating_add(number), ports, global);
        }
        self.update_ports(ports);
    }

    fn write_command(&mut self, value: u16, now: Time, ports: &mut Ports) {
        if value & command::RESET != 0 {
            return self.reset(ports);
        }
        if value & command::GLOBAL_RESET != 0 {
            return self.reset_bus(ports);
        }
        self.command = value & command::WRITABLE;
        let runs = value & command::RUN != 0;
        if runs && !self.is_running() {
            self.status &= !status::HALTED;
            self.clock.since = now;
            self.pace.begin(self.clock.number, now);
        } else if !runs && self.is_running() {
            self.halt(now);
        }
        self.update_ports(ports);
    }

    fn halt(&mut self, now: Time) {
        self.clock.number = self.frame_number(now).into();
        self.status |= status::HALTED;
    }

    /// Goes on where another process was, whose registers read as `word` says, 4 bytes at a time.
    pub fn restore(&mut self, word: &dyn Fn(u32) -> u32, now: Time, ports: &mut Ports) {
        let half = |place: u32| {
            let [a, b, c, d] = word(place & !3).to_le_bytes();
            u16::from_le_bytes(if place & 2 == 0 { [a, b] } else { [c, d] })
        };
        self.command = half(register::COMMAND) & (command::WRITABLE | command::GLOBAL_RESET);
        self.status = half(register::STATUS) & (status::EVENTS | status::HALTED);
        // Why is not known: a driver that is told once too often finds nothing to do.
        let told = self.status & status::INTERRUPT != 0;
        (self.complete, self.short) = (told, told);
        self.interrupt = half(register::INTERRUPT) & enable::ALL;
        let number = u64::from(half(register::FRAME_NUMBER)) & NUMBER_MASK;
        self.clock = Clock { number, since: now };
        self.list = word(register::FRAME_LIST) & !0xfff;
        let [sof_modify, ..] = word(register::SOF_MODIFY).to_le_bytes();
        self.sof_modify = sof_modify & 0x7f;
        let global = self.is_suspended();
        let bits = [half(register::PORT_1), half(register::PORT_2)];
        for ((number, port), bits) in self.each_port().zip(bits) {
            port.restore(bits, number, ports, global);
        }
        self.pace.begin(number, now);
    }

    /// Something has happened that may let transfers go on: a device has news, or the driver is busy.
    pub fn stir(&mut self, now: Time) {
        self.pace.stir(now);
    }

    /// Something was plugged in or out, or wakes up: that resumes a suspended bus (2.1.1, FGR).
    pub fn update_ports(&mut self, ports: &mut Ports) {
        let global = self.is_suspended();
        let mut resumes = false;
        for (number, port) in self.each_port() {
            resumes |= port.update(number, ports, global);
        }
        if resumes && global {
            self.status |= status::RESUME;
            self.command |= command::GLOBAL_RESUME;
        }
    }

    /// Does what there is to do now.
    pub fn run(&mut self, now: Time, ports: &mut Ports, memory: &dyn Memory) -> Next {
        self.update_ports(ports);
        if !self.is_running() || self.command & command::GLOBAL_SUSPEND != 0 {
            return Next::Never;
        }
        let mut find = Found { ports, first_port: self.first_port, registers: &self.ports };
        let mut events = Events::default();
        let list = List(self.list);
        let next = self.pace.run(&self.clock, now, list, memory, &mut find, &mut events);
        self.tell(events);
        next.unwrap_or_else(|fault| {
            self.status |= match fault {
                Fault::System => status::SYSTEM_ERROR,
                Fault::Process => status::PROCESS_ERROR,
            };
            self.command &= !command::RUN;
            self.halt(now);
            Next::Never
        })
    }

    fn tell(&mut self, events: Events) {
        let Events { complete, short, error } = events;
        self.complete |= complete;
        self.short |= short;
        if complete || short {
            self.status |= status::INTERRUPT;
        }
        if error {
            self.status |= status::ERROR_INTERRUPT;
        }
    }
}
