//! A volume in the class's units, and what it does to samples.

/// 1/256 dB, as the class counts (Audio 1.0, 5.2.2.4.3.2).
pub(super) const LOUDEST: i16 = 0;
/// -60 dB, below which nothing is heard.
pub(super) const SOFTEST: i16 = -60 * 256;
/// Minus infinity.
pub(super) const SILENCE: i16 = i16::MIN;

/// Bits behind the point of a factor.
const FRACTION: u32 = 32;
/// As what is 0 dB: samples stay as they are.
const ONE: u64 = 1 << FRACTION;
/// The factors of 1/256 dB less, of twice that, and so on: 10^(-2^n / 5120).
const FACTORS: [u64; 14] = [
    4_293_036_182,
    4_291_105_936,
    4_287_248_048,
    4_279_542_673,
    4_264_173_445,
    4_233_600_378,
    4_173_110_276,
    4_054_710_589,
    3_827_893_632,
    3_411_613_790,
    2_709_941_160,
    1_709_857_278,
    680_706_443,
    107_884_701,
];

/// What samples are multiplied by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gain(u64);

impl Gain {
    /// That of a volume that is none above 0 dB.
    pub(super) fn of(volume: i16) -> Self {
        if volume == SILENCE {
            return Self(0);
        }
        let less = volume.min(0).unsigned_abs();
        let factors = FACTORS.iter().enumerate().filter(|(bit, _)| less >> bit & 1 != 0);
        Self(factors.fold(ONE, |gain, (_, factor)| gain.saturating_mul(*factor) >> FRACTION))
    }

    /// Multiplies 16-bit samples; what is no whole sample stays.
    pub(super) fn apply(self, samples: &mut [u8]) {
        if self.0 == ONE {
            return;
        }
        let factor = i64::try_from(self.0).unwrap_or(0);
        let (samples, _) = samples.as_chunks_mut::<2>();
        for sample in samples {
            let value = i64::from(i16::from_le_bytes(*sample)).saturating_mul(factor);
            // To the nearest.
            let value = value.saturating_add(1 << (FRACTION - 1)) >> FRACTION;
            *sample = i16::try_from(value).unwrap_or(0).to_le_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaled(volume: i16, sample: i16) -> i16 {
        let mut bytes = sample.to_le_bytes();
        Gain::of(volume).apply(&mut bytes);
        i16::from_le_bytes(bytes)
    }

    #[test]
    fn decibels_are_what_they_are() {
        assert_eq!(scaled(LOUDEST, i16::MIN), i16::MIN);
        assert_eq!(scaled(SILENCE, i16::MAX), 0);
        assert_eq!((scaled(-20 * 256, 10000), scaled(-20 * 256, -10000)), (1000, -1000));
        assert_eq!(scaled(SOFTEST, 32000), 32);
        for volume in (SOFTEST..=0).step_by(7) {
            let exact = 30000.0 * 10f64.powf(f64::from(volume) / 5120.0);
            assert!((f64::from(scaled(volume, 30000)) - exact).abs() <= 0.51, "{volume}");
        }
    }

    #[test]
    fn half_a_sample_is_left_alone() {
        let mut bytes = [100, 0, 100];
        Gain::of(SILENCE).apply(&mut bytes);
        assert_eq!(bytes, [0, 0, 100]);
    }
}
