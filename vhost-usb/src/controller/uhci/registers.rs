//! The registers' places and bits (UHCI 1.1, 2.1), and how accesses of any width meet them.

/// Registers, by their offsets in bytes.
pub mod register {
    /// USBCMD, 2 bytes.
    pub const COMMAND: u32 = 0x00;
    /// USBSTS, 2 bytes.
    pub const STATUS: u32 = 0x02;
    /// USBINTR, 2 bytes.
    pub const INTERRUPT: u32 = 0x04;
    /// FRNUM, 2 bytes.
    pub const FRAME_NUMBER: u32 = 0x06;
    /// FRBASEADD, 4 bytes.
    pub const FRAME_LIST: u32 = 0x08;
    /// SOFMOD, 1 byte.
    pub const SOF_MODIFY: u32 = 0x0c;
    /// PORTSC1, 2 bytes.
    pub const PORT_1: u32 = 0x10;
    /// PORTSC2, 2 bytes.
    pub const PORT_2: u32 = 0x12;
    /// Bytes of all of them.
    pub const SIZE: u32 = 0x20;
}

/// Where registers are, and how many bytes each has.
pub(super) const LAYOUT: [(u32, usize); 8] = [
    (register::COMMAND, 2),
    (register::STATUS, 2),
    (register::INTERRUPT, 2),
    (register::FRAME_NUMBER, 2),
    (register::FRAME_LIST, 4),
    (register::SOF_MODIFY, 1),
    (register::PORT_1, 2),
    (register::PORT_2, 2),
];

/// Bits of USBCMD (2.1.1).
pub(super) mod command {
    pub(in crate::controller::uhci) const RUN: u16 = 1;
    pub(in crate::controller::uhci) const RESET: u16 = 1 << 1;
    pub(in crate::controller::uhci) const GLOBAL_RESET: u16 = 1 << 2;
    pub(in crate::controller::uhci) const GLOBAL_SUSPEND: u16 = 1 << 3;
    pub(in crate::controller::uhci) const GLOBAL_RESUME: u16 = 1 << 4;
    /// What a driver may set. Nothing comes of SWDBG, CF and MAXP: nobody debugs, and a frame's time is
    /// not measured out.
    pub(in crate::controller::uhci) const WRITABLE: u16 = 0xff & !(RESET | GLOBAL_RESET);
}

/// Bits of USBSTS (2.1.2).
pub(super) mod status {
    pub(in crate::controller::uhci) const INTERRUPT: u16 = 1;
    pub(in crate::controller::uhci) const ERROR_INTERRUPT: u16 = 1 << 1;
    pub(in crate::controller::uhci) const RESUME: u16 = 1 << 2;
    pub(in crate::controller::uhci) const SYSTEM_ERROR: u16 = 1 << 3;
    pub(in crate::controller::uhci) const PROCESS_ERROR: u16 = 1 << 4;
    pub(in crate::controller::uhci) const HALTED: u16 = 1 << 5;
    /// What is cleared by writing ones. HCHalted shows what is so.
    pub(in crate::controller::uhci) const EVENTS: u16 = 0x1f;
}

/// Bits of USBINTR (2.1.3).
pub(super) mod enable {
    pub(in crate::controller::uhci) const ERROR: u16 = 1;
    pub(in crate::controller::uhci) const RESUME: u16 = 1 << 1;
    pub(in crate::controller::uhci) const COMPLETE: u16 = 1 << 2;
    pub(in crate::controller::uhci) const SHORT: u16 = 1 << 3;
    pub(in crate::controller::uhci) const ALL: u16 = 0xf;
}

/// Copies bytes of registers, from an offset on; where there are none, zeroes.
pub(super) fn read(image: &[u8], offset: u32, to: &mut [u8]) {
    let from = usize::try_from(offset).ok().and_then(|offset| image.get(offset..));
    let from = from.unwrap_or_default().iter().copied().chain(std::iter::repeat(0));
    to.iter_mut().zip(from).for_each(|(to, from)| *to = from);
}

/// What a register is to be after bytes were written at an offset, if it is written at all; `before` is
/// what its other bytes are written with.
pub(super) fn merge(
    (place, size): (u32, usize),
    before: u32,
    offset: u32,
    from: &[u8],
) -> Option<u32> {
    let mut bytes = before.to_le_bytes();
    let mut met = false;
    for (number, byte) in (place..).zip(bytes.iter_mut().take(size)) {
        let ahead = number.checked_sub(offset).and_then(|ahead| usize::try_from(ahead).ok());
        if let Some(from) = ahead.and_then(|ahead| from.get(ahead)) {
            (*byte, met) = (*from, true);
        }
    }
    met.then(|| u32::from_le_bytes(bytes))
}
