//! Files: what is played is written to one, and what is recorded is read from one. WAV (RIFF, with
//! WAVEFORMATEXTENSIBLE), which says what its samples are, or raw ones.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use super::Host;
use crate::card::StreamConfig;
use crate::card::format::{Format, Rate};
use crate::card::params::Params;
use crate::card::silence::silence;

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// With a header.
    Wav,
    /// Samples alone.
    Raw,
}

/// Bytes of a header that this writes: "RIFF" and "WAVE", "fmt " of 40 bytes, and "data".
const HEADER: u64 = 12 + 8 + 40 + 8;
/// Bytes that a chunk of RIFF counts: what is longer says so much.
const MOST: u64 = 0xffff_ffff;

/// What the samples of a WAV file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    format: Format,
    channels: u8,
    hertz: u32,
}

impl Shape {
    fn of(params: &Params) -> Self {
        Self { format: params.format, channels: params.channels, hertz: params.rate.hertz() }
    }

    /// Bytes of a frame.
    fn frame(self) -> u16 {
        self.format.frame(self.channels)
    }
}

/// How WAV calls a format: its tag, the bits of a sample in memory, and those that count.
const TAGS: [(Format, u16, u16, u16); 10] = [
    (Format::U8, 1, 8, 8),
    (Format::S16, 1, 16, 16),
    (Format::S18_3, 1, 24, 18),
    (Format::S20_3, 1, 24, 20),
    (Format::S24_3, 1, 24, 24),
    (Format::S32, 1, 32, 32),
    (Format::Float, 3, 32, 32),
    (Format::Float64, 3, 64, 64),
    (Format::ALaw, 6, 8, 8),
    (Format::MuLaw, 7, 8, 8),
];

/// Where each of so many channels is, as bits (ksmedia.h): front, back, center, low frequencies, sides.
fn mask(channels: u8) -> u32 {
    match channels {
        1 => 0x4,
        2 => 0x3,
        4 => 0x33,
        6 => 0x3f,
        8 => 0x63f,
        _ => 0,
    }
}

fn unsupported(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, what.to_string())
}

fn list(all: impl IntoIterator<Item = impl std::fmt::Display>) -> String {
    all.into_iter().map(|one| one.to_string()).collect::<Vec<_>>().join(", ")
}

/// The header of a file with so many bytes of samples.
fn header(shape: Shape, bytes: u64) -> io::Result<Vec<u8>> {
    /// KSDATAFORMAT_SUBTYPE_*, behind its first two bytes.
    const SUBTYPE: [u8; 14] = [0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71];
    let Some((_, tag, bits, valid)) = TAGS.iter().find(|(format, ..)| *format == shape.format)
    else {
        return Err(unsupported(format!("WAV has no {}", shape.format)));
    };
    let frame = shape.frame();
    let counted = |bytes: u64| u32::try_from(bytes.min(MOST)).unwrap_or(u32::MAX).to_le_bytes();
    let mut all = b"RIFF".to_vec();
    all.extend(counted(HEADER.saturating_sub(8).saturating_add(bytes)));
    all.extend(b"WAVEfmt ");
    all.extend(40u32.to_le_bytes());
    all.extend(0xfffeu16.to_le_bytes());
    all.extend(u16::from(shape.channels).to_le_bytes());
    all.extend(shape.hertz.to_le_bytes());
    all.extend(shape.hertz.saturating_mul(frame.into()).to_le_bytes());
    all.extend(frame.to_le_bytes());
    all.extend(bits.to_le_bytes());
    all.extend(22u16.to_le_bytes());
    all.extend(valid.to_le_bytes());
    all.extend(mask(shape.channels).to_le_bytes());
    all.extend(tag.to_le_bytes());
    all.extend(SUBTYPE);
    all.extend(b"data");
    all.extend(counted(bytes));
    Ok(all)
}

/// Reads a header; what is behind it are samples, of which there are so many bytes.
fn parse(file: &mut impl Read) -> io::Result<(Shape, u64)> {
    let malformed = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut riff = [0; 12];
    file.read_exact(&mut riff).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => malformed("it is no WAV file"),
        _ => error,
    })?;
    if !riff.starts_with(b"RIFF") || !riff.ends_with(b"WAVE") {
        return Err(malformed("it is no WAV file"));
    }
    let mut shape = None;
    loop {
        let mut chunk = [0; 8];
        file.read_exact(&mut chunk)?;
        let [a, b, c, d, length @ ..] = chunk;
        let length = u64::from(u32::from_le_bytes(length));
        match [a, b, c, d] {
            name if name == *b"data" => {
                return shape.map(|it| (it, length)).ok_or(malformed("its format is missing"));
            }
            name if name == *b"fmt " => {
                let mut bytes = Vec::new();
                file.take(length.next_multiple_of(2).min(1 << 16)).read_to_end(&mut bytes)?;
                shape = Some(shape_of(&bytes).ok_or(malformed("its format is of no known kind"))?);
            }
            _ => {
                io::copy(&mut file.take(length.next_multiple_of(2)), &mut io::sink())?;
            }
        }
    }
}

fn shape_of(bytes: &[u8]) -> Option<Shape> {
    let half = |at: usize| Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let mut tag = half(0)?;
    let bits = half(14)?;
    let mut valid = bits;
    if tag == 0xfffe {
        (valid, tag) = (half(18)?, half(24)?);
    }
    let is = |entry: &&(Format, u16, u16, u16)| (entry.1, entry.2, entry.3) == (tag, bits, valid);
    let (format, ..) = TAGS.iter().find(is)?;
    let hertz = u32::from_le_bytes(*bytes.get(4..)?.first_chunk()?);
    Some(Shape { format: *format, channels: u8::try_from(half(2)?).ok()?, hertz })
}

/// A file that is played to.
#[derive(Debug)]
pub struct Recorder {
    file: File,
    kind: Kind,
    shape: Option<Shape>,
}

impl Recorder {
    /// To a file that is empty, or that a process before this one has written to.
    #[must_use]
    pub fn new(file: File, kind: Kind) -> Self {
        Self { file, kind, shape: None }
    }

    /// What its samples are, if there are some.
    fn before(&mut self) -> io::Result<Option<Shape>> {
        if self.kind == Kind::Raw || self.file.metadata()?.len() <= HEADER {
            return Ok(None);
        }
        self.file.rewind()?;
        let (shape, _) = parse(&mut self.file)?;
        self.file.seek(SeekFrom::End(0))?;
        Ok(Some(shape))
    }

    /// Takes back a part of a frame, for which a full disk had room.
    fn cut(&mut self) -> io::Result<()> {
        let Some(shape) = self.shape else { return Ok(()) };
        let begin = if self.kind == Kind::Wav { HEADER } else { 0 };
        let (length, frame) = (self.file.metadata()?.len(), shape.frame().into());
        let over = length.saturating_sub(begin).checked_rem(frame).unwrap_or(0);
        self.file.set_len(length.saturating_sub(over))?;
        self.file.seek(SeekFrom::End(0)).map(drop)
    }

    fn write_header(&mut self) -> io::Result<()> {
        if let (Kind::Wav, Some(shape)) = (self.kind, self.shape) {
            let bytes = self.file.metadata()?.len().saturating_sub(HEADER);
            self.file.rewind()?;
            self.file.write_all(&header(shape, bytes)?)?;
            self.file.seek(SeekFrom::End(0))?;
        }
        Ok(())
    }
}

impl Host for Recorder {
    fn prepare(&mut self, params: &Params) -> io::Result<()> {
        let shape = Shape::of(params);
        if self.before()?.is_some_and(|before| before != shape) {
            return Err(unsupported("the file has samples of another kind"));
        }
        self.shape = Some(shape);
        self.write_header()
    }

    fn play(&mut self, frames: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(frames);
        if written.is_err() {
            self.cut()?;
        }
        written
    }

    fn record(&mut self, _frames: &mut [u8]) -> io::Result<()> {
        Ok(())
    }

    fn release(&mut self) -> io::Result<()> {
        self.write_header()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let Err(error) = self.write_header() {
            log::error!("a recording does not say how long it is: {error}");
        }
    }
}

/// A file that is recorded from: once, and then there is silence.
#[derive(Debug)]
pub struct Player {
    file: File,
    /// What its samples are, if it says so.
    shape: Option<Shape>,
    /// Where its samples end.
    end: u64,
    left: u64,
    format: Option<Format>,
}

impl Player {
    /// From a file, or the rest of it, if a process before this one has read some.
    ///
    /// # Errors
    /// It can't be read, or is no WAV file.
    pub fn new(mut file: File, kind: Kind) -> io::Result<Self> {
        let (shape, end) = match kind {
            Kind::Raw => (None, u64::MAX),
            Kind::Wav => {
                let before = file.stream_position()?;
                file.rewind()?;
                let (shape, length) = parse(&mut file)?;
                let begin = file.stream_position()?;
                let end = begin.saturating_add(length);
                file.seek(SeekFrom::Start(before.max(begin)))?;
                (Some(shape), if length == MOST { u64::MAX } else { end })
            }
        };
        Ok(Self { file, shape, end, left: 0, format: None })
    }

    /// Leaves a stream what the file has, so that a guest asks for nothing else.
    ///
    /// # Errors
    /// The stream is to have none of it.
    pub fn narrow(&self, stream: &mut StreamConfig) -> io::Result<()> {
        let Some(Shape { format, channels, hertz }) = self.shape else { return Ok(()) };
        let is_rate = |rate: &&Rate| rate.hertz() == hertz;
        let Some(rate) = stream.rates.iter().find(is_rate).copied() else {
            let rates = list(stream.rates.iter().map(|rate| rate.hertz()));
            return Err(unsupported(format!("it has {hertz} Hz, where the stream has {rates}")));
        };
        if !stream.formats.contains(&format) {
            let formats = list(&stream.formats);
            return Err(unsupported(format!("it has {format}, where the stream has {formats}")));
        }
        let (least, most) = stream.channels;
        if !(least..=most).contains(&channels) {
            let counts = list(least..=most);
            let what = format!("it has {channels} channels, where the stream has {counts}");
            return Err(unsupported(what));
        }
        (stream.formats, stream.rates) = (vec![format], vec![rate]);
        stream.channels = (channels, channels);
        Ok(())
    }
}

impl Host for Player {
    fn prepare(&mut self, params: &Params) -> io::Result<()> {
        if self.shape.is_some_and(|shape| shape != Shape::of(params)) {
            return Err(unsupported("the file has samples of another kind"));
        }
        self.format = Some(params.format);
        // A process before this one may have read some of it.
        self.left = self.end.saturating_sub(self.file.stream_position()?);
        Ok(())
    }

    fn record(&mut self, frames: &mut [u8]) -> io::Result<()> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(frames.len());
        let mut done = 0;
        while let Some(place) = frames.get_mut(done..wanted).filter(|place| !place.is_empty()) {
            match self.file.read(place) {
                Ok(0) => break,
                Ok(count) => done = done.saturating_add(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.left = self.left.saturating_sub(done as u64);
        if let (Some(format), Some(rest)) = (self.format, frames.get_mut(done..)) {
            silence(format, rest);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::card::port::Port;

    fn params(format: Format, channels: u8) -> Params {
        let frame = u32::from(format.bits()) / 8 * u32::from(channels);
        let rate = "44100".parse().unwrap();
        Params { format, rate, channels, frame, period: frame, buffer: frame, features: 0 }
    }

    #[test]
    fn what_was_played_to_a_file_is_recorded_from_it() {
        for (format, ..) in TAGS {
            for channels in 1..=8 {
                let params = params(format, channels);
                let frames: Vec<u8> = (0..params.frame * 3).map(|byte| byte as u8).collect();
                let file = tempfile::NamedTempFile::new().unwrap();
                for _ in 0..2 {
                    let mut recorder = Recorder::new(file.reopen().unwrap(), Kind::Wav);
                    recorder.prepare(&params).unwrap();
                    recorder.play(&frames).unwrap();
                    recorder.release().unwrap();
                }
                let length = file.path().metadata().unwrap().len();
                assert_eq!(length, HEADER + 2 * frames.len() as u64);
                let mut player = Player::new(file.reopen().unwrap(), Kind::Wav).unwrap();
                player.prepare(&params).unwrap();
                let mut heard = vec![0; frames.len() * 2 + 2 * params.frame as usize];
                player.record(&mut heard).unwrap();
                assert_eq!(heard[..frames.len()], frames);
                assert_eq!(heard[frames.len()..2 * frames.len()], frames);
                let mut rest = vec![0; 2 * params.frame as usize];
                silence(format, &mut rest);
                assert_eq!(heard[2 * frames.len()..], rest);
            }
        }
    }

    #[test]
    fn another_process_goes_on_reading_where_one_has_stopped() {
        let params = params(Format::U8, 1);
        let mut file = tempfile::tempfile().unwrap();
        let shape = Shape::of(&params);
        let chunk = [&header(shape, 6).unwrap()[..], b"abcdefLIST\x04\0\0\0good"].concat();
        file.write_all(&chunk).unwrap();
        file.rewind().unwrap();
        let mut heard = [0; 4];
        for expected in [*b"abcd", *b"ef\x80\x80", [0x80; 4]] {
            // Its offset is in the file, which all of them have.
            let mut player = Player::new(file.try_clone().unwrap(), Kind::Wav).unwrap();
            player.prepare(&params).unwrap();
            player.record(&mut heard).unwrap();
            assert_eq!(heard, expected);
        }
    }

    #[test]
    fn a_file_has_samples_of_one_kind() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut recorder = Recorder::new(file.reopen().unwrap(), Kind::Wav);
        assert!(recorder.prepare(&params(Format::S8, 1)).is_err());
        recorder.prepare(&params(Format::U8, 1)).unwrap();
        recorder.prepare(&params(Format::S16, 1)).unwrap();
        recorder.play(&[1, 2]).unwrap();
        assert!(recorder.prepare(&params(Format::S16, 2)).is_err());
        drop(recorder);
        let mut player = Player::new(file.reopen().unwrap(), Kind::Wav).unwrap();
        assert!(player.prepare(&params(Format::U8, 1)).is_err());
        assert!(Player::new(tempfile::tempfile().unwrap(), Kind::Wav).is_err());
    }

    #[test]
    fn a_stream_is_left_what_the_file_has() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut recorder = Recorder::new(file.reopen().unwrap(), Kind::Wav);
        recorder.prepare(&params(Format::S16, 2)).unwrap();
        recorder.play(&[1; 4]).unwrap();
        drop(recorder);
        let open = |kind| Player::new(file.reopen().unwrap(), kind).unwrap();
        let stream = StreamConfig {
            name: String::new(),
            port: Port::Mic,
            formats: vec![Format::U8, Format::S16],
            rates: (0..14).filter_map(Rate::of_number).collect(),
            channels: (1, 8),
        };
        let mut narrow = stream.clone();
        open(Kind::Wav).narrow(&mut narrow).unwrap();
        let rates = vec!["44100".parse().unwrap()];
        let (formats, channels) = (vec![Format::S16], (2, 2));
        assert_eq!(narrow, StreamConfig { formats, rates, channels, ..stream.clone() });
        let mut raw = stream.clone();
        open(Kind::Raw).narrow(&mut raw).unwrap();
        assert_eq!(raw, stream);

        let others = ["8000", "48000"].map(|rate| rate.parse().unwrap()).to_vec();
        for (mut other, said) in [
            (
                StreamConfig { rates: others, ..stream.clone() },
                "44100 Hz, where the stream has 8000, 48000",
            ),
            (
                StreamConfig { formats: vec![Format::U8], ..stream.clone() },
                "S16_LE, where the stream has U8",
            ),
            (
                StreamConfig { channels: (3, 4), ..stream.clone() },
                "2 channels, where the stream has 3, 4",
            ),
        ] {
            let before = other.clone();
            let error = open(Kind::Wav).narrow(&mut other).unwrap_err();
            assert_eq!(error.to_string(), format!("it has {said}"));
            assert_eq!(other, before);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_file_is_read_or_refused(bytes: Vec<u8>, cut in 0..HEADER as usize) {
            let shape = Shape { format: Format::S16, channels: 2, hertz: 48000 };
            let _ = parse(&mut &header(shape, 4).unwrap()[..cut]);
            let all = [&b"RIFF\0\0\0\0WAVEfmt \x28\0\0\0"[..], &bytes].concat();
            let _ = parse(&mut &all[..]);
        }
    }
}
