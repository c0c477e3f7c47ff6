//! Structures in the host's memory (UHCI 1.1, 3): links, transfer descriptors and queue heads.

use crate::controller::Memory;

/// In a transfer descriptor's link: its queue goes on at once (3.2.1, Vf).
pub(super) const DEPTH_FIRST: u32 = 1 << 2;

/// What a link leads to (3.1, 3.2.1 and 3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// The end.
    End,
    /// A transfer descriptor.
    Td(u32),
    /// A queue head.
    Qh(u32),
}

impl Link {
    pub(super) const fn parse(word: u32) -> Self {
        let address = word & !0xf;
        match word & 3 {
            0 => Self::Td(address),
            2 => Self::Qh(address),
            _ => Self::End,
        }
    }
}

/// Where a structure has its link. Structures begin at multiples of 16: words of one never are beyond
/// the end of what can be addressed.
pub(super) const fn link_of(address: u32) -> u32 {
    address & !0xf
}

/// Where a queue head has its element pointer (3.3.2).
pub(super) const fn element_of(qh: u32) -> u32 {
    qh & !0xf | 4
}

/// Bits of a transfer descriptor's control and status (3.2.2).
pub(super) mod control {
    pub(in crate::controller::uhci) const ACTUAL_LENGTH: u32 = 0x7ff;
    pub(in crate::controller::uhci) const TIMEOUT: u32 = 1 << 18;
    pub(in crate::controller::uhci) const NAK: u32 = 1 << 19;
    pub(in crate::controller::uhci) const BABBLE: u32 = 1 << 20;
    pub(in crate::controller::uhci) const STALLED: u32 = 1 << 22;
    pub(in crate::controller::uhci) const ACTIVE: u32 = 1 << 23;
    pub(in crate::controller::uhci) const COMPLETE: u32 = 1 << 24;
    pub(in crate::controller::uhci) const ISOCHRONOUS: u32 = 1 << 25;
    pub(in crate::controller::uhci) const ERRORS: u32 = 3 << 27;
    pub(in crate::controller::uhci) const SHORT_DETECT: u32 = 1 << 29;
}

/// What a token tells to do (3.2.3, PID).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pid {
    Out,
    In,
    Setup,
}

/// The largest packet that a descriptor may have (3.2.3, MaxLen).
const MOST: u32 = 1280;

/// A transfer descriptor: one packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Td {
    pub(super) address: u32,
    pub(super) link: u32,
    pub(super) control: u32,
    pub(super) token: u32,
    pub(super) buffer: u32,
}

impl Td {
    /// Reads one; its control word first, since the driver writes that last.
    pub(super) fn fetch(memory: &dyn Memory, address: u32) -> Option<Self> {
        let address = address & !0xf;
        let control = memory.load(address | 4)?;
        let [link, _, token, buffer] = read_words(memory, address)?;
        Some(Self { address, link, control, token, buffer })
    }

    /// Writes what is the controller's: the control word.
    pub(super) fn store(&self, memory: &dyn Memory) -> Option<()> {
        memory.store(self.address | 4, self.control)
    }

    pub(super) const fn is(&self, bits: u32) -> bool {
        self.control & bits != 0
    }

    /// `None`: there is no such packet.
    pub(super) const fn pid(&self) -> Option<Pid> {
        match self.token & 0xff {
            0xe1 => Some(Pid::Out),
            0x69 => Some(Pid::In),
            0x2d => Some(Pid::Setup),
            _ => None,
        }
    }

    pub(super) const fn device(&self) -> u8 {
        (self.token >> 8 & 0x7f) as u8
    }

    pub(super) const fn endpoint(&self) -> u8 {
        (self.token >> 15 & 0xf) as u8
    }

    /// Bytes of its packet, at most: one more than the field has, and none for the largest. `None`: no
    /// packet has so many.
    pub(super) fn length(&self) -> Option<u32> {
        let length = (self.token >> 21).wrapping_add(1) & 0x7ff;
        (length <= MOST).then_some(length)
    }

    /// So many bytes have moved; coded alike.
    pub(super) const fn set_actual_length(&mut self, bytes: u32) {
        self.control &= !control::ACTUAL_LENGTH;
        self.control |= bytes.wrapping_sub(1) & control::ACTUAL_LENGTH;
    }
}

/// Reads doublewords.
fn read_words<const N: usize>(memory: &dyn Memory, address: u32) -> Option<[u32; N]> {
    let mut words = [0; N];
    let mut bytes = [0; 16];
    let bytes = bytes.get_mut(..N.checked_mul(4)?)?;
    memory.read(address, bytes)?;
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_le_bytes(bytes.try_into().ok()?);
    }
    Some(words)
}

/// Elements of the frame list (3.1).
pub(super) const FRAMES: usize = 1024;
/// Bytes of it.
const LIST_BYTES: usize = 4 * FRAMES;

/// The frame list: 1024 links at a multiple of 4096.
#[derive(Clone, Copy, Debug)]
pub(super) struct List(pub(super) u32);

impl List {
    /// What a frame begins with.
    pub(super) fn element(self, frame: u64, memory: &dyn Memory) -> Option<Link> {
        let number = u32::try_from(frame % 1024).ok()?;
        memory.load(self.0 & !0xfff | number << 2).map(Link::parse)
    }

    /// What all frames begin with.
    pub(super) fn elements(self, memory: &dyn Memory) -> Option<Vec<Link>> {
        let mut bytes = vec![0; LIST_BYTES];
        memory.read(self.0 & !0xfff, &mut bytes)?;
        let words = bytes.chunks_exact(4).filter_map(|word| word.try_into().ok());
        Some(words.map(|word| Link::parse(u32::from_le_bytes(word))).collect())
    }
}
