//! A transfer descriptor's transaction (UHCI 1.1, 3.2.2 and 3.4.2.3).
//!
//! No packet is lost on its way here, so nobody looks at the data toggle, which is the descriptor's.

use super::data::Packet;
use super::found::Found;
use super::structures::{Pid, Td, control};
use super::{Events, Fault};
use crate::controller::Memory;
use crate::device::Device;
use crate::usb::Answer;
use crate::usb::data::Source;
use crate::usb::setup::Setup;

/// What was wrong with a try, and is not with the next.
const FAULTS: u32 = control::STALLED | control::BABBLE | control::NAK | control::TIMEOUT;

/// What became of a transfer descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Went {
    /// It is not active.
    Inactive,
    /// Its device has nothing yet.
    Waits,
    /// It is done, and its queue goes on.
    Done,
    /// It is done, and its queue does not go on: the packet was short, or something is wrong.
    Stopped,
}

/// Does what an active descriptor tells.
pub(super) fn execute(
    mut td: Td,
    in_queue: bool,
    memory: &dyn Memory,
    find: &mut Found<'_>,
    events: &mut Events,
) -> Result<Went, Fault> {
    if !td.is(control::ACTIVE) {
        return Ok(Went::Inactive);
    }
    // A packet that can't be is a failed check of consistency (2.1.2, Host Controller Process Error).
    let (Some(pid), Some(length)) = (td.pid(), td.length()) else { return Err(Fault::Process) };
    let before = td.control;
    let answer = transact(&td, pid, length, memory, find)?;
    let went = match td.is(control::ISOCHRONOUS) {
        true => settle_isochronous(&mut td, pid, length, answer),
        false => settle(&mut td, pid, length, answer, in_queue, events),
    };
    if td.control != before {
        td.store(memory).ok_or(Fault::System)?;
    }
    if !td.is(control::ACTIVE) {
        events.error |= td.is(control::STALLED | control::BABBLE | control::TIMEOUT);
        events.complete |= td.is(control::COMPLETE);
    }
    Ok(went)
}

/// Moves a packet's data.
fn transact(
    td: &Td,
    pid: Pid,
    length: u32,
    memory: &dyn Memory,
    find: &mut Found<'_>,
) -> Result<Answer, Fault> {
    let Some(device) = find.device(td.device()) else { return Ok(Answer::Silent) };
    let mut packet = Packet::new(memory, td.buffer, length);
    let answer = match pid {
        Pid::Setup => setup(device, td.endpoint(), &packet),
        Pid::In | Pid::Out => move_data(device, td.endpoint(), pid, &mut packet),
    };
    if packet.has_failed() { Err(Fault::System) } else { Ok(answer) }
}

/// Asks until the packet is whole: a device may move what it has in pieces that are none of the bus's.
fn move_data(device: &mut dyn Device, endpoint: u8, pid: Pid, packet: &mut Packet<'_>) -> Answer {
    loop {
        let before = packet.moved();
        let answer = match pid {
            Pid::In => device.data_in(endpoint, packet),
            Pid::Out | Pid::Setup => {
                let answer = device.data_out(endpoint, packet);
                if let Answer::Moved { bytes, .. } = answer {
                    packet.advance(bytes);
                }
                answer
            }
        };
        let moved = usize::try_from(packet.moved()).unwrap_or(0);
        match answer {
            Answer::Moved { short, .. } => {
                let over = short || packet.moved() == before || Source::is_empty(packet);
                if over {
                    return Answer::Moved { bytes: moved, short };
                }
            }
            // What has moved before is what there was.
            Answer::Nak if moved > 0 => return Answer::Moved { bytes: moved, short: true },
            other => return other,
        }
    }
}

fn setup(device: &mut dyn Device, endpoint: u8, packet: &Packet<'_>) -> Answer {
    let mut bytes = [0; 8];
    if packet.len() != bytes.len() || packet.read(0, &mut bytes) != bytes.len() {
        return Answer::Silent;
    }
    device.setup(endpoint, Setup::parse(bytes))
}

/// Ends a descriptor for a reason that halts its endpoint.
fn stop(td: &mut Td, why: u32) -> Went {
    td.control = td.control & !control::ACTIVE | control::STALLED | why;
    td.set_actual_length(0);
    Went::Stopped
}

/// Puts an answer into the descriptor's status.
fn settle(
    td: &mut Td,
    pid: Pid,
    length: u32,
    answer: Answer,
    in_queue: bool,
    events: &mut Events,
) -> Went {
    match answer {
        Answer::Nak => {
            td.control |= control::NAK;
            Went::Waits
        }
        Answer::Moved { bytes, .. } => {
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(length);
            td.control &= !(control::ACTIVE | FAULTS);
            td.set_actual_length(bytes);
            // Only of input, and only in a queue, does anybody want to know (3.2.2, SPD).
            let is_short = pid == Pid::In && bytes < length;
            if is_short && in_queue && td.is(control::SHORT_DETECT) {
                events.short = true;
                return Went::Stopped;
            }
            Went::Done
        }
        Answer::Stall => stop(td, 0),
        Answer::Babble => stop(td, control::BABBLE),
        // Without a count it is tried for ever (3.2.2, C_ERR); with one, all tries are made at once.
        Answer::Silent if !td.is(control::ERRORS) => {
            td.control |= control::TIMEOUT;
            Went::Waits
        }
        Answer::Silent => {
            td.control &= !control::ERRORS;
            stop(td, control::TIMEOUT)
        }
    }
}

/// There are no handshakes, and each frame has one try (3.2.2, IOS).
fn settle_isochronous(td: &mut Td, pid: Pid, length: u32, answer: Answer) -> Went {
    let (bits, bytes) = match answer {
        Answer::Moved { bytes, .. } => (0, u32::try_from(bytes).unwrap_or(u32::MAX).min(length)),
        // A device that has nothing sends an empty packet; what it does not take is lost.
        Answer::Nak => (0, if pid == Pid::In { 0 } else { length }),
        Answer::Babble => (control::BABBLE | control::STALLED, 0),
        Answer::Stall | Answer::Silent => (control::TIMEOUT, 0),
    };
    td.control = td.control & !(control::ACTIVE | FAULTS) | bits;
    td.set_actual_length(bytes);
    Went::Done
}
