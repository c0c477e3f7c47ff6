//! What the host's kernel takes in one command, and how the unit's own claims are kept within it.

use std::fs::File;
use std::os::linux::fs::MetadataExt;
use std::path::PathBuf;

use crate::scsi::bytes::{Fields, put};

/// Bytes and segments of one SG_IO where the kernel does not tell.
const BYTES: u64 = 512 << 10;
const SEGMENTS: u64 = 128;
/// The smallest page that a host has.
const PAGE: u64 = 4096;

/// Limits of SG_IO on one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Bytes of one command.
    pub(super) bytes: u64,
    /// Pieces of memory of one command.
    pub(super) segments: usize,
    /// Bytes in a logical block, for limits that are told in blocks.
    pub(super) block: u64,
}

impl Limits {
    pub(super) fn read(file: &File) -> Self {
        Self::in_folder(queue_folder(file))
    }

    fn in_folder(folder: Option<PathBuf>) -> Self {
        let number = |name: &str| -> Option<u64> {
            std::fs::read_to_string(folder.as_ref()?.join(name)).ok()?.trim().parse().ok()
        };
        let segments = number("max_segments").unwrap_or(SEGMENTS);
        let bytes = number("max_sectors_kb").map_or(BYTES, |kib| kib.saturating_mul(1024));
        Self {
            // Where the adapter takes no piece across pages, as LIO's loopback does.
            bytes: bytes.min(segments.saturating_mul(PAGE)),
            segments: usize::try_from(segments).unwrap_or(usize::MAX).clamp(1, 1024),
            block: number("logical_block_size").unwrap_or(512).max(1),
        }
    }

    /// VPD page B0h (SBC-4 6.6.4) with the lengths of commands that move as much data within what
    /// SG_IO takes. A length that is not reported (0) stays so, but for MAXIMUM TRANSFER LENGTH.
    pub(super) fn apply(&self, page: &[u8]) -> Vec<u8> {
        let most = self.bytes.checked_div(self.block).and_then(|blocks| u32::try_from(blocks).ok());
        let most = most.unwrap_or(u32::MAX).max(1);
        let mut page = page.to_vec();
        let mut keep_within = |at, most: u32| {
            let claim = page.u32(at).min(most);
            put(&mut page, at, &claim.to_be_bytes());
        };
        keep_within(OPTIMAL_TRANSFER_LENGTH, most);
        keep_within(MAXIMUM_ATOMIC_TRANSFER_LENGTH, most);
        keep_within(MAXIMUM_ATOMIC_TRANSFER_LENGTH_WITH_BOUNDARY, most);
        let maximum = page.u32(MAXIMUM_TRANSFER_LENGTH);
        if maximum == 0 || maximum > most {
            put(&mut page, MAXIMUM_TRANSFER_LENGTH, &most.to_be_bytes());
        }
        // COMPARE AND WRITE brings each block twice: what to compare with, and what to write.
        let compare = u8::try_from(most / 2).unwrap_or(u8::MAX);
        let compare = page.u8(MAXIMUM_COMPARE_AND_WRITE_LENGTH).min(compare);
        put(&mut page, MAXIMUM_COMPARE_AND_WRITE_LENGTH, &[compare]);
        page
    }
}

/// Fields of VPD page B0h.
const MAXIMUM_COMPARE_AND_WRITE_LENGTH: usize = 5;
const MAXIMUM_TRANSFER_LENGTH: usize = 8;
const OPTIMAL_TRANSFER_LENGTH: usize = 12;
const MAXIMUM_ATOMIC_TRANSFER_LENGTH: usize = 44;
const MAXIMUM_ATOMIC_TRANSFER_LENGTH_WITH_BOUNDARY: usize = 56;

/// The block layer's folder for a device, which is there for disks and CDs only.
fn queue_folder(file: &File) -> Option<PathBuf> {
    let device = file.metadata().ok()?.st_rdev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    let device = PathBuf::from(format!("/sys/dev/char/{major}:{minor}/device/block"));
    let name = std::fs::read_dir(device).ok()?.next()?.ok()?;
    Some(name.path().join("queue"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(maximum: u32, optimal: u32) -> Vec<u8> {
        let mut page = vec![0; 64];
        put(&mut page, 0, &[0, 0xb0, 0, 60]);
        put(&mut page, 8, &maximum.to_be_bytes());
        put(&mut page, 12, &optimal.to_be_bytes());
        page
    }

    #[test]
    fn a_transfer_fits_the_adapter_s_pieces_of_a_page_each() {
        let folder = std::env::temp_dir().join(format!("limits-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let set = |name: &str, value: &str| std::fs::write(folder.join(name), value).unwrap();
        set("max_sectors_kb", "8192\n");
        set("max_segments", "256\n");
        set("logical_block_size", "512\n");
        let limits = Limits::in_folder(Some(folder.clone()));
        std::fs::remove_dir_all(folder).unwrap();
        assert_eq!(limits, Limits { bytes: 1 << 20, segments: 256, block: 512 });
    }

    #[test]
    fn claims_are_kept_within_what_the_host_takes() {
        let limits = Limits { bytes: 1 << 20, segments: 128, block: 512 };
        assert_eq!(limits.apply(&page(0, 0)), page(2048, 0));
        assert_eq!(limits.apply(&page(1 << 20, 1 << 20)), page(2048, 2048));
        assert_eq!(limits.apply(&page(100, 50)), page(100, 50));
        assert_eq!(limits.apply(&page(0, 0)[..10]).len(), 10, "a short answer stays short");
    }

    #[test]
    fn atomic_writes_and_compare_and_write_are_kept_within_it_too() {
        let limits = Limits { bytes: 1 << 20, segments: 128, block: 4096 };
        let mut claims = page(256, 256);
        put(&mut claims, MAXIMUM_COMPARE_AND_WRITE_LENGTH, &[255]);
        put(&mut claims, MAXIMUM_ATOMIC_TRANSFER_LENGTH, &8192u32.to_be_bytes());
        let kept = limits.apply(&claims);
        assert_eq!(kept.u8(MAXIMUM_COMPARE_AND_WRITE_LENGTH), 128);
        assert_eq!(kept.u32(MAXIMUM_ATOMIC_TRANSFER_LENGTH), 256);
        assert_eq!(kept.u32(MAXIMUM_ATOMIC_TRANSFER_LENGTH_WITH_BOUNDARY), 0);
    }
}
