//! The card, as it was configured: streams, each with its jack, and what each can do.
//!
//! - [`format`](mod@format): samples and rates;
//! - [`clock`]: the time of a stream whose host has none;
//! - [`port`]: what a stream's jack is said to be;
//! - [`params`]: what a driver sets for a stream, checked once;
//! - [`state`]: the life of a stream;
//! - [`control`]: its volume and its switch, and [`gain`]: what they do to samples;
//! - [`sample`]: what one of them is worth, and [`silence`](mod@silence): what nothing sounds like.

pub mod clock;
pub mod control;
pub mod format;
pub mod gain;
pub mod params;
pub mod port;
pub mod sample;
pub mod silence;
pub mod state;

use format::{Format, Rate};
use port::{Direction, Port};

/// Channels of a stream at most.
pub const CHANNELS: u8 = 8;

/// A stream, as it was configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamConfig {
    /// What it is called.
    pub name: String,
    /// Its jack.
    pub port: Port,
    /// Samples that it takes, or has: one at least.
    pub formats: Vec<Format>,
    /// Rates likewise.
    pub rates: Vec<Rate>,
    /// Channels, from the least to the most.
    pub channels: (u8, u8),
}

impl StreamConfig {
    /// Which way its samples go.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.port.direction()
    }

    /// Where each of so many channels is (VIRTIO_SND_CHMAP_*), as ALSA's standard maps have it.
    #[must_use]
    pub fn positions(channels: u8) -> &'static [u8] {
        match channels {
            1 => &[2],
            2 => &[3, 4],
            3 => &[3, 4, 8],
            4 => &[3, 4, 5, 6],
            5 => &[3, 4, 5, 6, 7],
            6 => &[3, 4, 5, 6, 7, 8],
            7 => &[3, 4, 5, 6, 7, 8, 9],
            8 => &[3, 4, 5, 6, 7, 8, 9, 10],
            _ => &[],
        }
    }
}
