//! A drive's CDB, parsed once.

use crate::scsi::Sense;
use crate::scsi::bytes::Fields;

/// A command of a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    TestUnitReady,
    RequestSense { descriptor: bool, allocation: usize },
    Inquiry { vpd_page: Option<u8>, allocation: usize },
    ModeSense { ten: bool, page: u8, control: u8, allocation: usize },
    StartStop { load_eject: bool, start: bool },
    PreventAllow { prevent: u8 },
    ReadCapacity,
    Read { lba: u64, count: u32 },
    ReadToc { format: u8, msf: bool, track: u8, allocation: usize },
    ReadSubChannel { format: u8, allocation: usize },
    ReadDiscInformation { allocation: usize },
    ReadTrackInformation { track: Track, allocation: usize },
    ReadDvdStructure { format: u8, layer: u8, allocation: usize },
    GetConfiguration { wanted: Wanted, first: u16, allocation: usize },
    GetEventStatus { polled: bool, classes: u8, allocation: usize },
    MechanismStatus { allocation: usize },
    Verify,
    Seek,
    SynchronizeCache,
    SetSpeed,
}

/// How READ TRACK INFORMATION names a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Track {
    Of(u64),
    Number(u32),
    Session(u32),
}

/// RT of GET CONFIGURATION: which features are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    All,
    Current,
    One,
}

/// Parses a CDB.
pub(super) fn parse(cdb: &[u8]) -> Result<Command, Sense> {
    let short = || usize::from(cdb.u8(4));
    let long = |at| usize::from(cdb.u16(at));
    let invalid = Err(Sense::INVALID_FIELD_IN_CDB);
    Ok(match cdb.u8(0) {
        0x00 => Command::TestUnitReady,
        0x03 => Command::RequestSense { descriptor: cdb.bit(1, 0), allocation: short() },
        0x12 => {
            let vpd = cdb.bit(1, 0);
            if !vpd && cdb.u8(2) != 0 {
                return invalid;
            }
            Command::Inquiry { vpd_page: vpd.then(|| cdb.u8(2)), allocation: long(3) }
        }
        code @ (0x1a | 0x5a) => {
            let ten = code == 0x5a;
            let allocation = if ten { long(7) } else { short() };
            let (page, control) = (cdb.u8(2) & 0x3f, cdb.u8(2) >> 6);
            Command::ModeSense { ten, page, control, allocation }
        }
        0x1b => Command::StartStop { load_eject: cdb.bit(4, 1), start: cdb.bit(4, 0) },
        0x1e => Command::PreventAllow { prevent: cdb.u8(4) & 3 },
        0x25 => Command::ReadCapacity,
        0x28 => Command::Read { lba: cdb.u32(2).into(), count: cdb.u16(7).into() },
        0xa8 => Command::Read { lba: cdb.u32(2).into(), count: cdb.u32(6) },
        0xbe => read_cd(cdb)?,
        0x2b => Command::Seek,
        0x2f => Command::Verify,
        0x35 => Command::SynchronizeCache,
        0x42 => {
            // Without SUBQ only the header is wanted.
            let format = if cdb.bit(2, 6) { cdb.u8(3) } else { 0 };
            Command::ReadSubChannel { format, allocation: long(7) }
        }
        0x43 => {
            // MMC-6 6.26: some hosts still say the format in the control byte, as MMC-1 did.
            let format = match cdb.u8(2) & 0xf {
                0 => cdb.u8(9) >> 6,
                format => format,
            };
            Command::ReadToc { format, msf: cdb.bit(1, 1), track: cdb.u8(6), allocation: long(7) }
        }
        0x46 => {
            let wanted = match cdb.u8(1) & 3 {
                0 => Wanted::All,
                1 => Wanted::Current,
                2 => Wanted::One,
                _ => return invalid,
            };
            Command::GetConfiguration { wanted, first: cdb.u16(2), allocation: long(7) }
        }
        0x4a => Command::GetEventStatus {
            polled: cdb.bit(1, 0),
            classes: cdb.u8(4),
            allocation: long(7),
        },
        0x51 if cdb.u8(1) & 7 == 0 => Command::ReadDiscInformation { allocation: long(7) },
        0x52 => {
            let track = match cdb.u8(1) & 3 {
                0 => Track::Of(cdb.u32(2).into()),
                1 => Track::Number(cdb.u32(2)),
                2 => Track::Session(cdb.u32(2)),
                _ => return invalid,
            };
            Command::ReadTrackInformation { track, allocation: long(7) }
        }
        0xad => {
            Command::ReadDvdStructure { format: cdb.u8(7), layer: cdb.u8(6), allocation: long(8) }
        }
        0xbb | 0xb6 => Command::SetSpeed,
        0xbd => Command::MechanismStatus { allocation: long(8) },
        0x51 => return invalid,
        _ => return Err(Sense::INVALID_COMMAND_OPERATION_CODE),
    })
}

/// READ CD (MMC-6 6.15): user data of data sectors, which is all that an ISO image has.
fn read_cd(cdb: &[u8]) -> Result<Command, Sense> {
    let (lba, count) = (cdb.u32(2).into(), cdb.u24(6));
    let sector_type = cdb.u8(1) >> 2 & 7;
    let user_data = 0x10;
    match (cdb.u8(9) & 0xf8, cdb.u8(10) & 7) {
        _ if !matches!(sector_type, 0 | 2 | 4) => Err(Sense::ILLEGAL_MODE_FOR_THIS_TRACK),
        (0, 0) => Ok(Command::Read { lba, count: 0 }),
        (fields, 0) if fields == user_data => Ok(Command::Read { lba, count }),
        _ => Err(Sense::INVALID_FIELD_IN_CDB),
    }
}
