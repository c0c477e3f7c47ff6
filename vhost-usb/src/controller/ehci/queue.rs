//! Queue heads: their transfers, one after the other (EHCI 1.0, 4.10).

use super::data::Pages;
use super::structures::{Pid, QTD_TOKEN, Qh, Qtd, Token, next, token};
use super::{Found, SystemError, status};
use crate::controller::Memory;
use crate::device::Device;
use crate::usb::Answer;
use crate::usb::data::Source;
use crate::usb::setup::Setup;

/// What became of a queue head's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Went {
    /// It has nothing to do, or is halted.
    Idle,
    /// Its device has nothing yet.
    Waits,
    /// Something moved, and more may.
    On,
}

/// What one look at a queue head may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Whatever there is (asynchronous schedule).
    Whole,
    /// So many packets (periodic schedule).
    Packets(u32),
}

/// A queue head's turn; `events` gets the status bits that it gives rise to.
pub(super) fn visit(
    mut qh: Qh,
    turn: Turn,
    memory: &dyn Memory,
    find: &mut Found<'_>,
    events: &mut u32,
) -> Result<Went, SystemError> {
    if qh.overlay.token.is(token::HALTED) {
        return Ok(Went::Idle);
    }
    if !qh.overlay.token.is(token::ACTIVE) && !advance(&mut qh, memory)? {
        return Ok(Went::Idle);
    }
    let before = qh.overlay.token;
    let device = find.device(qh.device());
    let answer = transact(&mut qh, turn, memory, device)?;
    let went = settle(&mut qh, answer, events);
    if went == Went::Waits && qh.overlay.token == before {
        // As the host has left it: the next look finds it again.
        return Ok(went);
    }
    qh.store(memory).ok_or(SystemError)?;
    if !qh.overlay.token.is(token::ACTIVE) {
        let place = qh.current.checked_add(QTD_TOKEN).ok_or(SystemError)?;
        memory.store(place, qh.overlay.token.0).ok_or(SystemError)?;
    }
    Ok(went)
}

/// Takes the next transfer into the overlay (4.10.2). `false`: there is none yet.
fn advance(qh: &mut Qh, memory: &dyn Memory) -> Result<bool, SystemError> {
    if qh.inactivates() {
        return Ok(false);
    }
    let short = qh.overlay.token.bytes() > 0;
    let alternate = next(qh.overlay.alternate).filter(|_| short);
    let Some(address) = alternate.or_else(|| next(qh.overlay.next)) else { return Ok(false) };
    let qtd = Qtd::fetch(memory, address).ok_or(SystemError)?;
    if !qtd.token.is(token::ACTIVE) {
        return Ok(false);
    }
    let toggle = match qh.toggle_from_qtd() {
        true => qtd.token.0 & token::TOGGLE,
        false => qh.overlay.token.0 & token::TOGGLE,
    };
    let word = qtd.token.0 & !(token::TOGGLE | token::PING_STATE | token::SPLIT_STATE) | toggle;
    qh.overlay = Qtd { token: Token(word), ..qtd };
    qh.overlay.alternate = qtd.alternate & !0x1e | qh.nak_reload() << 1;
    qh.current = address;
    Ok(true)
}

/// What a transaction came to, for its descriptor.
enum Outcome {
    /// So many bytes moved; the transfer is over, or not.
    Moved { bytes: u32, over: bool },
    /// Later.
    Nak,
    /// It is halted, for that reason.
    Halted(u32),
}

/// Lets data move between the overlay's pages and the device.
fn transact(
    qh: &mut Qh,
    turn: Turn,
    memory: &dyn Memory,
    device: Option<&mut dyn Device>,
) -> Result<Outcome, SystemError> {
    let wanted = qh.overlay.token.bytes();
    if wanted > qh.overlay.capacity() {
        return Ok(Outcome::Halted(token::DATA_BUFFER_ERROR));
    }
    let Some(pid) = qh.overlay.token.pid() else { return Ok(Outcome::Halted(token::XACT_ERROR)) };
    let Some(device) = device else { return Ok(silent(qh)) };
    if qh.max_packet() == 0 && wanted > 0 {
        // No data fit into such packets.
        return Ok(Outcome::Halted(token::XACT_ERROR));
    }
    let length = match turn {
        Turn::Whole => wanted,
        Turn::Packets(count) => wanted.min(qh.max_packet().saturating_mul(count)),
    };
    let overlay = qh.overlay;
    let mut pages = Pages::new(memory, length, |ahead| overlay.place(ahead));
    let endpoint = qh.endpoint();
    let answer = match pid {
        Pid::In => device.data_in(endpoint, &mut pages),
        Pid::Out => device.data_out(endpoint, &pages),
        Pid::Setup => setup(device, endpoint, &pages),
    };
    if pages.has_failed() {
        return Err(SystemError);
    }
    Ok(match answer {
        Answer::Moved { bytes, short } => {
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(length);
            let over = bytes == wanted || (short && pid == Pid::In);
            Outcome::Moved { bytes, over }
        }
        Answer::Nak => Outcome::Nak,
        Answer::Stall => Outcome::Halted(0),
        Answer::Babble => Outcome::Halted(token::BABBLE),
        Answer::Silent => silent(qh),
    })
}

/// Nobody answers: three times in a row, unless the host wants it to be tried for ever (4.10.3).
fn silent(qh: &mut Qh) -> Outcome {
    if !qh.overlay.token.is(token::ERRORS) {
        return Outcome::Nak;
    }
    qh.overlay.token.0 &= !token::ERRORS;
    Outcome::Halted(token::XACT_ERROR)
}

fn setup(device: &mut dyn Device, endpoint: u8, pages: &dyn Source) -> Answer {
    let mut bytes = [0; 8];
    if pages.len() != bytes.len() || pages.read(0, &mut bytes) != bytes.len() {
        return Answer::Silent;
    }
    device.setup(endpoint, Setup::parse(bytes))
}

/// Puts an outcome into the overlay (4.10.3 and 4.10.4).
fn settle(qh: &mut Qh, outcome: Outcome, events: &mut u32) -> Went {
    let packet = qh.max_packet().max(1);
    let overlay = &mut qh.overlay;
    match outcome {
        Outcome::Nak => return Went::Waits,
        Outcome::Moved { bytes, over } => {
            let packets = bytes.div_ceil(packet).max(1);
            if packets % 2 == 1 {
                overlay.token.0 ^= token::TOGGLE;
            }
            overlay.advance(bytes);
            if !over {
                return if bytes == 0 { Went::Waits } else { Went::On };
            }
            overlay.token.0 &= !token::ACTIVE;
            let is_short = overlay.token.bytes() > 0;
            if overlay.token.is(token::INTERRUPT) || is_short {
                *events |= status::INTERRUPT;
            }
        }
        Outcome::Halted(why) => {
            overlay.token.0 = overlay.token.0 & !token::ACTIVE | token::HALTED | why;
            *events |= status::ERROR_INTERRUPT;
            if overlay.token.is(token::INTERRUPT) {
                *events |= status::INTERRUPT;
            }
        }
    }
    Went::On
}
