//! Interrupts: the I/O APIC's inputs and message-signalled ones, by descriptors that KVM listens to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_irqchip,
    kvm_irq_routing_msi,
};
use vmm_sys_util::eventfd::EventFd;

use super::line::Line;
use super::vm::{Vm, VmError, kvm};
use crate::lock::lock;

/// Inputs of the I/O APIC; numbers of message-signalled interrupts follow.
const INPUTS: u32 = 24;
/// KVM_MAX_IRQ_ROUTES.
const ROUTES: u32 = 4096;

/// Where a message-signalled interrupt goes (PCI 3.0, 6.8.1.4–6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The address that is written to.
    pub address: u64,
    /// What is written.
    pub data: u32,
}

/// The machine's interrupts. A clone is the same.
#[derive(Clone, Debug)]
pub struct Interrupts {
    vm: Arc<Vm>,
    routes: Arc<Mutex<BTreeMap<u32, Message>>>,
}

impl Interrupts {
    /// Those of a machine.
    #[must_use]
    pub fn new(vm: Arc<Vm>) -> Self {
        Self { vm, routes: Arc::default() }
    }

    /// The machine.
    #[must_use]
    pub fn vm(&self) -> &Arc<Vm> {
        &self.vm
    }

    fn routes(&self) -> MutexGuard<'_, BTreeMap<u32, Message>> {
        lock(&self.routes)
    }

    /// A message-signalled interrupt that goes there.
    ///
    /// # Errors
    /// There are too many, or KVM refuses.
    pub fn route(&self, message: Message) -> Result<Route, VmError> {
        let mut routes = self.routes();
        let Some(number) = (INPUTS..ROUTES - 2 * INPUTS).find(|gsi| !routes.contains_key(gsi))
        else {
            return Err(VmError::Lacks("interrupt routes for so many vectors"));
        };
        routes.insert(number, message);
        if let Err(error) = self.tell(&routes) {
            routes.remove(&number);
            return Err(error);
        }
        Ok(Route { interrupts: self.clone(), number })
    }

    /// Tells KVM of all routes: it takes them only all at once.
    fn tell(&self, routes: &BTreeMap<u32, Message>) -> Result<(), VmError> {
        let mut entries: Vec<kvm_irq_routing_entry> = legacy().collect();
        entries.extend(routes.iter().map(|(&gsi, message)| message_entry(gsi, *message)));
        let table = KvmIrqRouting::from_entries(&entries)
            .map_err(|_| VmError::Lacks("interrupt routes for so many vectors"))?;
        self.vm.fd().set_gsi_routing(&table).map_err(kvm("KVM_SET_GSI_ROUTING"))
    }

    /// Makes writes to `event` trigger an input of the I/O APIC, edge by edge.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn edge(&self, input: u32, event: &EventFd) -> Result<(), VmError> {
        self.vm.fd().register_irqfd(event, input).map_err(kvm("KVM_IRQFD"))
    }

    /// Makes writes to `assert` raise a level-triggered input. KVM lowers it at the end of
    /// interrupt and writes to `resample`: whoever still wants it must raise it again then.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn level(&self, input: u32, assert: &EventFd, resample: &EventFd) -> Result<(), VmError> {
        let fd = self.vm.fd();
        fd.register_irqfd_with_resample(assert, resample, input).map_err(kvm("KVM_IRQFD"))
    }

    /// Ends what [`edge`](Self::edge) or [`level`](Self::level) began.
    pub fn disconnect(&self, input: u32, event: &EventFd) {
        // It fails only for what is not connected.
        let _ = self.vm.fd().unregister_irqfd(event, input);
    }

    /// A level-triggered input, set by hand.
    #[must_use]
    pub fn input(&self, input: u32) -> Input {
        Input { vm: Arc::clone(&self.vm), input }
    }
}

/// A level-triggered input of the I/O APIC.
#[derive(Debug)]
pub struct Input {
    vm: Arc<Vm>,
    input: u32,
}

impl Line for Input {
    fn set(&self, high: bool) {
        if let Err(error) = self.vm.fd().set_irq_line(self.input, high) {
            log::error!("KVM_IRQ_LINE {}: {error}", self.input);
        }
    }
}

/// A message-signalled interrupt, until it is dropped.
#[derive(Debug)]
pub struct Route {
    interrupts: Interrupts,
    number: u32,
}

impl Route {
    /// Goes there from now on.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn change(&self, message: Message) -> Result<(), VmError> {
        let mut routes = self.interrupts.routes();
        if routes.insert(self.number, message) == Some(message) {
            return Ok(());
        }
        self.interrupts.tell(&routes)
    }

    /// Makes writes to `event` send it; one that was written before and not read sends it at once.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn connect(&self, event: &EventFd) -> Result<(), VmError> {
        self.interrupts.edge(self.number, event)
    }

    /// Lets `event` count writes again.
    pub fn disconnect(&self, event: &EventFd) {
        self.interrupts.disconnect(self.number, event);
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        let mut routes = self.interrupts.routes();
        routes.remove(&self.number);
        // Nothing uses the route any more: if KVM keeps it, it does no harm.
        let _ = self.interrupts.tell(&routes);
    }
}

/// The routes that KVM has at first: both PICs and the I/O APIC see the same inputs.
fn legacy() -> impl Iterator<Item = kvm_irq_routing_entry> {
    let pics = (0..16).map(|gsi| match gsi < 8 {
        true => chip_entry(gsi, KVM_IRQCHIP_PIC_MASTER, gsi),
        false => chip_entry(gsi, KVM_IRQCHIP_PIC_SLAVE, gsi - 8),
    });
    // The PIT's output is input 2 of the I/O APIC, and that has no second one for the PICs' cascade.
    let io_apic = (0..INPUTS).filter(|gsi| *gsi != 2);
    pics.chain(
        io_apic.map(|gsi| chip_entry(gsi, KVM_IRQCHIP_IOAPIC, if gsi == 0 { 2 } else { gsi })),
    )
}

fn chip_entry(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry =
        kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
    entry.u.irqchip = kvm_irq_routing_irqchip { irqchip, pin };
    entry
}

fn message_entry(gsi: u32, message: Message) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    let [a0, a1, a2, a3, b0, b1, b2, b3] = message.address.to_le_bytes();
    let mut msi = kvm_irq_routing_msi {
        address_lo: u32::from_le_bytes([a0, a1, a2, a3]),
        address_hi: u32::from_le_bytes([b0, b1, b2, b3]),
        data: message.data,
        ..Default::default()
    };
    msi.__bindgen_anon_1.pad = 0;
    entry.u.msi = msi;
    entry
}
