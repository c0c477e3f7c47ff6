//! A feature unit (Audio 1.0, 3.5.5 and 5.2.2.4): mute and volume of all channels together, in software.

use super::gain::{Gain, LOUDEST, SILENCE, SOFTEST};
use super::request;

/// Control selectors (table A-11).
const MUTE: u8 = 1;
const VOLUME: u8 = 2;
/// All channels at once (5.2.2.4).
const MASTER: u8 = 0;
/// Steps of the volume: half a decibel. Linux takes hundreds of them for a device's mistake.
const STEP: i16 = 128;

/// What of it another process has to know, as bits of a word: whether it is mute, and its volume.
const NOTED_MUTE: u32 = 1 << 16;

/// A feature unit.
#[derive(Debug)]
pub(super) struct Feature {
    is_mute: bool,
    volume: i16,
    gain: Gain,
}

impl Default for Feature {
    fn default() -> Self {
        Self { is_mute: false, volume: LOUDEST, gain: Gain::of(LOUDEST) }
    }
}

impl Feature {
    /// bmaControls (table 4-7) of so many channels: the master's alone has any.
    pub(super) fn controls(channels: u8) -> impl Iterator<Item = u8> {
        let master = 1 << (MUTE - 1) | 1 << (VOLUME - 1);
        std::iter::once(master).chain((0..channels).map(|_| 0))
    }

    /// An attribute of a control, by wValue's halves. `None`: there is no such control, or it has none.
    pub(super) fn get(&self, request: u8, [selector, channel]: [u8; 2]) -> Option<Vec<u8>> {
        if channel != MASTER {
            return None;
        }
        let volume = match (selector, request) {
            (MUTE, request::GET_CUR) => return Some(vec![u8::from(self.is_mute)]),
            (VOLUME, request::GET_CUR) => self.volume,
            (VOLUME, request::GET_MIN) => SOFTEST,
            (VOLUME, request::GET_MAX) => LOUDEST,
            (VOLUME, request::GET_RES) => STEP,
            _ => return None,
        };
        Some(volume.to_le_bytes().to_vec())
    }

    /// Sets one. `None`: it can't be set so.
    pub(super) fn set(
        &mut self,
        request: u8,
        [selector, channel]: [u8; 2],
        data: &[u8],
    ) -> Option<()> {
        match (request, selector, channel, data) {
            (request::SET_CUR, MUTE, MASTER, [mute]) => self.is_mute = *mute != 0,
            (request::SET_CUR, VOLUME, MASTER, [low, high]) => {
                self.set_volume(i16::from_le_bytes([*low, *high]));
            }
            _ => return None,
        }
        Some(())
    }

    /// To the nearest that there is.
    fn set_volume(&mut self, volume: i16) {
        let nearest = volume.clamp(SOFTEST, LOUDEST).saturating_add(STEP / 2) & !(STEP - 1);
        self.volume = if volume == SILENCE { SILENCE } else { nearest };
        self.gain = Gain::of(self.volume);
    }

    /// What it does to samples.
    pub(super) fn apply(&self, samples: &mut [u8]) {
        if self.is_mute { samples.fill(0) } else { self.gain.apply(samples) }
    }

    /// A word's low 17 bits.
    pub(super) fn note(&self) -> u32 {
        let mute = if self.is_mute { NOTED_MUTE } else { 0 };
        u32::from(self.volume.cast_unsigned()) | mute
    }

    /// Is as that word says.
    pub(super) fn restore(&mut self, noted: u32) {
        let [low, high, ..] = noted.to_le_bytes();
        self.set_volume(i16::from_le_bytes([low, high]));
        self.is_mute = noted & NOTED_MUTE != 0;
    }
}
