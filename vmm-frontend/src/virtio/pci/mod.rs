//! virtio over PCI (virtio 1.3, 4.1), without the legacy interface.
//!
//! - [`registers`]: the common configuration structure;
//! - [`layout`]: where the structures are.

mod layout;
mod registers;

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use kvm_ioctls::{IoEventAddress, NoDatamatch};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Device, Queue};
use crate::lock::lock;
use crate::machine::irq::Interrupts;
use crate::machine::line::Line;
use crate::machine::vm::Vm;
use crate::pci::Function;
use crate::pci::config::{Bar, Config, Identity, Space};
use crate::pci::intx::{IntxError, Pin};
use crate::pci::msix::{Location, Msix};
use crate::reactor::{Reactor, Watch};
use registers::{Action, Common, NO_VECTOR};

/// Why a device can't be put on the bus.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// It has too many queues.
    #[error("a virtio device over PCI has at most {most} queues, not {queues}")]
    Queues {
        /// How many it has.
        queues: usize,
        /// How many it may have.
        most: usize,
    },
    /// The host refuses an event.
    #[error("no event can be made: {0}")]
    Event(#[from] io::Error),
    /// Its interrupt pin.
    #[error(transparent)]
    Pin(#[from] IntxError),
    /// There is no room for its capabilities.
    #[error("its capabilities have no room in configuration space")]
    Capabilities,
}

/// What a transport needs of the machine.
#[derive(Clone, Debug)]
pub struct Wiring {
    /// For notifications.
    pub vm: Arc<Vm>,
    /// For messages.
    pub interrupts: Interrupts,
    /// For interrupt pins.
    pub reactor: Reactor,
    /// The pin, 1 to 4, and the input of the I/O APIC that it is wired to.
    pub pin: (u8, u8),
}

/// Interrupt status (4.1.4.5).
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;
/// The number of the source of interrupts that is the configuration space, behind all queues'.
const CONFIG_SOURCE: u32 = 1 << 16;

/// A virtio device as a PCI function.
pub struct VirtioPci {
    vm: Arc<Vm>,
    reactor: Reactor,
    state: Mutex<State>,
    device: Mutex<Box<dyn Device>>,
    queues: Vec<Events>,
    config_call: Arc<EventFd>,
    isr: AtomicU8,
    pin: Pin,
    /// For handlers.
    itself: Weak<Self>,
}

#[derive(Debug)]
struct Events {
    kick: Arc<EventFd>,
    call: Arc<EventFd>,
}

struct State {
    config: Config,
    msix: Msix,
    common: Common,
    /// Where the window into the BAR is in configuration space (4.1.4.9).
    window: usize,
    /// Where notifications are caught.
    notify: Option<u64>,
    /// What is awaited while there is no MSI-X.
    watches: Vec<Watch>,
    started: bool,
}

impl std::fmt::Debug for VirtioPci {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VirtioPci").field("queues", &self.queues.len()).finish_non_exhaustive()
    }
}

impl VirtioPci {
    /// Gives a device its transport.
    ///
    /// # Errors
    /// See [`TransportError`].
    pub fn new(mut device: Box<dyn Device>, wiring: Wiring) -> Result<Arc<Self>, TransportError> {
        let sizes = device.queue_sizes().to_vec();
        let queues = sizes.len();
        if queues > layout::QUEUES {
            return Err(TransportError::Queues { queues, most: layout::QUEUES });
        }
        let event = || EventFd::new(EFD_NONBLOCK).map(Arc::new);
        let events: io::Result<Vec<Events>> =
            sizes.iter().map(|_| Ok(Events { kick: event()?, call: event()? })).collect();
        let config_call = event()?;
        device.set_config_call(Arc::clone(&config_call));

        let Wiring { vm, interrupts, reactor, pin: (pin, input) } = wiring;
        let mut config = Config::new(identity(device.id()));
        config.set_pin(pin, input);
        config.add_bar(layout::BAR, Bar { space: Space::Memory32, size: layout::BAR_SIZE });
        let window = layout::add_capabilities(&mut config, queues);
        let window = window.ok_or(TransportError::Capabilities)?;
        let location =
            Location { bar: layout::BAR as u8, table: layout::TABLE, pending: layout::PENDING };
        // One for each queue, and one for the configuration space.
        let vectors = u16::try_from(queues + 1).unwrap_or(u16::MAX);
        let msix = Msix::new(interrupts.clone(), &mut config, vectors, location);
        let msix = msix.ok_or(TransportError::Capabilities)?;
        let pin = Pin::new(&interrupts, &reactor, input.into())?;
        let common = Common::new(device.features(), &sizes);
        let state = State {
            config,
            msix,
            common,
            window,
            notify: None,
            watches: Vec::new(),
            started: false,
        };
        let events = events?;
        Ok(Arc::new_cyclic(|itself| Self {
            vm,
            reactor,
            state: Mutex::new(state),
            device: Mutex::new(device),
            queues: events,
            config_call,
            isr: AtomicU8::new(0),
            pin,
            itself: itself.clone(),
        }))
    }

    /// Works on the device itself.
    pub fn device(&self) -> MutexGuard<'_, Box<dyn Device>> {
        lock(&self.device)
    }

    fn read_registers(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match layout::structure(offset) {
            Some((layout::Structure::Common, offset)) => {
                // Only there it is looked at.
                let generation = match offset {
                    registers::GENERATION => self.device().config_generation(),
                    _ => 0,
                };
                lock(&self.state).common.read(offset, data, generation);
            }
            Some((layout::Structure::Isr, 0)) => {
                if let Some(first) = data.first_mut() {
                    *first = self.isr.swap(0, Ordering::SeqCst);
                    self.pin.set(false);
                    lock(&self.state).config.set_interrupt_status(false);
                }
            }
            Some((layout::Structure::Device, offset)) => {
                if let Ok(offset) = u32::try_from(offset) {
                    self.device().read_config(offset, data);
                }
            }
            Some((layout::Structure::Table, offset)) => {
                lock(&self.state).msix.read_table(offset, data);
            }
            Some((layout::Structure::Pending, offset)) => {
                lock(&self.state).msix.read_pending(offset, data);
            }
            Some((layout::Structure::Isr | layout::Structure::Notify, _)) | None => {}
        }
    }

    fn write_registers(&self, offset: u64, data: &[u8]) {
        match layout::structure(offset) {
            Some((layout::Structure::Common, offset)) => {
                let mut state = lock(&self.state);
                let vectors = state.msix.vectors();
                let action = state.common.write(offset, data, vectors);
                self.act(&mut state, action);
            }
            Some((layout::Structure::Device, offset)) => {
                if let Ok(offset) = u32::try_from(offset) {
                    self.device().write_config(offset, data);
                }
            }
            // KVM catches these, unless the guest uses the window or another width.
            Some((layout::Structure::Notify, offset)) => {
                let queue = usize::try_from(offset / layout::NOTIFY_STRIDE).ok();
                if let Some(events) = queue.and_then(|queue| self.queues.get(queue)) {
                    let _ = events.kick.write(1);
                }
            }
            Some((layout::Structure::Table, offset)) => {
                lock(&self.state).msix.write_table(offset, data);
            }
            Some((layout::Structure::Isr | layout::Structure::Pending, _)) | None => {}
        }
    }

    /// Does what a write to the common configuration asks for.
    fn act(&self, state: &mut State, action: Action) {
        match action {
            Action::None => {}
            Action::Reset => self.reset_device(state),
            Action::Start => self.start(state),
            Action::ConfigVector(vector) => {
                self.bind(state, CONFIG_SOURCE, &self.config_call, vector);
            }
            Action::QueueVector(queue, vector) => {
                if let Some(events) = self.queues.get(usize::from(queue)) {
                    self.bind(state, queue.into(), &events.call, vector);
                }
            }
        }
    }

    fn bind(&self, state: &mut State, source: u32, event: &Arc<EventFd>, vector: u16) {
        match vector {
            NO_VECTOR => state.msix.unbind(source),
            _ => state.msix.bind(source, Arc::clone(event), vector),
        }
    }

    fn start(&self, state: &mut State) {
        state.started = true;
        self.await_events(state);
        self.serve(state);
    }

    /// Has the device serve its queues.
    fn serve(&self, state: &mut State) {
        let setup = state.common.queues().filter_map(|(index, registers)| {
            let events = self.queues.get(usize::from(index))?;
            Some(Queue {
                index,
                size: registers.size,
                descriptors: registers.descriptors,
                available: registers.available,
                used: registers.used,
                kick: Arc::clone(&events.kick),
                call: Arc::clone(&events.call),
            })
        });
        let setup = setup.collect();
        if let Err(error) = self.device().start(state.common.features(), setup) {
            log::error!("a virtio device cannot start: {error}");
            state.common.set_needs_reset();
            let _ = self.config_call.write(1);
        }
    }

    fn reset_device(&self, state: &mut State) {
        if std::mem::take(&mut state.started) {
            self.device().stop(true);
        }
        state.watches.clear();
        for source in 0..self.queues.len() {
            state.msix.unbind(u32::try_from(source).unwrap_or(CONFIG_SOURCE));
        }
        state.msix.unbind(CONFIG_SOURCE);
        // What was signalled for the driver before is not for the next.
        for events in &self.queues {
            let _ = (events.kick.read(), events.call.read());
        }
        let _ = self.config_call.read();
        self.isr.store(0, Ordering::SeqCst);
        self.pin.set(false);
        state.config.set_interrupt_status(false);
        state.common.reset(self.device().features());
    }

    /// Without MSI-X, events set interrupt status bits and raise the pin.
    fn await_events(&self, state: &mut State) {
        state.watches.clear();
        if state.msix.is_enabled() || !state.started {
            return;
        }
        let sources = self.queues.iter().map(|events| (&events.call, ISR_QUEUE));
        for (event, bit) in sources.chain([(&self.config_call, ISR_CONFIG)]) {
            let itself = self.itself.clone();
            let raise = move || {
                if let Some(function) = itself.upgrade() {
                    function.raise(bit);
                }
            };
            match self.reactor.watch_event(event, Arc::new(raise)) {
                Ok(watch) => state.watches.push(watch),
                Err(error) => log::error!("an interrupt pin cannot be served: {error}"),
            }
        }
    }

    fn raise(&self, bit: u8) {
        let mut state = lock(&self.state);
        self.isr.fetch_or(bit, Ordering::SeqCst);
        state.config.set_interrupt_status(true);
        self.settle_pin(&state);
    }

    fn settle_pin(&self, state: &State) {
        let pending = self.isr.load(Ordering::SeqCst) != 0;
        self.pin.set(pending && !state.msix.is_enabled() && !state.config.intx_disabled());
    }

    /// An access through the window in configuration space: BAR, offset and width are in front of it.
    fn window(&self, state: &State, offset: usize) -> Option<(u64, usize)> {
        let data = state.window.checked_add(layout::WINDOW_DATA)?;
        if !(data..data + 4).contains(&offset) {
            return None;
        }
        let [bar] = state.config.get(state.window + layout::CAPABILITY_BAR);
        let place = u32::from_le_bytes(state.config.get(state.window + layout::CAPABILITY_OFFSET));
        let length = u32::from_le_bytes(state.config.get(state.window + layout::CAPABILITY_LENGTH));
        let length = usize::try_from(length).ok()?;
        let valid = usize::from(bar) == layout::BAR && matches!(length, 1 | 2 | 4);
        (valid && place < layout::BAR_SIZE).then_some((place.into(), length))
    }
}

impl Function for VirtioPci {
    fn with_config(&self, use_it: &mut dyn FnMut(&mut Config)) {
        use_it(&mut lock(&self.state).config);
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let window = self.window(&lock(&self.state), offset);
        if let Some((place, length)) = window {
            let mut bytes = [0; 4];
            if let Some(bytes) = bytes.get_mut(..length) {
                self.read_registers(place, bytes);
            }
            let mut state = lock(&self.state);
            let data = state.window + layout::WINDOW_DATA;
            state.config.set(data, &bytes);
        }
        lock(&self.state).config.read(offset, data);
    }

    fn write_config(&self, offset: usize, data: &[u8]) {
        let mut state = lock(&self.state);
        let State { config, msix, .. } = &mut *state;
        config.write(offset, data);
        let was_enabled = msix.is_enabled();
        msix.config_written(config);
        if was_enabled != msix.is_enabled() {
            self.await_events(&mut state);
        }
        self.settle_pin(&state);
        if let Some((place, length)) = self.window(&state, offset) {
            let bytes: [u8; 4] = state.config.get(state.window + layout::WINDOW_DATA);
            drop(state);
            self.write_registers(place, bytes.get(..length).unwrap_or_default());
        }
    }

    fn read_bar(&self, _bar: usize, offset: u64, data: &mut [u8]) {
        self.read_registers(offset, data);
    }

    fn write_bar(&self, _bar: usize, offset: u64, data: &[u8]) {
        self.write_registers(offset, data);
    }

    fn moved(&self, bar: usize, address: Option<u64>) {
        if bar != layout::BAR {
            return;
        }
        let mut state = lock(&self.state);
        let new = address.map(|address| address.saturating_add(layout::NOTIFY));
        let old = std::mem::replace(&mut state.notify, new);
        for (number, events) in (0u64..).zip(&self.queues) {
            let at = |base: u64| {
                IoEventAddress::Mmio(base.saturating_add(number * layout::NOTIFY_STRIDE))
            };
            if let Some(old) = old {
                // It fails only for what was refused before.
                let _ = self.vm.fd().unregister_ioevent(&events.kick, &at(old), NoDatamatch);
            }
            if let Some(new) = new
                && let Err(error) =
                    self.vm.fd().register_ioevent(&events.kick, &at(new), NoDatamatch)
            {
                // Slower, but it works: the write comes to us.
                log::warn!("KVM does not catch notifications: {error}");
            }
        }
    }

    fn reset(&self) {
        let mut state = lock(&self.state);
        self.reset_device(&mut state);
        state.msix.reset();
    }

    fn pause(&self) {
        if lock(&self.state).started {
            self.device().stop(false);
        }
    }

    fn resume(&self) {
        let mut state = lock(&self.state);
        if state.started {
            self.serve(&mut state);
        }
    }
}

/// How a device type shows on PCI (virtio 1.3, 4.1.2).
fn identity(device: u16) -> Identity {
    const VENDOR: u16 = 0x1af4;
    const FIRST: u16 = 0x1040;
    const SUBSYSTEM: u16 = 0x1100;
    let class = match device {
        1 => [0x02, 0x00, 0x00],
        2 | 8 => [0x01, 0x00, 0x00],
        3 => [0x07, 0x80, 0x00],
        16 => [0x03, 0x80, 0x00],
        18 => [0x09, 0x80, 0x00],
        25 => [0x04, 0x01, 0x00],
        26 => [0x01, 0x80, 0x00],
        _ => [0xff, 0x00, 0x00],
    };
    let id = FIRST.saturating_add(device);
    Identity { id: (VENDOR, id), subsystem: (VENDOR, SUBSYSTEM), class, revision: 1 }
}
