//! Structures in the host's memory (EHCI 1.0, 3): links, queue heads and transfer descriptors.

use crate::controller::Memory;

/// A field of a doubleword: its lowest bit, and its bits when they are there.
const fn field(word: u32, low: u32, mask: u32) -> u32 {
    word >> low & mask
}

/// What a link pointer leads to (tables 3-4 and 3-6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// The end.
    End,
    /// An isochronous transfer descriptor.
    Itd(u32),
    /// A queue head.
    Qh(u32),
    /// A split-transaction isochronous transfer descriptor.
    Sitd(u32),
    /// A periodic frame span traversal node.
    Fstn(u32),
}

impl Link {
    pub(super) const fn parse(word: u32) -> Self {
        let address = word & !0x1f;
        match word & 7 {
            typ if typ & 1 != 0 => Self::End,
            0 => Self::Itd(address),
            2 => Self::Qh(address),
            4 => Self::Sitd(address),
            _ => Self::Fstn(address),
        }
    }
}

/// A pointer to a transfer descriptor (tables 3-13 and 3-14); `None`: it is not valid.
pub(super) const fn next(word: u32) -> Option<u32> {
    if word & 1 != 0 { None } else { Some(word & !0x1f) }
}

/// The bits of a token (table 3-16).
pub(super) mod token {
    pub(in crate::controller::ehci) const ACTIVE: u32 = 1 << 7;
    pub(in crate::controller::ehci) const HALTED: u32 = 1 << 6;
    pub(in crate::controller::ehci) const DATA_BUFFER_ERROR: u32 = 1 << 5;
    pub(in crate::controller::ehci) const BABBLE: u32 = 1 << 4;
    pub(in crate::controller::ehci) const XACT_ERROR: u32 = 1 << 3;
    pub(in crate::controller::ehci) const SPLIT_STATE: u32 = 1 << 1;
    pub(in crate::controller::ehci) const PING_STATE: u32 = 1;
    pub(in crate::controller::ehci) const ERRORS: u32 = 3 << 10;
    pub(in crate::controller::ehci) const PAGE: u32 = 7 << 12;
    pub(in crate::controller::ehci) const INTERRUPT: u32 = 1 << 15;
    pub(in crate::controller::ehci) const BYTES: u32 = 0x7fff << 16;
    pub(in crate::controller::ehci) const TOGGLE: u32 = 1 << 31;
}

/// What a token tells to do (table 3-16, PID Code).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pid {
    Out,
    In,
    Setup,
}

/// A transfer's token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Token(pub(super) u32);

impl Token {
    pub(super) const fn is(self, bits: u32) -> bool {
        self.0 & bits != 0
    }

    pub(super) const fn pid(self) -> Option<Pid> {
        match field(self.0, 8, 3) {
            0 => Some(Pid::Out),
            1 => Some(Pid::In),
            2 => Some(Pid::Setup),
            _ => None,
        }
    }

    pub(super) const fn page(self) -> u32 {
        field(self.0, 12, 7)
    }

    pub(super) const fn bytes(self) -> u32 {
        field(self.0, 16, 0x7fff)
    }

    /// With a page and a number of bytes that fit their fields.
    pub(super) const fn with(self, page: u32, bytes: u32) -> Self {
        let rest = self.0 & !(token::PAGE | token::BYTES);
        Self(rest | (page << 12 & token::PAGE) | (bytes << 16 & token::BYTES))
    }
}

/// Doublewords of a transfer descriptor (3.5), and of a queue head's overlay.
pub(super) const QTD_WORDS: usize = 8;
/// Bytes of a page that a buffer pointer points into.
pub(super) const PAGE: u32 = 4096;

/// A transfer descriptor: as it is in memory, or in a queue head's overlay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Qtd {
    pub(super) next: u32,
    pub(super) alternate: u32,
    pub(super) token: Token,
    pub(super) buffers: [u32; 5],
}

/// Where a descriptor has its token.
pub(super) const QTD_TOKEN: u32 = 8;

impl Qtd {
    const fn of([next, alternate, token, b0, b1, b2, b3, b4]: [u32; QTD_WORDS]) -> Self {
        Self { next, alternate, token: Token(token), buffers: [b0, b1, b2, b3, b4] }
    }

    /// Reads one; its token first, since the driver writes that last.
    pub(super) fn fetch(memory: &dyn Memory, address: u32) -> Option<Self> {
        let first = memory.load(address.checked_add(QTD_TOKEN)?)?;
        let mut words: [u32; QTD_WORDS] = read_words(memory, address)?;
        let [_, _, token, ..] = &mut words;
        *token = first;
        Some(Self::of(words))
    }

    /// Bytes that its pages have room for, from where it is.
    pub(super) fn capacity(&self) -> u32 {
        let offset = self.buffers[0] % PAGE;
        let pages = 5u32.saturating_sub(self.token.page());
        pages.saturating_mul(PAGE).saturating_sub(offset)
    }

    /// Where the byte is that is so many bytes further on, and how many follow it in its page.
    pub(super) fn place(&self, ahead: u32) -> Option<(u32, u32)> {
        let offset = (self.buffers[0] % PAGE).checked_add(ahead)?;
        let page = self.token.page().checked_add(offset / PAGE)?;
        let base = self.buffers.get(usize::try_from(page).ok()?)? & !(PAGE - 1);
        let within = offset % PAGE;
        Some((base | within, PAGE.saturating_sub(within)))
    }

    /// So many of its bytes have moved.
    pub(super) fn advance(&mut self, bytes: u32) {
        let offset = (self.buffers[0] % PAGE).saturating_add(bytes);
        let page = self.token.page().saturating_add(offset / PAGE);
        self.buffers[0] = self.buffers[0] & !(PAGE - 1) | (offset % PAGE);
        self.token = self.token.with(page.min(7), self.token.bytes().saturating_sub(bytes));
    }
}

/// How fast a queue head's endpoint is (table 3-19, EPS); 3 is reserved.
pub(super) const EPS_HIGH: u32 = 2;

/// A queue head (3.6). The first three words are the driver's alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Qh {
    pub(super) address: u32,
    pub(super) link: u32,
    characteristics: u32,
    capabilities: u32,
    pub(super) current: u32,
    pub(super) overlay: Qtd,
}

/// Where a queue head has its current pointer, and behind it its overlay.
const QH_CURRENT: u32 = 12;

impl Qh {
    pub(super) fn fetch(memory: &dyn Memory, address: u32) -> Option<Self> {
        let words: [u32; 12] = read_words(memory, address)?;
        let [link, characteristics, capabilities, current, overlay @ ..] = words;
        let current = current & !0x1f;
        let overlay = Qtd::of(overlay);
        Some(Self { address, link, characteristics, capabilities, current, overlay })
    }

    /// Writes back what is the controller's; the token last.
    pub(super) fn store(&self, memory: &dyn Memory) -> Option<()> {
        let Qtd { next, alternate, token, buffers } = self.overlay;
        let mut place = self.address.checked_add(QH_CURRENT)?;
        let token_place = place.checked_add(12)?;
        for word in [self.current, next, alternate, token.0].into_iter().chain(buffers) {
            if place != token_place {
                memory.store(place, word)?;
            }
            place = place.checked_add(4)?;
        }
        memory.store(token_place, token.0)
    }

    pub(super) const fn device(&self) -> u8 {
        (self.characteristics & 0x7f) as u8
    }

    pub(super) const fn endpoint(&self) -> u8 {
        (self.characteristics >> 8 & 0xf) as u8
    }

    pub(super) const fn is_high_speed(&self) -> bool {
        field(self.characteristics, 12, 3) == EPS_HIGH
    }

    /// Inactivate on next transaction (table 3-19, I).
    pub(super) const fn inactivates(&self) -> bool {
        self.characteristics & 1 << 7 != 0
    }

    /// Transfer descriptors have the data toggle (DTC); else the queue head has.
    pub(super) const fn toggle_from_qtd(&self) -> bool {
        self.characteristics & 1 << 14 != 0
    }

    pub(super) const fn max_packet(&self) -> u32 {
        field(self.characteristics, 16, 0x7ff)
    }

    /// The reload value of the NAK counter.
    pub(super) const fn nak_reload(&self) -> u32 {
        field(self.characteristics, 28, 0xf)
    }

    /// In which microframes an interrupt endpoint is asked (S-mask); 0: it is not periodic.
    pub(super) const fn start_mask(&self) -> u8 {
        (self.capabilities & 0xff) as u8
    }

    /// Transactions in a microframe, at least 1: some drivers leave 0.
    pub(super) const fn multiplier(&self) -> u32 {
        match field(self.capabilities, 30, 3) {
            0 => 1,
            count => count,
        }
    }
}

/// Reads doublewords.
pub(super) fn read_words<const N: usize>(memory: &dyn Memory, address: u32) -> Option<[u32; N]> {
    let mut words = [0; N];
    let mut bytes = [0; 64];
    let bytes = bytes.get_mut(..N.checked_mul(4)?)?;
    memory.read(address, bytes)?;
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_le_bytes(bytes.try_into().ok()?);
    }
    Some(words)
}
