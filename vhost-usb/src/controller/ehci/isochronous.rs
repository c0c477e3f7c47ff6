//! What is done at fixed times: isochronous transfers, at high speed (EHCI 1.0, 3.3 and 4.7), and through a
//! hub's transaction translator (3.4 and 4.12.3).

use super::data::Pages;
use super::structures::{PAGE, read_words};
use super::{Found, SystemError, status};
use crate::controller::Memory;
use crate::usb::Answer;

/// A transaction's bits (table 3-3).
const ACTIVE: u32 = 1 << 31;
const BUFFER_ERROR: u32 = 1 << 30;
const BABBLE: u32 = 1 << 29;
const ERROR: u32 = 1 << 28;
const INTERRUPT: u32 = 1 << 15;

/// A packet's data, in two pages at most: where they begin, and the page where they go on.
struct Piece {
    first: u32,
    second: u32,
    length: u32,
}

impl Piece {
    /// The address of a byte, and how many follow it in its page.
    fn place(&self, offset: u32) -> (u32, u32) {
        let within = (self.first % PAGE).saturating_add(offset);
        let base = if within < PAGE { self.first } else { self.second } & !(PAGE - 1);
        let within = within % PAGE;
        (base | within, PAGE.saturating_sub(within))
    }
}

/// A transfer: whom it is for, and which way.
struct Wanted {
    device: u8,
    endpoint: u8,
    is_in: bool,
}

/// Moves a packet's data; `Err`: they are not in memory.
fn transact(
    wanted: &Wanted,
    piece: &Piece,
    memory: &dyn Memory,
    find: &mut Found<'_>,
) -> Result<Answer, SystemError> {
    let Some(device) = find.device(wanted.device) else { return Ok(Answer::Silent) };
    let mut pages = Pages::new(memory, piece.length, |ahead| Some(piece.place(ahead)));
    let answer = match wanted.is_in {
        true => device.data_in(wanted.endpoint, &mut pages),
        false => device.data_out(wanted.endpoint, &pages),
    };
    if pages.has_failed() { Err(SystemError) } else { Ok(answer) }
}

/// The 8 transactions of a descriptor, in this frame (4.7.1).
pub(super) fn visit_itd(
    address: u32,
    memory: &dyn Memory,
    find: &mut Found<'_>,
    events: &mut u32,
) -> Result<bool, SystemError> {
    let words: [u32; 16] = read_words(memory, address).ok_or(SystemError)?;
    let [_, transactions @ .., b0, b1, b2, b3, b4, b5, b6] = words;
    let buffers = [b0, b1, b2, b3, b4, b5, b6];
    let wanted = Wanted {
        device: (b0 & 0x7f) as u8,
        endpoint: (b0 >> 8 & 0xf) as u8,
        is_in: b1 & 1 << 11 != 0,
    };
    let packet = (b1 & 0x7ff).saturating_mul((b2 & 3).max(1));
    let mut moved = false;
    let mut place = address;
    for word in transactions {
        place = place.checked_add(4).ok_or(SystemError)?;
        if word & ACTIVE == 0 {
            continue;
        }
        moved = true;
        let length = (word >> 16 & 0xfff).min(packet);
        let page = word >> 12 & 7;
        let buffer = |page: u32| usize::try_from(page).ok().and_then(|page| buffers.get(page));
        let Some(first) = buffer(page) else {
            memory.store(place, word & !ACTIVE | BUFFER_ERROR).ok_or(SystemError)?;
            continue;
        };
        let second = buffer(page.saturating_add(1)).copied().unwrap_or(*first);
        let first = first & !(PAGE - 1) | word & (PAGE - 1);
        let piece = Piece { first, second, length };
        let (bits, bytes) = match transact(&wanted, &piece, memory, find)? {
            Answer::Moved { bytes, .. } => (0, u32::try_from(bytes).unwrap_or(0).min(length)),
            // A device that has nothing sends an empty packet: there are no handshakes.
            Answer::Nak => (0, if wanted.is_in { 0 } else { length }),
            Answer::Babble => (BABBLE, 0),
            Answer::Stall | Answer::Silent => (ERROR, 0),
        };
        let mut done = word & !ACTIVE | bits;
        if wanted.is_in {
            done = done & !(0xfff << 16) | bytes << 16;
        }
        memory.store(place, done).ok_or(SystemError)?;
        if bits != 0 {
            *events |= status::ERROR_INTERRUPT;
        }
        if word & INTERRUPT != 0 {
            *events |= status::INTERRUPT;
        }
    }
    Ok(moved)
}

/// Bits of a split transaction's status (table 3-11).
mod split {
    pub(super) const ACTIVE: u32 = 1 << 7;
    pub(super) const ERROR: u32 = 1 << 6;
    pub(super) const BUFFER_ERROR: u32 = 1 << 5;
    pub(super) const BABBLE: u32 = 1 << 4;
    pub(super) const PAGE_SELECT: u32 = 1 << 30;
    pub(super) const INTERRUPT: u32 = 1 << 31;
}

/// A transaction through a hub, start and completion at once: the translator is in the hub's model
/// (4.12.3).
pub(super) fn visit_sitd(
    address: u32,
    memory: &dyn Memory,
    find: &mut Found<'_>,
    events: &mut u32,
) -> Result<bool, SystemError> {
    let words: [u32; 7] = read_words(memory, address).ok_or(SystemError)?;
    let [_, characteristics, _, state, first, second, _] = words;
    if state & split::ACTIVE == 0 {
        return Ok(false);
    }
    let wanted = Wanted {
        device: (characteristics & 0x7f) as u8,
        endpoint: (characteristics >> 8 & 0xf) as u8,
        is_in: characteristics & 1 << 31 != 0,
    };
    let length = state >> 16 & 0x3ff;
    let in_second = state & split::PAGE_SELECT != 0;
    let offset = first & (PAGE - 1);
    let base = if in_second { second } else { first } & !(PAGE - 1);
    let room = PAGE.saturating_sub(offset).saturating_add(if in_second { 0 } else { PAGE });
    let (bits, bytes) = if length > room {
        (split::ERROR | split::BUFFER_ERROR, 0)
    } else {
        let piece = Piece { first: base | offset, second, length };
        match transact(&wanted, &piece, memory, find)? {
            Answer::Moved { bytes, .. } => (0, u32::try_from(bytes).unwrap_or(0).min(length)),
            Answer::Nak => (0, if wanted.is_in { 0 } else { length }),
            Answer::Babble => (split::BABBLE, 0),
            Answer::Stall | Answer::Silent => (split::ERROR, 0),
        }
    };
    // Total Bytes To Transfer counts down.
    let left = length.saturating_sub(bytes);
    let done = state & !(split::ACTIVE | 0x3ff << 16) | left << 16 | bits;
    let place = address.checked_add(12).ok_or(SystemError)?;
    memory.store(place, done).ok_or(SystemError)?;
    if bits != 0 {
        *events |= status::ERROR_INTERRUPT;
    }
    if state & split::INTERRUPT != 0 {
        *events |= status::INTERRUPT;
    }
    Ok(true)
}
