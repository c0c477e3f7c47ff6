//! A sine of 440 Hz, at a tenth of what is loudest, to be recorded: to hear that a microphone works.

use std::f64::consts::TAU;
use std::io;

use super::Host;
use crate::card::params::Params;
use crate::card::sample;
use crate::card::silence::silence;

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
        let width = size.checked_div(params.channels.into()).unwrap_or(size).max(1);
        for frame in frames.chunks_exact_mut(size) {
            // Its place in a second, which holds whole waves.
            let place = self.frame.checked_rem(params.rate.hertz().into()).unwrap_or(0);
            let time = place as f64 / f64::from(params.rate.hertz());
            let value = LOUD * (TAU * HERTZ * time).sin();
            for bytes in frame.chunks_exact_mut(width) {
                if !sample::write(params.format, value, bytes) {
                    silence(params.format, bytes);
                }
            }
            self.frame = self.frame.wrapping_add(1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::card::format::Format;

    #[test]
    fn whole_waves_are_heard_in_a_second() {
        let (format, rate) = (Format::S16, "48000".parse().unwrap());
        let params =
            Params { format, rate, channels: 1, frame: 2, period: 2, buffer: 2, features: 0 };
        let mut tone = Tone::default();
        tone.prepare(&params).unwrap();
        let mut frames = vec![0; 2 * 48_000];
        tone.record(&mut frames).unwrap();
        let values: Vec<i16> =
            frames.chunks(2).map(|it| i16::from_le_bytes([it[0], it[1]])).collect();
        let crossings = values.windows(2).filter(|pair| pair[0] < 0 && pair[1] >= 0).count();
        assert_eq!((crossings, values.iter().max()), (439, Some(&3277)));
        let params = Params { format: Format::MuLaw, frame: 1, ..params };
        tone.prepare(&params).unwrap();
        tone.record(&mut frames[..1]).unwrap();
        assert_eq!(frames[0], 0xff);
    }
}
