//! The controllers of one PCI slot, with their ports: what a transport serves.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use vhost_runtime::registers::{Access, Function, Space};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::ehci::{self, Ehci};
use super::ports::Ports;
use super::uhci::{self, Uhci};
use super::{Memory, Next, Time};
use crate::device::Device;
use crate::device::hub::sockets::Sockets;

/// Ports of an EHCI controller.
const PORTS: usize = 6;
/// Companions that share them.
const COMPANIONS: usize = 3;
/// Bytes of its registers: a page, so that a VMM can let its guest read it.
const EHCI_SIZE: u16 = 0x1000;
/// Bytes of UHCI's.
const UHCI_SIZE: u16 = 0x20;
/// Intel's ICH9, which every driver knows: EHCI, and the first UHCI of three.
const VENDOR: u16 = 0x8086;
const EHCI_ID: u16 = 0x293a;
const UHCI_ID: u16 = 0x2934;

/// Which controllers there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// EHCI with three UHCI companions: devices of all speeds, in six ports.
    #[default]
    #[value(name = "ehci+uhci")]
    EhciWithUhci,
    /// EHCI alone: high-speed devices, in six ports.
    Ehci,
    /// UHCI alone: full-speed devices, in two ports.
    Uhci,
}

/// A controller.
enum Model {
    Ehci(Ehci),
    Uhci(Uhci),
}

impl Model {
    fn reset(&mut self, ports: &mut Ports) {
        match self {
            Self::Ehci(ehci) => ehci.reset(ports),
            Self::Uhci(uhci) => uhci.reset(ports),
        }
    }

    fn word(&self, offset: u32, now: Time) -> u32 {
        match self {
            Self::Ehci(ehci) => ehci.read(offset, now),
            Self::Uhci(uhci) => {
                let mut bytes = [0; 4];
                uhci.read(offset, &mut bytes, now);
                u32::from_le_bytes(bytes)
            }
        }
    }

    fn write(&mut self, offset: u32, width: u8, value: u32, now: Time, ports: &mut Ports) {
        match self {
            // Registers are written whole (EHCI 1.0, 2).
            Self::Ehci(ehci) if width == 4 => ehci.write(offset, value, now, ports),
            Self::Ehci(_) => {}
            Self::Uhci(uhci) => {
                let bytes = value.to_le_bytes();
                let bytes = bytes.get(..usize::from(width)).unwrap_or_default();
                uhci.write(offset, bytes, now, ports);
            }
        }
    }

    fn interrupts(&self) -> bool {
        match self {
            Self::Ehci(ehci) => ehci.interrupts(),
            Self::Uhci(uhci) => uhci.interrupts(),
        }
    }

    fn stir(&mut self, now: Time) {
        match self {
            Self::Ehci(ehci) => ehci.stir(now),
            Self::Uhci(uhci) => uhci.stir(now),
        }
    }

    fn run(&mut self, now: Time, ports: &mut Ports, memory: &dyn Memory) -> Next {
        match self {
            Self::Ehci(ehci) => ehci.run(now, ports, memory),
            Self::Uhci(uhci) => uhci.run(now, ports, memory),
        }
    }

    fn restore(&mut self, word: &dyn Fn(u32) -> u32, now: Time, ports: &mut Ports) {
        match self {
            Self::Ehci(ehci) => ehci.restore(word, now, ports),
            Self::Uhci(uhci) => uhci.restore(word, now, ports),
        }
    }
}

/// A controller as a PCI function.
struct Controller {
    model: Model,
    function: Function,
    /// The interrupt request was told.
    told: bool,
}

/// The controllers, and what is plugged in.
pub struct Host {
    controllers: Vec<Controller>,
    ports: Ports,
    /// The guest runs.
    active: bool,
    /// Something was plugged in or out.
    plugged: EventFd,
}

/// Where a device is plugged in.
#[derive(Clone, Copy)]
pub enum Socket<'a> {
    /// A root port.
    Root(usize),
    /// A hub's port, behind a root port.
    Hub {
        /// The root port.
        root: usize,
        /// The hub's.
        sockets: &'a Sockets,
        /// The port.
        port: usize,
    },
}

/// A device can't be used by a guest.
#[derive(Debug, thiserror::Error)]
#[error("port {}: {error}", .port.saturating_add(1))]
pub struct ActivateError {
    /// Its root port, counted from 0.
    pub port: usize,
    /// Why.
    pub error: io::Error,
}

fn ehci_function(number: u8) -> Function {
    Function {
        number,
        // Serial bus, USB, EHCI.
        class: [0x0c, 0x03, 0x20],
        id: (VENDOR, EHCI_ID),
        bar: 0,
        space: Space::Memory,
        size: EHCI_SIZE,
        live: u16::try_from(ehci::register::FRAME_INDEX).ok(),
    }
}

fn uhci_function(number: u8) -> Function {
    Function {
        number,
        class: [0x0c, 0x03, 0x00],
        id: (VENDOR, UHCI_ID.saturating_add(number.into())),
        bar: 4,
        space: Space::Io,
        size: UHCI_SIZE,
        // FRNUM is its upper half.
        live: u16::try_from(uhci::register::FRAME_NUMBER & !3).ok(),
    }
}

impl Host {
    /// These controllers, with nothing plugged in.
    ///
    /// # Errors
    /// No descriptor can be had.
    pub fn new(kind: Kind) -> io::Result<Self> {
        let companions = || {
            let each = (0..COMPANIONS).zip(0u8..);
            each.map(|(companion, number)| {
                let model = Model::Uhci(Uhci::new(companion.saturating_mul(uhci::PORTS)));
                (model, uhci_function(number))
            })
        };
        let (ports, models): (Ports, Vec<(Model, Function)>) = match kind {
            Kind::Ehci => {
                (Ports::new(PORTS), vec![(Model::Ehci(Ehci::new(PORTS, 0)), ehci_function(0))])
            }
            Kind::Uhci => (Ports::for_companions(uhci::PORTS), companions().take(1).collect()),
            // Function 7, in the slot of its companions (EHCI 1.0, 4.2).
            Kind::EhciWithUhci => {
                let ehci = (Model::Ehci(Ehci::new(PORTS, COMPANIONS)), ehci_function(7));
                (Ports::new(PORTS), companions().chain([ehci]).collect())
            }
        };
        let controllers = models.into_iter();
        let controllers =
            controllers.map(|(model, function)| Controller { model, function, told: false });
        let plugged = EventFd::new(EFD_NONBLOCK)?;
        let controllers = controllers.collect();
        let mut this = Self { controllers, ports, active: false, plugged };
        for controller in this.controllers.iter_mut().rev() {
            controller.model.reset(&mut this.ports);
        }
        Ok(this)
    }

    /// Plugs a device in; what was there before is taken out.
    ///
    /// # Errors
    /// The guest runs, and the device [can't be used](Device::activate): it is not plugged in.
    pub fn plug(&mut self, socket: Socket<'_>, mut device: Box<dyn Device>) -> io::Result<()> {
        if self.active {
            device.activate()?;
        }
        match socket {
            Socket::Root(port) => {
                drop(self.take(port));
                self.ports.plug(port, device);
            }
            Socket::Hub { root, sockets, port } => {
                sockets.plug(port, device);
                self.obey(root);
            }
        }
        self.tell();
        Ok(())
    }

    /// Takes a device out.
    pub fn unplug(&mut self, socket: Socket<'_>) {
        match socket {
            Socket::Root(port) => drop(self.take(port)),
            Socket::Hub { root, sockets, port } => {
                sockets.unplug(port);
                self.obey(root);
            }
        }
        self.tell();
    }

    fn take(&mut self, port: usize) -> Option<Box<dyn Device>> {
        let mut device = self.ports.unplug(port)?;
        if self.active {
            device.deactivate();
        }
        Some(device)
    }

    /// Hubs do what their sockets were asked for.
    fn obey(&mut self, root: usize) {
        if let Some(device) = self.ports.device(root) {
            device.turn();
        }
    }

    fn tell(&self) {
        // A counter that is full is readable as well.
        let _ = self.plugged.write(1);
    }

    /// Becomes readable when something was plugged in or out: there are other devices' events to wait for.
    #[must_use]
    pub fn plugged(&self) -> RawFd {
        self.plugged.as_raw_fd()
    }

    /// Whether something was plugged in or out; it is told once.
    pub fn take_plugged(&self) -> bool {
        self.plugged.read().is_ok()
    }

    /// The guest runs from now on.
    ///
    /// # Errors
    /// A device can't be used. None is then.
    pub fn activate(&mut self) -> Result<(), ActivateError> {
        let activate = |(port, device): (usize, &mut Box<dyn Device>)| {
            device.activate().map_err(|error| ActivateError { port, error })
        };
        let activated = self.ports.each().try_for_each(activate);
        if let Err(error) = activated {
            let before = self.ports.each().take_while(|(port, _)| *port < error.port);
            before.for_each(|(_, device)| device.deactivate());
            return Err(error);
        }
        self.active = true;
        Ok(())
    }

    /// The guest has stopped.
    pub fn deactivate(&mut self) {
        self.active = false;
        self.ports.each().for_each(|(_, device)| device.deactivate());
    }

    /// The PCI functions, in order.
    #[must_use]
    pub fn functions(&self) -> Vec<Function> {
        self.controllers.iter().map(|controller| controller.function).collect()
    }

    /// How many PCI functions there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.controllers.len()
    }

    /// Root ports.
    #[must_use]
    pub fn ports(&mut self) -> &mut Ports {
        &mut self.ports
    }

    /// All that is plugged in, and where.
    pub fn devices(&mut self) -> impl Iterator<Item = (usize, &mut Box<dyn Device>)> {
        self.ports.each()
    }

    /// Does something to a function's registers; what it reads.
    pub fn access(&mut self, function: usize, access: Access, now: Time) -> u32 {
        let Some(Controller { model, told, .. }) = self.controllers.get_mut(function) else {
            return 0;
        };
        match access {
            Access::Read { offset, width } => {
                let word = model.word(u32::from(offset & !3), now);
                let shifted = word >> (u32::from(offset % 4).saturating_mul(8));
                match width {
                    1 => shifted & 0xff,
                    2 => shifted & 0xffff,
                    _ => shifted,
                }
            }
            Access::Write { offset, width, value } => {
                model.write(offset.into(), width, value, now, &mut self.ports);
                // What is left is told again: it may be by a message that comes once.
                *told = false;
                0
            }
            Access::Reset => {
                model.reset(&mut self.ports);
                *told = false;
                0
            }
        }
    }

    /// Changes whenever one controller has changed another's registers.
    #[must_use]
    pub fn routed(&self) -> u64 {
        self.ports.routed()
    }

    /// A doubleword of a function's registers.
    #[must_use]
    pub fn register(&self, function: usize, offset: u32, now: Time) -> u32 {
        self.controllers.get(function).map_or(0, |controller| controller.model.word(offset, now))
    }

    /// How many doublewords of registers a function has; those behind them are 0.
    #[must_use]
    pub fn registers(&self, function: usize) -> usize {
        self.controllers.get(function).map_or(0, |controller| match &controller.model {
            Model::Ehci(ehci) => ehci.registers(),
            Model::Uhci(_) => usize::from(UHCI_SIZE) / 4,
        })
    }

    /// A function's interrupt request.
    #[must_use]
    pub fn interrupts(&self, function: usize) -> bool {
        self.controllers.get(function).is_some_and(|controller| controller.model.interrupts())
    }

    /// Whether there is a new reason for it, which whoever asks tells.
    pub fn take_interrupt(&mut self, function: usize) -> bool {
        let wanted = self.interrupts(function);
        let Some(controller) = self.controllers.get_mut(function) else { return false };
        let before = std::mem::replace(&mut controller.told, wanted);
        wanted && !before
    }

    /// Nobody knows what was told.
    pub fn forget_told(&mut self) {
        self.controllers.iter_mut().for_each(|controller| controller.told = false);
    }

    /// All is as at power-on.
    pub fn reset(&mut self) {
        self.ports.each().for_each(|(_, device)| device.reset());
        for controller in self.controllers.iter_mut().rev() {
            controller.model.reset(&mut self.ports);
        }
        self.forget_told();
    }

    /// A device has news.
    pub fn stir(&mut self, now: Time) {
        self.controllers.iter_mut().for_each(|controller| controller.model.stir(now));
    }

    /// Lets all controllers do what there is to do now.
    pub fn run(&mut self, now: Time, memory: &dyn Memory) -> Next {
        let runs = self.controllers.iter_mut();
        let next = runs.map(|controller| controller.model.run(now, &mut self.ports, memory)).min();
        next.unwrap_or(Next::Never)
    }

    /// What another process has to know of the devices, word by word.
    pub fn note(&self, words: &mut dyn FnMut(u32)) {
        self.ports.note(words);
    }

    /// Lets one of them, on a memory of its own.
    pub fn run_one(&mut self, function: usize, now: Time, memory: &dyn Memory) -> Next {
        let controller = self.controllers.get_mut(function);
        controller.map_or(Next::Never, |it| it.model.run(now, &mut self.ports, memory))
    }

    /// Goes on where another process was, by what the functions' registers were: a doubleword of a
    /// function, by their numbers; and by what was [noted](Self::note) of the devices.
    pub fn restore(
        &mut self,
        word: &dyn Fn(usize, u32) -> u32,
        noted: &mut dyn Iterator<Item = u32>,
        now: Time,
    ) {
        // EHCI, which is last, says whose ports are.
        for (function, controller) in self.controllers.iter_mut().enumerate().rev() {
            let word = |offset| word(function, offset);
            controller.model.restore(&word, now, &mut self.ports);
            controller.told = false;
        }
        for (_, device) in self.ports.each() {
            device.goes_on(noted);
        }
    }
}
