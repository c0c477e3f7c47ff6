//! The host bridge: how a guest reaches the configuration spaces, and where BARs are put.
//!
//! Ways to configuration spaces: mechanism #1 at 0xCF8 (PCI 3.0, 3.2.2.3.2) and the memory-mapped
//! one (PCI Express 4.0, 7.2.2).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use super::Function;
use super::config::{BARS, Bar, Config, Decoded, Identity, Space};
use super::hotplug::Plug;
use crate::frontend::memory::Allocator;
use crate::lock::lock;
use crate::machine::bus::Registers;
use crate::machine::layout;
use crate::machine::vcpu::Buses;

/// What the host bridge says that it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Model {
    /// Red Hat's generic one, which has nothing but an identity.
    #[default]
    Generic,
    /// Intel's 440FX, whose name a PC's firmware looks for to know where BARs go.
    I440fx,
}

impl Model {
    fn config(self) -> Config {
        let id = match self {
            Self::Generic => (0x1b36, 0x0008),
            Self::I440fx => (0x8086, 0x1237),
        };
        let subsystem = (0x1af4, 0x1100);
        let mut config = Config::new(Identity { id, subsystem, class: [6, 0, 0], revision: 0 });
        if self == Self::I440fx {
            // Programmable attribute map: what of 0xC0000 to 0xFFFFF is ROM. It is memory here, and
            // stays so, whatever is written; but firmware has to see nothing of memory yet, since it
            // copies its other half there then.
            const PAM_0: usize = 0x59;
            config.allow(PAM_0, &[0x33; 7]);
        }
        config
    }
}

/// A place on the bus: device 0–31 and function 0–7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(u8);

impl Place {
    /// `None`: there is no such place.
    #[must_use]
    pub fn new(device: u8, function: u8) -> Option<Self> {
        (device < 32 && function < 8).then_some(Self(device << 3 | function))
    }

    /// The device, 0–31.
    #[must_use]
    pub fn device(self) -> u8 {
        self.0 >> 3
    }

    /// The function, 0–7.
    #[must_use]
    pub fn function(self) -> u8 {
        self.0 & 7
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}.{}", self.device(), self.function())
    }
}

/// Why a function can't be added.
#[derive(Debug, thiserror::Error)]
pub enum PciError {
    /// Another is there.
    #[error("PCI slot {0} is taken")]
    Taken(Place),
    /// The bus is full.
    #[error("all 31 slots of the PCI bus are taken")]
    Full,
    /// A BAR has no room.
    #[error("{0:#x} bytes of registers have no room on the PCI bus")]
    NoRoom(u32),
}

/// A function on the bus, and where its BARs answer now.
struct Occupant {
    function: Arc<dyn Function>,
    mapped: [Option<Decoded>; BARS],
}

/// The bus.
pub struct Host {
    buses: Arc<Buses>,
    state: Mutex<State>,
}

struct State {
    occupants: BTreeMap<Place, Occupant>,
    /// The register that 0xCF8 selects.
    selected: u32,
    memory: Allocator,
    above: Allocator,
    ports: Allocator,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.state().occupants.keys()).finish()
    }
}

/// Ports for BARs.
const PORTS: (u64, u64) = (0xc000, 0x4000);

impl Host {
    /// A bus with only a bridge of that model on it, which gives out addresses above memory from `above`. The
    /// machine's reset register is a byte inside the bridge's, so the bridge hands it on.
    ///
    /// # Errors
    /// The machine has something else where it should be.
    pub fn new(
        buses: Arc<Buses>,
        model: Model,
        above: (u64, u64),
        reset: Arc<dyn Registers>,
    ) -> Result<Arc<Self>, PciError> {
        let (low, low_end) = layout::PCI;
        let host = Arc::new(Self {
            buses: Arc::clone(&buses),
            state: Mutex::new(State {
                occupants: BTreeMap::new(),
                selected: 0,
                memory: Allocator::new(low, low_end - low),
                above: Allocator::new(above.0, above.1 - above.0),
                ports: Allocator::new(PORTS.0, PORTS.1),
            }),
        });
        host.add(Place(0), Arc::new(Bridge(Mutex::new(model.config()))), Plug::Cold)?;
        let ports = Arc::new(Mechanism1 { host: Arc::clone(&host), reset });
        let memory = Arc::new(Ecam(Arc::clone(&host)));
        let no_room = |_| PciError::NoRoom(8);
        buses.ports.add(layout::PCI_CONFIG.into(), 8, ports).map_err(no_room)?;
        buses.memory.add(layout::ECAM, layout::ECAM_SIZE, memory).map_err(no_room)?;
        Ok(host)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The first device without a function.
    ///
    /// # Errors
    /// There is none.
    pub fn free_device(&self) -> Result<Place, PciError> {
        let state = self.state();
        let taken = |device: u8| state.occupants.keys().any(|place| place.device() == device);
        let free = (1..32).find(|device| !taken(*device)).ok_or(PciError::Full)?;
        Place::new(free, 0).ok_or(PciError::Full)
    }

    /// Adds a function, and gives its BARs addresses, unless the guest runs already: it gives the
    /// addresses then, and may have put something else where we would.
    ///
    /// # Errors
    /// See [`PciError`].
    pub fn add(
        &self,
        place: Place,
        function: Arc<dyn Function>,
        plug: Plug,
    ) -> Result<(), PciError> {
        let mut state = self.state();
        if state.occupants.contains_key(&place) {
            return Err(PciError::Taken(place));
        }
        if plug == Plug::Cold {
            let mut placed = Ok(());
            function.with_config(&mut |config| placed = state.place_bars(config));
            placed?;
        }
        let mut occupant = Occupant { function, mapped: [None; BARS] };
        occupant.answer(&self.buses);
        state.occupants.insert(place, occupant);
        Ok(())
    }

    /// Takes a function away.
    pub fn remove(&self, place: Place) -> Option<Arc<dyn Function>> {
        let mut state = self.state();
        let mut occupant = state.occupants.remove(&place)?;
        if occupant.leave(&self.buses, &[None; BARS]) {
            state.answer(&self.buses);
        }
        Some(occupant.function)
    }

    /// Resets all functions.
    pub fn reset(&self) {
        for (place, function) in self.functions() {
            function.reset();
            function.with_config(&mut Config::reset);
            self.remap(place);
        }
        self.state().selected = 0;
    }

    /// Has all functions stop touching guest memory.
    pub fn pause(&self) {
        self.functions().iter().for_each(|(_, function)| function.pause());
    }

    /// Has all functions go on.
    pub fn resume(&self) {
        self.functions().iter().for_each(|(_, function)| function.resume());
    }

    /// All functions, in the order of their places.
    #[must_use]
    pub fn functions(&self) -> Vec<(Place, Arc<dyn Function>)> {
        let state = self.state();
        state.occupants.iter().map(|(place, it)| (*place, Arc::clone(&it.function))).collect()
    }

    /// Has a function's BARs answer where they are now, and all that were kept from an address by
    /// them.
    fn remap(&self, place: Place) {
        let mut state = self.state();
        let Some(occupant) = state.occupants.get_mut(&place) else { return };
        let left = occupant.leave(&self.buses, &occupant.wanted());
        occupant.answer(&self.buses);
        if left {
            state.answer(&self.buses);
        }
    }

    fn find(&self, place: Place) -> Option<Arc<dyn Function>> {
        self.state().occupants.get(&place).map(|occupant| Arc::clone(&occupant.function))
    }

    fn read(&self, place: Place, offset: usize, data: &mut [u8]) {
        match self.find(place) {
            Some(function) => function.read_config(offset, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, place: Place, offset: usize, data: &[u8]) {
        if let Some(function) = self.find(place) {
            function.write_config(offset, data);
            // Command and BARs.
            if (0x04..0x28).contains(&offset) {
                self.remap(place);
            }
        }
    }
}

impl State {
    /// Has all BARs answer that do not yet, if their places are free now.
    fn answer(&mut self, buses: &Buses) {
        self.occupants.values_mut().for_each(|occupant| occupant.answer(buses));
    }

    fn place_bars(&mut self, config: &mut Config) -> Result<(), PciError> {
        let bars: Vec<(usize, Bar)> = config.bars().collect();
        for (number, Bar { space, size }) in bars {
            let allocator = match space {
                Space::Io => &mut self.ports,
                Space::Memory32 => &mut self.memory,
                Space::Memory64 => &mut self.above,
            };
            let address = allocator.take(size.into(), size.into());
            config.place_bar(number, address.ok_or(PciError::NoRoom(size))?);
        }
        Ok(())
    }
}

impl Occupant {
    /// Where its BARs should answer, by its configuration space.
    fn wanted(&self) -> [Option<Decoded>; BARS] {
        let mut wanted = [None; BARS];
        self.function.with_config(&mut |config| {
            for (number, place) in wanted.iter_mut().enumerate() {
                *place = config.decoded(number);
            }
        });
        wanted
    }

    /// Has no BAR answer where it is not wanted. Returns whether one has left a place.
    fn leave(&mut self, buses: &Buses, wanted: &[Option<Decoded>; BARS]) -> bool {
        let mut left = false;
        for (number, (mapped, wanted)) in self.mapped.iter_mut().zip(wanted).enumerate() {
            if let Some(old) = mapped.take_if(|old| Some(*old) != *wanted) {
                bus(buses, old.bar.space).remove(old.address);
                self.function.moved(number, None);
                left = true;
            }
        }
        left
    }

    /// Has BARs answer that do not yet, if their places are free.
    fn answer(&mut self, buses: &Buses) {
        let places = self.wanted();
        for (number, (mapped, wanted)) in self.mapped.iter_mut().zip(places).enumerate() {
            let (Some(new), None) = (wanted, &mapped) else { continue };
            let function = Arc::clone(&self.function);
            let registers = Arc::new(BarRegisters { function, number });
            match bus(buses, new.bar.space).add(new.address, new.bar.size.into(), registers) {
                Ok(()) => {
                    *mapped = Some(new);
                    self.function.moved(number, Some(new.address));
                }
                // While a guest tries a BAR's size it is at an odd place, often over another.
                Err(occupied) => log::debug!("a BAR cannot answer: {occupied}"),
            }
        }
    }
}

fn bus(buses: &Buses, space: Space) -> &crate::machine::bus::Bus {
    match space {
        Space::Io => &buses.ports,
        Space::Memory32 | Space::Memory64 => &buses.memory,
    }
}

/// A BAR as a range of a bus.
struct BarRegisters {
    function: Arc<dyn Function>,
    number: usize,
}

impl Registers for BarRegisters {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.function.read_bar(self.number, offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.function.write_bar(self.number, offset, data);
    }
}

/// Whether an access lies inside a doubleword, which is all that a function answers.
fn fits(offset: usize, length: usize) -> bool {
    matches!(length, 1 | 2 | 4) && offset % 4 + length <= 4
}

/// Configuration spaces in memory: bus, device, function and register are in the address.
struct Ecam(Arc<Host>);

impl Ecam {
    fn decode(offset: u64, length: usize) -> Option<(Place, usize)> {
        let place = u8::try_from(offset >> 12).ok()?;
        let register = usize::try_from(offset & 0xfff).ok()?;
        fits(register, length).then_some((Place(place), register))
    }
}

impl Registers for Ecam {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some((place, register)) = Self::decode(offset, data.len()) {
            self.0.read(place, register, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some((place, register)) = Self::decode(offset, data.len()) {
            self.0.write(place, register, data);
        }
    }
}

/// Mechanism #1: a register selects, another gives access.
struct Mechanism1 {
    host: Arc<Host>,
    reset: Arc<dyn Registers>,
}

impl Mechanism1 {
    const ENABLE: u32 = 1 << 31;
    const DATA: u64 = 4;
    /// Where the reset register is.
    const RESET: u64 = layout::RESET as u64 - layout::PCI_CONFIG as u64;

    /// Which register is selected, if any and on bus 0.
    fn decode(&self, offset: u64, length: usize) -> Option<(Place, usize)> {
        let selected = self.host.state().selected;
        let [register, place, bus, _] = selected.to_le_bytes();
        let offset = usize::try_from(offset.checked_sub(Self::DATA)?).ok()?;
        let valid = selected & Self::ENABLE != 0 && bus == 0 && fits(offset, length);
        valid.then_some((Place(place), usize::from(register & 0xfc) + offset))
    }
}

impl Registers for Mechanism1 {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match (offset, data.len()) {
            // Only as a doubleword it is the address register.
            (0, 4) => data.copy_from_slice(&self.host.state().selected.to_le_bytes()),
            (Self::RESET, 1) => self.reset.read(0, data),
            (offset, length) => {
                if let Some((place, register)) = self.decode(offset, length) {
                    self.host.read(place, register, data);
                }
            }
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match (offset, <[u8; 4]>::try_from(data)) {
            (0, Ok(data)) => {
                let selected = u32::from_le_bytes(data) & (Self::ENABLE | 0xff_fffc);
                self.host.state().selected = selected;
            }
            (Self::RESET, Err(_)) if data.len() == 1 => self.reset.write(0, data),
            (offset, _) => {
                if let Some((place, register)) = self.decode(offset, data.len()) {
                    self.host.write(place, register, data);
                }
            }
        }
    }
}

/// The bridge itself: nothing that is written to it does anything.
struct Bridge(Mutex<Config>);

impl Function for Bridge {
    fn with_config(&self, use_it: &mut dyn FnMut(&mut Config)) {
        use_it(&mut lock(&self.0));
    }

    fn write_config(&self, offset: usize, data: &[u8]) {
        self.with_config(&mut |config| config.write(offset, data));
    }

    fn read_bar(&self, _bar: usize, _offset: u64, _data: &mut [u8]) {}

    fn write_bar(&self, _bar: usize, _offset: u64, _data: &[u8]) {}

    fn moved(&self, _bar: usize, _address: Option<u64>) {}

    fn reset(&self) {}
}

#[cfg(test)]
mod tests;
