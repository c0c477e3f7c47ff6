//! Makes what is played or recorded as loud as its [level](Level) says.

use super::control::{Level, PLACES};
use super::format::{Format, Linear};
use super::params::Params;
use super::silence::silence;

/// Binary places of a factor.
const BITS: u32 = 30;
const ONE: i64 = 1 << BITS;

/// What samples are multiplied with.
#[derive(Clone, Copy, Debug)]
pub struct Gain {
    /// Of each channel, 0 to [`ONE`].
    factors: [i64; PLACES],
    is_on: bool,
}

impl Gain {
    /// That of a level.
    #[must_use]
    pub fn of(level: &Level) -> Self {
        let factors = level.factors().map(|factor| (factor * ONE as f64).round() as i64);
        Self { factors, is_on: level.is_on }
    }

    /// Changes whole frames, but for those that are as loud as they are to be: no sample of them is touched. What is
    /// not linear has no volume, and is switched on and off.
    pub fn apply(&self, params: &Params, frames: &mut [u8]) {
        if !self.is_on {
            return silence(params.format, frames);
        }
        let factors = self.factors.get(..params.channels.into()).unwrap_or(&self.factors);
        if factors.iter().all(|factor| *factor == ONE) {
            return;
        }
        match (params.format, params.format.linear()) {
            (Format::Float, _) => each(frames, factors, |sample, factor| {
                let sample = f64::from(f32::from_le_bytes(sample));
                (multiply(sample, factor) as f32).to_le_bytes()
            }),
            (Format::Float64, _) => each(frames, factors, |sample, factor| {
                multiply(f64::from_le_bytes(sample), factor).to_le_bytes()
            }),
            (_, Some(linear)) => match params.format.bits() {
                8 => each::<1>(frames, factors, |sample, factor| linear.scaled(sample, factor)),
                16 => each::<2>(frames, factors, |sample, factor| linear.scaled(sample, factor)),
                24 => each::<3>(frames, factors, |sample, factor| linear.scaled(sample, factor)),
                _ => each::<4>(frames, factors, |sample, factor| linear.scaled(sample, factor)),
            },
            _ => {}
        }
    }
}

/// Whatever is multiplied with nothing is nothing, as infinity is not.
fn multiply(sample: f64, factor: i64) -> f64 {
    if factor == 0 { 0.0 } else { sample * (factor as f64 / ONE as f64) }
}

/// Changes each sample, by its channel's factor.
fn each<const WIDTH: usize>(
    frames: &mut [u8],
    factors: &[i64],
    change: impl Fn([u8; WIDTH], i64) -> [u8; WIDTH],
) {
    let (samples, _) = frames.as_chunks_mut::<WIDTH>();
    for (sample, factor) in samples.iter_mut().zip(factors.iter().cycle()) {
        *sample = change(*sample, *factor);
    }
}

impl Linear {
    /// A sample, multiplied with a factor and rounded.
    fn scaled<const WIDTH: usize>(self, sample: [u8; WIDTH], factor: i64) -> [u8; WIDTH] {
        let mut bytes = [0; 8];
        bytes.iter_mut().zip(sample).for_each(|(to, from)| *to = from);
        // An unsigned sample is a signed one whose highest bit is the other way round.
        let highest = 1i64.wrapping_shl(self.bits.wrapping_sub(1));
        let flip = if self.is_signed { 0 } else { highest };
        let rest = i64::BITS.wrapping_sub(self.bits);
        let value = (i64::from_le_bytes(bytes) ^ flip).wrapping_shl(rest).wrapping_shr(rest);
        let value = value.wrapping_mul(factor).wrapping_add(ONE / 2).wrapping_shr(BITS);
        let value = if self.is_signed { value } else { value.wrapping_add(highest) };
        let mut changed = [0; WIDTH];
        changed.iter_mut().zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
        changed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::card::control::LOUDEST;

    fn params(format: Format, channels: u8) -> Params {
        let frame = u32::from(format.bits()) / 8 * u32::from(channels);
        let rate = "48000".parse().unwrap();
        Params { format, rate, channels, frame, period: frame, buffer: frame, features: 0 }
    }

    fn applied(format: Format, channels: u8, level: &Level, frames: &[u8]) -> Vec<u8> {
        let mut frames = frames.to_vec();
        Gain::of(level).apply(&params(format, channels), &mut frames);
        frames
    }

    fn all() -> impl Iterator<Item = Format> {
        (0..25).filter_map(Format::of_number)
    }

    /// What a sample is worth, whatever its format.
    fn value(format: Format, sample: &[u8]) -> f64 {
        let mut bytes = [0; 8];
        bytes[..sample.len()].copy_from_slice(sample);
        match format.linear() {
            Some(Linear { bits, is_signed: true }) => {
                (i64::from_le_bytes(bytes) << (64 - bits) >> (64 - bits)) as f64
            }
            Some(Linear { bits, .. }) => {
                i64::from_le_bytes(bytes) as f64 - 2f64.powi(bits as i32 - 1)
            }
            None if format == Format::Float => {
                f32::from_le_bytes(sample.try_into().unwrap()).into()
            }
            None => f64::from_le_bytes(bytes),
        }
    }

    /// A sample that is worth about so much of the most.
    fn sample(format: Format, part: f64) -> Vec<u8> {
        let width = usize::from(format.bits() / 8);
        match format.linear() {
            Some(Linear { bits, is_signed }) => {
                let half = 1i64 << (bits - 1);
                let value = (part * (half - 1) as f64) as i64 + if is_signed { 0 } else { half };
                value.to_le_bytes()[..width].to_vec()
            }
            None if format == Format::Float => (part as f32).to_le_bytes().to_vec(),
            None => part.to_le_bytes().to_vec(),
        }
    }

    fn scalable() -> impl Iterator<Item = Format> {
        let floats = [Format::Float, Format::Float64];
        all().filter(move |format| format.linear().is_some() || floats.contains(format))
    }

    #[test]
    fn a_channel_has_its_own_volume() {
        let mut level = Level::default();
        (level.volumes[0], level.volumes[1]) = (0, 90);
        let frames: Vec<u8> =
            [1000i16, 1000, -1000, -1000, 0, 1].iter().flat_map(|it| it.to_le_bytes()).collect();
        let changed = applied(Format::S16, 2, &level, &frames);
        let changed: Vec<i16> =
            changed.chunks(2).map(|it| i16::from_le_bytes([it[0], it[1]])).collect();
        assert_eq!(changed, [0, 501, 0, -501, 0, 1]);
        assert_eq!(applied(Format::U8, 2, &level, &[0xff, 0x80, 0, 0]), [0x80, 0x80, 0x80, 0x40]);
    }

    #[test]
    fn what_is_not_linear_has_a_switch_alone() {
        let quiet = Level::default().with_volume(0);
        let off = Level { is_on: false, ..quiet };
        assert_eq!(applied(Format::MuLaw, 2, &quiet, &[1, 2, 3, 4]), [1, 2, 3, 4]);
        assert_eq!(applied(Format::MuLaw, 2, &off, &[1, 2, 3, 4]), [0xff; 4]);
    }

    #[test]
    fn infinity_is_silent_too() {
        let quiet = Level::default().with_volume(0);
        for float in [f32::INFINITY, f32::NAN, -1.0] {
            assert_eq!(applied(Format::Float, 1, &quiet, &float.to_le_bytes()), [0; 4]);
        }
    }

    proptest! {
        #[test]
        fn the_loudest_changes_nothing(bytes: Vec<u8>, channels in 1..=8u8) {
            for format in all() {
                prop_assert_eq!(&applied(format, channels, &Level::default(), &bytes), &bytes);
            }
        }

        /// A factor of 1 next to another one does not either.
        #[test]
        fn a_loud_channel_is_as_it_was(part in -1.0..=1.0f64) {
            let mut level = Level::default();
            level.volumes[1] = 50;
            for format in scalable() {
                let sample = sample(format, part);
                let changed = applied(format, 2, &level, &[&sample[..], &sample].concat());
                prop_assert_eq!(&changed[..sample.len()], &sample);
            }
        }

        #[test]
        fn quieter_is_nearer_to_silence(part in -1.0..=1.0f64, volume in 0..LOUDEST) {
            for format in scalable() {
                let sample = sample(format, part);
                let at = |volume| {
                    let level = Level::default().with_volume(volume);
                    value(format, &applied(format, 1, &level, &sample))
                };
                let (quiet, loud, whole) = (at(volume), at(volume + 1), value(format, &sample));
                prop_assert!(quiet.abs() <= loud.abs() && loud.abs() <= whole.abs(), "{format}");
                prop_assert!(quiet * whole >= 0.0 && at(0) == 0.0, "{format}");
            }
        }

        #[test]
        fn a_louder_sample_stays_louder(one in -1.0..=1.0f64, other in -1.0..=1.0f64, volume in 0..=LOUDEST) {
            let level = Level::default().with_volume(volume);
            for format in scalable() {
                let changed = |part| value(format, &applied(format, 1, &level, &sample(format, part)));
                prop_assert!(changed(one.min(other)) <= changed(one.max(other)), "{format}");
            }
        }

        #[test]
        fn off_is_silence(bytes: Vec<u8>, volume in 0..=LOUDEST) {
            let level = Level { is_on: false, ..Level::default().with_volume(volume) };
            for format in all() {
                let mut expected = bytes.clone();
                silence(format, &mut expected);
                prop_assert_eq!(applied(format, 2, &level, &bytes), expected);
            }
        }
    }
}
