//! Messages of the control queue (virtio 1.3, 5.14.6): read once, into what can't be wrong.

use crate::card::control::PLACES;
use crate::card::params::Asked;

const JACK_INFO: u32 = 0x0001;
const JACK_REMAP: u32 = 0x0002;
const PCM_INFO: u32 = 0x0100;
const PCM_SET_PARAMS: u32 = 0x0101;
const PCM_PREPARE: u32 = 0x0102;
const PCM_RELEASE: u32 = 0x0103;
const PCM_START: u32 = 0x0104;
const PCM_STOP: u32 = 0x0105;
const CHMAP_INFO: u32 = 0x0200;
const CTL_INFO: u32 = 0x0300;
const CTL_ENUM_ITEMS: u32 = 0x0301;
const CTL_READ: u32 = 0x0302;
const CTL_WRITE: u32 = 0x0303;
const CTL_TLV_READ: u32 = 0x0304;
const CTL_TLV_WRITE: u32 = 0x0305;
const CTL_TLV_COMMAND: u32 = 0x0306;

/// Bytes of a message at most: the longest is a control's value.
pub const LONGEST: u64 = 4096;

/// What a request ends in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    /// It is done.
    Ok = 0x8000,
    /// It is malformed, or not what may be asked now.
    BadMessage = 0x8001,
    /// It, or one of its values, is not supported.
    NotSupported = 0x8002,
    /// The host has failed.
    IoError = 0x8003,
}

impl Status {
    /// As it is written.
    #[must_use]
    pub fn bytes(self) -> [u8; 4] {
        (self as u32).to_le_bytes()
    }
}

/// What is asked of several items of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// The first.
    pub start: u32,
    /// How many.
    pub count: u32,
    /// Bytes that the driver has for each.
    pub size: u32,
}

/// Of what is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Jacks.
    Jack,
    /// Streams.
    Pcm,
    /// Channel maps.
    Chmap,
    /// Controls.
    Control,
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// *_INFO.
    Info(Kind, Query),
    /// PCM_SET_PARAMS, of a stream.
    SetParams(u32, Asked),
    /// PCM_PREPARE.
    Prepare(u32),
    /// PCM_RELEASE.
    Release(u32),
    /// PCM_START.
    Start(u32),
    /// PCM_STOP.
    Stop(u32),
    /// CTL_*, of an element.
    Control(u32, Control),
    /// What is not offered: a jack's remapping.
    NotSupported,
}

/// What is asked of a control element (5.14.6.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// CTL_ENUM_ITEMS.
    EnumItems,
    /// CTL_READ.
    Read,
    /// CTL_WRITE.
    Write(Values),
    /// CTL_TLV_READ.
    TlvRead,
    /// CTL_TLV_WRITE or CTL_TLV_COMMAND.
    TlvChange,
}

/// The first values of a `virtio_snd_ctl_value`, as integers: no element here has more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Values {
    words: [u32; PLACES],
    count: usize,
}

impl Values {
    fn parse(bytes: &[u8]) -> Self {
        let (whole, _) = bytes.as_chunks();
        let mut words = [0; PLACES];
        for (word, bytes) in words.iter_mut().zip(whole) {
            *word = u32::from_le_bytes(*bytes);
        }
        Self { words, count: whole.len().min(PLACES) }
    }

    /// Those that were there.
    #[must_use]
    pub fn as_slice(&self) -> &[u32] {
        self.words.get(..self.count).unwrap_or_default()
    }
}

impl Request {
    /// Reads one. `None`: it is malformed.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (code, rest) = word(bytes)?;
        let query = || {
            let (start, rest) = word(rest)?;
            let (count, rest) = word(rest)?;
            Some(Query { start, count, size: word(rest)?.0 })
        };
        let stream = || Some(word(rest)?.0);
        Some(match code {
            JACK_INFO => Self::Info(Kind::Jack, query()?),
            PCM_INFO => Self::Info(Kind::Pcm, query()?),
            CHMAP_INFO => Self::Info(Kind::Chmap, query()?),
            CTL_INFO => Self::Info(Kind::Control, query()?),
            PCM_SET_PARAMS => {
                let (stream, rest) = word(rest)?;
                let (buffer_bytes, rest) = word(rest)?;
                let (period_bytes, rest) = word(rest)?;
                let (features, rest) = word(rest)?;
                let &[channels, format, rate, _] = rest.first_chunk()?;
                let asked = Asked { buffer_bytes, period_bytes, features, channels, format, rate };
                Self::SetParams(stream, asked)
            }
            PCM_PREPARE => Self::Prepare(stream()?),
            PCM_RELEASE => Self::Release(stream()?),
            PCM_START => Self::Start(stream()?),
            PCM_STOP => Self::Stop(stream()?),
            CTL_ENUM_ITEMS..=CTL_TLV_COMMAND => {
                let (element, rest) = word(rest)?;
                Self::Control(element, control(code, rest)?)
            }
            JACK_REMAP => Self::NotSupported,
            _ => return None,
        })
    }
}

fn control(code: u32, rest: &[u8]) -> Option<Control> {
    Some(match code {
        CTL_ENUM_ITEMS => Control::EnumItems,
        CTL_READ => Control::Read,
        CTL_WRITE => Control::Write(Values::parse(rest)),
        CTL_TLV_READ => Control::TlvRead,
        CTL_TLV_WRITE | CTL_TLV_COMMAND => Control::TlvChange,
        _ => return None,
    })
}

fn word(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (word, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*word), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn requests_are_read() {
        let query = Query { start: 1, count: 2, size: 32 };
        assert_eq!(
            Request::parse(&message(&[0x100, 1, 2, 32])),
            Some(Request::Info(Kind::Pcm, query))
        );
        let asked = Asked {
            buffer_bytes: 7680,
            period_bytes: 1920,
            features: 16,
            channels: 2,
            format: 5,
            rate: 7,
        };
        let set = message(&[0x101, 3, 7680, 1920, 16, 0x0007_0502]);
        assert_eq!(Request::parse(&set), Some(Request::SetParams(3, asked)));
        assert_eq!(Request::parse(&message(&[0x105, 9])), Some(Request::Stop(9)));
        assert_eq!(Request::parse(&message(&[2, 0])), Some(Request::NotSupported));
        assert_eq!(Request::parse(&message(&[0x106, 0])), None);
        for length in 0..set.len() {
            assert_eq!(Request::parse(&set[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn what_is_asked_of_elements_is_read() {
        let control = |words: &[u32]| match Request::parse(&message(words)) {
            Some(Request::Control(7, control)) => Some(control),
            other => panic!("{other:?}"),
        };
        assert_eq!(control(&[0x301, 7]), Some(Control::EnumItems));
        assert_eq!(control(&[0x302, 7]), Some(Control::Read));
        assert_eq!(control(&[0x304, 7]), Some(Control::TlvRead));
        assert_eq!(control(&[0x305, 7, 1, 0]), Some(Control::TlvChange));
        assert_eq!(control(&[0x306, 7, 1, 0]), Some(Control::TlvChange));
        for count in [0, 1, 8, 128] {
            let words: Vec<u32> = [0x303, 7].into_iter().chain(1..=count).collect();
            let Some(Control::Write(values)) = control(&words) else { panic!("{count}") };
            assert_eq!(values.as_slice(), &words[2..][..count.min(8) as usize]);
        }
        assert_eq!(Request::parse(&message(&[0x302])), None);
        assert_eq!(Request::parse(&message(&[0x307, 7])), None);
    }

    proptest::proptest! {
        #[test]
        fn anything_is_read_or_refused(bytes: Vec<u8>) {
            let _ = Request::parse(&bytes);
        }
    }
}
