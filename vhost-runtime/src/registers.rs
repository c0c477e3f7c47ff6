//! A device that a driver knows by registers, not by virtqueues: PCI functions behind a vhost-user socket.
//!
//! vhost-user has no registers, so this is a protocol of its own on top of it:
//! - The configuration space lists the device's [functions](Function).
//! - Each function has a virtqueue, in order, in memory that the guest does not see. A chain on it is one
//!   [access](Access) to the function's registers: 16 bytes to the device, 4 from it. They are done in the
//!   order of the ring. Nobody is called when one is done: the queue's call event is the function's
//!   interrupt request.
//! - What registers hold now is in the in-flight region, behind the queues' records: [`WORDS`] doublewords
//!   for each function, which the frontend reads without a message once all accesses are done. One
//!   doubleword may change at any time, and is read by an access.
//! - The first page of these is registers alone, so that the frontend can let the guest read it. While it
//!   does, as the doubleword [`WATCHED`] says, the one that changes at any time is kept fresh there.
//! - A process that takes another's place finds there how the registers were.
//!
//! An interrupt request is raised as long as a function's doubleword [`PENDING`] is not 0. The call event
//! is written to whenever there is a new reason for it.

use crate::pci::{self, Bar, Config, Identity};

/// The protocol's version, the first doubleword of the configuration space.
pub const VERSION: u32 = 2;
/// Doublewords of each function in the region.
pub const WORDS: usize = 2048;
/// Bytes of registers that they hold, from the first on: a page. Behind the last register they are 0.
pub const BYTES: usize = 4096;
/// The doubleword that is not 0 while the function requests an interrupt.
pub const PENDING: usize = 1024;
/// The doubleword that is not 0 once the registers are those of a device that has run.
pub const VALID: usize = 1025;
/// The doubleword that the frontend writes: not 0 while the guest reads registers by itself. The one that
/// changes at any time is to be no older than a millisecond then.
pub const WATCHED: usize = 1026;
/// The last function's doubleword from which on is what the device notes for the process that takes its
/// place.
pub const NOTES: usize = 1027;
/// Functions of a device.
pub const MOST_FUNCTIONS: usize = 8;
/// Bytes of an [`Access`].
pub const ACCESS: usize = 16;
/// Bytes of its answer.
pub const ANSWER: usize = 4;

/// Bytes of a function's description, behind 4 bytes of version and 4 of their number.
const DESCRIPTION: usize = 16;

/// What registers are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Memory below 4 GiB.
    Memory,
    /// Ports.
    Io,
}

/// A PCI function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its number in the slot, 0 to 7.
    pub number: u8,
    /// Class, subclass and programming interface.
    pub class: [u8; 3],
    /// Vendor and device.
    pub id: (u16, u16),
    /// Which BAR its registers are behind.
    pub bar: u8,
    /// What they are in.
    pub space: Space,
    /// Bytes of them, a power of two from 16 to 4096.
    pub size: u16,
    /// The offset of the doubleword that is read by an access, if there is one.
    pub live: Option<u16>,
}

/// Serial Bus Release Number (EHCI 1.0, 2.1.4; UHCI 1.1, 2.2.3), and the frame's length behind it, which
/// only EHCI has.
const RELEASE: usize = 0x60;
const USB_2: [u8; 2] = [0x20, 0x20];
const USB_1: [u8; 1] = [0x10];
/// The programming interface of EHCI.
const EHCI: u8 = 0x20;

impl Function {
    /// Its configuration space. Pin and capabilities are up to who presents it.
    #[must_use]
    pub fn config(self) -> Config {
        let mut config =
            Config::new(Identity { id: self.id, class: self.class, ..Identity::default() });
        let space = match self.space {
            Space::Memory => pci::Space::Memory32,
            Space::Io => pci::Space::Io,
        };
        config.add_bar(self.bar.into(), Bar { space, size: self.size.into() });
        match self.class {
            [.., EHCI] => config.set(RELEASE, &USB_2),
            _ => config.set(RELEASE, &USB_1),
        }
        config
    }

    fn bytes(self) -> [u8; DESCRIPTION] {
        let Self { number, class: [class, subclass, interface], id, bar, space, size, live } = self;
        let ([v0, v1], [d0, d1]) = (id.0.to_le_bytes(), id.1.to_le_bytes());
        let [s0, s1] = size.to_le_bytes();
        let [l0, l1] = live.unwrap_or(u16::MAX).to_le_bytes();
        let space = u8::from(space == Space::Io);
        [number, class, subclass, interface, v0, v1, d0, d1, bar, space, s0, s1, l0, l1, 0, 0]
    }

    fn parse(bytes: [u8; DESCRIPTION]) -> Option<Self> {
        let [number, class, subclass, interface, rest @ ..] = bytes;
        let [v0, v1, d0, d1, bar, space, s0, s1, l0, l1, ..] = rest;
        let size = u16::from_le_bytes([s0, s1]);
        let live = u16::from_le_bytes([l0, l1]);
        let valid = number < 8
            && bar < 6
            && size.is_power_of_two()
            && (16..=4096).contains(&size)
            && (live == u16::MAX || live % 4 == 0);
        valid.then_some(Self {
            number,
            class: [class, subclass, interface],
            id: (u16::from_le_bytes([v0, v1]), u16::from_le_bytes([d0, d1])),
            bar,
            space: if space == 0 { Space::Memory } else { Space::Io },
            size,
            live: (live != u16::MAX).then_some(live),
        })
    }
}

/// The configuration space of a device with these functions.
#[must_use]
pub fn config(functions: &[Function]) -> Vec<u8> {
    let count = u32::try_from(functions.len()).unwrap_or(u32::MAX);
    let words = [VERSION, count].into_iter().flat_map(u32::to_le_bytes);
    words.chain(functions.iter().flat_map(|function| function.bytes())).collect()
}

/// Bytes of the longest configuration space.
pub const CONFIG: usize = 8 + MOST_FUNCTIONS * DESCRIPTION;

/// The functions that a configuration space lists. `None`: it is of another protocol, or version.
#[must_use]
pub fn functions(config: &[u8]) -> Option<Vec<Function>> {
    let word = |offset: usize| {
        let bytes = config.get(offset..)?.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*bytes))
    };
    let count = usize::try_from(word(4)?).ok()?;
    if word(0)? != VERSION || !(1..=MOST_FUNCTIONS).contains(&count) {
        return None;
    }
    let (descriptions, _) = config.get(8..)?.as_chunks::<DESCRIPTION>();
    let functions: Option<Vec<_>> =
        descriptions.get(..count)?.iter().map(|bytes| Function::parse(*bytes)).collect();
    let functions = functions?;
    let mut numbers: Vec<u8> = functions.iter().map(|function| function.number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    (numbers.len() == count).then_some(functions)
}

/// What is done to registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// 1, 2 or 4 bytes are read, which do not cross a multiple of 4.
    Read {
        /// Where, in bytes.
        offset: u16,
        /// How many.
        width: u8,
    },
    /// They are written.
    Write {
        /// Where, in bytes.
        offset: u16,
        /// How many.
        width: u8,
        /// What, in its low bytes.
        value: u32,
    },
    /// The function is as at power-on.
    Reset,
}

const READ: u8 = 0;
const WRITE: u8 = 1;
const RESET: u8 = 2;

impl Access {
    /// What a guest does that writes these bytes, doubleword by doubleword. What no register ends at is
    /// none.
    pub fn writes(offset: u16, data: &[u8]) -> impl Iterator<Item = Self> {
        (u32::from(offset)..).step_by(4).zip(data.chunks(4)).filter_map(|(offset, piece)| {
            let (offset, width) = (u16::try_from(offset).ok()?, u8::try_from(piece.len()).ok()?);
            let mut bytes = [0; 4];
            for (to, from) in bytes.iter_mut().zip(piece) {
                *to = *from;
            }
            let access = Self::Write { offset, width, value: u32::from_le_bytes(bytes) };
            Self::parse(access.bytes())
        })
    }

    /// As it is on the ring.
    #[must_use]
    pub fn bytes(self) -> [u8; ACCESS] {
        let (kind, offset, width, value) = match self {
            Self::Read { offset, width } => (READ, offset, width, 0),
            Self::Write { offset, width, value } => (WRITE, offset, width, value),
            Self::Reset => (RESET, 0, 0, 0),
        };
        let ([o0, o1], [b0, b1, b2, b3]) = (offset.to_le_bytes(), value.to_le_bytes());
        [kind, width, o0, o1, b0, b1, b2, b3, 0, 0, 0, 0, 0, 0, 0, 0]
    }

    /// From the ring. `None`: it is none.
    #[must_use]
    pub fn parse(bytes: [u8; ACCESS]) -> Option<Self> {
        let [kind, width, o0, o1, b0, b1, b2, b3, ..] = bytes;
        let offset = u16::from_le_bytes([o0, o1]);
        let fits = matches!(width, 1 | 2 | 4) && (offset % 4).checked_add(width.into())? <= 4;
        match kind {
            READ if fits => Some(Self::Read { offset, width }),
            WRITE if fits => {
                let value = u32::from_le_bytes([b0, b1, b2, b3]);
                Some(Self::Write { offset, width, value })
            }
            RESET => Some(Self::Reset),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EHCI: Function = Function {
        number: 7,
        class: [0x0c, 0x03, 0x20],
        id: (0x8086, 0x293a),
        bar: 0,
        space: Space::Memory,
        size: 0x400,
        live: Some(0x2c),
    };
    const UHCI: Function =
        Function { number: 0, bar: 4, space: Space::Io, size: 32, live: None, ..EHCI };

    #[test]
    fn functions_are_described_and_understood() {
        let config = config(&[UHCI, EHCI]);
        assert_eq!(config.len(), 8 + 32);
        assert_eq!(functions(&config).unwrap(), [UHCI, EHCI]);
        for (place, wrong) in [(0, 1), (4, 0), (4, 3), (8, 7), (8, 8), (16, 6), (19, 1)] {
            let mut config = config.clone();
            config[place] = wrong;
            assert_eq!(functions(&config), None, "byte {place}: {wrong}");
        }
        assert_eq!(functions(&config[..30]), None);
        assert_eq!(functions(&[]), None);
    }

    #[test]
    fn accesses_travel_and_impossible_ones_are_none() {
        for access in [
            Access::Read { offset: 0x24, width: 4 },
            Access::Write { offset: 0x102, width: 2, value: 0xabcd },
            Access::Reset,
        ] {
            assert_eq!(Access::parse(access.bytes()), Some(access));
        }
        for (offset, width) in [(0, 3), (2, 4), (3, 2), (0, 8), (0, 0)] {
            assert_eq!(Access::parse(Access::Read { offset, width }.bytes()), None);
        }
        assert_eq!(Access::parse([9; ACCESS]), None);
    }

    #[test]
    fn a_write_is_one_of_each_doubleword() {
        let write = |offset, width, value| Access::Write { offset, width, value };
        let writes = |offset, data: &[u8]| Access::writes(offset, data).collect::<Vec<_>>();
        assert_eq!(writes(2, &[1, 2]), [write(2, 2, 0x201)]);
        let two = [write(8, 4, 0x0403_0201), write(12, 4, 0x0807_0605)];
        assert_eq!(writes(8, &[1, 2, 3, 4, 5, 6, 7, 8]), two);
        assert_eq!(writes(8, &[1, 2, 3]), []);
        assert_eq!(writes(9, &[1, 2]), [write(9, 2, 0x201)]);
        assert_eq!(writes(u16::MAX, &[1]), [write(u16::MAX, 1, 1)]);
    }

    #[test]
    fn configuration_space_says_what_it_is() {
        let bytes = |function: Function, offset| function.config().get::<4>(offset);
        assert_eq!(bytes(EHCI, 0), [0x86, 0x80, 0x3a, 0x29]);
        assert_eq!(bytes(EHCI, 8), [0, 0x20, 0x03, 0x0c]);
        assert_eq!(bytes(EHCI, 0x60), [0x20, 0x20, 0, 0]);
        let uhci = Function { class: [0x0c, 0x03, 0x00], ..UHCI };
        assert_eq!((bytes(uhci, 0x60), bytes(uhci, 0x20)), ([0x10, 0, 0, 0], [1, 0, 0, 0]));
    }
}
