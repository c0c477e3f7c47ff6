//! The commands of a disk: one table, from which CDBs are recognised and REPORT SUPPORTED OPERATION
//! CODES (SPC-5 6.35) is answered.

use super::bytes::{Fields, put_length};

/// A command: operation code, service action where it has one, and which bits of its CDB are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Opcode {
    /// OPERATION CODE.
    pub code: u8,
    /// SERVICE ACTION.
    pub action: Option<u16>,
    /// CDB USAGE DATA (SPC-5 6.35.3): the operation code, then a bit for each that is evaluated.
    pub usage: &'static [u8],
}

const fn op(code: u8, usage: &'static [u8]) -> Opcode {
    Opcode { code, action: None, usage }
}

const fn sa(code: u8, action: u16, usage: &'static [u8]) -> Opcode {
    Opcode { code, action: Some(action), usage }
}

/// LBA and length of 10-, 12- and 16-byte commands, with `b1` for byte 1.
macro_rules! rw10 {
    ($code:literal, $b1:literal) => {
        op($code, &[$code, $b1, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff, 0x04])
    };
}
macro_rules! rw12 {
    ($code:literal, $b1:literal) => {
        op($code, &[$code, $b1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0x04])
    };
}
macro_rules! rw16 {
    ($code:literal, $b1:literal) => {
        op(
            $code,
            &[
                $code, $b1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                0x3f, 0x04,
            ],
        )
    };
}
/// Allocation length in bytes 10..14 of a 16-byte SERVICE ACTION IN.
macro_rules! in16 {
    ($code:literal, $action:literal, $lba:literal) => {
        sa(
            $code,
            $action,
            &[
                $code, 0x1f, $lba, $lba, $lba, $lba, $lba, $lba, $lba, $lba, 0xff, 0xff, 0xff,
                0xff, 0x00, 0x04,
            ],
        )
    };
}
macro_rules! persistent_in {
    ($action:literal) => {
        sa(0x5e, $action, &[0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff, 0x04])
    };
}
macro_rules! persistent_out {
    ($action:literal) => {
        sa(0x5f, $action, &[0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x04])
    };
}
macro_rules! sanitize {
    ($action:literal) => {
        sa(0x48, $action, &[0x48, 0xbf, 0, 0, 0, 0, 0, 0xff, 0xff, 0x04])
    };
}

/// The commands of a disk.
pub const DISK: &[Opcode] = &[
    op(0x00, &[0x00, 0, 0, 0, 0, 0x04]),
    op(0x03, &[0x03, 0x01, 0, 0, 0xff, 0x04]),
    op(0x08, &[0x08, 0x1f, 0xff, 0xff, 0xff, 0x04]),
    op(0x0a, &[0x0a, 0x1f, 0xff, 0xff, 0xff, 0x04]),
    op(0x12, &[0x12, 0x01, 0xff, 0xff, 0xff, 0x04]),
    op(0x15, &[0x15, 0x11, 0, 0, 0xff, 0x04]),
    op(0x16, &[0x16, 0, 0, 0, 0, 0x04]),
    op(0x17, &[0x17, 0, 0, 0, 0, 0x04]),
    op(0x1a, &[0x1a, 0x08, 0xff, 0xff, 0xff, 0x04]),
    op(0x1b, &[0x1b, 0x01, 0, 0x0f, 0xf7, 0x04]),
    op(0x1d, &[0x1d, 0xff, 0, 0xff, 0xff, 0x04]),
    op(0x1e, &[0x1e, 0, 0, 0, 0x03, 0x04]),
    op(0x25, &[0x25, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0x01, 0x04]),
    rw10!(0x28, 0xf8),
    rw10!(0x2a, 0xf8),
    rw10!(0x2e, 0xf6),
    rw10!(0x2f, 0xf6),
    rw10!(0x34, 0x02),
    rw10!(0x35, 0x02),
    op(0x37, &[0x37, 0, 0x1f, 0, 0, 0, 0, 0xff, 0xff, 0x04]),
    rw10!(0x41, 0xf8),
    op(0x42, &[0x42, 0x01, 0, 0, 0, 0, 0x3f, 0xff, 0xff, 0x04]),
    sanitize!(0x01),
    sanitize!(0x02),
    sanitize!(0x1f),
    op(0x4d, &[0x4d, 0x01, 0xff, 0xff, 0, 0xff, 0xff, 0xff, 0xff, 0x04]),
    op(0x55, &[0x55, 0x11, 0, 0, 0, 0, 0, 0xff, 0xff, 0x04]),
    op(0x56, &[0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0x04]),
    op(0x57, &[0x57, 0, 0, 0, 0, 0, 0, 0, 0, 0x04]),
    op(0x5a, &[0x5a, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0x04]),
    persistent_in!(0x00),
    persistent_in!(0x01),
    persistent_in!(0x02),
    persistent_in!(0x03),
    persistent_out!(0x00),
    persistent_out!(0x01),
    persistent_out!(0x02),
    persistent_out!(0x03),
    persistent_out!(0x04),
    persistent_out!(0x05),
    persistent_out!(0x06),
    rw16!(0x88, 0xf8),
    op(
        0x89,
        &[0x89, 0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0xff, 0x3f, 0x04],
    ),
    rw16!(0x8a, 0xf8),
    rw16!(0x8b, 0xf8),
    rw16!(0x8e, 0xf6),
    rw16!(0x8f, 0xf6),
    rw16!(0x90, 0x02),
    rw16!(0x91, 0x02),
    rw16!(0x93, 0xf9),
    rw16!(0x9c, 0xf8),
    in16!(0x9e, 0x10, 0x00),
    in16!(0x9e, 0x12, 0xff),
    op(0xa0, &[0xa0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0x04]),
    sa(0xa3, 0x0c, &[0xa3, 0x1f, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x04]),
    sa(0xa3, 0x0d, &[0xa3, 0x1f, 0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0x04]),
    rw12!(0xa8, 0xf8),
    rw12!(0xaa, 0xf8),
    rw12!(0xae, 0xf6),
    rw12!(0xaf, 0xf6),
    op(0xb7, &[0xb7, 0x1f, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0x04]),
];

/// Whether the commands of `code` are told apart by a service action.
fn has_actions(table: &[Opcode], code: u8) -> bool {
    table.iter().any(|opcode| opcode.code == code && opcode.action.is_some())
}

/// The entry of a CDB, found by its operation code and service action (byte 1, bits 4..0).
#[must_use]
pub fn find(table: &'static [Opcode], cdb: &[u8]) -> Option<&'static Opcode> {
    let action = u16::from(cdb.u8(1) & 0x1f);
    table
        .iter()
        .find(|opcode| opcode.code == cdb.u8(0) && opcode.action.is_none_or(|a| a == action))
}

/// What REPORT SUPPORTED OPERATION CODES is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// RCTD: with timeouts descriptors.
    pub timeouts: bool,
    /// REPORTING OPTIONS.
    pub options: u8,
    /// REQUESTED OPERATION CODE.
    pub code: u8,
    /// REQUESTED SERVICE ACTION.
    pub action: u16,
}

/// SPC-5 6.35.4: no timeouts are told, only that there could be some.
const TIMEOUTS: [u8; 12] = [0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Answers REPORT SUPPORTED OPERATION CODES. `None`: the query itself is invalid.
#[must_use]
pub fn report(table: &[Opcode], query: Query) -> Option<Vec<u8>> {
    let Query { timeouts, options, code, action } = query;
    let found = |wanted: Option<u16>| {
        table.iter().find(|opcode| opcode.code == code && opcode.action == wanted)
    };
    let entry = match options {
        0 => return Some(report_all(table, timeouts)),
        1 if has_actions(table, code) => return None,
        1 => found(None),
        2 if !has_actions(table, code) && found(None).is_some() => return None,
        2 => found(Some(action)),
        3 if has_actions(table, code) => found(Some(action)),
        3 if action == 0 => found(None),
        3 => None,
        _ => return None,
    };
    let Some(opcode) = entry else { return Some(vec![0, 0x01, 0, 0]) };
    let support = 0x03 | u8::from(timeouts) << 7;
    let mut data = vec![0, support, 0, 0];
    data.extend(opcode.usage);
    put_length::<2>(&mut data, 2);
    if timeouts {
        data.extend(TIMEOUTS);
    }
    Some(data)
}

fn report_all(table: &[Opcode], timeouts: bool) -> Vec<u8> {
    let mut data = vec![0; 4];
    for opcode in table {
        let flags = u8::from(opcode.action.is_some()) | u8::from(timeouts) << 1;
        let [high, low] = opcode.action.unwrap_or(0).to_be_bytes();
        let length = u8::try_from(opcode.usage.len()).unwrap_or(u8::MAX);
        data.extend([opcode.code, 0, high, low, 0, flags, 0, length]);
        if timeouts {
            data.extend(TIMEOUTS);
        }
    }
    put_length::<4>(&mut data, 0);
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_begins_with_the_opcode_and_has_the_cdb_s_length() {
        for opcode in DISK {
            assert_eq!(opcode.usage[0], opcode.code);
            let length = match opcode.code >> 5 {
                0 => 6,
                1 | 2 => 10,
                4 => 16,
                5 => 12,
                group => panic!("group {group}"),
            };
            assert_eq!(opcode.usage.len(), length, "{:#x}", opcode.code);
        }
    }

    #[test]
    fn no_command_is_listed_twice() {
        for (i, a) in DISK.iter().enumerate() {
            assert!(DISK[..i].iter().all(|b| (a.code, a.action) != (b.code, b.action)));
        }
    }

    #[test]
    fn one_command_all_and_wrong_questions() {
        let ask =
            |options, code, action| report(DISK, Query { timeouts: false, options, code, action });
        assert_eq!(ask(1, 0x12, 0).unwrap()[..5], [0, 3, 0, 6, 0x12]);
        assert_eq!(ask(1, 0x02, 0).unwrap(), [0, 1, 0, 0]);
        assert_eq!(ask(1, 0x9e, 0x10), None);
        assert_eq!(ask(2, 0x9e, 0x10).unwrap()[1], 3);
        assert_eq!(ask(2, 0x9e, 0x11).unwrap()[1], 1);
        assert_eq!(ask(2, 0x12, 0), None);
        assert_eq!(ask(3, 0x12, 0).unwrap()[1], 3);
        assert_eq!(ask(3, 0x12, 1).unwrap()[1], 1);
        assert_eq!(ask(4, 0x12, 0), None);
        let all = ask(0, 0, 0).unwrap();
        assert_eq!(all.len(), 4 + 8 * DISK.len());
    }
}
