//! Answers that are the same for every disk: log pages, defect lists, task management functions.

use crate::scsi::bytes::put_length;

/// A page of LOG SENSE (SPC-5 7.3). `None`: there is no such page.
pub(super) fn page(page: u8, subpage: u8) -> Option<Vec<u8>> {
    Some(match (page, subpage) {
        (0x00, 0x00) => vec![0x00, 0, 0, 2, 0x00, 0x2f],
        (0x00, 0xff) => vec![0x40, 0xff, 0, 6, 0x00, 0, 0x00, 0xff, 0x2f, 0],
        // Informational exceptions: parameter 0, nothing to report, no temperature.
        (0x2f, 0x00) => vec![0x2f, 0, 0, 8, 0, 0, 0x03, 4, 0, 0, 0xff, 0],
        _ => return None,
    })
}

/// READ DEFECT DATA (SBC-4 5.21, 5.22): lists are told, and are empty.
pub(super) fn no_defects(ten: bool, format: u8) -> Vec<u8> {
    if ten {
        vec![0, 0x18 | format & 7, 0, 0]
    } else {
        vec![0, 0x18 | format & 7, 0, 0, 0, 0, 0, 0]
    }
}

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-5 6.36).
pub(super) fn task_management(extended: bool) -> Vec<u8> {
    // Abort task, abort and clear task set, logical unit and target reset, query task | query set,
    // I_T nexus reset.
    let functions = [0xf8 | 0x02 | 0x01, 0x05, 0, 0];
    if extended {
        let mut data = functions.to_vec();
        data.resize(16, 0);
        put_length::<1>(&mut data, 3);
        return data;
    }
    functions.to_vec()
}
