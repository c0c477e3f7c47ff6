//! INQUIRY (SPC-5 6.7) and vital product data (SPC-5 7.7, SBC-4 6.6).

use super::{Disk, MOST_ATOMIC, MOST_SAME, MOST_TRANSFERRED, UNMAP_DESCRIPTORS};
use crate::lun::identity::vpd;
use crate::scsi::bytes::put;

impl Disk {
    pub(super) fn inquiry(&self) -> Vec<u8> {
        let mut data = vec![0; 96];
        let removable = if self.options.removable { 0x80 } else { 0 };
        // Disk, SPC-4, HISUP with response data format 2, length of what follows.
        put(&mut data, 0, &[0x00, removable, 0x06, 0x12, 91, 0, 0, 0x02]);
        put(&mut data, 8, &self.options.identity.inquiry());
        // Version descriptors: SAM-5, SPC-4, SBC-3.
        put(&mut data, 58, &[0x00, 0xa0, 0x04, 0x60, 0x04, 0xc0]);
        data
    }

    fn pages(&self) -> Vec<u8> {
        let mut pages = vec![0x00];
        if self.options.identity.serial.is_some() {
            pages.push(0x80);
        }
        pages.extend([0x83, 0x86, 0xb0, 0xb1, 0xb2]);
        pages
    }

    pub(super) fn vpd_page(&self, page: u8) -> Option<Vec<u8>> {
        let content = match page {
            0x00 => self.pages(),
            0x80 => self.options.identity.serial_number()?,
            0x83 => self.options.identity.designators(),
            0x86 => extended(),
            0xb0 => self.block_limits(),
            0xb1 => self.characteristics(),
            0xb2 => self.provisioning(),
            _ => return None,
        };
        Some(vpd(0x00, page, &content))
    }

    /// Block limits (SBC-4 6.6.4). Offsets are the page's, less its header of 4.
    fn block_limits(&self) -> Vec<u8> {
        let mut page = vec![0; 60];
        let blocks = |bytes: u64| u32::try_from(bytes >> self.shift).unwrap_or(u32::MAX);
        let granularity = blocks(self.image.limits().discard_granularity).max(1);
        put(&mut page, 0, &[0x01, 0xff]); // WSNZ; MAXIMUM COMPARE AND WRITE LENGTH
        let optimal = u16::try_from(blocks(self.physical_block_size().into())).unwrap_or(u16::MAX);
        put(&mut page, 2, &optimal.to_be_bytes());
        put(&mut page, 4, &blocks(MOST_TRANSFERRED).to_be_bytes());
        if self.image.limits().discard {
            put(&mut page, 16, &u32::MAX.to_be_bytes());
            put(&mut page, 20, &u32::from(UNMAP_DESCRIPTORS).to_be_bytes());
            put(&mut page, 24, &granularity.to_be_bytes());
            put(&mut page, 28, &0x8000_0000u32.to_be_bytes()); // UGAVALID, alignment 0
        }
        put(&mut page, 32, &u64::from(MOST_SAME).to_be_bytes());
        put(&mut page, 40, &blocks(MOST_ATOMIC).to_be_bytes());
        // Atomic writes are of whole physical blocks.
        let unit = blocks(self.physical_block_size().into());
        if unit > 1 {
            put(&mut page, 44, &unit.to_be_bytes());
            put(&mut page, 48, &unit.to_be_bytes());
        }
        page
    }

    /// Block device characteristics (SBC-4 6.6.2).
    fn characteristics(&self) -> Vec<u8> {
        let mut page = vec![0; 60];
        let rate: u16 = if self.options.solid_state { 1 } else { 0 };
        put(&mut page, 0, &rate.to_be_bytes());
        page
    }

    /// Logical block provisioning (SBC-4 6.6.6).
    fn provisioning(&self) -> Vec<u8> {
        if self.image.limits().discard {
            vec![0, 0xe4, 0x02, 0] // LBPU, LBPWS, LBPWS10, LBPRZ = 1; thin
        } else {
            vec![0; 4]
        }
    }
}

/// Extended INQUIRY data (SPC-5 7.7.7): simple tasks only.
fn extended() -> Vec<u8> {
    let mut page = vec![0; 60];
    put(&mut page, 1, &[0x01]);
    page
}
