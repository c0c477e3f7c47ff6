//! What is on the medium: one session with one data track, from block 0 to the end.

use super::DVD;
use super::command::Track;
use crate::scsi::Sense;
use crate::scsi::bytes::{put, put_length};

/// ADR 1 (position), CONTROL 4 (data).
const DATA_TRACK: u8 = 0x14;
const LEAD_OUT: u8 = 0xaa;

/// An address as minute, second and frame (MMC-6 4.2.2), with the 2 seconds before block 0.
fn msf(lba: u64) -> [u8; 4] {
    let frames = lba.saturating_add(150);
    let minute = u8::try_from(frames / (60 * 75)).unwrap_or(u8::MAX);
    [0, minute, (frames / 75 % 60) as u8, (frames % 75) as u8]
}

fn address(lba: u64, as_msf: bool) -> [u8; 4] {
    if as_msf { msf(lba) } else { u32::try_from(lba).unwrap_or(u32::MAX).to_be_bytes() }
}

fn with_length(mut data: Vec<u8>) -> Vec<u8> {
    put_length::<2>(&mut data, 0);
    data
}

/// READ TOC/PMA/ATIP (MMC-6 6.26).
pub(super) fn read(blocks: u64, format: u8, as_msf: bool, track: u8) -> Result<Vec<u8>, Sense> {
    let mut data = vec![0, 0, 1, 1];
    match format {
        // Tracks from a number on, then the lead-out.
        0 => {
            if track > 1 && track != LEAD_OUT {
                return Err(Sense::INVALID_FIELD_IN_CDB);
            }
            if track <= 1 {
                data.extend([0, DATA_TRACK, 1, 0]);
                data.extend(address(0, as_msf));
            }
            data.extend([0, DATA_TRACK, LEAD_OUT, 0]);
            data.extend(address(blocks, as_msf));
        }
        // The last session's first track.
        1 => {
            data.extend([0, DATA_TRACK, 1, 0]);
            data.extend(address(0, as_msf));
        }
        // The raw table: first track, last track, lead-out, track 1; always in MSF.
        2 => {
            let point = |point: u8, at: [u8; 4]| {
                let [_, minute, second, frame] = at;
                [1, DATA_TRACK, 0, point, 0, 0, 0, 0, minute, second, frame]
            };
            data.extend(point(0xa0, [0, 1, 0, 0]));
            data.extend(point(0xa1, [0, 1, 0, 0]));
            data.extend(point(0xa2, msf(blocks)));
            data.extend(point(1, msf(0)));
        }
        _ => return Err(Sense::INVALID_FIELD_IN_CDB),
    }
    Ok(with_length(data))
}

/// READ SUB-CHANNEL (MMC-6 6.25): no audio is played.
pub(super) fn sub_channel(format: u8) -> Result<Vec<u8>, Sense> {
    const NO_AUDIO_STATUS: u8 = 0x15;
    let mut data = vec![0, NO_AUDIO_STATUS, 0, 0];
    match format {
        0 => {}
        1 => data.extend([1, DATA_TRACK, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
        2 | 3 => {
            data.extend([format, DATA_TRACK, 1, 0]);
            data.extend([0; 16]); // no catalogue number, no ISRC
        }
        _ => return Err(Sense::INVALID_FIELD_IN_CDB),
    }
    put_length::<2>(&mut data, 2);
    Ok(data)
}

/// READ DISC INFORMATION (MMC-6 6.21): a complete disc that nobody can write to.
pub(super) fn disc_information() -> Vec<u8> {
    let mut data = vec![0; 34];
    put(&mut data, 2, &[0x0e, 1, 1, 1, 1]); // complete; first track, sessions, tracks
    put(&mut data, 16, &[0xff; 8]); // no lead-in or lead-out to write
    with_length(data)
}

/// READ TRACK INFORMATION (MMC-6 6.27).
pub(super) fn track_information(blocks: u64, track: Track) -> Result<Vec<u8>, Sense> {
    let exists = match track {
        Track::Of(lba) => lba < blocks,
        Track::Number(number) | Track::Session(number) => number == 1,
    };
    if !exists {
        return Err(Sense::INVALID_FIELD_IN_CDB);
    }
    let mut data = vec![0; 36];
    put(&mut data, 2, &[1, 1, 0, 0x04, 0x01]); // track, session; data; mode 1
    put(&mut data, 24, &u32::try_from(blocks).unwrap_or(u32::MAX).to_be_bytes());
    Ok(with_length(data))
}

/// READ DISC STRUCTURE of a DVD (MMC-6 6.22).
pub(super) fn dvd_structure(blocks: u64, format: u8, layer: u8) -> Result<Vec<u8>, Sense> {
    if blocks <= DVD || layer != 0 {
        return Err(Sense::INVALID_FIELD_IN_CDB);
    }
    // The physical sector numbers of a DVD begin here.
    const START: u64 = 0x30000;
    let mut data = vec![0; 4];
    match format {
        0x00 => {
            let end = START.saturating_add(blocks).saturating_sub(1);
            let end = u32::try_from(end).unwrap_or(u32::MAX).to_be_bytes();
            // DVD-ROM version 1, 120 mm, maximum rate 10.08 Mbps, one embossed layer.
            data.extend([0x01, 0x02, 0x01, 0x00, 0x00, 0x03, 0x00, 0x00]);
            data.push(0);
            data.extend(end.get(1..).unwrap_or_default());
            data.resize(4 + 2048, 0);
        }
        0x01 => data.extend([0; 4]),      // no copyright protection
        0x04 => data.resize(4 + 2048, 0), // no manufacturing information
        0xff => {
            for format in [0x00, 0x01, 0x04] {
                let length: u16 = if format == 1 { 8 } else { 2052 };
                let [high, low] = length.to_be_bytes();
                data.extend([format, 0x40, high, low]);
            }
        }
        _ => return Err(Sense::INVALID_FIELD_IN_CDB),
    }
    Ok(with_length(data))
}
