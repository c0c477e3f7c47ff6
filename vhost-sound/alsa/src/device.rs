//! A device of ALSA's, opened for samples of a kind.

use alsa::pcm::{Access, Format as AlsaFormat, Frames, HwParams, PCM};
use alsa::{Direction as Way, ValueOr};
use vhost_sound::card::format::Format;
use vhost_sound::host::helper::far::Options;
use vhost_sound::host::helper::ring::Order;

/// Why it is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    #[error("ALSA has no device {0} that can be {1}: {2}")]
    Open(String, &'static str, alsa::Error),
    #[error("{0} cannot have {1}, {2} channels, {3} Hz: {4}")]
    Samples(String, Format, u8, u32, alsa::Error),
    #[error("{0} has failed: {1}")]
    Failed(String, alsa::Error),
}

/// What is played to, or recorded from, unless it is said.
const DEFAULT: &str = "default";
/// Periods of a device's buffer.
const PERIODS: u32 = 4;

/// A device that is ready for samples.
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) pcm: PCM,
    /// Frames of a period, and of its buffer.
    pub(crate) period: u64,
    pub(crate) buffer: u64,
}

fn open(name: &str, options: &Options) -> Result<PCM, DeviceError> {
    let (way, verb) = match options.capture {
        false => (Way::Playback, "played to"),
        true => (Way::Capture, "recorded from"),
    };
    let failed = |error| DeviceError::Open(name.to_owned(), verb, error);
    PCM::new(name, way, true).map_err(failed)
}

fn name(options: &Options) -> &str {
    options.target.as_deref().unwrap_or(DEFAULT)
}

/// Sees whether it is there.
pub(crate) fn check(options: &Options) -> Result<(), DeviceError> {
    open(name(options), options).map(drop)
}

impl Device {
    /// Opens it. What its hardware can't have is converted by ALSA.
    pub(crate) fn open(options: &Options, order: &Order) -> Result<Self, DeviceError> {
        let name = name(options);
        let device = Self::open_as(name, options, order);
        match device {
            Err(DeviceError::Samples(..)) => {
                let converted = Self::open_as(&format!("plug:'{name}'"), options, order)?;
                log::info!(
                    "{}: {name} cannot have {}, {} channels, {} Hz: ALSA converts them",
                    options.name,
                    order.format,
                    order.channels,
                    order.rate.hertz()
                );
                Ok(Self { name: name.to_owned(), ..converted })
            }
            other => other,
        }
    }

    fn open_as(name: &str, options: &Options, order: &Order) -> Result<Self, DeviceError> {
        let pcm = open(name, options)?;
        let hertz = order.rate.hertz();
        let failed = |error| {
            DeviceError::Samples(name.to_owned(), order.format, order.channels, hertz, error)
        };
        let (period, buffer) = set(&pcm, options, order).map_err(failed)?;
        let number = |frames: Frames| u64::try_from(frames).unwrap_or(0);
        let (period, buffer) = (number(period), number(buffer));
        Ok(Self { name: name.to_owned(), pcm, period, buffer })
    }

    /// What ALSA said of it.
    pub(crate) fn failed(&self, error: alsa::Error) -> DeviceError {
        DeviceError::Failed(self.name.clone(), error)
    }
}

/// Sets what samples are like, and how many wait in the device at most. Returns frames of a period and of the buffer.
fn set(pcm: &PCM, options: &Options, order: &Order) -> alsa::Result<(Frames, Frames)> {
    let hardware = HwParams::any(pcm)?;
    hardware.set_access(Access::RWInterleaved)?;
    hardware.set_format(format(order.format))?;
    hardware.set_channels(order.channels.into())?;
    hardware.set_rate(order.rate.hertz(), ValueOr::Nearest)?;
    hardware.set_buffer_time_near(options.latency, ValueOr::Nearest)?;
    hardware.set_period_time_near(options.latency / PERIODS, ValueOr::Nearest)?;
    pcm.hw_params(&hardware)?;
    let (period, buffer) = (hardware.get_period_size()?, hardware.get_buffer_size()?);
    let software = pcm.sw_params_current()?;
    software.set_avail_min(period)?;
    software.set_start_threshold(1)?;
    pcm.sw_params(&software)?;
    Ok((period, buffer))
}

fn format(format: Format) -> AlsaFormat {
    match format {
        Format::ImaAdpcm => AlsaFormat::ImaAdPCM,
        Format::MuLaw => AlsaFormat::MuLaw,
        Format::ALaw => AlsaFormat::ALaw,
        Format::S8 => AlsaFormat::S8,
        Format::U8 => AlsaFormat::U8,
        Format::S16 => AlsaFormat::S16LE,
        Format::U16 => AlsaFormat::U16LE,
        Format::S18_3 => AlsaFormat::S183LE,
        Format::U18_3 => AlsaFormat::U183LE,
        Format::S20_3 => AlsaFormat::S203LE,
        Format::U20_3 => AlsaFormat::U203LE,
        Format::S24_3 => AlsaFormat::S243LE,
        Format::U24_3 => AlsaFormat::U243LE,
        Format::S20 => AlsaFormat::S20LE,
        Format::U20 => AlsaFormat::U20LE,
        Format::S24 => AlsaFormat::S24LE,
        Format::U24 => AlsaFormat::U24LE,
        Format::S32 => AlsaFormat::S32LE,
        Format::U32 => AlsaFormat::U32LE,
        Format::Float => AlsaFormat::FloatLE,
        Format::Float64 => AlsaFormat::Float64LE,
        Format::DsdU8 => AlsaFormat::DSDU8,
        Format::DsdU16 => AlsaFormat::DSDU16LE,
        Format::DsdU32 => AlsaFormat::DSDU32LE,
        Format::Iec958Subframe => AlsaFormat::IEC958SubframeLE,
    }
}
