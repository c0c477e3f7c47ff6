//! The Enhanced Host Controller Interface (EHCI 1.0): USB 2.0's controller.
//!
//! - [`Ehci`]: its registers, and when it is to be run;
//! - [`root_port`]: a port's register;
//! - [`asynchronous`], [`periodic`]: the two schedules;
//! - [`queue`]: a queue head's turn; [`isochronous`]: what is done at fixed times;
//! - [`structures`], [`data`]: what they find in the host's memory.

mod asynchronous;
mod data;
mod isochronous;
mod periodic;
mod queue;
mod root_port;
mod structures;
#[cfg(test)]
mod tests;

use super::ports::{Owner, Ports};
use super::{Memory, Next, Time};
use crate::device::Device;
use asynchronous::Asynchronous;
use periodic::Periodic;
use root_port::RootPort;

/// Registers, by their offsets in bytes (2.2 and 2.3).
pub mod register {
    /// CAPLENGTH and HCIVERSION.
    pub const CAPABILITIES: u32 = 0x00;
    /// HCSPARAMS.
    pub const STRUCTURAL: u32 = 0x04;
    /// HCCPARAMS.
    pub const CAPABILITY: u32 = 0x08;
    /// USBCMD.
    pub const COMMAND: u32 = 0x20;
    /// USBSTS.
    pub const STATUS: u32 = 0x24;
    /// USBINTR.
    pub const INTERRUPT: u32 = 0x28;
    /// FRINDEX.
    pub const FRAME_INDEX: u32 = 0x2c;
    /// CTRLDSSEGMENT.
    pub const SEGMENT: u32 = 0x30;
    /// PERIODICLISTBASE.
    pub const PERIODIC_LIST: u32 = 0x34;
    /// ASYNCLISTADDR.
    pub const ASYNC_LIST: u32 = 0x38;
    /// CONFIGFLAG.
    pub const CONFIG_FLAG: u32 = 0x60;
    /// PORTSC of the first port; each has 4 bytes.
    pub const PORTS: u32 = 0x64;
}

/// Bits of USBCMD (2.3.1).
mod command {
    pub(super) const RUN: u32 = 1;
    pub(super) const RESET: u32 = 1 << 1;
    pub(super) const LIST_SIZE: u32 = 3 << 2;
    pub(super) const PERIODIC: u32 = 1 << 4;
    pub(super) const ASYNCHRONOUS: u32 = 1 << 5;
    pub(super) const DOORBELL: u32 = 1 << 6;
    pub(super) const THRESHOLD: u32 = 0xff << 16;
    /// What a driver may set.
    pub(super) const WRITABLE: u32 =
        RUN | LIST_SIZE | PERIODIC | ASYNCHRONOUS | DOORBELL | THRESHOLD;
    /// Interrupts at most every 8 microframes.
    pub(super) const INITIAL: u32 = 8 << 16;
}

/// Bits of USBSTS (2.3.2).
mod status {
    pub(super) const INTERRUPT: u32 = 1;
    pub(super) const ERROR_INTERRUPT: u32 = 1 << 1;
    pub(super) const PORT_CHANGE: u32 = 1 << 2;
    pub(super) const ROLLOVER: u32 = 1 << 3;
    pub(super) const SYSTEM_ERROR: u32 = 1 << 4;
    pub(super) const ADVANCED: u32 = 1 << 5;
    /// What raises interrupts, and is cleared by writing ones.
    pub(super) const EVENTS: u32 = 0x3f;
    pub(super) const HALTED: u32 = 1 << 12;
    pub(super) const PERIODIC: u32 = 1 << 14;
    pub(super) const ASYNCHRONOUS: u32 = 1 << 15;
}

/// CAPLENGTH 20h, HCIVERSION 1.00.
const CAPABILITIES: u32 = 0x0100_0020;
/// HCCPARAMS: the frame list's size can be set, and isochronous transfers are to begin 7 microframes after FRINDEX
/// at the earliest (2.2.4), which may be a while old where it is read without an exit.
const CAPABILITY: u32 = 7 << 4 | 1 << 1;
/// Ports that the register's field has room for.
const MOST_PORTS: usize = 15;
/// FRINDEX has 14 bits.
const INDEX_MASK: u64 = 0x3fff;
/// Nanoseconds of a microframe.
const MICROFRAME: u64 = 125_000;
/// Nanoseconds of a frame.
const FRAME: u64 = 8 * MICROFRAME;

/// The host's memory does not have what its driver has pointed to (4.15.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SystemError;

/// Who has an address, among what EHCI serves.
struct Found<'a> {
    ports: &'a mut Ports,
    registers: &'a [RootPort],
}

impl Found<'_> {
    fn device(&mut self, address: u8) -> Option<&mut dyn Device> {
        let Self { ports, registers } = self;
        let serves = |port: usize| registers.get(port).is_some_and(RootPort::is_served);
        let mut served = ports.each().filter(|(port, _)| serves(*port));
        served.find_map(|(_, device)| device.find(address))
    }
}

/// The clock of frames: where FRINDEX was, and when.
#[derive(Clone, Copy, Debug, Default)]
struct Clock {
    index: u64,
    since: Time,
}

impl Clock {
    /// Microframes, more than FRINDEX has bits for.
    fn microframes(&self, now: Time) -> u64 {
        let passed = now.since(self.since).checked_div(MICROFRAME).unwrap_or(0);
        self.index.saturating_add(passed)
    }

    /// When a frame begins.
    fn begin(&self, frame: u64) -> Time {
        let microframes = frame.saturating_mul(8).saturating_sub(self.index);
        self.since.after(microframes.saturating_mul(MICROFRAME))
    }
}

/// The controller.
pub struct Ehci {
    /// Companion controllers, which have as many ports each.
    companions: usize,
    command: u32,
    status: u32,
    interrupt: u32,
    clock: Clock,
    periodic_list: u32,
    async_list: u32,
    configured: bool,
    ports: Vec<RootPort>,
    asynchronous: Asynchronous,
    periodic: Periodic,
}

impl Ehci {
    /// One with so many ports, at most 15, which are shared by so many companions.
    #[must_use]
    pub fn new(ports: usize, companions: usize) -> Self {
        let mut this = Self {
            companions,
            command: 0,
            status: 0,
            interrupt: 0,
            clock: Clock::default(),
            periodic_list: 0,
            async_list: 0,
            configured: false,
            ports: vec![RootPort::default(); ports.min(MOST_PORTS)],
            asynchronous: Asynchronous::default(),
            periodic: Periodic::default(),
        };
        this.set_initial();
        this
    }

    fn set_initial(&mut self) {
        self.command = command::INITIAL;
        self.status = status::HALTED;
        self.interrupt = 0;
        self.clock = Clock::default();
        (self.periodic_list, self.async_list) = (0, 0);
        self.asynchronous = Asynchronous::default();
        self.periodic = Periodic::default();
    }

    /// Is as at power-on (also by HCRESET, 2.3.1).
    pub fn reset(&mut self, ports: &mut Ports) {
        self.set_initial();
        self.route(ports, false);
        for (number, port) in self.ports.iter_mut().enumerate() {
            port.reset(number, ports);
        }
        self.update_ports(ports);
    }

    /// Routes all ports to EHCI, or to the companions, if there are some (4.2.1).
    fn route(&mut self, ports: &mut Ports, configured: bool) {
        self.configured = configured;
        let owner = if configured || self.companions == 0 { Owner::Ehci } else { Owner::Companion };
        for port in 0..self.ports.len() {
            ports.set_owner(port, owner);
        }
    }

    fn is_running(&self) -> bool {
        self.status & status::HALTED == 0
    }

    /// Its interrupt request: it is to be raised again while this is so.
    #[must_use]
    pub fn interrupts(&self) -> bool {
        self.status & self.interrupt & status::EVENTS != 0
    }

    /// HCSPARAMS (2.2.3).
    fn structural(&self) -> u32 {
        let ports = u32::try_from(self.ports.len()).unwrap_or(0);
        let companions = u32::try_from(self.companions).unwrap_or(0);
        let each = ports.checked_div(companions).unwrap_or(0);
        ports | each << 8 | companions << 12
    }

    /// How many doublewords of registers it has, with those before them that are reserved.
    #[must_use]
    pub fn registers(&self) -> usize {
        let before = usize::try_from(register::PORTS / 4).unwrap_or(0);
        before.saturating_add(self.ports.len())
    }

    /// The driver reads a register: 4 bytes at a multiple of 4.
    #[must_use]
    pub fn read(&self, offset: u32, now: Time) -> u32 {
        match offset {
            register::CAPABILITIES => CAPABILITIES,
            register::STRUCTURAL => self.structural(),
            register::CAPABILITY => CAPABILITY,
            register::COMMAND => self.command,
            register::STATUS => self.status,
            register::INTERRUPT => self.interrupt,
            register::FRAME_INDEX => self.frame_index(now),
            register::PERIODIC_LIST => self.periodic_list,
            register::ASYNC_LIST => self.async_list,
            register::CONFIG_FLAG => u32::from(self.configured),
            _ => self.port(offset).and_then(|port| self.ports.get(port)).map_or(0, RootPort::read),
        }
    }

    fn port(&self, offset: u32) -> Option<usize> {
        usize::try_from(offset.checked_sub(register::PORTS)? / 4).ok()
    }

    fn frame_index(&self, now: Time) -> u32 {
        let index = match self.is_running() {
            true => self.clock.microframes(now),
            false => self.clock.index,
        };
        u32::try_from(index & INDEX_MASK).unwrap_or(0)
    }

    /// The driver writes a register: 4 bytes at a multiple of 4.
    pub fn write(&mut self, offset: u32, value: u32, now: Time, ports: &mut Ports) {
        self.stir(now);
        match offset {
            register::COMMAND => self.write_command(value, now, ports),
            register::STATUS => self.status &= !(value & status::EVENTS),
            register::INTERRUPT => self.interrupt = value & status::EVENTS,
            // Only while it is halted (2.3.4).
            register::FRAME_INDEX if !self.is_running() => {
                self.clock.index = u64::from(value) & INDEX_MASK;
            }
            register::PERIODIC_LIST => self.periodic_list = value & !0xfff,
            register::ASYNC_LIST => self.async_list = value & !0x1f,
            register::CONFIG_FLAG => {
                self.route(ports, value & 1 != 0);
                self.update_ports(ports);
            }
            _ => {
                let Some(number) = self.port(offset) else { return };
                let may_route = self.companions > 0 && self.configured;
                if let Some(port) = self.ports.get_mut(number) {
                    port.write(value, number, ports, may_route);
                }
                self.update_ports(ports);
            }
        }
    }

    fn write_command(&mut self, value: u32, now: Time, ports: &mut Ports) {
        if value & command::RESET != 0 {
            return self.reset(ports);
        }
        // A doorbell that is rung stays so until it is answered.
        self.command = value & command::WRITABLE | self.command & command::DOORBELL;
        let runs = value & command::RUN != 0;
        if runs && !self.is_running() {
            self.status &= !status::HALTED;
            self.clock.since = now;
            self.periodic.begin(self.clock.index / 8);
        } else if !runs && self.is_running() {
            self.halt(now);
        }
        self.show_schedules();
    }

    /// Goes on where another process was, whose registers read as `word` says.
    pub fn restore(&mut self, word: &dyn Fn(u32) -> u32, now: Time, ports: &mut Ports) {
        self.route(ports, word(register::CONFIG_FLAG) & 1 != 0);
        self.command = word(register::COMMAND) & command::WRITABLE;
        self.status = word(register::STATUS) & (status::EVENTS | status::HALTED);
        self.interrupt = word(register::INTERRUPT) & status::EVENTS;
        self.clock =
            Clock { index: u64::from(word(register::FRAME_INDEX)) & INDEX_MASK, since: now };
        self.periodic_list = word(register::PERIODIC_LIST) & !0xfff;
        self.async_list = word(register::ASYNC_LIST) & !0x1f;
        self.periodic.begin(self.clock.index / 8);
        for (number, port) in self.ports.iter_mut().enumerate() {
            let offset = u32::try_from(number).unwrap_or(0).saturating_mul(4);
            if port.restore(word(register::PORTS.saturating_add(offset)), number, ports) {
                self.status |= status::PORT_CHANGE;
            }
        }
        self.show_schedules();
        self.stir(now);
    }

    fn halt(&mut self, now: Time) {
        self.clock.index = u64::from(self.frame_index(now));
        self.status |= status::HALTED;
        self.show_schedules();
    }

    /// The schedules' status follows what is wanted at once (2.3.2, bits 14 and 15).
    fn show_schedules(&mut self) {
        let on = |wanted| self.is_running() && self.command & wanted != 0;
        let (periodic, asynchronous) = (on(command::PERIODIC), on(command::ASYNCHRONOUS));
        self.status &= !(status::PERIODIC | status::ASYNCHRONOUS);
        if periodic {
            self.status |= status::PERIODIC;
        }
        if asynchronous {
            self.status |= status::ASYNCHRONOUS;
        }
    }

    /// Something has happened that may let transfers go on: a device has news, or the driver is busy.
    pub fn stir(&mut self, now: Time) {
        self.asynchronous.stir(now);
        self.periodic.stir();
    }

    /// Something was plugged in or out, or wakes up.
    pub fn update_ports(&mut self, ports: &mut Ports) {
        let mut changed = false;
        for (number, port) in self.ports.iter_mut().enumerate() {
            if self.configured {
                ports.give_back(number);
            }
            changed |= port.update(number, ports);
        }
        if changed {
            self.status |= status::PORT_CHANGE;
        }
    }

    /// Does what there is to do now.
    pub fn run(&mut self, now: Time, ports: &mut Ports, memory: &dyn Memory) -> Next {
        self.update_ports(ports);
        if !self.is_running() {
            return Next::Never;
        }
        self.run_schedules(now, ports, memory).unwrap_or_else(|SystemError| {
            self.status |= status::SYSTEM_ERROR;
            self.command &= !command::RUN;
            self.halt(now);
            Next::Never
        })
    }

    fn run_schedules(
        &mut self,
        now: Time,
        ports: &mut Ports,
        memory: &dyn Memory,
    ) -> Result<Next, SystemError> {
        let mut next = Next::Never;
        let mut find = Found { ports, registers: &self.ports };
        let mut events = 0;
        if self.command & command::PERIODIC != 0 {
            let list = periodic::List::new(self.periodic_list, self.command);
            let run = self.periodic.run(&self.clock, now, list, memory, &mut find, &mut events);
            next = next.min(run?);
        }
        if self.command & command::ASYNCHRONOUS != 0 {
            let list = &mut self.async_list;
            next = next.min(self.asynchronous.run(now, list, memory, &mut find, &mut events)?);
        }
        if self.command & command::DOORBELL != 0 {
            // Nothing of the schedule is remembered but its address, which is of a queue head that is
            // linked (4.8.2).
            self.command &= !command::DOORBELL;
            events |= status::ADVANCED;
        }
        self.status |= events;
        if self.interrupt & status::ROLLOVER != 0 {
            next = next.min(self.look_at_rollover(now));
        }
        Ok(next)
    }

    /// Frame List Rollover (2.3.2, bit 3), if the driver wants to know.
    fn look_at_rollover(&mut self, now: Time) -> Next {
        let frames = periodic::List::new(self.periodic_list, self.command).frames();
        if self.periodic.has_rolled_over(&self.clock, now, frames) {
            self.status |= status::ROLLOVER;
        }
        Next::At(self.periodic.next_rollover(&self.clock, now, frames))
    }
}
