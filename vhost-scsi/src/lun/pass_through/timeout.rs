//! How long a physical unit may take. The guest has time-outs of its own; these are only to give a
//! thread back that waits for a unit that never answers.

use std::time::Duration;

const TAPE: u8 = 0x01;
const CHANGER: u8 = 0x08;

/// For a command of a device of this type.
pub(super) fn of(device_type: u8, operation_code: u8) -> Duration {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    Duration::from_secs(match (device_type, operation_code) {
        // Whole tapes: ERASE, SPACE, LOCATE, REWIND, LOAD UNLOAD, VERIFY.
        (TAPE, 0x01 | 0x11 | 0x13 | 0x19 | 0x1b | 0x2b | 0x91 | 0x92 | 0x93) => 4 * HOUR,
        (TAPE, _) => 15 * MINUTE,
        (CHANGER, _) => 10 * MINUTE,
        // FORMAT UNIT, SANITIZE, BLANK, CLOSE TRACK SESSION, and what walks a whole medium.
        (_, 0x04 | 0x48 | 0xa1 | 0x5b | 0x2f | 0x8f | 0xaf | 0x41 | 0x93) => 24 * HOUR,
        // SEND DIAGNOSTIC, START STOP UNIT.
        (_, 0x1d | 0x1b) => 10 * MINUTE,
        _ => MINUTE,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_walks_a_medium_gets_more_time() {
        assert!(of(0, 0x48) > of(0, 0x28));
        assert!(of(TAPE, 0x01) > of(TAPE, 0x08));
        assert_eq!(of(0, 0x28), Duration::from_secs(60));
    }
}
