//! The command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use vhost_runtime::arguments::parts;
use vhost_runtime::program::ProgramArgs;

use crate::card::control::LOUDEST;
use crate::card::format::{Format, Rate};
use crate::card::port::{Direction, Port};
use crate::card::{CHANNELS, StreamConfig};
use crate::host::file::Kind;
use crate::host::helper::process::Kind as System;

/// A sound card in a process of its own, for any VMM that speaks vhost-user
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
#[command(group = ArgGroup::new("streams").args(["playback", "capture"]).required(true).multiple(true))]
pub struct Options {
    /// What every device program has.
    #[command(flatten)]
    pub program: ProgramArgs,

    /// A stream that the guest plays to, and its jack: speaker, line-out, headphone, spdif-out, digital-out
    #[arg(long, value_name = "JACK[,…]", value_parser = playback)]
    pub playback: Vec<Stream>,

    /// A stream that the guest records from, and its jack: mic, line-in, cd, aux, spdif-in, digital-in
    #[arg(long, value_name = "JACK[,…]", value_parser = capture)]
    pub capture: Vec<Stream>,

    /// Give the guest a volume and a switch for each stream (QEMU: vhost-user-snd-pci,controls=on)
    #[arg(long)]
    pub controls: bool,

    /// Something else than to serve
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// What the program does instead of serving.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Look at and change a running card, by its --control socket
    Ctl(CtlArgs),
}

/// `vhost-sound ctl`.
#[derive(Debug, Args)]
pub struct CtlArgs {
    /// The running program's socket
    #[arg(long, value_name = "PATH")]
    pub control: PathBuf,

    /// Print JSON, for scripts
    #[arg(long, global = true)]
    pub json: bool,

    /// What to do
    #[command(subcommand)]
    pub command: CtlCommand,
}

/// What is done to a running card.
#[derive(Debug, Subcommand)]
pub enum CtlCommand {
    /// List the streams
    List,
    /// Plug something into a stream's jack, or out
    Jack {
        /// The stream
        stream: String,
        /// Whether something is in there
        #[arg(value_enum)]
        state: JackState,
    },
    /// Make a stream louder or quieter, or silent
    Volume {
        /// The stream
        stream: String,
        /// A per cent of the loudest, as 70%; mute or unmute
        #[arg(value_name = "N%|mute|unmute")]
        volume: Volume,
    },
}

/// What becomes of a stream's volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Volume {
    /// A per cent of the loudest.
    Percent(u8),
    /// It is heard no more.
    Mute,
    /// It is heard again.
    Unmute,
}

impl FromStr for Volume {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let percent = |text: &str| number(text.strip_suffix('%')?);
        match text {
            "mute" => Ok(Self::Mute),
            "unmute" => Ok(Self::Unmute),
            _ => match percent(text).filter(|percent| *percent <= LOUDEST) {
                Some(percent) => Ok(Self::Percent(percent)),
                None => Err(format!("{text}: write it as 0% to {LOUDEST}%, mute or unmute")),
            },
        }
    }
}

/// A jack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum JackState {
    /// Something is in there.
    In,
    /// Nothing is.
    Out,
}

/// A stream, as an option has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The stream.
    pub config: StreamConfig,
    /// What plays it, or is recorded.
    pub backend: Backend,
    /// How far from the guest who listens may be.
    pub latency: Option<Duration>,
    /// The element of ALSA's mixer that is as loud as it.
    pub mixer: Option<String>,
}

/// What of the host is behind a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Nobody listens, or nothing is heard.
    Null,
    /// A sine.
    Tone,
    /// A file.
    File(Kind, PathBuf),
    /// Another stream, by the name of what joins them.
    Loopback(String),
    /// A sound system of the host's, by what it calls a device or a node.
    System(System, Option<String>),
}

const KEYS: &str = "backend=, channels=, formats=, latency=, mixer=, name=, rates=";

fn playback(text: &str) -> Result<Stream, String> {
    Stream::parse(text, Direction::Playback)
}

fn capture(text: &str) -> Result<Stream, String> {
    Stream::parse(text, Direction::Capture)
}

impl Stream {
    /// As an option has it: a jack, and what is known of its stream, after commas.
    ///
    /// # Errors
    /// It is none of that direction, or a key is not known; said in a sentence.
    pub fn parse(text: &str, direction: Direction) -> Result<Self, String> {
        parse(text, direction)
    }
}

fn parse(text: &str, direction: Direction) -> Result<Stream, String> {
    let mut parts = parts(text).into_iter();
    let jack = parts.next().unwrap_or_default();
    let port = jack.parse::<Port>()?;
    if port.direction() != direction {
        let other = match direction {
            Direction::Playback => "capture",
            Direction::Capture => "playback",
        };
        return Err(format!("{jack} is a jack for {other}"));
    }
    let mut config = StreamConfig {
        name: jack,
        port,
        formats: vec![
            Format::U8,
            Format::S16,
            Format::S24_3,
            Format::S24,
            Format::S32,
            Format::Float,
        ],
        rates: (1..=12).filter_map(Rate::of_number).collect(),
        channels: (1, 2),
    };
    let (mut backend, mut wanted, mut mixer) = (Backend::Null, None, None);
    for part in parts {
        match part.split_once('=') {
            Some(("name", "")) => return Err(String::from("name=: a stream has a name")),
            Some(("name", name)) if name.contains(char::is_control) => {
                return Err(format!("name={name:?}: a name has no control characters"));
            }
            Some(("name", name)) => name.clone_into(&mut config.name),
            Some(("backend", text)) => backend = text.parse()?,
            Some(("channels", text)) => config.channels = channels(text)?,
            Some(("formats", text)) => config.formats = list(text)?,
            Some(("rates", text)) => config.rates = list(text)?,
            Some(("mixer", "")) => {
                return Err(String::from("mixer=: name an element, as `amixer scontrols` does"));
            }
            Some(("mixer", element)) => mixer = Some(element.to_owned()),
            Some(("latency", text)) => wanted = Some(latency(text)?),
            _ => return Err(format!("{part} is not known: {KEYS}")),
        }
    }
    if backend == Backend::Tone && direction == Direction::Playback {
        return Err(String::from("backend=tone: it is there to be recorded"));
    }
    if let Backend::System(system, _) = backend
        && let Some(format) = config.formats.iter().find(|format| !system.has(**format))
    {
        return Err(format!("formats={format}: backend=pipewire has no such samples"));
    }
    if wanted.is_some() && !matches!(backend, Backend::System(..)) {
        return Err(String::from("latency=: it is for backend=alsa and backend=pipewire"));
    }
    if let Some(element) = &mixer
        && !matches!(backend, Backend::System(System::Alsa, _))
    {
        return Err(format!("mixer={element}: it is for backend=alsa"));
    }
    Ok(Stream { config, backend, latency: wanted, mixer })
}

/// Digits alone: `+5` may be meant as 5 more.
fn number<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Milliseconds.
fn latency(text: &str) -> Result<Duration, String> {
    match number(text) {
        Some(milliseconds) if (1..=1000).contains(&milliseconds) => {
            Ok(Duration::from_millis(milliseconds))
        }
        _ => Err(format!("latency={text}: write milliseconds, from 1 to 1000")),
    }
}

/// `N` or `N-N`.
fn channels(text: &str) -> Result<(u8, u8), String> {
    let (least, most) = text.split_once('-').unwrap_or((text, text));
    match (number(least), number(most)) {
        (Some(least), Some(most)) if 1 <= least && least <= most && most <= CHANNELS => {
            Ok((least, most))
        }
        _ => Err(format!("channels={text}: write it as 2 or as 1-{CHANNELS}")),
    }
}

/// Values between colons.
fn list<T: FromStr<Err = String> + PartialEq>(text: &str) -> Result<Vec<T>, String> {
    let mut all = Vec::new();
    for value in text.split(':') {
        let value = value.parse()?;
        if !all.contains(&value) {
            all.push(value);
        }
    }
    Ok(all)
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

impl FromStr for Backend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        match (kind, rest) {
            ("null", "") => Ok(Self::Null),
            ("tone", "") => Ok(Self::Tone),
            ("loopback", name) => Ok(Self::Loopback(name.to_owned())),
            ("wav" | "raw", "") => Err(format!("backend={kind}: give a file, as {kind}:PATH")),
            ("wav", path) => Ok(Self::File(Kind::Wav, path.into())),
            ("raw", path) => Ok(Self::File(Kind::Raw, path.into())),
            ("alsa", name) => Ok(Self::System(System::Alsa, some(name))),
            ("pipewire", name) => Ok(Self::System(System::PipeWire, some(name))),
            _ => Err(format!(
                "there is no backend {text}: null, tone, wav:PATH, raw:PATH, loopback[:NAME], \
                 alsa[:DEVICE], pipewire[:NODE]"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_told_by_their_jacks() {
        let stream =
            playback("speaker,name=left,,right,channels=2-8,formats=s16:S32,rates=48000").unwrap();
        assert_eq!((stream.config.name.as_str(), stream.config.channels), ("left,right", (2, 8)));
        assert_eq!(stream.config.formats, [Format::S16, Format::S32]);
        assert_eq!((stream.config.rates.len(), stream.backend), (1, Backend::Null));
        let stream = capture("mic,backend=wav:/a:b").unwrap();
        assert_eq!(stream.backend, Backend::File(Kind::Wav, "/a:b".into()));
        assert_eq!(
            capture("line-in,backend=loopback").unwrap().backend,
            Backend::Loopback(String::new())
        );
        let stream = capture("mic,backend=alsa:hw:0,latency=20").unwrap();
        assert_eq!(stream.backend, Backend::System(System::Alsa, Some(String::from("hw:0"))));
        assert_eq!(stream.latency, Some(Duration::from_millis(20)));
        for wrong in [
            "",
            "mic",
            "speaker,latency=5",
            "speaker,backend=pipewire,formats=S20_3LE",
            "speaker,backend=alsa,latency=0",
            "speaker,backend=alsa,latency=1ms",
            "speaker,backend=alsa,latency=+5",
            "speaker,backend=pipewire,mixer=Master",
            "speaker,backend=alsa,mixer=",
            "speaker,channels=+1",
            "speaker,channels=1-+2",
            "speakers",
            "speaker,name=",
            "speaker,name=a\nb",
            "speaker,backend=tone",
            "speaker,backend=wav",
            "speaker,backend=pulse",
            "speaker,channels=0",
            "speaker,channels=9",
            "speaker,channels=2-1",
            "speaker,formats=S17",
            "speaker,rates=",
            "speaker,loud",
        ] {
            assert!(playback(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn volumes_are_a_per_cent() {
        for (text, volume) in [
            ("0%", Some(Volume::Percent(0))),
            ("100%", Some(Volume::Percent(100))),
            ("mute", Some(Volume::Mute)),
            ("unmute", Some(Volume::Unmute)),
            ("101%", None),
            ("-1%", None),
            ("+5%", None),
            ("%", None),
            ("256%", None),
            ("50", None),
            ("", None),
        ] {
            assert_eq!(text.parse().ok(), volume, "{text}");
        }
    }
}
