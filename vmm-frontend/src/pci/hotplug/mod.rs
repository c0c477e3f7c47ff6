//! Functions that come and go while the guest runs (ACPI 6.5, 5.6.6): a register block of our own,
//! a general-purpose event, and methods that tell and ask (`machine/acpi/hotplug.rs`).
//!
//! Who is removed leaves the bus at once, on the virtual processor that ejects it, and touches guest
//! memory no more; what it had is given back by [`OnRemoved`].

mod model;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use super::Function;
use super::host::{Host, PciError, Place};
use crate::lock::lock;
use crate::machine::bus::{Bus, Occupied, Registers};
use crate::machine::layout;
use model::Model;

/// What a device is called by who manages the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// By this id.
    Id(String),
    /// By its number among those without one.
    Number(u32),
}

impl Name {
    /// Its id, if it has one.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::Id(id) => Some(id),
            Self::Number(_) => None,
        }
    }

    /// Whether somebody means it by an id or a path.
    fn is(&self, text: &str) -> bool {
        self.id() == Some(text) || self.to_string() == text
    }
}

/// As QEMU's object model has it.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "/machine/peripheral/{id}"),
            Self::Number(number) => write!(f, "/machine/peripheral-anon/device[{number}]"),
        }
    }
}

/// Why a device does not come or go.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// Another has that id.
    #[error("Duplicate device ID '{0}'")]
    Duplicate(String),
    /// No device has that id.
    #[error("Device '{0}' not found")]
    NotFound(String),
    /// It has no place on the bus.
    #[error(transparent)]
    Pci(#[from] PciError),
}

/// A device that is gone, and does nothing any more; to be dropped where that may take its time.
pub struct Removed {
    /// What it was called.
    pub name: Name,
    _function: Arc<dyn Function>,
}

impl fmt::Debug for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Removed").field(&self.name).finish()
    }
}

/// Whom to tell. It may be called by a virtual processor, and may not block.
pub type OnRemoved = Box<dyn Fn(Removed) + Send + Sync>;
/// Tells the guest that the registers say something new.
pub type Notify = Box<dyn Fn() + Send + Sync>;

/// Whether a device comes before the guest starts, or while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plug {
    /// Before.
    Cold,
    /// While it runs.
    Hot,
}

/// The slots of the bus, and who is in them.
pub struct Slots {
    host: Arc<Host>,
    state: Mutex<State>,
    notify: Notify,
    removed: OnRemoved,
}

#[derive(Debug, Default)]
struct State {
    model: Model,
    names: BTreeMap<u8, Name>,
    /// Devices without an id so far.
    numbered: u32,
}

impl State {
    fn check_new(&self, id: &str) -> Result<(), SlotError> {
        match self.names.values().any(|name| name.id() == Some(id)) {
            true => Err(SlotError::Duplicate(id.to_owned())),
            false => Ok(()),
        }
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slots").field(&*self.state()).finish()
    }
}

impl Slots {
    /// The slots of a bus.
    #[must_use]
    pub fn new(host: Arc<Host>, notify: Notify, removed: OnRemoved) -> Arc<Self> {
        Arc::new(Self { host, state: Mutex::default(), notify, removed })
    }

    /// Puts the registers where the ACPI tables say that they are.
    ///
    /// # Errors
    /// The ports are not free.
    pub fn add_to(self: &Arc<Self>, ports: &Bus) -> Result<(), Occupied> {
        let registers = Arc::clone(self) as Arc<dyn Registers>;
        ports.add(layout::hotplug::PORT.into(), layout::hotplug::SIZE.into(), registers)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Whether a device could have this id.
    ///
    /// # Errors
    /// Another has it.
    pub fn check_new(&self, id: &str) -> Result<(), SlotError> {
        self.state().check_new(id)
    }

    /// Puts a device that `make` makes into the first free slot.
    ///
    /// # Errors
    /// See [`SlotError`]; or it can't be made.
    pub fn add<E: From<SlotError>>(
        &self,
        id: Option<&str>,
        plug: Plug,
        make: impl FnOnce(Place) -> Result<Arc<dyn Function>, E>,
    ) -> Result<Place, E> {
        let mut state = self.state();
        if let Some(id) = id {
            state.check_new(id)?;
        }
        let place = self.host.free_device().map_err(SlotError::from)?;
        let function = make(place)?;
        self.host.add(place, function, plug).map_err(SlotError::from)?;
        let name = match id {
            Some(id) => Name::Id(id.to_owned()),
            None => {
                let number = state.numbered;
                state.numbered = number.saturating_add(1);
                Name::Number(number)
            }
        };
        state.names.insert(place.device(), name);
        match plug {
            Plug::Cold => state.model.set(place.device()),
            Plug::Hot => {
                state.model.plug(place.device());
                drop(state);
                (self.notify)();
            }
        }
        Ok(place)
    }

    /// Asks the guest to let a device go, which is named by id or path; once more, if it was asked.
    ///
    /// # Errors
    /// There is no such device.
    pub fn ask(&self, text: &str) -> Result<(), SlotError> {
        let mut state = self.state();
        let mut named = state.names.iter().filter(|(_, name)| name.is(text));
        let device = named.next().map(|(device, _)| *device);
        let device = device.ok_or_else(|| SlotError::NotFound(text.to_owned()))?;
        state.model.ask(device);
        drop(state);
        (self.notify)();
        Ok(())
    }

    /// What the device in a slot is called.
    #[must_use]
    pub fn name(&self, device: u8) -> Option<Name> {
        self.state().names.get(&device).cloned()
    }

    /// The machine is reset: devices that were asked for go.
    pub fn reset(&self) {
        let mut state = self.state();
        let gone = state.model.reset();
        self.remove(state, gone);
    }

    fn remove(&self, mut state: MutexGuard<'_, State>, gone: model::Devices) {
        let mut removed = Vec::new();
        for device in (0..32).filter(|device| gone & model::bit(*device) != 0) {
            let function = Place::new(device, 0).and_then(|place| self.host.remove(place));
            if let (Some(name), Some(function)) = (state.names.remove(&device), function) {
                function.reset();
                removed.push(Removed { name, _function: function });
            }
        }
        drop(state);
        removed.into_iter().for_each(&self.removed);
    }
}

impl Registers for Slots {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.state().model.read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut state = self.state();
        let gone = state.model.write(offset, data);
        self.remove(state, gone);
    }
}

#[cfg(test)]
mod tests;
