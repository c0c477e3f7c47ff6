//! Samples of one kind, made to samples of another: for devices whose hardware can't have the guest's.

use std::fmt;

use audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Async, FixedAsync, Resampler, SincInterpolationParameters, WindowFunction};
use vhost_sound::card::StreamConfig;
use vhost_sound::card::format::Format;
use vhost_sound::card::sample;
use vhost_sound::host::helper::ring::Order;

/// What samples are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) format: Format,
    pub(crate) channels: u8,
    pub(crate) hertz: u32,
}

impl Kind {
    /// As the card has them.
    pub(crate) fn of(order: &Order) -> Self {
        Self { format: order.format, channels: order.channels, hertz: order.rate.hertz() }
    }

    /// Bytes of a frame.
    pub(crate) fn frame(&self) -> usize {
        self.format.frame(self.channels).into()
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} channels, {} Hz", self.format, self.channels, self.hertz)
    }
}

/// Frames that are resampled at once, and how many around one have a part in it.
const CHUNK: usize = 64;
const LENGTH: usize = 128;

/// Makes the one to the other.
pub(crate) struct Converter {
    from: Kind,
    to: Kind,
    /// How much of each channel there is in each of the new ones.
    mix: Vec<Vec<f64>>,
    resampler: Option<Async<f64>>,
    /// What waits to be resampled, and what was, in the new channels.
    waiting: Vec<f64>,
    resampled: Vec<f64>,
}

impl Converter {
    /// `None`: one of them is not linear.
    pub(crate) fn new(from: Kind, to: Kind) -> Option<Self> {
        let is_linear = |kind: Kind| {
            kind.format.linear().is_some() || matches!(kind.format, Format::Float | Format::Float64)
        };
        if !is_linear(from) || !is_linear(to) {
            return None;
        }
        let resampler = if from.hertz == to.hertz {
            None
        } else {
            let ratio = f64::from(to.hertz) / f64::from(from.hertz);
            let parameters = SincInterpolationParameters::new(LENGTH, WindowFunction::Blackman2);
            let channels = to.channels.into();
            Some(
                Async::new_sinc(ratio, 1.0, &parameters, CHUNK, channels, FixedAsync::Input)
                    .ok()?,
            )
        };
        let longest = resampler.as_ref().map_or(0, Resampler::output_frames_max);
        let resampled = vec![0.0; longest.saturating_mul(to.channels.into())];
        Some(Self {
            from,
            to,
            mix: mix(from.channels, to.channels),
            resampler,
            waiting: Vec::new(),
            resampled,
        })
    }

    /// Frames that go in before what went in first comes out.
    pub(crate) fn delay(&self) -> usize {
        let delay = |it: &Async<f64>| {
            let ratio = f64::from(self.from.hertz) / f64::from(self.to.hertz);
            (it.output_delay() as f64 * ratio).ceil() as usize
        };
        self.resampler.as_ref().map_or(0, |it| delay(it).saturating_add(CHUNK))
    }

    /// Converts whole frames; what comes of them is added to `out`.
    pub(crate) fn convert(&mut self, frames: &[u8], out: &mut Vec<u8>) {
        let width = usize::from(self.from.format.bits() / 8).max(1);
        let mut old = Vec::with_capacity(self.from.channels.into());
        for frame in frames.chunks_exact(self.from.frame()) {
            old.clear();
            old.extend(frame.chunks_exact(width).map(|it| sample::read(self.from.format, it)));
            self.waiting.extend(self.mix.iter().map(|parts| -> f64 {
                parts.iter().zip(&old).map(|(part, value)| part * value).sum()
            }));
        }
        let Some(resampler) = &mut self.resampler else {
            encode(self.to.format, &self.waiting, out);
            self.waiting.clear();
            return;
        };
        let channels = usize::from(self.to.channels);
        let (mut done, most) = (0, resampler.output_frames_max());
        while let Some(left) =
            self.waiting.get(done..).filter(|it| it.len() >= CHUNK.saturating_mul(channels))
        {
            let input = InterleavedSlice::new(left, channels, CHUNK);
            let output = InterleavedSlice::new_mut(&mut self.resampled, channels, most);
            let (Ok(input), Ok(mut output)) = (input, output) else { break };
            let Ok((read, written)) = resampler.process_into_buffer(&input, &mut output, None)
            else {
                break;
            };
            done = done.saturating_add(read.saturating_mul(channels));
            encode(
                self.to.format,
                self.resampled.get(..written.saturating_mul(channels)).unwrap_or_default(),
                out,
            );
        }
        self.waiting.drain(..done.min(self.waiting.len()));
    }
}

fn encode(format: Format, values: &[f64], out: &mut Vec<u8>) {
    let width = usize::from(format.bits() / 8);
    for value in values {
        let mut bytes = [0; 8];
        sample::write(format, *value, &mut bytes);
        out.extend(bytes.iter().take(width));
    }
}

/// How much of each of `from` channels there is in each of `to`: never more in all than one can have.
fn mix(from: u8, to: u8) -> Vec<Vec<f64>> {
    let (old, new) = (StreamConfig::positions(from), StreamConfig::positions(to));
    let part = |old: u8, new: u8| match (old, new) {
        _ if old == new => 1.0,
        // One channel is all that there is, or that there will be.
        (MONO, FRONT_LEFT | FRONT_RIGHT) | (FRONT_LEFT | FRONT_RIGHT, MONO) => 1.0,
        (_, MONO) if old != LOW => HALF,
        (FRONT_CENTER, FRONT_LEFT | FRONT_RIGHT) if to == 2 => HALF,
        (REAR_LEFT | SIDE_LEFT, FRONT_LEFT) | (REAR_RIGHT | SIDE_RIGHT, FRONT_RIGHT) if to == 2 => {
            HALF
        }
        _ => 0.0,
    };
    let parts = new.iter().map(|new| old.iter().map(|old| part(*old, *new)).collect::<Vec<f64>>());
    let mut all: Vec<Vec<f64>> = parts.collect();
    let most = all.iter().map(|parts| parts.iter().sum()).fold(1.0, f64::max);
    all.iter_mut().flatten().for_each(|part| *part /= most);
    all
}

/// VIRTIO_SND_CHMAP_*.
const MONO: u8 = 2;
const FRONT_LEFT: u8 = 3;
const FRONT_RIGHT: u8 = 4;
const REAR_LEFT: u8 = 5;
const REAR_RIGHT: u8 = 6;
const FRONT_CENTER: u8 = 7;
const LOW: u8 = 8;
const SIDE_LEFT: u8 = 9;
const SIDE_RIGHT: u8 = 10;
/// Half the power.
const HALF: f64 = std::f64::consts::FRAC_1_SQRT_2;

#[cfg(test)]
mod tests {
    use super::*;

    const CD: Kind = Kind { format: Format::S16, channels: 2, hertz: 44_100 };

    fn converted(from: Kind, to: Kind, frames: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Converter::new(from, to).unwrap().convert(frames, &mut out);
        out
    }

    #[test]
    fn what_is_the_same_stays_and_what_is_wider_is_worth_the_same() {
        let frames: Vec<u8> = (0..=255).collect();
        assert_eq!(converted(CD, CD, &frames), frames);
        let wide = Kind { format: Format::S32, ..CD };
        let there = converted(CD, wide, &frames);
        assert_eq!(there[..4], [0, 0, 0, 1]);
        assert_eq!(converted(wide, CD, &there), frames);
        assert!(Converter::new(CD, Kind { format: Format::MuLaw, ..CD }).is_none());
    }

    #[test]
    fn channels_are_mixed_and_none_is_too_loud() {
        let mono = Kind { channels: 1, ..CD };
        assert_eq!(converted(mono, CD, &[1, 2]), [1, 2, 1, 2]);
        assert_eq!(converted(CD, mono, &[0, 0x40, 0, 0x20]), [0, 0x30]);
        for (from, to) in (1..=8).flat_map(|from| (1..=8).map(move |to| (from, to))) {
            let mix = mix(from, to);
            assert_eq!((mix.len(), mix[0].len()), (to.into(), from.into()));
            assert!(mix.iter().all(|parts| parts.iter().sum::<f64>() <= 1.0 + 1e-9));
            // The first is heard wherever there is one.
            assert!(mix[0][0] > 0.0, "{from} {to}");
        }
    }

    /// A sine of 1 kHz stays one, at each rate.
    #[test]
    fn a_tone_is_the_same_tone_at_another_rate() {
        for (from, to) in [(44_100, 48_000), (48_000, 44_100), (8000, 192_000), (96_000, 16_000)] {
            let kind = |hertz| Kind { format: Format::Float, channels: 1, hertz };
            let wave = |frame: u32, hertz: u32| {
                (f64::from(frame) / f64::from(hertz) * 1000.0 * std::f64::consts::TAU).sin() * 0.5
            };
            let frames: Vec<u8> =
                (0..from).flat_map(|frame| (wave(frame, from) as f32).to_le_bytes()).collect();
            let out = converted(kind(from), kind(to), &frames);
            let out: Vec<f64> =
                out.chunks_exact(4).map(|it| sample::read(Format::Float, it)).collect();
            let missing = f64::from(to) - out.len() as f64;
            assert!((0.0..=f64::from(to) * 0.02).contains(&missing), "{from} {to}: {missing}");
            // What is left of it, without the beginning, is 1 kHz of the same height.
            let (mut sine, mut cosine, mut power) = (0.0, 0.0, 0.0);
            let part = &out[out.len() / 10..];
            let whole = part.len() / (to as usize / 100) * (to as usize / 100);
            for (number, value) in part[..whole].iter().enumerate() {
                let angle = number as f64 / f64::from(to) * 1000.0 * std::f64::consts::TAU;
                sine += value * angle.sin();
                cosine += value * angle.cos();
                power += value * value;
            }
            let tone = (sine * sine + cosine * cosine) * 2.0 / whole as f64;
            let noise = ((power - tone) / power).abs();
            assert!(noise < 1e-6, "{from} {to}: {noise}");
            assert!((power / whole as f64 - 0.125).abs() < 1e-3, "{from} {to}: {power}");
        }
    }

    proptest::proptest! {
        #[test]
        fn however_it_is_cut_the_same_comes_out(frames: Vec<u8>, cut: usize) {
            let frames = &frames[..frames.len() / 4 * 4];
            let cut = cut % (frames.len() / 4 + 1) * 4;
            let to = Kind { hertz: 48_000, channels: 3, format: Format::S24_3 };
            let (mut converter, mut out) = (Converter::new(CD, to).unwrap(), Vec::new());
            converter.convert(&frames[..cut], &mut out);
            converter.convert(&frames[cut..], &mut out);
            proptest::prop_assert_eq!(out, converted(CD, to, frames));
        }
    }
}
