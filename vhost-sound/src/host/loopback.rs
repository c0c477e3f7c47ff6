//! What is played is recorded: the two ends of a cable.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Host;
use crate::card::format::Format;
use crate::card::params::Params;
use crate::card::silence::silence;

#[derive(Debug, Default)]
struct Cable {
    waiting: VecDeque<u8>,
    /// What is played is written so.
    played: Option<(Format, u8, u32)>,
    /// Somebody records, and lets so many bytes wait: of more, the oldest go.
    is_heard: bool,
    longest: usize,
}

/// One end.
#[derive(Debug)]
pub struct Loopback {
    cable: Arc<Mutex<Cable>>,
    is_playing: bool,
    /// What this end's samples are.
    format: Option<(Format, u8, u32)>,
}

/// The end that is played to, and the one that is recorded from.
#[must_use]
pub fn cable() -> (Loopback, Loopback) {
    let cable = Arc::<Mutex<Cable>>::default();
    let end = |is_playing| Loopback { cable: Arc::clone(&cable), is_playing, format: None };
    (end(true), end(false))
}

impl Loopback {
    fn cable(&self) -> MutexGuard<'_, Cable> {
        self.cable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host for Loopback {
    fn prepare(&mut self, params: &Params) -> io::Result<()> {
        let format = (params.format, params.channels, params.rate.hertz());
        self.format = Some(format);
        let mut cable = self.cable();
        if self.is_playing {
            cable.played = Some(format);
        } else {
            cable.is_heard = true;
            // A driver's buffer, or the fifth of a second.
            let second = params.frame.saturating_mul(params.rate.hertz());
            let longest = params.buffer.max(second / 5);
            let rest = longest.checked_rem(params.frame).unwrap_or(0);
            cable.longest = usize::try_from(longest.saturating_sub(rest)).unwrap_or(0);
        }
        cable.waiting.clear();
        Ok(())
    }

    fn play(&mut self, frames: &[u8]) -> io::Result<()> {
        let mut cable = self.cable();
        if cable.is_heard {
            cable.waiting.extend(frames);
            // Of samples that are not those that are recorded, none is heard: whole frames or not.
            let over = cable.waiting.len().saturating_sub(cable.longest);
            cable.waiting.drain(..over);
        }
        Ok(())
    }

    /// What was played in another format is not heard.
    fn record(&mut self, frames: &mut [u8]) -> io::Result<()> {
        let Some(format) = self.format else { return Ok(()) };
        let mut cable = self.cable();
        let count = match cable.played == Some(format) {
            true => cable.waiting.len().min(frames.len()),
            false => 0,
        };
        let (heard, rest) = frames.split_at_mut(count);
        for (byte, value) in heard.iter_mut().zip(cable.waiting.drain(..count)) {
            *byte = value;
        }
        silence(format.0, rest);
        Ok(())
    }

    fn release(&mut self) -> io::Result<()> {
        let mut cable = self.cable();
        if !self.is_playing {
            cable.is_heard = false;
            cable.waiting.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(channels: u8) -> Params {
        let (format, rate) = (Format::S16, "48000".parse().unwrap());
        let frame = 2 * u32::from(channels);
        Params { format, rate, channels, frame, period: frame, buffer: frame, features: 0 }
    }

    #[test]
    fn what_is_played_is_heard_while_somebody_listens() {
        let (mut near, mut far) = cable();
        let mut heard = [0x55; 6];
        near.prepare(&params(1)).unwrap();
        near.play(&[9; 6]).unwrap();
        far.prepare(&params(1)).unwrap();
        near.play(&[1, 2, 3, 4]).unwrap();
        far.record(&mut heard).unwrap();
        assert_eq!(heard, [1, 2, 3, 4, 0, 0]);
        near.play(&vec![7; 100_000]).unwrap();
        // The fifth of a second.
        assert_eq!(near.cable().waiting.len(), 19_200);
        far.release().unwrap();
        near.play(&[1, 2]).unwrap();
        far.prepare(&params(2)).unwrap();
        near.play(&[1, 2, 3, 4]).unwrap();
        far.record(&mut heard).unwrap();
        assert_eq!(heard, [0; 6], "of another format");
    }
}
