//! A speaker, a microphone, or both (Device Class Definition for Audio Devices 1.0): what is behind their
//! jacks is a sound card's.
//!
//! - [`Audio`]: the class's requests, and whose they are;
//! - [`descriptors`]: what it says that it is;
//! - [`shape`]: what a stream offers of what it was configured to;
//! - [`stream`]: its settings and its packets;
//! - [`feature`], [`gain`]: mute and volume.

mod descriptors;
mod feature;
mod gain;
mod shape;
mod stream;
#[cfg(test)]
mod tests;

use vhost_sound::card::StreamConfig;
use vhost_sound::card::port::Direction as Way;
use vhost_sound::streams::Opened;

use super::emulated::Function;
use crate::usb::data::{Sink, Source};
use crate::usb::descriptor::Descriptors;
use crate::usb::setup::{Kind, Recipient, Setup};
use crate::usb::{Answer, Direction, Endpoint, Speed};
use descriptors::endpoint;
use shape::Shape;
use stream::Stream;

/// The interface of control; those of streams follow.
const CONTROL: u8 = 0;

/// Requests (table A-9).
mod request {
    pub(super) const SET_CUR: u8 = 0x01;
    pub(super) const GET_CUR: u8 = 0x81;
    pub(super) const GET_MIN: u8 = 0x82;
    pub(super) const GET_MAX: u8 = 0x83;
    pub(super) const GET_RES: u8 = 0x84;
}

/// Numbers of terminals and units.
mod entity {
    use super::Way;

    /// Those that a stream's samples pass, in order.
    pub(super) struct Entities {
        pub(super) input: u8,
        pub(super) feature: u8,
        pub(super) output: u8,
    }

    pub(super) fn of(way: Way) -> Entities {
        match way {
            Way::Playback => Entities { input: 1, feature: 2, output: 3 },
            Way::Capture => Entities { input: 4, feature: 5, output: 6 },
        }
    }
}

/// The number of a stream's interface, where there are so many streams.
fn interface(way: Way, streams: usize) -> u8 {
    if way == Way::Capture && streams > 1 { 2 } else { 1 }
}

/// Why a stream can't be one of a USB device's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AudioError {
    /// There is none, or there are two of one direction.
    #[error("it has one stream to play to, or one to record from, or one of each")]
    Streams,
    /// Its samples are others.
    #[error("its samples have 16 bits")]
    Format,
    /// All its rates are too low or too high.
    #[error("it has no rate from 8000 to 48000")]
    Rates,
    /// It has too many channels.
    #[error("it has one or two channels")]
    Channels,
}

/// An audio device.
pub struct Audio {
    descriptors: Descriptors,
    streams: Vec<Stream>,
}

impl Audio {
    /// One that can be so fast, with these streams.
    ///
    /// # Errors
    /// See [`AudioError`].
    pub fn new(fastest: Speed, opened: Vec<Opened>) -> Result<Self, AudioError> {
        let streams = opened.into_iter();
        let streams = streams.map(|(config, host)| Ok(Stream::new(Shape::of(config)?, host)));
        let mut streams = streams.collect::<Result<Vec<_>, AudioError>>()?;
        streams.sort_by_key(|stream| stream.shape.direction().number());
        let ways: Vec<Way> = streams.iter().map(|stream| stream.shape.direction()).collect();
        if ways.is_empty() || ways.windows(2).any(|pair| pair.first() == pair.last()) {
            return Err(AudioError::Streams);
        }
        let shapes: Vec<&Shape> = streams.iter().map(|stream| &stream.shape).collect();
        Ok(Self { descriptors: descriptors::descriptors(fastest, &shapes), streams })
    }

    /// What of a stream such a device can have.
    ///
    /// # Errors
    /// See [`AudioError`].
    pub fn fit(config: StreamConfig) -> Result<StreamConfig, AudioError> {
        Shape::of(config).map(Shape::into_config)
    }

    fn find(&mut self, is_it: impl Fn(Way) -> bool) -> Option<&mut Stream> {
        self.streams.iter_mut().find(|stream| is_it(stream.shape.direction()))
    }

    /// Whose packets an endpoint moves.
    fn of_endpoint(&mut self, which: Endpoint) -> Option<&mut Stream> {
        self.find(|way| endpoint(way) == which)
    }

    /// Whom a request is for.
    fn addressed(&mut self, setup: Setup) -> Option<Addressed<'_>> {
        if setup.kind() != Kind::Class {
            return None;
        }
        let [high, low] = setup.index.to_be_bytes();
        match setup.recipient() {
            // 5.2.2: the unit is in the high byte, its interface in the low one.
            Recipient::Interface if low == CONTROL => {
                self.find(|way| entity::of(way).feature == high).map(Addressed::Feature)
            }
            // 5.2.3
            Recipient::Endpoint if high == 0 => {
                let stream = self.find(|way| endpoint(way).address() == low);
                stream.map(Addressed::Endpoint)
            }
            _ => None,
        }
    }
}

enum Addressed<'a> {
    Feature(&'a mut Stream),
    Endpoint(&'a mut Stream),
}

impl Function for Audio {
    fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    fn reset(&mut self) {
        self.streams.iter_mut().for_each(Stream::reset);
    }

    fn configured(&mut self, _configured: bool) {
        self.streams.iter_mut().for_each(|stream| stream.set_alternate(0));
    }

    fn interface_set(&mut self, number: u8, alternate: u8) {
        let count = self.streams.len();
        if let Some(stream) = self.find(|way| interface(way, count) == number) {
            stream.set_alternate(alternate);
        }
    }

    fn request_in(&mut self, setup: Setup) -> Option<Vec<u8>> {
        match self.addressed(setup)? {
            Addressed::Feature(stream) => stream.feature.get(setup.request, setup.value_bytes()),
            Addressed::Endpoint(stream) => stream.get(setup.request, setup.value_bytes()),
        }
    }

    fn request_out(&mut self, setup: Setup, data: &[u8]) -> Option<()> {
        let control = setup.value_bytes();
        match self.addressed(setup)? {
            Addressed::Feature(stream) => stream.feature.set(setup.request, control, data),
            Addressed::Endpoint(stream) => stream.set(setup.request, control, data),
        }
    }

    fn data_in(&mut self, endpoint: u8, to: &mut dyn Sink) -> Answer {
        let stream = self.of_endpoint(Endpoint::new(endpoint, Direction::In));
        stream.map_or(Answer::Silent, |stream| stream.record(to))
    }

    fn data_out(&mut self, endpoint: u8, from: &dyn Source) -> Answer {
        let stream = self.of_endpoint(Endpoint::new(endpoint, Direction::Out));
        stream.map_or(Answer::Silent, |stream| stream.play(from))
    }

    /// A stream goes on, but for the packets of the time between.
    const IS_NOTED: bool = true;

    fn note(&self, words: &mut dyn FnMut(u32)) {
        self.streams.iter().for_each(|stream| words(stream.note()));
    }

    fn goes_on(&mut self, noted: &mut dyn Iterator<Item = u32>) {
        for stream in &mut self.streams {
            stream.restore(noted.next().unwrap_or(0));
        }
    }

    fn deactivate(&mut self) {
        self.streams.iter_mut().for_each(Stream::stop);
    }
}
