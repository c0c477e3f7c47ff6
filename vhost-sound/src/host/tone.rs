//! A sine of 440 Hz, at a tenth of what is loudest, to be recorded: to hear that a microphone works.

use std::f64::consts::TAU;
use std::io;

use super::Host;
use super::null::silence;
use crate::card::format::{Format, Linear};
use crate::card::params::Params;

const HERTZ: f64 = 440.0;
const LOUD: f64 = 0.1;

/// The sine.
#[derive(Debug, Default)]
pub struct Tone {
    params: Option<Params>,
    /// Frames that were heard of it.
    frame: u64,
}

impl Host for Tone {
    fn prepare(&mut self, params: &Params) -> io::Result<()> {
        self.params = Some(*params);
        Ok(())
    }

    fn record(&mut self, frames: &mut [u8]) -> io::Result<()> {
        let Some(params) = self.params else { return Ok(()) };
        let size = usize::try_from(params.frame).unwrap_or(usize::MAX).max(1);
        let sample = size.checked_div(params.channels.into()).unwrap_or(size).max(1);
        for frame in frames.chunks_exact_mut(size) {
            // Its place in a second, which holds whole waves.
            let place = self.frame.checked_rem(params.rate.hertz().into()).unwrap_or(0);
            let time = place as f64 / f64::from(params.rate.hertz());
            let value = LOUD * (TAU * HERTZ * time).sin();
            for bytes in frame.chunks_exact_mut(sample) {
                write(params.format, value, bytes);
            }
            self.frame = self.frame.wrapping_add(1);
        }
        Ok(())
    }
}

/// Writes a sample from -1 to 1; silence in formats that are not linear.
fn write(format: Format, value: f64, bytes: &mut [u8]) {
    let linear = match format {
        Format::Float => return put(&(value as f32).to_le_bytes(), bytes),
        Format::Float64 => return put(&value.to_le_bytes(), bytes),
        _ => format.linear(),
    };
    let Some(Linear { bits, is_signed }) = linear else { return silence(format, bytes) };
    let half = 1i64.wrapping_shl(bits.saturating_sub(1));
    let scaled = (value * half.saturating_sub(1) as f64).round() as i64;
    let number = if is_signed { scaled } else { scaled.saturating_add(half) };
    put(&number.to_le_bytes(), bytes);
}

fn put(from: &[u8], to: &mut [u8]) {
    for (byte, value) in to.iter_mut().zip(from) {
        *byte = *value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_written_in_each_linear_format() {
        for (format, expected) in [
            (Format::S16, vec![0xff, 0x3f]),
            (Format::U8, vec![0xc0]),
            (Format::S24_3, vec![0, 0, 0x40]),
            (Format::U24, vec![0, 0, 0xc0, 0]),
            (Format::S32, vec![0, 0, 0, 0x40]),
            (Format::Float, vec![0, 0, 0, 0x3f]),
            (Format::MuLaw, vec![0xff]),
        ] {
            let mut bytes = vec![0x55; expected.len()];
            write(format, if format == Format::S16 { 0.49998 } else { 0.5 }, &mut bytes);
            assert_eq!(bytes, expected, "{format}");
        }
    }
}
