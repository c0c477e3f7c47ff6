//! A device of ALSA's, opened for samples of a kind.

use alsa::pcm::{Access, Format as AlsaFormat, Frames, HwParams, PCM};
use alsa::{Direction as Way, ValueOr};
use vhost_sound::card::CHANNELS;
use vhost_sound::card::format::Format;
use vhost_sound::host::helper::far::Options;
use vhost_sound::host::helper::ring::Order;

use crate::convert::Kind;

/// Why it is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    #[error("ALSA has no device {0} that can be {1}: {2}")]
    Open(String, &'static str, alsa::Error),
    #[error("{0} cannot have {1}, nor anything that could be made of them")]
    Samples(String, Kind),
    #[error("mixer={0}: the device has no such volume where it is {1}, but {2}")]
    Element(String, &'static str, String),
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
    /// What its samples are like.
    pub(crate) kind: Kind,
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

/// What the mixers may be called that are the device's: its card's, and its own.
pub(crate) fn cards(options: &Options) -> Vec<String> {
    let info = open(name(options), options).ok().and_then(|pcm| Some(pcm.info().ok()?.get_card()));
    let card = info.filter(|card| *card >= 0).map(|card| format!("hw:{card}"));
    card.into_iter().chain([name(options).to_owned()]).collect()
}

/// Sees whether it is there.
pub(crate) fn check(options: &Options) -> Result<(), DeviceError> {
    open(name(options), options).map(drop)
}

/// What hardware is asked for that can't have the card's samples, what is best first.
const FORMATS: [Format; 7] =
    [Format::S32, Format::S24, Format::S24_3, Format::Float, Format::S16, Format::U8, Format::S8];

impl Device {
    /// Opens it, for the card's samples, or what is next to them.
    pub(crate) fn open(options: &Options, order: &Order) -> Result<Self, DeviceError> {
        let (name, wanted) = (name(options), Kind::of(order));
        let pcm = open(name, options)?;
        let mut kinds = vec![wanted];
        kinds.extend(nearest(&pcm, wanted));
        for kind in kinds {
            if let Ok((period, buffer)) = set(&pcm, options, kind) {
                if kind != wanted {
                    log::info!(
                        "{}: {name} cannot have {wanted}: they are made {kind}",
                        options.name
                    );
                }
                let number = |frames: Frames| u64::try_from(frames).unwrap_or(0);
                let (period, buffer) = (number(period), number(buffer));
                return Ok(Self { name: name.to_owned(), pcm, kind, period, buffer });
            }
        }
        Err(DeviceError::Samples(name.to_owned(), wanted))
    }

    /// Nothing can be made of its samples.
    pub(crate) fn unlike(&self, order: &Order) -> DeviceError {
        DeviceError::Samples(self.name.clone(), Kind::of(order))
    }

    /// What ALSA said of it.
    pub(crate) fn failed(&self, error: alsa::Error) -> DeviceError {
        DeviceError::Failed(self.name.clone(), error)
    }
}

/// What the hardware can have that is next to what is wanted.
fn nearest(pcm: &PCM, wanted: Kind) -> Option<Kind> {
    let hardware = HwParams::any(pcm).ok()?;
    hardware.set_rate_resample(false).ok()?;
    hardware.set_access(Access::RWInterleaved).ok()?;
    let mut formats = std::iter::once(wanted.format).chain(FORMATS);
    let chosen = formats.find(|it| hardware.test_format(format(*it)).is_ok())?;
    hardware.set_format(format(chosen)).ok()?;
    let channels = hardware.set_channels_near(wanted.channels.into()).ok()?;
    let hertz = hardware.set_rate_near(wanted.hertz, ValueOr::Nearest).ok()?;
    let channels = u8::try_from(channels).ok().filter(|it| (1..=CHANNELS).contains(it))?;
    Some(Kind { format: chosen, channels, hertz })
}

/// Sets what samples are like, and how many wait in the device at most. Returns frames of a period and of the buffer.
fn set(pcm: &PCM, options: &Options, kind: Kind) -> alsa::Result<(Frames, Frames)> {
    let hardware = HwParams::any(pcm)?;
    hardware.set_access(Access::RWInterleaved)?;
    hardware.set_format(format(kind.format))?;
    hardware.set_channels(kind.channels.into())?;
    hardware.set_rate(kind.hertz, ValueOr::Nearest)?;
    hardware.set_buffer_time_near(options.latency, ValueOr::Nearest)?;
    hardware.set_period_time_near(options.latency / PERIODS, ValueOr::Nearest)?;
    pcm.hw_params(&hardware)?;
    let (period, buffer) = (hardware.get_period_size()?, hardware.get_buffer_size()?);
    let software = pcm.sw_params_current()?;
    // Each time that it is woken for costs the same: half of its buffer at once, but often enough for the card.
    software.set_avail_min((buffer / 2).min(Frames::from(kind.hertz) / 10).max(1))?;
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
