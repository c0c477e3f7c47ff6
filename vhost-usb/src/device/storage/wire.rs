//! Wrappers of commands and of their status (Mass Storage Bulk-Only Transport 1.0, 5).

use crate::usb::Direction;

/// Bytes of a command block wrapper.
pub(super) const COMMAND: usize = 31;
const COMMAND_SIGNATURE: u32 = 0x4342_5355;
const STATUS_SIGNATURE: u32 = 0x5342_5355;

/// A command (5.1), valid and meaningful (6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) tag: u32,
    /// Bytes that the host sends, or has room for.
    pub(super) length: u32,
    /// Which way, if there are some.
    pub(super) direction: Direction,
    pub(super) lun: u8,
    /// The command's bytes, then zeroes.
    pub(super) cdb: [u8; 32],
}

impl Command {
    /// Bytes that the host has room for.
    pub(super) fn room(&self) -> usize {
        match self.direction {
            Direction::In => usize::try_from(self.length).unwrap_or(usize::MAX),
            Direction::Out => 0,
        }
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; COMMAND] = bytes.try_into().ok()?;
        let [s0, s1, s2, s3, t0, t1, t2, t3, l0, l1, l2, l3, flags, lun, count, block @ ..] =
            *bytes;
        let valid = u32::from_le_bytes([s0, s1, s2, s3]) == COMMAND_SIGNATURE
            && lun & 0xf0 == 0
            && (1..=16).contains(&count);
        if !valid {
            return None;
        }
        let mut cdb = [0; 32];
        for (to, from) in cdb.iter_mut().zip(block).take(count.into()) {
            *to = from;
        }
        Some(Self {
            tag: u32::from_le_bytes([t0, t1, t2, t3]),
            length: u32::from_le_bytes([l0, l1, l2, l3]),
            direction: if flags & 0x80 == 0 { Direction::Out } else { Direction::In },
            lun,
            cdb,
        })
    }
}

/// How a command ended (5.2, bCSWStatus).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Passed = 0,
    Failed = 1,
    PhaseError = 2,
}

/// The wrapper that ends a command: its tag, and bytes that did not move.
pub(super) fn status(tag: u32, residue: u32, status: Status) -> Vec<u8> {
    let mut bytes = STATUS_SIGNATURE.to_le_bytes().to_vec();
    bytes.extend(tag.to_le_bytes());
    bytes.extend(residue.to_le_bytes());
    bytes.push(status as u8);
    bytes
}
