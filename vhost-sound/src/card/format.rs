//! Samples and rates (virtio 1.3, 5.14.6.6.2): what each is called there and by ALSA, and how long it is.

use std::fmt;
use std::str::FromStr;

/// How a sample is written. All are little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Format {
    /// IMA ADPCM, 4 bits a sample.
    ImaAdpcm,
    /// G.711, mu-law.
    MuLaw,
    /// G.711, A-law.
    ALaw,
    /// 8 bits, signed.
    S8,
    /// 8 bits, unsigned.
    U8,
    /// 16 bits, signed.
    S16,
    /// 16 bits, unsigned.
    U16,
    /// 18 bits in three bytes, signed.
    S18_3,
    /// 18 bits in three bytes, unsigned.
    U18_3,
    /// 20 bits in three bytes, signed.
    S20_3,
    /// 20 bits in three bytes, unsigned.
    U20_3,
    /// 24 bits in three bytes, signed.
    S24_3,
    /// 24 bits in three bytes, unsigned.
    U24_3,
    /// 20 bits in four bytes, signed.
    S20,
    /// 20 bits in four bytes, unsigned.
    U20,
    /// 24 bits in four bytes, signed.
    S24,
    /// 24 bits in four bytes, unsigned.
    U24,
    /// 32 bits, signed.
    S32,
    /// 32 bits, unsigned.
    U32,
    /// IEEE 754, single.
    Float,
    /// IEEE 754, double.
    Float64,
    /// Direct stream digital, 8 bits at once.
    DsdU8,
    /// Direct stream digital, 16 bits at once.
    DsdU16,
    /// Direct stream digital, 32 bits at once.
    DsdU32,
    /// A subframe of IEC 958.
    Iec958Subframe,
}

/// All of them: the place is the number.
const FORMATS: [(Format, &str, u16); 25] = [
    (Format::ImaAdpcm, "IMA_ADPCM", 4),
    (Format::MuLaw, "MU_LAW", 8),
    (Format::ALaw, "A_LAW", 8),
    (Format::S8, "S8", 8),
    (Format::U8, "U8", 8),
    (Format::S16, "S16_LE", 16),
    (Format::U16, "U16_LE", 16),
    (Format::S18_3, "S18_3LE", 24),
    (Format::U18_3, "U18_3LE", 24),
    (Format::S20_3, "S20_3LE", 24),
    (Format::U20_3, "U20_3LE", 24),
    (Format::S24_3, "S24_3LE", 24),
    (Format::U24_3, "U24_3LE", 24),
    (Format::S20, "S20_LE", 32),
    (Format::U20, "U20_LE", 32),
    (Format::S24, "S24_LE", 32),
    (Format::U24, "U24_LE", 32),
    (Format::S32, "S32_LE", 32),
    (Format::U32, "U32_LE", 32),
    (Format::Float, "FLOAT_LE", 32),
    (Format::Float64, "FLOAT64_LE", 64),
    (Format::DsdU8, "DSD_U8", 8),
    (Format::DsdU16, "DSD_U16_LE", 16),
    (Format::DsdU32, "DSD_U32_LE", 32),
    (Format::Iec958Subframe, "IEC958_SUBFRAME_LE", 32),
];

impl Format {
    /// That of a number.
    #[must_use]
    pub fn of_number(number: u8) -> Option<Self> {
        FORMATS.get(usize::from(number)).map(|(format, ..)| *format)
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    fn entry(self) -> (&'static str, u16) {
        FORMATS.get(usize::from(self.number())).map_or(("", 0), |(_, name, bits)| (*name, *bits))
    }

    /// Bits that a sample takes in memory.
    #[must_use]
    pub fn bits(self) -> u16 {
        self.entry().1
    }

    /// Bytes of a frame of so many samples, at least one.
    #[must_use]
    pub fn frame(self, channels: u8) -> u16 {
        (self.bits().saturating_mul(channels.into()) / 8).max(1)
    }

    /// What its samples are, if they are integers in proportion to what is heard.
    #[must_use]
    pub fn linear(self) -> Option<Linear> {
        let (bits, is_signed) = match self {
            Self::S8 => (8, true),
            Self::U8 => (8, false),
            Self::S16 => (16, true),
            Self::U16 => (16, false),
            Self::S18_3 => (18, true),
            Self::U18_3 => (18, false),
            Self::S20 | Self::S20_3 => (20, true),
            Self::U20 | Self::U20_3 => (20, false),
            Self::S24 | Self::S24_3 => (24, true),
            Self::U24 | Self::U24_3 => (24, false),
            Self::S32 => (32, true),
            Self::U32 => (32, false),
            _ => return None,
        };
        Some(Linear { bits, is_signed })
    }
}

/// Samples that are integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    /// Bits that count.
    pub bits: u32,
    /// Whether silence is 0, or in the middle of what is written without a sign.
    pub is_signed: bool,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.entry().0)
    }
}

impl FromStr for Format {
    type Err = String;

    /// By ALSA's name, without the order of its bytes.
    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |name: &'static str| name.trim_end_matches("LE").trim_end_matches('_');
        let is = |name: &'static str| {
            text.eq_ignore_ascii_case(name)
                || text.eq_ignore_ascii_case(plain(name)) && !name.ends_with("3LE")
                || name.strip_suffix("LE").is_some_and(|name| text.eq_ignore_ascii_case(name))
        };
        let found = FORMATS.iter().find(|(_, name, _)| is(name));
        found.map(|(format, ..)| *format).ok_or_else(|| {
            let names = FORMATS.map(|(_, name, _)| name).join(", ");
            format!("there is no format {text}: {names}")
        })
    }
}

/// Frames a second, of those that the standard has a number for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(u8);

const RATES: [u32; 14] = [
    5512, 8000, 11025, 16000, 22050, 32000, 44100, 48000, 64000, 88200, 96000, 176_400, 192_000,
    384_000,
];

impl Rate {
    /// That of a number.
    #[must_use]
    pub fn of_number(number: u8) -> Option<Self> {
        (usize::from(number) < RATES.len()).then_some(Self(number))
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }

    /// Frames a second.
    #[must_use]
    pub fn hertz(self) -> u32 {
        RATES.get(usize::from(self.0)).copied().unwrap_or(0)
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let place = RATES.iter().position(|rate| rate.to_string() == text);
        place.and_then(|place| u8::try_from(place).ok()).map(Self).ok_or_else(|| {
            let rates = RATES.map(|rate| rate.to_string()).join(", ");
            format!("there is no rate {text}: {rates}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_have_the_numbers_and_names_of_the_standard() {
        for (place, (format, name, _)) in FORMATS.iter().enumerate() {
            assert_eq!(usize::from(format.number()), place);
            assert_eq!(Format::of_number(format.number()), Some(*format));
            assert_eq!(name.parse(), Ok(*format));
        }
        assert_eq!(
            (Format::S16.number(), Format::S32.number(), Format::Float.number()),
            (5, 17, 19)
        );
        assert_eq!(Format::of_number(25), None);
        for (text, format) in [
            ("s16", Format::S16),
            ("S24", Format::S24),
            ("s24_3", Format::S24_3),
            ("float", Format::Float),
            ("FLOAT64_LE", Format::Float64),
            ("dsd_u16", Format::DsdU16),
        ] {
            assert_eq!(text.parse(), Ok(format));
        }
        assert!("s17".parse::<Format>().is_err());
    }

    #[test]
    fn rates_have_the_numbers_of_the_standard() {
        assert_eq!("48000".parse::<Rate>().unwrap().number(), 7);
        assert_eq!(Rate::of_number(13).unwrap().hertz(), 384_000);
        assert_eq!(Rate::of_number(14), None);
        assert!("44000".parse::<Rate>().is_err());
    }
}
