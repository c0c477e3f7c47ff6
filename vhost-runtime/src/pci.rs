//! A function's configuration space (PCI 3.0, 6).

/// Bytes of it.
pub const SIZE: usize = 256;
/// Base address registers.
pub const BARS: usize = 6;

/// Command (6.2.2).
const COMMAND: usize = 0x04;
const COMMAND_IO: u16 = 1 << 0;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_MASTER: u16 = 1 << 2;
const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// Status (6.2.3).
const STATUS: usize = 0x06;
const STATUS_INTERRUPT: u16 = 1 << 3;
const STATUS_CAPABILITIES: u16 = 1 << 4;
/// Header type (6.2.1).
const HEADER_TYPE: usize = 0x0e;
const MULTIFUNCTION: u8 = 1 << 7;
const BAR_0: usize = 0x10;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;
/// Where capabilities may begin.
const FIRST_CAPABILITY: usize = 0x40;
/// MSI's capability (6.8.1): its id, and of its message control the only bit that can be written, and
/// that addresses have 64 bits.
const MSI: u8 = 0x05;
const MSI_ENABLE: u16 = 1;
const MSI_WIDE: u16 = 1 << 7;

/// What a function says that it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Vendor and device.
    pub id: (u16, u16),
    /// Subsystem vendor and subsystem.
    pub subsystem: (u16, u16),
    /// Class, subclass, programming interface.
    pub class: [u8; 3],
    /// Revision.
    pub revision: u8,
}

/// What a BAR is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Ports.
    Io,
    /// Memory below 4 GiB.
    Memory32,
    /// Memory anywhere; takes the next BAR too.
    Memory64,
}

/// A BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// What it is in.
    pub space: Space,
    /// Bytes: a power of two, at least 16, at most 2 GiB (ports: 256).
    pub size: u32,
}

/// Where a BAR answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// What it is.
    pub bar: Bar,
    /// Its first address.
    pub address: u64,
}

fn bar_register(number: usize) -> usize {
    number.saturating_mul(4).saturating_add(BAR_0)
}

/// A configuration space. It can be written where a mask says so.
#[derive(Clone)]
pub struct Config {
    bytes: [u8; SIZE],
    writable: [u8; SIZE],
    initial: [u8; SIZE],
    bars: [Option<Bar>; BARS],
    /// Where the next capability may begin.
    free: usize,
    /// Where the last capability has its link.
    link: usize,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("bars", &self.bars).finish_non_exhaustive()
    }
}

impl Config {
    /// One with a header of type 0, without BARs and capabilities.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        let mut config = Self {
            bytes: [0; SIZE],
            writable: [0; SIZE],
            initial: [0; SIZE],
            bars: [None; BARS],
            free: FIRST_CAPABILITY,
            link: CAPABILITIES,
        };
        let [class, subclass, interface] = identity.class;
        config.set(0x00, &identity.id.0.to_le_bytes());
        config.set(0x02, &identity.id.1.to_le_bytes());
        config.set(0x08, &[identity.revision, interface, subclass, class]);
        config.set(0x2c, &identity.subsystem.0.to_le_bytes());
        config.set(0x2e, &identity.subsystem.1.to_le_bytes());
        let command = COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER | COMMAND_INTX_DISABLE;
        config.allow(COMMAND, &command.to_le_bytes());
        config.allow(INTERRUPT_LINE, &[0xff]);
        config
    }

    /// Says that its device has other functions (6.2.1, Header Type).
    pub fn set_multifunction(&mut self) {
        self.set(HEADER_TYPE, &[MULTIFUNCTION]);
    }

    /// Has it use a pin, 1 to 4 (INTA# to INTD#), which is wired to that input of the I/O APIC.
    pub fn set_pin(&mut self, pin: u8, input: u8) {
        self.set(INTERRUPT_PIN, &[pin]);
        self.set(INTERRUPT_LINE, &[input]);
    }

    /// Adds a BAR, at no address yet.
    pub fn add_bar(&mut self, number: usize, bar: Bar) {
        let register = bar_register(number);
        let writable = !(bar.size.saturating_sub(1));
        let kind = match bar.space {
            Space::Io => 1,
            Space::Memory32 => 0,
            Space::Memory64 => 0b100,
        };
        self.set(register, &u32::to_le_bytes(kind));
        self.allow(register, &writable.to_le_bytes());
        if bar.space == Space::Memory64 {
            self.allow(register.saturating_add(4), &[0xff; 4]);
        }
        if let Some(place) = self.bars.get_mut(number) {
            *place = Some(bar);
        }
    }

    /// Puts a BAR somewhere, as firmware would, and has the function answer there.
    pub fn place_bar(&mut self, number: usize, address: u64) {
        let Some(Some(bar)) = self.bars.get(number).copied() else { return };
        let register = bar_register(number);
        let [low @ .., b0, b1, b2, b3] = address.to_le_bytes();
        let old: [u8; 4] = self.get(register);
        let low = u32::from_le_bytes(low) | u32::from_le_bytes(old) & 0xf;
        self.set(register, &low.to_le_bytes());
        if bar.space == Space::Memory64 {
            self.set(register.saturating_add(4), &[b0, b1, b2, b3]);
        }
        let enable = if bar.space == Space::Io { COMMAND_IO } else { COMMAND_MEMORY };
        let command = self.command() | enable;
        self.set(COMMAND, &command.to_le_bytes());
    }

    /// Adds a capability: its id, what follows the link to the next, and which bits of that can be
    /// written. Returns its offset; `None`: it has no room.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Option<usize> {
        let offset = self.free;
        let end = offset.checked_add(2)?.checked_add(body.len())?;
        if end > SIZE {
            return None;
        }
        let link = u8::try_from(offset).ok()?;
        self.set(self.link, &[link]);
        self.set(offset, &[id, 0]);
        self.set(offset.saturating_add(2), body);
        self.allow(offset.saturating_add(2), writable);
        let status = u16::from_le_bytes(self.get(STATUS)) | STATUS_CAPABILITIES;
        self.set(STATUS, &status.to_le_bytes());
        self.link = offset.saturating_add(1);
        self.free = end.saturating_add(3) & !3;
        Some(offset)
    }

    /// Adds the capability to interrupt by one message. Returns its offset; `None`: it has no room.
    pub fn add_msi(&mut self) -> Option<usize> {
        let [[c0, c1], [e0, e1]] = [MSI_WIDE, MSI_ENABLE].map(u16::to_le_bytes);
        // Control, address, its upper half, data: addresses are multiples of 4.
        let body = [c0, c1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let all = 0xff;
        let writable = [e0, e1, 0xfc, all, all, all, all, all, all, all, all, all];
        self.add_capability(MSI, &body, &writable)
    }

    /// The guest reads.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        match offset.checked_add(data.len()).and_then(|end| self.bytes.get(offset..end)) {
            Some(bytes) => data.copy_from_slice(bytes),
            None => data.fill(0xff),
        }
    }

    /// The guest writes.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        let places = self.bytes.iter_mut().zip(&self.writable).skip(offset);
        for ((byte, writable), new) in places.zip(data) {
            *byte = *byte & !writable | new & writable;
        }
    }

    /// Sets bytes, whether a guest may or not.
    pub fn set(&mut self, offset: usize, data: &[u8]) {
        for (places, new) in [(&mut self.bytes, data), (&mut self.initial, data)] {
            for (byte, new) in places.iter_mut().skip(offset).zip(new) {
                *byte = *new;
            }
        }
    }

    /// Lets a guest write these bits.
    pub fn allow(&mut self, offset: usize, bits: &[u8]) {
        for (byte, new) in self.writable.iter_mut().skip(offset).zip(bits) {
            *byte = *new;
        }
    }

    /// Bytes of it; zeroes behind its end.
    #[must_use]
    pub fn get<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut bytes = [0; N];
        for (byte, value) in bytes.iter_mut().zip(self.bytes.iter().skip(offset)) {
            *byte = *value;
        }
        bytes
    }

    fn command(&self) -> u16 {
        u16::from_le_bytes(self.get(COMMAND))
    }

    /// Whether INTx is switched off (6.2.2, bit 10).
    #[must_use]
    pub fn intx_disabled(&self) -> bool {
        self.command() & COMMAND_INTX_DISABLE != 0
    }

    /// Shows whether the function wants an interrupt by its pin (6.2.3, bit 3).
    pub fn set_interrupt_status(&mut self, pending: bool) {
        let status = u16::from_le_bytes(self.get(STATUS)) & !STATUS_INTERRUPT;
        let status = if pending { status | STATUS_INTERRUPT } else { status };
        for (byte, new) in self.bytes.iter_mut().skip(STATUS).zip(status.to_le_bytes()) {
            *byte = new;
        }
    }

    /// The BARs that it has, by number.
    pub fn bars(&self) -> impl Iterator<Item = (usize, Bar)> + '_ {
        self.bars.iter().enumerate().filter_map(|(number, bar)| Some((number, (*bar)?)))
    }

    /// Where a BAR answers, if anywhere.
    #[must_use]
    pub fn decoded(&self, number: usize) -> Option<Decoded> {
        let bar = (*self.bars.get(number)?)?;
        let enable = if bar.space == Space::Io { COMMAND_IO } else { COMMAND_MEMORY };
        if self.command() & enable == 0 {
            return None;
        }
        let register = bar_register(number);
        let low = u32::from_le_bytes(self.get(register)) & !(bar.size.saturating_sub(1));
        let high: u32 = match bar.space {
            Space::Memory64 => u32::from_le_bytes(self.get(register.saturating_add(4))),
            Space::Io | Space::Memory32 => 0,
        };
        let address = u64::from(high) << 32 | u64::from(low);
        // Zero means that nobody gave it an address.
        (address != 0).then_some(Decoded { bar, address })
    }

    /// Is as firmware left it.
    pub fn reset(&mut self) {
        self.bytes = self.initial;
    }
}
