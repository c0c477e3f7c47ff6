//! A disk's CDB, parsed once into a command whose fields can't be wrong in themselves. Whether they
//! fit the medium is the disk's to say.

use super::Sense;
use super::bytes::Fields;
use super::opcode::{self, Opcode, Query};

/// A stretch of logical blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// The first.
    pub lba: u64,
    /// How many; may be 0.
    pub count: u32,
}

/// BYTCHK of VERIFY and WRITE AND VERIFY (SBC-4 5.38).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteCheck {
    /// The medium can be read.
    None,
    /// Compare with as many blocks of data-out.
    Each,
    /// Compare every block with one block of data-out.
    One,
}

/// A command of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the standard's own")]
pub enum Command {
    TestUnitReady,
    RequestSense {
        descriptor: bool,
        allocation: usize,
    },
    Inquiry {
        vpd_page: Option<u8>,
        allocation: usize,
    },
    ModeSense {
        ten: bool,
        descriptors: bool,
        control: u8,
        page: u8,
        subpage: u8,
        allocation: usize,
    },
    ModeSelect {
        ten: bool,
        save: bool,
        length: usize,
    },
    StartStop {
        no_flush: bool,
        load_eject: bool,
        start: bool,
        power_condition: u8,
    },
    SendDiagnostic {
        self_test: bool,
    },
    PreventAllow {
        prevent: u8,
    },
    Reserve,
    Release,
    ReadCapacity10,
    ReadCapacity16 {
        allocation: usize,
    },
    GetLbaStatus {
        lba: u64,
        allocation: usize,
    },
    Read(Blocks),
    Write {
        blocks: Blocks,
        fua: bool,
    },
    WriteAtomic {
        blocks: Blocks,
        boundary: u16,
    },
    WriteVerify {
        blocks: Blocks,
        check: ByteCheck,
    },
    Verify {
        blocks: Blocks,
        check: ByteCheck,
    },
    CompareAndWrite {
        blocks: Blocks,
    },
    OrWrite {
        blocks: Blocks,
    },
    WriteSame {
        blocks: Blocks,
        unmap: bool,
        no_data: bool,
    },
    Unmap {
        length: usize,
    },
    PreFetch(Blocks),
    SynchronizeCache(Blocks),
    ReadDefectData {
        ten: bool,
        format: u8,
        allocation: usize,
    },
    SanitizeOverwrite {
        immediate: bool,
        length: usize,
    },
    SanitizeBlockErase {
        immediate: bool,
    },
    SanitizeExitFailureMode,
    LogSense {
        page: u8,
        subpage: u8,
        allocation: usize,
    },
    PersistentReserveIn {
        action: u8,
        allocation: usize,
    },
    PersistentReserveOut {
        action: u8,
        scope_type: u8,
        length: usize,
    },
    ReportSupportedOperationCodes {
        query: Query,
        allocation: usize,
    },
    ReportSupportedTaskManagement {
        extended: bool,
        allocation: usize,
    },
}

fn length(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// Where the LBA, the length and the control byte of a block command lie.
fn blocks(cdb: &[u8], bytes: usize) -> Blocks {
    match bytes {
        6 => {
            let count = u32::from(cdb.u8(4));
            // SBC-4 5.15: 0 means 256 here.
            Blocks {
                lba: u64::from(cdb.u24(1) & 0x1f_ffff),
                count: if count == 0 { 256 } else { count },
            }
        }
        10 => Blocks { lba: cdb.u32(2).into(), count: cdb.u16(7).into() },
        12 => Blocks { lba: cdb.u32(2).into(), count: cdb.u32(6) },
        _ => Blocks { lba: cdb.u64(2), count: cdb.u32(10) },
    }
}

/// RDPROTECT, WRPROTECT, VRPROTECT, ORPROTECT: there is no protection information here.
fn unprotected(cdb: &[u8]) -> Result<(), Sense> {
    if cdb.u8(1) >> 5 == 0 { Ok(()) } else { Err(Sense::INVALID_FIELD_IN_CDB) }
}

fn byte_check(cdb: &[u8]) -> Result<ByteCheck, Sense> {
    match cdb.u8(1) >> 1 & 3 {
        0 => Ok(ByteCheck::None),
        1 => Ok(ByteCheck::Each),
        3 => Ok(ByteCheck::One),
        _ => Err(Sense::INVALID_FIELD_IN_CDB),
    }
}

/// Parses a disk's CDB.
///
/// # Errors
/// The sense data to answer with.
pub fn parse(cdb: &[u8]) -> Result<Command, Sense> {
    let Some(opcode) = opcode::find(opcode::DISK, cdb) else { return Err(unknown(cdb)) };
    let size = opcode.usage.len();
    // SAM-5 5.2: NACA, which is not supported (NORMACA is 0).
    if cdb.bit(size.saturating_sub(1), 2) {
        return Err(Sense::INVALID_FIELD_IN_CDB);
    }
    match opcode.code {
        0x08 | 0x28 | 0x88 | 0xa8 => {
            if size > 6 {
                unprotected(cdb)?;
            }
            Ok(Command::Read(blocks(cdb, size)))
        }
        0x0a => Ok(Command::Write { blocks: blocks(cdb, size), fua: false }),
        0x2a | 0x8a | 0xaa => {
            unprotected(cdb)?;
            Ok(Command::Write { blocks: blocks(cdb, size), fua: cdb.bit(1, 3) })
        }
        _ => parse_rare(cdb, opcode),
    }
}

/// An operation code or a service action that is not in the table.
fn unknown(cdb: &[u8]) -> Sense {
    if opcode::DISK.iter().any(|opcode| opcode.code == cdb.u8(0)) {
        Sense::INVALID_FIELD_IN_CDB.in_byte(1) // the service action
    } else {
        Sense::INVALID_COMMAND_OPERATION_CODE
    }
}

fn parse_rare(cdb: &[u8], opcode: &Opcode) -> Result<Command, Sense> {
    let size = opcode.usage.len();
    let blocks = blocks(cdb, size);
    Ok(match (opcode.code, opcode.action.unwrap_or(0)) {
        (0x00, _) => Command::TestUnitReady,
        (0x03, _) => {
            Command::RequestSense { descriptor: cdb.bit(1, 0), allocation: cdb.u8(4).into() }
        }
        (0x12, _) => {
            let vpd = cdb.bit(1, 0);
            if cdb.u8(1) & 0xfe != 0 || !vpd && cdb.u8(2) != 0 {
                return Err(Sense::INVALID_FIELD_IN_CDB);
            }
            Command::Inquiry { vpd_page: vpd.then(|| cdb.u8(2)), allocation: cdb.u16(3).into() }
        }
        (0x15, _) => mode_select(cdb, false)?,
        (0x55, _) => mode_select(cdb, true)?,
        (0x16 | 0x56, _) => Command::Reserve,
        (0x17 | 0x57, _) => Command::Release,
        (0x1a, _) => mode_sense(cdb, false),
        (0x5a, _) => mode_sense(cdb, true),
        (0x1b, _) => Command::StartStop {
            no_flush: cdb.bit(4, 2),
            load_eject: cdb.bit(4, 1),
            start: cdb.bit(4, 0),
            power_condition: cdb.u8(4) >> 4,
        },
        (0x1d, _) => {
            // Only the default self-test: no diagnostic pages, nothing to run in the background.
            if cdb.u8(1) & !0x04 != 0 || cdb.u16(3) != 0 {
                return Err(Sense::INVALID_FIELD_IN_CDB);
            }
            Command::SendDiagnostic { self_test: cdb.bit(1, 2) }
        }
        (0x1e, _) => Command::PreventAllow { prevent: cdb.u8(4) & 3 },
        (0x25, _) => {
            // SBC-4 5.20: an LBA without PMI (both obsolete) is an error.
            if cdb.u32(2) != 0 && !cdb.bit(8, 0) {
                return Err(Sense::INVALID_FIELD_IN_CDB);
            }
            Command::ReadCapacity10
        }
        (0x9e, 0x10) => Command::ReadCapacity16 { allocation: length(cdb.u32(10)) },
        (0x9e, _) => Command::GetLbaStatus { lba: cdb.u64(2), allocation: length(cdb.u32(10)) },
        (0x2e | 0x8e | 0xae, _) => {
            unprotected(cdb)?;
            match byte_check(cdb)? {
                ByteCheck::One => return Err(Sense::INVALID_FIELD_IN_CDB),
                check => Command::WriteVerify { blocks, check },
            }
        }
        (0x2f | 0x8f | 0xaf, _) => {
            unprotected(cdb)?;
            Command::Verify { blocks, check: byte_check(cdb)? }
        }
        (0x34 | 0x90, _) => Command::PreFetch(blocks),
        (0x35 | 0x91, _) => Command::SynchronizeCache(blocks),
        (0x37, _) => Command::ReadDefectData {
            ten: true,
            format: cdb.u8(2) & 0x1f,
            allocation: cdb.u16(7).into(),
        },
        (0xb7, _) => Command::ReadDefectData {
            ten: false,
            format: cdb.u8(1) & 0x1f,
            allocation: length(cdb.u32(6)),
        },
        (0x41 | 0x93, _) => write_same(cdb, blocks, size)?,
        (0x42, _) => {
            // ANCHOR: anchored blocks are not offered (ANC_SUP is 0).
            if cdb.bit(1, 0) {
                return Err(Sense::INVALID_FIELD_IN_CDB);
            }
            Command::Unmap { length: cdb.u16(7).into() }
        }
        (0x48, action) => sanitize(cdb, action)?,
        (0x4d, _) => {
            if cdb.bit(1, 0) {
                return Err(Sense::INVALID_FIELD_IN_CDB);
            }
            Command::LogSense {
                page: cdb.u8(2) & 0x3f,
                subpage: cdb.u8(3),
                allocation: cdb.u16(7).into(),
            }
        }
        (0x5e, _) => {
            Command::PersistentReserveIn { action: cdb.u8(1) & 0x1f, allocation: cdb.u16(7).into() }
        }
        (0x5f, _) => Command::PersistentReserveOut {
            action: cdb.u8(1) & 0x1f,
            scope_type: cdb.u8(2),
            length: length(cdb.u32(5)),
        },
        (0x89, _) => {
            unprotected(cdb)?;
            Command::CompareAndWrite { blocks: Blocks { count: cdb.u8(13).into(), ..blocks } }
        }
        (0x8b, _) => {
            unprotected(cdb)?;
            Command::OrWrite { blocks }
        }
        (0x9c, _) => {
            unprotected(cdb)?;
            let blocks = Blocks { count: cdb.u16(12).into(), ..blocks };
            Command::WriteAtomic { blocks, boundary: cdb.u16(10) }
        }
        (0xa3, 0x0c) => Command::ReportSupportedOperationCodes {
            query: Query {
                timeouts: cdb.bit(2, 7),
                options: cdb.u8(2) & 7,
                code: cdb.u8(3),
                action: cdb.u16(4),
            },
            allocation: length(cdb.u32(6)),
        },
        (0xa3, _) => Command::ReportSupportedTaskManagement {
            extended: cdb.bit(2, 7),
            allocation: length(cdb.u32(6)),
        },
        // REPORT LUNS is the target's.
        _ => return Err(Sense::INVALID_COMMAND_OPERATION_CODE),
    })
}

fn mode_sense(cdb: &[u8], ten: bool) -> Command {
    Command::ModeSense {
        ten,
        descriptors: !cdb.bit(1, 3),
        control: cdb.u8(2) >> 6,
        page: cdb.u8(2) & 0x3f,
        subpage: cdb.u8(3),
        allocation: if ten { cdb.u16(7).into() } else { cdb.u8(4).into() },
    }
}

fn mode_select(cdb: &[u8], ten: bool) -> Result<Command, Sense> {
    // PF: pages as in the standard, nothing else is understood. RTD is not supported.
    if !cdb.bit(1, 4) || cdb.bit(1, 1) {
        return Err(Sense::INVALID_FIELD_IN_CDB);
    }
    let length = if ten { cdb.u16(7).into() } else { cdb.u8(4).into() };
    Ok(Command::ModeSelect { ten, save: cdb.bit(1, 0), length })
}

fn write_same(cdb: &[u8], blocks: Blocks, size: usize) -> Result<Command, Sense> {
    unprotected(cdb)?;
    let (anchor, unmap) = (cdb.bit(1, 4), cdb.bit(1, 3));
    // LBDATA and PBDATA are obsolete; NDOB exists in the 16-byte form only.
    if anchor || cdb.u8(1) & 0x06 != 0 {
        return Err(Sense::INVALID_FIELD_IN_CDB);
    }
    Ok(Command::WriteSame { blocks, unmap, no_data: size == 16 && cdb.bit(1, 0) })
}

fn sanitize(cdb: &[u8], action: u16) -> Result<Command, Sense> {
    let immediate = cdb.bit(1, 7);
    let length: usize = cdb.u16(7).into();
    // Reserved bytes; ZNR is for zoned disks.
    if cdb.bit(1, 6) || (2..7).any(|at| cdb.u8(at) != 0) || action != 1 && length != 0 {
        return Err(Sense::INVALID_FIELD_IN_CDB);
    }
    Ok(match action {
        1 => Command::SanitizeOverwrite { immediate, length },
        2 => Command::SanitizeBlockErase { immediate },
        _ => Command::SanitizeExitFailureMode,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_and_lengths_of_every_size() {
        let read = |cdb: &[u8]| match parse(cdb) {
            Ok(Command::Read(blocks)) => (blocks.lba, blocks.count),
            other => panic!("{other:?}"),
        };
        assert_eq!(read(&[0x08, 0x1f, 0xff, 0xfe, 0, 0]), (0x1f_fffe, 256));
        assert_eq!(read(&[0x28, 0, 1, 2, 3, 4, 0, 5, 6, 0]), (0x0102_0304, 0x0506));
        assert_eq!(read(&[0xa8, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0]), (0x0102_0304, 0x0506_0708));
        assert_eq!(
            read(&[0x88, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 0]),
            (0x0102_0304_0506_0708, 0x090a_0b0c)
        );
    }

    #[test]
    fn what_is_not_known_is_refused_by_the_right_name() {
        assert_eq!(parse(&[0x02]), Err(Sense::INVALID_COMMAND_OPERATION_CODE));
        assert_eq!(parse(&[0x9e, 0x1f]), Err(Sense::INVALID_FIELD_IN_CDB.in_byte(1)));
        assert_eq!(parse(&[0x28, 0x20, 0, 0, 0, 0, 0, 0, 1, 0]), Err(Sense::INVALID_FIELD_IN_CDB));
        assert_eq!(parse(&[0x00, 0, 0, 0, 0, 0x04]), Err(Sense::INVALID_FIELD_IN_CDB));
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_command_or_sense(cdb in proptest::collection::vec(any::<u8>(), 0..33)) {
            let _ = parse(&cdb);
        }

        #[test]
        fn what_is_parsed_is_in_the_table(cdb: [u8; 32]) {
            if parse(&cdb).is_ok() {
                prop_assert!(opcode::find(opcode::DISK, &cdb).is_some());
            }
        }
    }
}
