//! A PCI bus whose guest writes what it likes to configuration spaces, by both ways to them, and
//! whose functions come and go.
//!
//! Whatever comes: what is fixed in a configuration space stays, a BAR answers where it was put if
//! nothing else is there, a range that nobody has any more answers no more, and both ways show the
//! same.

#![no_main]

use std::sync::{Arc, Mutex, PoisonError};

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use vmm_frontend::machine::layout;
use vmm_frontend::machine::power::PowerEvent;
use vmm_frontend::machine::reset::ResetRegister;
use vmm_frontend::machine::vcpu::Buses;
use vmm_frontend::pci::Function;
use vmm_frontend::pci::config::{BARS, Bar, Config, Decoded, Identity, SIZE, Space};
use vmm_frontend::pci::host::{Host, Model, Place};
use vmm_frontend::pci::hotplug::Plug;

/// Devices at most, so that they get into each other's way.
const DEVICES: u8 = 4;
/// What is given out above memory.
const ABOVE: (u64, u64) = (1 << 40, 2 << 40);
const COMMAND: usize = 0x04;
const BAR_0: usize = 0x10;

fuzz_target!(|data: &[u8]| {
    let _ = run(&mut Unstructured::new(data));
});

/// A function whose registers read as its number, and its BARs'.
struct Numbered {
    number: u8,
    config: Mutex<Config>,
    /// Where each BAR answers, as the bus told it.
    told: Mutex<[Option<u64>; BARS]>,
}

impl Numbered {
    fn new(number: u8, input: &mut Unstructured<'_>) -> Result<Arc<Self>> {
        let id = (0x1af4, 0x1040 + u16::from(number));
        let mut config = Config::new(Identity { id, ..Identity::default() });
        config.set_pin(1, 16);
        let mut bar = 0;
        while bar < BARS && input.ratio(2, 3)? {
            let space = *input.choose(&[Space::Io, Space::Memory32, Space::Memory64])?;
            let size = match space {
                Space::Io => 1 << input.int_in_range(4..=8)?,
                _ => 1 << input.int_in_range(4..=31)?,
            };
            if space == Space::Memory64 && bar + 1 == BARS {
                break;
            }
            config.add_bar(bar, Bar { space, size });
            bar += if space == Space::Memory64 { 2 } else { 1 };
        }
        while input.ratio(1, 2)? {
            let writable: [u8; 6] = input.arbitrary()?;
            if config.add_capability(9, &[0; 6], &writable).is_none() {
                break;
            }
        }
        Ok(Arc::new(Self { number, config: Mutex::new(config), told: Mutex::default() }))
    }

    fn decoded(&self) -> [Option<Decoded>; BARS] {
        let mut decoded = [None; BARS];
        self.with_config(&mut |config| {
            for (number, place) in decoded.iter_mut().enumerate() {
                *place = config.decoded(number);
            }
        });
        decoded
    }

    fn told(&self) -> [Option<u64>; BARS] {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn config(&self) -> Config {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Function for Numbered {
    fn with_config(&self, use_it: &mut dyn FnMut(&mut Config)) {
        use_it(&mut self.config.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn write_config(&self, offset: usize, data: &[u8]) {
        self.with_config(&mut |config| config.write(offset, data));
    }

    fn read_bar(&self, bar: usize, offset: u64, data: &mut [u8]) {
        let size = self.decoded()[bar].expect("a BAR that is switched off is read").bar.size;
        assert!(offset + data.len() as u64 <= u64::from(size), "beyond BAR {bar}");
        data.fill(self.number << 4 | bar as u8);
    }

    fn write_bar(&self, bar: usize, offset: u64, data: &[u8]) {
        let size = self.decoded()[bar].expect("a BAR that is switched off is written").bar.size;
        assert!(offset + data.len() as u64 <= u64::from(size), "beyond BAR {bar}");
    }

    fn moved(&self, bar: usize, address: Option<u64>) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)[bar] = address;
    }

    fn reset(&self) {}
}

struct Bus {
    host: Arc<Host>,
    buses: Arc<Buses>,
    there: Vec<(Place, Arc<Numbered>)>,
    next: u8,
}

/// An access to a configuration space.
#[derive(Clone, Copy, Debug)]
struct Register {
    place: Place,
    offset: u64,
    length: usize,
}

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let buses = Arc::new(Buses::default());
    let reset = Arc::new(ResetRegister::new(Arc::new(|_: PowerEvent| {})));
    let model = if input.arbitrary()? { Model::Generic } else { Model::I440fx };
    let host = Host::new(Arc::clone(&buses), model, ABOVE, reset).expect("an empty bus");
    let empty = format!("{buses:?}");
    let mut bus = Bus { host, buses, there: Vec::new(), next: 1 };
    let result = bus.steps(input);
    for (place, _) in std::mem::take(&mut bus.there) {
        assert!(bus.host.remove(place).is_some(), "{place} is not there");
    }
    assert_eq!(format!("{:?}", bus.buses), empty, "a range stays");
    bus.buses.ports.clear();
    bus.buses.memory.clear();
    result
}

impl Bus {
    fn steps(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        for _ in 0..input.int_in_range(0..=DEVICES)? {
            self.add(input, Plug::Cold)?;
        }
        while !input.is_empty() {
            match input.int_in_range(0..=15)? {
                0 => self.add(input, Plug::Hot)?,
                1 => self.remove(input)?,
                2 => self.host.reset(),
                3 => self.anywhere(input)?,
                4 | 5 => self.read(input)?,
                6..=8 => self.write(input)?,
                9 => self.switch(input)?,
                _ => self.put(input)?,
            }
            self.check();
        }
        Ok(())
    }

    fn add(&mut self, input: &mut Unstructured<'_>, plug: Plug) -> Result<()> {
        let function = Numbered::new(self.next % 16, input)?;
        let place = self.place(input)?;
        let taken = place.device() == 0 || self.there.iter().any(|(there, _)| *there == place);
        // It may also have no room for BARs.
        if self.host.add(place, Arc::clone(&function) as Arc<dyn Function>, plug).is_ok() {
            assert!(!taken, "two in {place}");
            self.next += 1;
            self.there.push((place, function));
        }
        Ok(())
    }

    fn remove(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        if self.there.is_empty() {
            return Ok(());
        }
        let (place, function) = self.there.remove(input.choose_index(self.there.len())?);
        assert!(self.host.remove(place).is_some(), "{place} is not there");
        assert_eq!(function.told(), [None; BARS], "it was taken away");
        Ok(())
    }

    fn place(&self, input: &mut Unstructured<'_>) -> Result<Place> {
        let (device, function) = (input.int_in_range(0..=DEVICES)?, input.int_in_range(0..=1)?);
        // The bridge has one function.
        let function = if device == 0 { 0 } else { function };
        Ok(Place::new(device, function).expect("on the bus"))
    }

    fn register(&self, input: &mut Unstructured<'_>) -> Result<Register> {
        let place = self.place(input)?;
        let length = *input.choose(&[1, 2, 4])?;
        let offset = match input.int_in_range(0..=3)? {
            0 => input.int_in_range(0..=0xfff)?,
            1 => input.int_in_range(0..=SIZE as u64 - 1)?,
            _ => input.int_in_range(0..=0x3f)?,
        };
        Ok(Register { place, offset, length })
    }

    fn ecam(place: Place) -> u64 {
        let number = u64::from(place.device()) << 3 | u64::from(place.function());
        layout::ECAM + (number << 12)
    }

    fn select(&self, Register { place, offset, .. }: Register) -> u64 {
        let number = u32::from(place.device()) << 3 | u32::from(place.function());
        let address = 1 << 31 | number << 8 | (offset & 0xfc) as u32;
        self.buses.ports.write(layout::PCI_CONFIG.into(), &address.to_le_bytes());
        u64::from(layout::PCI_CONFIG) + 4 + (offset & 3)
    }

    fn read(&self, input: &mut Unstructured<'_>) -> Result<()> {
        let register = self.register(input)?;
        let (mut one, mut other) = ([0x55; 4], [0xaa; 4]);
        let (one, other) = (&mut one[..register.length], &mut other[..register.length]);
        self.buses.memory.read(Self::ecam(register.place) + register.offset, one);
        if register.offset < SIZE as u64 {
            let port = self.select(register);
            self.buses.ports.read(port, other);
            assert_eq!(one, other, "{register:x?}");
        } else {
            assert!(one.iter().all(|byte| *byte == 0xff), "{register:x?}: {one:x?}");
        }
        Ok(())
    }

    fn write(&self, input: &mut Unstructured<'_>) -> Result<()> {
        let register = self.register(input)?;
        let bytes: [u8; 4] = input.arbitrary()?;
        self.write_bytes(register, &bytes[..register.length], input.arbitrary()?);
        Ok(())
    }

    fn write_bytes(&self, register: Register, bytes: &[u8], by_ports: bool) {
        let before = self.find(register.place).map(|function| function.config());
        if by_ports && register.offset < SIZE as u64 {
            let port = self.select(register);
            self.buses.ports.write(port, bytes);
        } else {
            self.buses.memory.write(Self::ecam(register.place) + register.offset, bytes);
        }
        if let Some(before) = before {
            let after = self.find(register.place).expect("it was there").config();
            check_fixed(&before, &after);
        }
    }

    fn find(&self, place: Place) -> Option<&Arc<Numbered>> {
        let there = self.there.iter().find(|(there, _)| *there == place);
        there.map(|(_, function)| function)
    }

    /// Switches BARs on and off.
    fn switch(&self, input: &mut Unstructured<'_>) -> Result<()> {
        let register = Register { place: self.place(input)?, offset: COMMAND as u64, length: 2 };
        let command = input.int_in_range(0u16..=3)?;
        self.write_bytes(register, &command.to_le_bytes(), input.arbitrary()?);
        Ok(())
    }

    /// Puts a BAR where few are, among them where another is.
    fn put(&self, input: &mut Unstructured<'_>) -> Result<()> {
        let place = self.place(input)?;
        let bar = input.int_in_range(0..=BARS - 1)?;
        let low = match input.int_in_range(0..=7u32)? {
            0 => u32::MAX,
            1 => layout::PCI_CONFIG.into(),
            2 => 0,
            3 => layout::ECAM as u32,
            _ => 0xc000_0000 + 16 * input.int_in_range(0..=4u32)?,
        };
        let register = Register { place, offset: (BAR_0 + 4 * bar) as u64, length: 4 };
        self.write_bytes(register, &low.to_le_bytes(), input.arbitrary()?);
        Ok(())
    }

    /// Reads and writes anywhere.
    fn anywhere(&self, input: &mut Unstructured<'_>) -> Result<()> {
        let mut bytes = [0; 8];
        let length = *input.choose(&[1, 2, 4, 8])?;
        let ports = input.arbitrary()?;
        let address = match (ports, input.arbitrary()?) {
            (true, true) => u64::from(layout::PCI_CONFIG) + input.int_in_range(0..=8)?,
            (true, false) => input.arbitrary::<u16>()?.into(),
            (false, true) => layout::ECAM + input.int_in_range(0..=layout::ECAM_SIZE)?,
            (false, false) => input.arbitrary()?,
        };
        let bus = if ports { &self.buses.ports } else { &self.buses.memory };
        if input.arbitrary()? {
            bytes[..length].copy_from_slice(input.bytes(length)?);
            bus.write(address, &bytes[..length]);
        } else {
            bus.read(address, &mut bytes[..length]);
        }
        Ok(())
    }

    fn check(&self) {
        // What answers somewhere, and what would if it could.
        let (mut answering, mut waiting) = (Vec::new(), Vec::new());
        for (place, function) in &self.there {
            for (bar, (decoded, told)) in function.decoded().iter().zip(function.told()).enumerate()
            {
                match (decoded, told) {
                    (None, None) => {}
                    (Some(decoded), Some(told)) => {
                        assert_eq!(decoded.address, told, "{place}, BAR {bar} is elsewhere");
                        let expected = function.number << 4 | bar as u8;
                        self.check_answer(*decoded, expected);
                        answering.push(*decoded);
                    }
                    (Some(decoded), None) => waiting.push((*place, bar, *decoded)),
                    (None, Some(told)) => panic!("{place}, BAR {bar} still answers at {told:#x}"),
                }
            }
        }
        for (place, bar, decoded) in waiting {
            let end = decoded.address.checked_add(decoded.bar.size.into());
            let taken = answering.iter().any(|other| overlap(&decoded, other));
            assert!(
                end.is_none() || taken || over_bridge(&decoded),
                "{place}, BAR {bar} does not answer at {:#x}, where nothing is",
                decoded.address
            );
        }
    }

    fn check_answer(&self, Decoded { bar, address }: Decoded, expected: u8) {
        let bus = match bar.space {
            Space::Io => &self.buses.ports,
            Space::Memory32 | Space::Memory64 => &self.buses.memory,
        };
        let mut byte = [0];
        for at in [address, address + (u64::from(bar.size) - 1)] {
            bus.read(at, &mut byte);
            assert_eq!(byte, [expected], "at {at:#x}");
        }
    }
}

fn overlap(one: &Decoded, other: &Decoded) -> bool {
    let same = (one.bar.space == Space::Io) == (other.bar.space == Space::Io);
    let last = |decoded: &Decoded| decoded.address.saturating_add(u64::from(decoded.bar.size) - 1);
    same && one.address <= last(other) && other.address <= last(one)
}

/// Whether it would lie over the bridge's own registers.
fn over_bridge(decoded: &Decoded) -> bool {
    let (start, size) = match decoded.bar.space {
        Space::Io => (layout::PCI_CONFIG.into(), 8),
        Space::Memory32 | Space::Memory64 => (layout::ECAM, layout::ECAM_SIZE),
    };
    let last = decoded.address.saturating_add(u64::from(decoded.bar.size) - 1);
    decoded.address < start + size && start <= last
}

/// A write changes nothing of what PCI 3.0 says is read-only (6.1, 6.2).
fn check_fixed(before: &Config, after: &Config) {
    // Identity, class, header type, subsystem, the first capability, the pin.
    let fixed =
        [(0x00, 4), (0x08, 4), (0x0e, 1), (0x2c, 4), (0x34, 1), (0x3d, 1)].map(|(at, size)| {
            let bytes = |config: &Config| config.get::<4>(at)[..size].to_vec();
            (bytes(before), bytes(after))
        });
    assert!(fixed.iter().all(|(before, after)| before == after), "{fixed:x?}");
    let reserved = |config: &Config| u16::from_le_bytes(config.get(COMMAND)) & !0x407;
    assert_eq!(reserved(before), reserved(after), "the command's reserved bits");
    for (number, Bar { size, .. }) in before.bars() {
        let low = |config: &Config| u32::from_le_bytes(config.get(BAR_0 + 4 * number)) & (size - 1);
        assert_eq!(low(before), low(after), "BAR {number} of {size:#x} bytes");
    }
}
