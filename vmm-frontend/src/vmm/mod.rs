//! The whole machine: made of its settings, run, reset and ended.
//!
//! - [`host`]: what this host's processors can give;
//! - [`error`]: why there is no machine.

mod error;
mod host;

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use kvm_ioctls::Kvm;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::boot::{Kernel, Range, memory_map};
use crate::cpu::Cpu;
use crate::cpu::filter::Platform;
use crate::cpu::selection::Selection;
use crate::cpu::topology::Topology;
use crate::frontend::memory::{Memory, Pages};
use crate::machine::irq::Interrupts;
use crate::machine::line::Edge;
use crate::machine::power::{OnPower, Power, PowerEvent};
use crate::machine::reset::{KeyboardController, ResetRegister};
use crate::machine::rtc::{self, Rtc};
use crate::machine::vcpu::{Buses, Report, Runner, Vcpu, gdt};
use crate::machine::vm::{Chips, Vm};
use crate::machine::{acpi, layout};
use crate::pci::host::{Host, Place};
use crate::reactor::Reactor;
use crate::virtio;
use crate::virtio::pci::{VirtioPci, Wiring};
pub use error::VmmError;
use error::host as failed;
pub use host::host;

/// What a machine is made of.
#[derive(Debug)]
pub struct Settings {
    /// Bytes of memory.
    pub memory: u64,
    /// What it is made of.
    pub pages: Pages,
    /// Its processors' model.
    pub cpu: Selection,
    /// How many, and how they are placed.
    pub topology: Topology,
}

/// What happens to a machine.
#[derive(Debug)]
pub enum Event {
    /// The guest switched it off, or the user.
    Off,
    /// The guest reset it, or the user.
    Reset,
    /// A processor can't go on.
    Stopped(Report),
}

/// A machine.
pub struct Vmm {
    vm: Arc<Vm>,
    runner: Runner,
    chips: Chips,
    kernel: Kernel,
    map: Vec<Range>,
    tables: Vec<u8>,
    pci: Arc<Host>,
    power: Power,
    rtc: Arc<Rtc>,
    interrupts: Interrupts,
    reactor: Reactor,
    buses: Arc<Buses>,
    tell: Sender<Event>,
    events: Receiver<Event>,
}

impl std::fmt::Debug for Vmm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vmm").field("runner", &self.runner).field("pci", &self.pci).finish()
    }
}

/// The memory of a machine: below the hole, and above 4 GiB.
fn split(size: u64) -> (u64, u64) {
    let below = size.min(layout::HOLE);
    (below, size.saturating_sub(below))
}

/// Makes a machine's memory.
///
/// # Errors
/// The host has not so much.
pub fn memory(size: u64, pages: Pages) -> Result<Memory, VmmError> {
    let (below, above) = split(size);
    let mut memory = Memory::default();
    memory.add_pages(0, below, pages)?;
    if above > 0 {
        memory.add_pages(layout::ABOVE, above, pages)?;
    }
    Ok(memory)
}

impl Vmm {
    /// Makes a machine without devices on its PCI bus, and puts the kernel into its memory.
    ///
    /// # Errors
    /// See [`VmmError`].
    pub fn new(
        device: &Kvm,
        settings: &Settings,
        memory: Memory,
        kernel: Kernel,
    ) -> Result<Self, VmmError> {
        let Settings { cpu, topology, .. } = settings;
        let (cpu, missing) = Cpu::new(cpu, *topology, Platform::Kvm, &host(device)?);
        for warning in settings.cpu.judge(&missing)? {
            log::warn!("{warning}");
        }
        let (below, above) = split(settings.memory);
        let vm = Arc::new(Vm::new(device, memory)?);
        let interrupts = Interrupts::new(Arc::clone(&vm));
        let reactor = Reactor::new().map_err(failed("no reactor can be made"))?;
        let buses = Arc::new(Buses::default());
        let (tell, events) = mpsc::channel();

        let on_power = on_power(tell.clone());
        let reset = Arc::new(ResetRegister::new(Arc::clone(&on_power)));
        let pci_above = pci_above(above, cpu.address_bits());
        let pci = Host::new(Arc::clone(&buses), pci_above, reset)?;
        let keyboard = Arc::new(KeyboardController::new(Arc::clone(&on_power)));
        buses.ports.add(0x60, 5, keyboard)?;
        let sci = Arc::new(interrupts.input(layout::pm::SCI.into()));
        let power = Power::new(&reactor, sci, on_power).map_err(failed("no timer can be made"))?;
        power.add_to(&buses.ports)?;
        let line = Arc::new(Edge::new(edge(&interrupts, layout::RTC_IRQ)?));
        let rtc = Rtc::new(&reactor, line, rtc::Memory { below, above });
        let rtc = Arc::new(rtc.map_err(failed("no clock can be made"))?);
        rtc.add_to(&buses.ports)?;

        let mut vcpus = Vec::new();
        let mut apic_ids = Vec::new();
        for index in 0..topology.processors() {
            apic_ids.push(u8::try_from(cpu.apic_id(index)).map_err(|_| VmmError::Tables)?);
            vcpus.push(Vcpu::new(device, &vm, &cpu, index)?);
        }
        let described = acpi::Description { cpus: &apic_ids, pci_above };
        let tables = acpi::tables(layout::TABLES, &described).ok_or(VmmError::Tables)?;
        let chips = Chips::save(vm.fd())?;
        let (ended, reports) = mpsc::channel();
        let runner = Runner::new(vcpus, Arc::clone(&buses), ended);
        let runner = runner.map_err(failed("no thread for a processor can be had"))?;
        forward(reports, tell.clone()).map_err(failed("no thread can be had"))?;
        let map = memory_map(below, above);
        let mut vmm = Self {
            vm,
            runner,
            chips,
            kernel,
            map,
            tables,
            pci,
            power,
            rtc,
            interrupts,
            reactor,
            buses,
            tell,
            events,
        };
        vmm.load()?;
        Ok(vmm)
    }

    /// Where its ports and registers are.
    #[must_use]
    pub fn buses(&self) -> &Buses {
        &self.buses
    }

    /// Waits for its descriptors.
    #[must_use]
    pub fn reactor(&self) -> &Reactor {
        &self.reactor
    }

    /// Its interrupts.
    #[must_use]
    pub fn interrupts(&self) -> &Interrupts {
        &self.interrupts
    }

    /// Its memory.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        self.vm.memory()
    }

    /// Where to tell what happens to it.
    #[must_use]
    pub fn teller(&self) -> Sender<Event> {
        self.tell.clone()
    }

    /// Puts a virtio device onto its PCI bus, in the first free slot.
    ///
    /// # Errors
    /// See [`VmmError`].
    pub fn add_virtio(
        &self,
        device: Box<dyn virtio::Device>,
    ) -> Result<(Place, Arc<VirtioPci>), VmmError> {
        let place = self.pci.free_device()?;
        let input = acpi::intx(place.device().into(), 0);
        let input = u8::try_from(input).unwrap_or(0);
        let wiring = Wiring {
            vm: Arc::clone(&self.vm),
            interrupts: self.interrupts.clone(),
            reactor: self.reactor.clone(),
            pin: (1, input),
        };
        let function = VirtioPci::new(device, wiring)?;
        self.pci.add(place, Arc::clone(&function) as Arc<dyn crate::pci::Function>)?;
        Ok((place, function))
    }

    /// Puts everything into memory that a guest starts with, and the processors at its start.
    fn load(&mut self) -> Result<(), VmmError> {
        let space = self.vm.memory().space();
        let write = |bytes: &[u8], address| {
            space.write_slice(bytes, GuestAddress(address)).map_err(|_| VmmError::Tables)
        };
        write(&self.tables, layout::TABLES)?;
        let table: Vec<u8> = gdt().iter().flat_map(|entry| entry.to_le_bytes()).collect();
        write(&table, layout::GDT)?;
        let entry = self.kernel.load(space, &self.map)?;
        self.runner.reset(Some(entry))?;
        Ok(())
    }

    /// As at power-on.
    fn reset(&mut self) -> Result<(), VmmError> {
        self.runner.pause();
        self.pci.reset();
        self.power.reset();
        self.rtc.reset();
        self.chips.restore(self.vm.fd())?;
        self.load()?;
        self.runner.resume();
        Ok(())
    }

    /// Runs it until it is switched off.
    ///
    /// # Errors
    /// See [`VmmError`]; a processor that can't go on is one.
    pub fn run(&mut self) -> Result<(), VmmError> {
        let reactor = self.reactor.clone();
        thread::Builder::new()
            .name(String::from("reactor"))
            .spawn(move || {
                if let Err(error) = reactor.run(|| true) {
                    log::error!("waiting for descriptors failed: {error}");
                }
            })
            .map_err(failed("no thread can be had"))?;
        self.runner.resume();
        loop {
            // The machine keeps a sender itself.
            match self.events.recv() {
                Ok(Event::Reset) => self.reset()?,
                Ok(Event::Stopped(report)) => {
                    self.runner.pause();
                    return Err(VmmError::Stopped(report));
                }
                Ok(Event::Off) | Err(_) => {
                    self.runner.pause();
                    return Ok(());
                }
            }
        }
    }
}

/// Addresses for BARs above all memory, up to what the processors can address.
fn pci_above(above: u64, address_bits: u32) -> (u64, u64) {
    let memory_end = layout::ABOVE.saturating_add(above);
    let end = 1u64.checked_shl(address_bits).unwrap_or(u64::MAX);
    let start = memory_end.next_multiple_of(1 << 30).min(end >> 1);
    (start, end)
}

fn on_power(tell: Sender<Event>) -> OnPower {
    Arc::new(move |event| {
        // Nobody listens any more only if the machine ends.
        let _ = tell.send(match event {
            PowerEvent::Off => Event::Off,
            PowerEvent::Reset => Event::Reset,
        });
    })
}

fn edge(interrupts: &Interrupts, input: u8) -> Result<EventFd, VmmError> {
    let event = EventFd::new(EFD_NONBLOCK).map_err(failed("no event can be made"))?;
    interrupts.edge(input.into(), &event)?;
    Ok(event)
}

/// Hands processors' last words on, as events.
fn forward(reports: Receiver<Report>, tell: Sender<Event>) -> std::io::Result<()> {
    let forward = move || {
        for report in reports {
            let _ = tell.send(Event::Stopped(report));
        }
    };
    thread::Builder::new().name(String::from("reports")).spawn(forward).map(drop)
}
