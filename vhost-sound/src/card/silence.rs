//! What nothing sounds like.

use super::format::Format;

/// Fills whole samples with silence: the middle of what they can be.
pub fn silence(format: Format, samples: &mut [u8]) {
    use Format::{
        ALaw, DsdU8, DsdU16, DsdU32, MuLaw, S8, U8, U16, U18_3, U20, U20_3, U24, U24_3, U32,
    };
    let sample: &[u8] = match format {
        MuLaw => &[0xff],
        ALaw => &[0xd5],
        DsdU8 | DsdU16 | DsdU32 => &[0x69],
        U8 => &[0x80],
        S8 => &[0],
        U16 => &[0, 0x80],
        U18_3 => &[0, 0, 0x02],
        U20_3 => &[0, 0, 0x08],
        U24_3 => &[0, 0, 0x80],
        U20 => &[0, 0, 0x08, 0],
        U24 => &[0, 0, 0x80, 0],
        U32 => &[0, 0, 0, 0x80],
        _ => &[0],
    };
    for (byte, value) in samples.iter_mut().zip(sample.iter().cycle()) {
        *byte = *value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_the_middle() {
        for (format, expected) in [
            (Format::S16, [0, 0, 0, 0, 0, 0]),
            (Format::U8, [0x80; 6]),
            (Format::U16, [0, 0x80, 0, 0x80, 0, 0x80]),
            (Format::U20_3, [0, 0, 8, 0, 0, 8]),
        ] {
            let mut samples = [0x55; 6];
            silence(format, &mut samples);
            assert_eq!(samples, expected, "{format}");
        }
    }
}
