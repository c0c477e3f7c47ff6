//! What a driver sets for a stream (virtio 1.3, 5.14.6.6.3), checked once.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::StreamConfig;
use super::format::{Format, Rate};

/// Bytes of a buffer at most: ten seconds of eight channels of 192 kHz, and more than any driver asks for.
pub const LONGEST: u32 = 64 << 20;

/// What a driver asks for, as it says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Bytes of the whole buffer.
    pub buffer_bytes: u32,
    /// Bytes of a period.
    pub period_bytes: u32,
    /// VIRTIO_SND_PCM_F_*, as bits.
    pub features: u32,
    /// Channels.
    pub channels: u8,
    /// A format's number.
    pub format: u8,
    /// A rate's number.
    pub rate: u8,
}

/// Why a stream can't be as it is asked to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParamsError {
    /// The stream can't: a format, a rate, channels or a feature.
    #[error("the stream has no such format, rate, channels or feature")]
    Unsupported,
    /// It makes no sense: a period of nothing, or of parts of frames.
    #[error("the buffer or its periods have an impossible size")]
    Size,
}

/// What was set, and makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// How samples are written.
    pub format: Format,
    /// How many frames a second.
    pub rate: Rate,
    /// Samples of a frame.
    pub channels: u8,
    /// Bytes of a frame.
    pub frame: u32,
    /// Bytes of a period: whole frames.
    pub period: u32,
    /// Bytes of the buffer: whole periods.
    pub buffer: u32,
    /// VIRTIO_SND_PCM_F_*, of those that were offered.
    pub features: u32,
}

impl Params {
    /// Checks what is asked of a stream that offers `features`.
    ///
    /// # Errors
    /// See [`ParamsError`].
    pub fn check(asked: Asked, stream: &StreamConfig, features: u32) -> Result<Self, ParamsError> {
        let format = Format::of_number(asked.format).ok_or(ParamsError::Unsupported)?;
        let rate = Rate::of_number(asked.rate).ok_or(ParamsError::Unsupported)?;
        let (least, most) = stream.channels;
        if !stream.formats.contains(&format)
            || !stream.rates.contains(&rate)
            || !(least..=most).contains(&asked.channels)
            || asked.features & !features != 0
        {
            return Err(ParamsError::Unsupported);
        }
        let bits = u32::from(format.bits()).saturating_mul(asked.channels.into());
        let (period, buffer) = (asked.period_bytes, asked.buffer_bytes);
        let frame = u32::from(format.frame(asked.channels));
        // Samples of half a byte make whole frames by pairs alone.
        let whole = |bytes: u32, of: u32| bytes != 0 && bytes.checked_rem(of) == Some(0);
        if bits % 8 != 0 || !whole(period, frame) || !whole(buffer, period) || buffer > LONGEST {
            return Err(ParamsError::Size);
        }
        let (channels, features) = (asked.channels, asked.features);
        Ok(Self { format, rate, channels, frame, period, buffer, features })
    }

    /// What was asked for.
    #[must_use]
    pub fn asked(&self) -> Asked {
        Asked {
            buffer_bytes: self.buffer,
            period_bytes: self.period,
            features: self.features,
            channels: self.channels,
            format: self.format.number(),
            rate: self.rate.number(),
        }
    }

    /// How long so many frames last.
    #[must_use]
    pub fn time(&self, frames: u64) -> Duration {
        let nanoseconds = u128::from(frames).saturating_mul(1_000_000_000);
        let nanoseconds = nanoseconds.checked_div(self.rate.hertz().into()).unwrap_or(0);
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    /// How many frames begin and end in a time.
    #[must_use]
    pub fn frames(&self, time: Duration) -> u64 {
        let frames = time.as_nanos().saturating_mul(self.rate.hertz().into()) / 1_000_000_000;
        u64::try_from(frames).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::card::port::Port;

    fn stream() -> StreamConfig {
        StreamConfig {
            name: String::from("speaker"),
            port: Port::Speaker,
            formats: vec![Format::S16, Format::ImaAdpcm],
            rates: vec!["48000".parse().unwrap()],
            channels: (1, 2),
        }
    }

    const GOOD: Asked = Asked {
        buffer_bytes: 7680,
        period_bytes: 1920,
        features: 0,
        channels: 2,
        format: 5,
        rate: 7,
    };

    fn check(asked: Asked) -> Result<Params, ParamsError> {
        Params::check(asked, &stream(), 1 << 4)
    }

    #[test]
    fn what_a_stream_can_do_is_taken_and_nothing_else() {
        let params = check(GOOD).unwrap();
        assert_eq!((params.frame, params.time(480)), (4, Duration::from_millis(10)));
        assert_eq!(params.frames(Duration::from_millis(10)), 480);
        assert!(check(Asked { features: 1 << 4, ..GOOD }).is_ok());
        for wrong in [
            Asked { features: 1, ..GOOD },
            Asked { channels: 0, ..GOOD },
            Asked { channels: 3, ..GOOD },
            Asked { format: 4, ..GOOD },
            Asked { format: 200, ..GOOD },
            Asked { rate: 6, ..GOOD },
            Asked { rate: 200, ..GOOD },
        ] {
            assert_eq!(check(wrong), Err(ParamsError::Unsupported), "{wrong:?}");
        }
        for wrong in [
            Asked { period_bytes: 0, ..GOOD },
            Asked { buffer_bytes: 0, ..GOOD },
            Asked { period_bytes: 1922, ..GOOD },
            Asked { buffer_bytes: 7684, ..GOOD },
            Asked { period_bytes: 7684, ..GOOD },
            Asked { buffer_bytes: u32::MAX - 3, period_bytes: u32::MAX - 3, ..GOOD },
            Asked { format: 0, channels: 1, ..GOOD },
        ] {
            assert_eq!(check(wrong), Err(ParamsError::Size), "{wrong:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_asked_makes_sense_or_is_refused(
            buffer_bytes: u32, period_bytes: u32, features: u32, channels: u8, format: u8, rate: u8,
        ) {
            let asked = Asked { buffer_bytes, period_bytes, features, channels, format, rate };
            if let Ok(params) = check(asked) {
                assert!(params.period % params.frame == 0 && params.buffer % params.period == 0);
            }
        }
    }
}
