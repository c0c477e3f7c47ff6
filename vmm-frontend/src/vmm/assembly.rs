//! How a machine is made: its memory, its board, its processors.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;

use kvm_ioctls::Kvm;
use vhost_runtime::control::Events;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::counters::Counters;
use super::error::{VmmError, host as failed};
use super::host::host;
use super::machine::{Board, Event, Guest, Machine, Status};
use super::pages;
use crate::boot::firmware::Told;
use crate::boot::{Payload, memory_map};
use crate::confinement::{self, Role};
use crate::cpu::Cpu;
use crate::cpu::filter::Platform;
use crate::cpu::selection::Selection;
use crate::cpu::topology::Topology;
use crate::frontend::memory::{Memory, MemoryError, Pages};
use crate::machine::debug_port::Messages;
use crate::machine::fw_cfg::FwCfg;
use crate::machine::irq::Interrupts;
use crate::machine::line::Edge;
use crate::machine::linked::Linked;
use crate::machine::power::{OnPower, Power, PowerEvent};
use crate::machine::reset::{KeyboardController, ResetRegister};
use crate::machine::rtc::{self, Rtc};
use crate::machine::vcpu::state::Extent;
use crate::machine::vcpu::{Brake, Buses, Report, Runner, Vcpu};
use crate::machine::vm::{Chips, Vm};
use crate::machine::{acpi, layout};
use crate::pci::host::{Host, Model};
use crate::pci::hotplug::Slots;
use crate::reactor::Reactor;

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
    let make = || {
        let mut memory = Memory::default();
        memory.add_sealed(0, below, pages)?;
        if above > 0 {
            memory.add_sealed(layout::ABOVE, above, pages)?;
        }
        Ok(memory)
    };
    make().map_err(|error: MemoryError| match pages::shortage(size, pages) {
        Some(shortage) => shortage.into(),
        None => error.into(),
    })
}

impl Machine {
    /// Makes a machine without devices on its PCI bus, with the kernel or firmware in its memory. It
    /// does not run yet. `events` is told what happens to it, and the channel is where others tell it.
    ///
    /// # Errors
    /// See [`VmmError`].
    pub fn new(
        device: &Kvm,
        settings: &Settings,
        memory: Memory,
        payload: Payload,
        events: Events,
        (tell, told): (Sender<Event>, Receiver<Event>),
    ) -> Result<Self, VmmError> {
        let topology = settings.topology;
        let host = host(device)?;
        let (cpu, missing) = Cpu::new(&settings.cpu, topology, Platform::Kvm, &host);
        for warning in settings.cpu.judge(&missing)? {
            log::warn!("{warning}");
        }
        let mut vm = Vm::new(device, memory)?;
        if let Payload::Firmware(firmware) = &payload {
            vm.add_rom(firmware.rom())?;
        }
        let vm = Arc::new(vm);
        let (below, above) = split(settings.memory);
        let pci_above = pci_above(above, cpu.address_bits());
        let bridge = match payload {
            Payload::Kernel(_) => Model::Generic,
            Payload::Firmware(_) => Model::I440fx,
        };
        let brake = Brake::default();
        let on_power = on_power(brake.clone(), tell.clone());
        let mut board = board(&vm, bridge, (below, above), pci_above, on_power, &tell)?;

        let extent = Extent::new(device)?;
        let mut vcpus = Vec::new();
        let mut apic_ids = Vec::new();
        for index in 0..topology.processors() {
            apic_ids.push(u8::try_from(cpu.apic_id(index)).map_err(|_| VmmError::Tables)?);
            vcpus.push(Vcpu::new(&vm, &cpu, &extent, index)?);
        }
        let described = acpi::Description { cpus: &apic_ids, pci_above };
        let linked = acpi::tables(&described).ok_or(VmmError::Tables)?;
        let map = memory_map(below, above);
        let tables = match payload {
            Payload::Kernel(_) => tables(&linked)?,
            Payload::Firmware(_) => {
                let apic_ids = apic_ids.iter().max().map_or(0, |last| u32::from(*last) + 1);
                let cpus = topology.processors();
                let told = Told { cpus, apic_ids, map: &map, tables: &linked };
                board.fw_cfg = Some(tell_firmware(&told, &vm, &board.buses)?);
                Vec::new()
            }
        };
        let counters = Counters::new(&vm, &vcpus).map_err(VmmError::from)?;
        let chips = Chips::save(vm.fd())?;
        let (ended, reports) = mpsc::channel();
        let runner = Runner::new(vcpus, Arc::clone(&board.buses), brake, ended);
        let runner = runner.map_err(failed("no thread for a processor can be had"))?;
        forward(reports, tell.clone()).map_err(failed("no thread can be had"))?;
        let guest = Guest { payload, map, tables, chips };
        let machine = Self {
            vm,
            board,
            runner,
            guest: Mutex::new(guest),
            status: Mutex::new(Status::Prelaunch),
            topology,
            host,
            counters,
            pv_eoi: cpu.has("kvm-pv-eoi"),
            events,
            tell,
            told: Mutex::new(told),
        };
        machine.load()?;
        Ok(machine)
    }
}

/// What is on the board.
fn board(
    vm: &Arc<Vm>,
    bridge: Model,
    (below, above): (u64, u64),
    pci_above: (u64, u64),
    on_power: OnPower,
    tell: &Sender<Event>,
) -> Result<Board, VmmError> {
    let interrupts = Interrupts::new(Arc::clone(vm));
    let reactor = Reactor::new().map_err(failed("no reactor can be made"))?;
    let buses = Arc::new(Buses::default());
    let reset = Arc::new(ResetRegister::new(Arc::clone(&on_power)));
    let pci = Host::new(Arc::clone(&buses), bridge, pci_above, reset)?;
    let keyboard = Arc::new(KeyboardController::new(Arc::clone(&on_power)));
    buses.ports.add(0x60, 5, keyboard)?;
    let sci = Arc::new(interrupts.input(layout::pm::SCI.into()));
    let power = Power::new(&reactor, sci, on_power).map_err(failed("no timer can be made"))?;
    power.add_to(&buses.ports)?;
    let power = Arc::new(power);
    let slots = slots(&pci, &power, tell.clone());
    slots.add_to(&buses.ports)?;
    let line = Arc::new(Edge::new(edge(&interrupts, layout::RTC_IRQ)?));
    let rtc = Rtc::new(&reactor, line, rtc::Memory { below, above });
    let rtc = Arc::new(rtc.map_err(failed("no clock can be made"))?);
    rtc.add_to(&buses.ports)?;
    Ok(Board { buses, interrupts, reactor, pci, slots, power, rtc, fw_cfg: None })
}

/// The ACPI tables for a kernel.
fn tables(linked: &Linked) -> Result<Vec<u8>, VmmError> {
    let tables = linked.placed(layout::TABLES);
    let fits = |tables: &Vec<u8>| tables.len() as u64 <= layout::TABLES_SIZE;
    tables.filter(fits).ok_or(VmmError::Tables)
}

/// What firmware asks, and where it says what it does.
fn tell_firmware(told: &Told<'_>, vm: &Vm, buses: &Buses) -> Result<Arc<FwCfg>, VmmError> {
    let fw_cfg = FwCfg::new(told.contents(), vm.memory().space().clone());
    fw_cfg.add_to(&buses.ports)?;
    // Without the port it does not even try.
    if log::log_enabled!(log::Level::Debug) {
        buses.ports.add(layout::DEBUG.into(), 1, Arc::new(Messages::default()))?;
    }
    Ok(fw_cfg)
}

/// The slots of the PCI bus, whose changes the guest is told of by a general-purpose event.
fn slots(pci: &Arc<Host>, power: &Arc<Power>, tell: Sender<Event>) -> Arc<Slots> {
    let power = Arc::clone(power);
    let notify = move || power.raise_gpe(layout::hotplug::EVENT);
    let removed = move |device| {
        // Nobody listens any more only if the machine ends.
        let _ = tell.send(Event::Removed(device));
    };
    Slots::new(Arc::clone(pci), Box::new(notify), Box::new(removed))
}

/// Addresses for BARs above all memory, up to what the processors can address.
fn pci_above(above: u64, address_bits: u32) -> (u64, u64) {
    let memory_end = layout::ABOVE.saturating_add(above);
    let end = 1u64.checked_shl(address_bits).unwrap_or(u64::MAX);
    let start = memory_end.next_multiple_of(1 << 30).min(end >> 1);
    (start, end)
}

fn on_power(brake: Brake, tell: Sender<Event>) -> OnPower {
    Arc::new(move |event| {
        brake.put_on();
        // Nobody listens any more only if the machine ends.
        let _ = tell.send(match event {
            PowerEvent::Off => Event::Off { by_guest: true },
            PowerEvent::Reset => Event::Reset { by_guest: true },
        });
    })
}

/// An event whose writes are edges of an input.
pub(super) fn edge(interrupts: &Interrupts, input: u8) -> Result<EventFd, VmmError> {
    let event = EventFd::new(EFD_NONBLOCK).map_err(failed("no event can be made"))?;
    interrupts.edge(input.into(), &event)?;
    Ok(event)
}

/// Hands processors' last words on, as events.
fn forward(reports: Receiver<Report>, tell: Sender<Event>) -> std::io::Result<()> {
    let forward = move || {
        confinement::restrict(Role::Messenger);
        for report in reports {
            let _ = tell.send(Event::Stopped(report));
        }
    };
    thread::Builder::new().name(String::from("reports")).spawn(forward).map(drop)
}
