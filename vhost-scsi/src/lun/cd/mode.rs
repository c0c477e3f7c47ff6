//! Mode pages (MMC-6 7): nothing can be changed.

use crate::scsi::Sense;
use crate::scsi::bytes::put_mode_data_length;

const ERROR_RECOVERY: u8 = 0x01;
const CAPABILITIES: u8 = 0x2a;
const ALL: u8 = 0x3f;

fn page(page: u8, locked: bool) -> Option<Vec<u8>> {
    Some(match page {
        ERROR_RECOVERY => vec![ERROR_RECOVERY, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        CAPABILITIES => {
            // Reads CD-R, CD-RW and DVD-ROM; mode 2; locks, ejects, tray; 16 steps of no volume.
            let state = 0x29 | u8::from(locked) << 1;
            let mut page = vec![CAPABILITIES, 20, 0x0b, 0x00, 0x70, 0x00, state, 0x00];
            page.extend(7056u16.to_be_bytes()); // 40×, in kB/s
            page.extend([0, 0, 2, 0]); // no volume levels; buffer of 512 KiB
            page.extend(7056u16.to_be_bytes());
            page.extend([0; 6]);
            page
        }
        _ => return None,
    })
}

/// MODE SENSE.
pub(super) fn sense(ten: bool, wanted: u8, control: u8, locked: bool) -> Result<Vec<u8>, Sense> {
    if control == 3 {
        return Err(Sense::SAVING_PARAMETERS_NOT_SUPPORTED);
    }
    let changeable = |mut page: Vec<u8>| {
        if control == 1 {
            page.iter_mut().skip(2).for_each(|byte| *byte = 0);
        }
        page
    };
    let pages: Vec<u8> = match wanted {
        ALL => [ERROR_RECOVERY, CAPABILITIES]
            .into_iter()
            .filter_map(|number| page(number, locked))
            .flat_map(changeable)
            .collect(),
        number => changeable(page(number, locked).ok_or(Sense::INVALID_FIELD_IN_CDB)?),
    };
    let mut data = vec![0; if ten { 8 } else { 4 }];
    data.extend(pages);
    put_mode_data_length(&mut data, ten);
    Ok(data)
}
