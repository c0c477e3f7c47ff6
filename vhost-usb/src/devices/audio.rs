//! What an audio device plays to and records from: streams, written as `vhost-sound` has them.

use std::fs::File;
use std::io;

use vhost_sound::card::port::Direction;
use vhost_sound::host::helper::process::Helpers;
use vhost_sound::options::{Backend, Stream};
use vhost_sound::streams::{self, Opened, StreamError};

use super::DeviceError;
use super::text::Text;
use crate::device::audio::{Audio, AudioError};

/// The keys: those behind a jack are its stream's.
pub(super) const KEYS: &str = "port, speed, playback, capture, backend, channels, rates";

/// The streams of both directions.
#[derive(Default)]
struct Streams {
    playback: Vec<Stream>,
    capture: Vec<Stream>,
}

fn failed(text: &Text, error: AudioError) -> DeviceError {
    DeviceError::Audio(text.whole.clone(), error)
}

fn streams(text: &Text) -> Result<Streams, DeviceError> {
    let mut texts: Vec<(Direction, String)> = Vec::new();
    for (key, value) in text.in_order() {
        let value = value.replace(',', ",,");
        match (key, texts.last_mut()) {
            ("speed", _) => {}
            ("playback", _) => texts.push((Direction::Playback, value)),
            ("capture", _) => texts.push((Direction::Capture, value)),
            (key, Some((_, stream))) => {
                stream.push_str(&format!(",{key}={value}"));
            }
            (_, None) => return Err(failed(text, AudioError::Streams)),
        }
    }
    let mut streams = Streams::default();
    for (direction, stream) in texts {
        let wrong = |what| DeviceError::Stream(text.whole.clone(), what);
        let mut stream = Stream::parse(&stream, direction).map_err(wrong)?;
        stream.config = Audio::fit(stream.config).map_err(|error| failed(text, error))?;
        // These have clocks of their own, which the bus does not follow.
        if matches!(stream.backend, Backend::System(..)) {
            let wanted = "null, tone, wav:PATH, raw:PATH or loopback";
            return Err(DeviceError::Value(text.whole.clone(), "backend", wanted));
        }
        match direction {
            Direction::Playback => streams.playback.push(stream),
            Direction::Capture => streams.capture.push(stream),
        }
    }
    match (streams.playback.as_slice(), streams.capture.as_slice()) {
        ([playback], [capture]) => {
            let loopback = |stream: &Stream| matches!(stream.backend, Backend::Loopback(_));
            let half = loopback(playback) || loopback(capture);
            if half && playback.backend != capture.backend {
                return Err(DeviceError::Loopback(text.whole.clone()));
            }
        }
        ([alone], []) | ([], [alone]) => {
            if matches!(alone.backend, Backend::Loopback(_)) {
                return Err(DeviceError::Loopback(text.whole.clone()));
            }
        }
        _ => return Err(failed(text, AudioError::Streams)),
    }
    Ok(streams)
}

fn refused(text: &Text, error: StreamError) -> DeviceError {
    match error {
        StreamError::File { path, error, .. } => {
            let what = format!("{} cannot be used: {error}", path.display());
            DeviceError::Host(text.whole.clone(), io::Error::new(error.kind(), what))
        }
        other => DeviceError::Stream(text.whole.clone(), other.to_string()),
    }
}

/// Whether it stands on files.
pub(super) fn has_files(text: &Text) -> bool {
    let is_file = |stream: &Stream| matches!(stream.backend, Backend::File(..));
    streams(text).is_ok_and(|streams| streams.playback.iter().chain(&streams.capture).any(is_file))
}

/// Opens what is behind the streams.
pub(super) fn open(text: &Text) -> Result<Vec<Opened>, DeviceError> {
    let Streams { playback, capture } = streams(text)?;
    // None of these needs one.
    let mut helpers = Helpers::default();
    streams::open(&playback, &capture, &mut helpers).map_err(|error| refused(text, error))
}

/// The files that are passed to a process that may not open them.
pub(super) fn open_files(text: &Text) -> Result<Vec<File>, DeviceError> {
    let Streams { playback, capture } = streams(text)?;
    streams::open_files(&playback, &capture).map_err(|error| refused(text, error))
}

/// As [`open`], on files that were passed.
pub(super) fn on_files(text: &Text, files: Vec<File>) -> Result<Vec<Opened>, DeviceError> {
    let Streams { playback, capture } = streams(text)?;
    streams::on_files(&playback, &capture, files).map_err(|error| refused(text, error))
}
