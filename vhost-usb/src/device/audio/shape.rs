//! What a stream can be, of what it was configured to be: an isochronous endpoint of full speed has room for
//! little, and the class counts in whole frames of the bus.

use vhost_sound::card::StreamConfig;
use vhost_sound::card::format::{Format, Rate};
use vhost_sound::card::params::{Asked, Params};
use vhost_sound::card::port::{Direction, Port};

use super::AudioError;

/// Frames of samples that are played or recorded in a second.
const HERTZ: std::ops::RangeInclusive<u32> = 8000..=48000;
/// Bytes of a 16-bit sample.
const SAMPLE: u8 = 2;
/// Channels at most.
const CHANNELS: u8 = 2;
/// Frames of the bus in a second.
const BUS: u32 = 1000;
/// Parts of a second that a period takes, and periods of a buffer, for hosts that want to know: as long as
/// drivers let isochronous packets wait.
const PERIODS: u32 = 100;
const BUFFER: u32 = 4;

/// What a stream offers.
#[derive(Debug)]
pub(super) struct Shape {
    config: StreamConfig,
    /// Rates, ascending: at least one.
    rates: Vec<Rate>,
}

impl Shape {
    pub(super) fn of(config: StreamConfig) -> Result<Self, AudioError> {
        let (least, most) = config.channels;
        if least == 0 || least > most || most > CHANNELS {
            return Err(AudioError::Channels);
        }
        if !config.formats.contains(&Format::S16) {
            return Err(AudioError::Format);
        }
        let rates = config.rates.iter().filter(|rate| HERTZ.contains(&rate.hertz()));
        let mut rates: Vec<Rate> = rates.copied().collect();
        rates.sort_unstable();
        rates.dedup();
        if rates.is_empty() { Err(AudioError::Rates) } else { Ok(Self { config, rates }) }
    }

    /// The stream with what there can be of it alone.
    pub(super) fn into_config(self) -> StreamConfig {
        StreamConfig { formats: vec![Format::S16], rates: self.rates, ..self.config }
    }

    pub(super) fn name(&self) -> &str {
        &self.config.name
    }

    pub(super) fn port(&self) -> Port {
        self.config.port
    }

    pub(super) fn direction(&self) -> Direction {
        self.config.direction()
    }

    /// Channels of the alternate settings from 1 on: most come first.
    pub(super) fn settings(&self) -> impl Iterator<Item = u8> {
        let (least, most) = self.config.channels;
        (least..=most).rev()
    }

    /// Channels of the cluster that passes through the device.
    pub(super) fn channels(&self) -> u8 {
        self.config.channels.1
    }

    /// Frames a second that there can be, ascending.
    pub(super) fn rates(&self) -> &[Rate] {
        &self.rates
    }

    /// The rate of so many hertz.
    pub(super) fn rate(&self, hertz: u32) -> Option<Rate> {
        self.rates.iter().find(|rate| rate.hertz() == hertz).copied()
    }

    /// The rate until another is set.
    pub(super) fn fastest(&self) -> Option<Rate> {
        self.rates.last().copied()
    }

    /// Bytes of a packet at most: one more frame than its time has, if the driver's clock is not the bus's.
    pub(super) fn max_packet(&self, channels: u8) -> u16 {
        let hertz = self.fastest().map_or(0, Rate::hertz);
        let frames = hertz.div_ceil(BUS).saturating_add(1);
        let bytes = frames.saturating_mul(SAMPLE.into()).saturating_mul(channels.into());
        u16::try_from(bytes).unwrap_or(u16::MAX)
    }

    /// What the host is told of an alternate setting at a rate. `None`: there is no such setting.
    pub(super) fn params(&self, alternate: u8, rate: Rate) -> Option<Params> {
        let channels = self.settings().nth(usize::from(alternate.checked_sub(1)?))?;
        let frame = u32::from(SAMPLE).saturating_mul(channels.into());
        let period_bytes = (rate.hertz() / PERIODS).saturating_mul(frame);
        let asked = Asked {
            buffer_bytes: period_bytes.saturating_mul(BUFFER),
            period_bytes,
            features: 0,
            channels,
            format: Format::S16.number(),
            rate: rate.number(),
        };
        Params::check(asked, &self.config, 0).ok()
    }
}

/// How many frames go into each packet, so that it comes to the rate without drift.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Of a frame, in parts of the bus's second.
    rest: u32,
}

impl Pace {
    /// Those of the next packet.
    pub(super) fn next(&mut self, rate: Rate) -> usize {
        let due = self.rest.saturating_add(rate.hertz());
        self.rest = due % BUS;
        usize::try_from(due / BUS).unwrap_or(0)
    }
}
