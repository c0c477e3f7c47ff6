//! What can be done to a machine: run it, stop it, reset it, switch it off.

use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex};

use serde_json::json;
use vhost_runtime::control::Events;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::assembly::edge;
use super::counters::Counters;
use super::error::{VmmError, host as failed};
use crate::boot::{Payload, Range, firmware};
use crate::cpu::host::Host as CpuHost;
use crate::cpu::topology::Topology;
use crate::frontend::memory::Memory;
use crate::lock::lock;
use crate::machine::fw_cfg::FwCfg;
use crate::machine::irq::Interrupts;
use crate::machine::power::Power;
use crate::machine::rtc::Rtc;
use crate::machine::vcpu::{Buses, Report, Runner, start};
use crate::machine::vm::{Chips, Vm};
use crate::machine::{acpi, layout};
use crate::pci::Function;
use crate::pci::host::{Host, Place};
use crate::pci::hotplug::{Plug, Removed, Slots};
use crate::reactor::Reactor;
use crate::usb::UsbHost;
use crate::usb::function::UsbFunction;
use crate::virtio;
use crate::virtio::pci::{VirtioPci, Wiring};

/// What happens to a machine.
#[derive(Debug)]
pub enum Event {
    /// It was switched off.
    Off {
        /// By the guest; else by the user.
        by_guest: bool,
    },
    /// It is to be reset.
    Reset {
        /// By the guest; else by the user.
        by_guest: bool,
    },
    /// A processor can't go on.
    Stopped(Report),
    /// A device has left the PCI bus.
    Removed(Removed),
    /// A control client ends it.
    Quit,
}

/// What a machine is doing. The names are those of QMP's RunState.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It has not run yet.
    Prelaunch,
    /// It runs.
    Running,
    /// The user stopped it.
    Paused,
    /// A processor can't go on.
    InternalError,
    /// It was switched off.
    Shutdown,
}

impl Status {
    /// QMP's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Prelaunch => "prelaunch",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::InternalError => "internal-error",
            Self::Shutdown => "shutdown",
        }
    }
}

/// What is on the board.
#[derive(Debug)]
pub(super) struct Board {
    pub(super) buses: Arc<Buses>,
    pub(super) interrupts: Interrupts,
    pub(super) reactor: Reactor,
    pub(super) pci: Arc<Host>,
    pub(super) slots: Arc<Slots>,
    pub(super) power: Arc<Power>,
    pub(super) rtc: Arc<Rtc>,
    /// What firmware is told, if that is what the machine starts with.
    pub(super) fw_cfg: Option<Arc<FwCfg>>,
}

impl Drop for Board {
    /// The host bridge is on the buses and keeps them: what is on them would never be dropped, and
    /// consoles write their last words when they are.
    fn drop(&mut self) {
        self.buses.ports.clear();
        self.buses.memory.clear();
    }
}

/// What a guest starts with.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) payload: Payload,
    pub(super) map: Vec<Range>,
    pub(super) tables: Vec<u8>,
    pub(super) chips: Chips,
}

/// A machine.
#[derive(Debug)]
pub struct Machine {
    pub(super) vm: Arc<Vm>,
    pub(super) board: Board,
    pub(super) runner: Runner,
    pub(super) guest: Mutex<Guest>,
    pub(super) status: Mutex<Status>,
    pub(super) topology: Topology,
    pub(super) host: CpuHost,
    pub(super) counters: Option<Counters>,
    pub(super) pv_eoi: bool,
    pub(super) events: Events,
    pub(super) tell: Sender<Event>,
    pub(super) told: Mutex<Receiver<Event>>,
}

impl Machine {
    /// Where its ports and registers are.
    #[must_use]
    pub fn buses(&self) -> &Buses {
        &self.board.buses
    }

    /// Waits for its descriptors.
    #[must_use]
    pub fn reactor(&self) -> &Reactor {
        &self.board.reactor
    }

    /// An event whose writes are edges of an input of the I/O APIC.
    ///
    /// # Errors
    /// The host refuses.
    pub fn edge(&self, input: u8) -> Result<EventFd, VmmError> {
        edge(&self.board.interrupts, input)
    }

    /// Its memory.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        self.vm.memory()
    }

    /// Its processors, and how they are placed.
    #[must_use]
    pub fn topology(&self) -> Topology {
        self.topology
    }

    /// What its host's processors can give.
    #[must_use]
    pub fn host(&self) -> &CpuHost {
        &self.host
    }

    /// What it is doing.
    #[must_use]
    pub fn status(&self) -> Status {
        *lock(&self.status)
    }

    /// Where to tell what happens to it.
    #[must_use]
    pub fn teller(&self) -> Sender<Event> {
        self.tell.clone()
    }

    /// Its PCI bus.
    #[must_use]
    pub fn pci(&self) -> &Host {
        &self.board.pci
    }

    /// The slots of that, and who is in them.
    #[must_use]
    pub fn slots(&self) -> &Slots {
        &self.board.slots
    }

    /// The host's numbers for the threads of its processors, in order.
    pub fn thread_ids(&self) -> impl Iterator<Item = i32> + '_ {
        self.runner.thread_ids()
    }

    /// Puts a virtio device onto its PCI bus, in the first free slot, before it runs.
    ///
    /// # Errors
    /// See [`VmmError`].
    pub fn add_virtio(&self, device: Box<dyn virtio::Device>) -> Result<Place, VmmError> {
        self.plug(device, None, Plug::Cold)
    }

    /// The same while it runs; the guest is told. `id` names the device.
    ///
    /// # Errors
    /// See [`VmmError`].
    pub fn hotplug(&self, device: Box<dyn virtio::Device>, id: &str) -> Result<Place, VmmError> {
        self.plug(device, Some(id), Plug::Hot)
    }

    fn plug(
        &self,
        device: Box<dyn virtio::Device>,
        id: Option<&str>,
        plug: Plug,
    ) -> Result<Place, VmmError> {
        let Board { interrupts, reactor, slots, .. } = &self.board;
        slots.add(id, plug, |place| {
            let input = acpi::intx(place.device().into(), 0);
            let wiring = Wiring {
                vm: Arc::clone(&self.vm),
                interrupts: interrupts.clone(),
                reactor: reactor.clone(),
                pin: (1, u8::try_from(input).unwrap_or(0)),
            };
            let function: Arc<dyn Function> = VirtioPci::new(device, wiring)?;
            Ok(function)
        })
    }

    /// Puts the USB controllers of a process into the first free slot, before it runs.
    ///
    /// # Errors
    /// See [`VmmError`].
    pub fn add_usb(&self, host: &Arc<UsbHost>) -> Result<(), VmmError> {
        let Board { interrupts, reactor, slots, pci, .. } = &self.board;
        let make = |number: usize, place: Place, pin: u8| {
            let input = acpi::intx(place.device().into(), pin.saturating_sub(1));
            let wired = (pin, u8::try_from(input).unwrap_or(0));
            UsbFunction::new(host, number, interrupts, reactor, wired)
        };
        let mut slot = None;
        for (number, described) in host.functions().iter().enumerate() {
            // Pins in turn, as functions that work at the same time should have.
            let pin = u8::try_from(number % 4).unwrap_or(0).saturating_add(1);
            match slot.and_then(|device| Place::new(device, described.number)) {
                None => {
                    let place = slots.add(None, Plug::Cold, |place| {
                        let function: Arc<dyn Function> = make(number, place, pin)?;
                        Ok::<_, VmmError>(function)
                    })?;
                    slot = Some(place.device());
                }
                Some(place) => pci.add(place, make(number, place, pin)?, Plug::Cold)?,
            }
        }
        Ok(())
    }

    /// Has firmware boot from the first unit of a SCSI controller.
    pub fn boot_from(&self, controller: Place) {
        if let Some(fw_cfg) = &self.board.fw_cfg {
            let (name, content) = firmware::boot_order(controller);
            fw_cfg.set_file(name, content);
        }
    }

    /// Puts everything into memory that a guest starts with, and the processors at its start.
    pub(super) fn load(&self) -> Result<(), VmmError> {
        let mut guest = lock(&self.guest);
        let Guest { payload, map, tables, .. } = &mut *guest;
        let space = self.vm.memory().space();
        let kernel = match payload {
            Payload::Kernel(kernel) => kernel,
            Payload::Firmware(firmware) => {
                firmware.load(space)?;
                return Ok(self.runner.reset(None)?);
            }
        };
        let write = |bytes: &[u8], address| {
            space.write_slice(bytes, GuestAddress(address)).map_err(|_| VmmError::Tables)
        };
        write(tables, layout::TABLES)?;
        let entry = kernel.load(space, map)?;
        for (address, table) in start::tables(entry.mode) {
            let bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_le_bytes()).collect();
            write(&bytes, address)?;
        }
        self.runner.reset(Some(entry))?;
        Ok(())
    }

    /// Lets it run, if it does not. One that has failed can't.
    pub fn resume(&self) {
        let mut status = lock(&self.status);
        if matches!(*status, Status::Prelaunch | Status::Paused) {
            self.board.pci.resume();
            self.runner.resume();
            *status = Status::Running;
            self.events.send("RESUME", || json!({}));
        }
    }

    /// Stops it: neither processors nor devices touch its memory when this returns.
    pub fn pause(&self) {
        let mut status = lock(&self.status);
        if *status == Status::Running {
            self.halt();
            *status = Status::Paused;
            self.events.send("STOP", || json!({}));
        }
    }

    fn halt(&self) {
        self.runner.pause();
        self.board.pci.pause();
    }

    /// Presses the power button.
    pub fn press_power_button(&self) {
        self.board.power.press_power_button();
        self.events.send("POWERDOWN", || json!({}));
    }

    /// As at power-on.
    fn reset(&self, by_guest: bool) -> Result<(), VmmError> {
        let status = lock(&self.status);
        self.halt();
        self.board.slots.reset();
        self.board.pci.reset();
        self.board.power.reset();
        self.board.rtc.reset();
        if let Some(fw_cfg) = &self.board.fw_cfg {
            fw_cfg.reset();
        }
        lock(&self.guest).chips.restore(self.vm.fd())?;
        self.load()?;
        let reason = if by_guest { "guest-reset" } else { "host-qmp-system-reset" };
        self.events.send("RESET", || json!({ "guest": by_guest, "reason": reason }));
        if *status == Status::Running {
            self.board.pci.resume();
            self.runner.resume();
        }
        Ok(())
    }

    /// Runs it until it is switched off.
    ///
    /// # Errors
    /// See [`VmmError`]; a processor that can't go on is one.
    pub fn run(&self) -> Result<(), VmmError> {
        // Until it returns: what a guest sent last must not be with another thread at the end.
        let _reactor = self.board.reactor.start().map_err(failed("no thread can be had"))?;
        self.resume();
        let told = lock(&self.told);
        loop {
            match told.recv() {
                Ok(Event::Reset { by_guest }) => self.reset(by_guest)?,
                Ok(Event::Stopped(report)) => {
                    self.end(Status::InternalError);
                    self.events.send("STOP", || json!({}));
                    return Err(VmmError::Stopped(report));
                }
                Ok(Event::Off { by_guest: true }) => return self.off("guest-shutdown"),
                Ok(Event::Off { by_guest: false }) => return self.off("host-signal"),
                Ok(Event::Quit) => return self.off("host-qmp-quit"),
                Ok(Event::Removed(device)) => self.removed(device),
                // The machine keeps a sender itself.
                Err(_) => return Ok(()),
            }
        }
    }

    /// It is switched off, for one of QMP's reasons.
    fn off(&self, reason: &str) -> Result<(), VmmError> {
        let guest = reason.starts_with("guest");
        self.events.send("SHUTDOWN", || json!({ "guest": guest, "reason": reason }));
        self.end(Status::Shutdown);
        Ok(())
    }

    /// Gives back what a device had, which may take its time.
    fn removed(&self, device: Removed) {
        let name = device.name.clone();
        drop(device);
        self.events.send("DEVICE_DELETED", || {
            let mut data = json!({ "path": name.to_string() });
            if let (Some(id), Some(data)) = (name.id(), data.as_object_mut()) {
                data.insert(String::from("device"), id.into());
            }
            data
        });
    }

    fn end(&self, last: Status) {
        let mut status = lock(&self.status);
        self.halt();
        *status = last;
    }
}

impl Drop for Machine {
    /// Nothing of it runs while its parts are given back.
    fn drop(&mut self) {
        self.halt();
    }
}
