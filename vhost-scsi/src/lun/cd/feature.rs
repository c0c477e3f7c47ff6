//! GET CONFIGURATION (MMC-6 6.6): profiles and features, each of which is there.

use super::DVD;
use super::command::Wanted;
use crate::scsi::Sense;
use crate::scsi::bytes::put_length;

const PROFILE_CD_ROM: u16 = 0x0008;
const PROFILE_DVD_ROM: u16 = 0x0010;

/// A feature descriptor.
struct Feature {
    code: u16,
    version: u8,
    persistent: bool,
    current: bool,
    data: Vec<u8>,
}

impl Feature {
    fn bytes(&self) -> Vec<u8> {
        let [high, low] = self.code.to_be_bytes();
        let flags = self.version << 2 | u8::from(self.persistent) << 1 | u8::from(self.current);
        let mut bytes = vec![high, low, flags, 0];
        bytes.extend(&self.data);
        put_length::<1>(&mut bytes, 3);
        bytes
    }
}

/// The profile of a medium of so many blocks.
fn profile(blocks: Option<u64>) -> u16 {
    match blocks {
        None => 0,
        Some(blocks) if blocks > DVD => PROFILE_DVD_ROM,
        Some(_) => PROFILE_CD_ROM,
    }
}

fn features(blocks: Option<u64>, locked: bool) -> Vec<Feature> {
    let now = profile(blocks);
    let cd = now == PROFILE_CD_ROM;
    let dvd = now == PROFILE_DVD_ROM;
    let always =
        |code, version, data| Feature { code, version, persistent: true, current: true, data };
    let listed = [PROFILE_DVD_ROM, PROFILE_CD_ROM]
        .into_iter()
        .flat_map(|profile| {
            let [high, low] = profile.to_be_bytes();
            [high, low, u8::from(profile == now), 0]
        })
        .collect();
    // Blocks of 2,048 bytes, one at a time at least; PP.
    let random_readable = vec![0, 0, 8, 0, 0, 1, 1, 0];
    vec![
        always(0x0000, 0, listed),                       // profile list
        always(0x0001, 2, vec![0, 0, 0, 1, 1, 0, 0, 0]), // core: SCSI, DBE
        always(0x0002, 1, vec![0x02, 0, 0, 0]),          // morphing: OCEvent
        always(0x0003, 2, vec![0x29 | u8::from(locked) << 1, 0, 0, 0]), // removable: tray
        Feature {
            code: 0x0010,
            version: 0,
            persistent: false,
            current: cd || dvd,
            data: random_readable,
        },
        Feature { code: 0x001e, version: 2, persistent: false, current: cd, data: vec![0; 4] },
        Feature {
            code: 0x001f,
            version: 1,
            persistent: false,
            current: dvd,
            data: vec![0, 0, 0, 0],
        },
    ]
}

/// The answer.
pub(super) fn configuration(
    blocks: Option<u64>,
    wanted: Wanted,
    first: u16,
    locked: bool,
) -> Result<Vec<u8>, Sense> {
    let chosen: Vec<u8> = features(blocks, locked)
        .iter()
        .filter(|feature| match wanted {
            Wanted::All => feature.code >= first,
            Wanted::Current => feature.code >= first && feature.current,
            Wanted::One => feature.code == first,
        })
        .flat_map(Feature::bytes)
        .collect();
    let mut data = vec![0; 6];
    data.extend(profile(blocks).to_be_bytes());
    data.extend(chosen);
    put_length::<4>(&mut data, 0);
    Ok(data)
}
