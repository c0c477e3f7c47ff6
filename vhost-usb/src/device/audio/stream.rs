//! An AudioStreaming interface (Audio 1.0, 4.5): its alternate settings, its rate, and its packets on their
//! way to or from the host's end.
//!
//! The bus is the clock: a packet in each of its frames, whose samples the host's end gets or is asked for
//! at once.

use std::io;

use vhost_sound::card::format::Rate;
use vhost_sound::card::params::Params;
use vhost_sound::host::Host;

use super::feature::Feature;
use super::request;
use super::shape::{Pace, Shape};
use crate::usb::Answer;
use crate::usb::data::{Sink, Source};

/// The control of an endpoint that there is (table A-17): the rate.
const SAMPLING_FREQUENCY: [u8; 2] = [1, 0];
/// Where a noted word has the rate's number, behind what the feature unit notes.
const NOTED_RATE: u32 = 24;

/// A stream, and the feature unit that its samples pass.
pub(super) struct Stream {
    pub(super) shape: Shape,
    pub(super) feature: Feature,
    host: Box<dyn Host>,
    alternate: u8,
    rate: Option<Rate>,
    /// Since the first packet.
    running: Option<Running>,
    /// What the host said was told: once is enough, until it does what it is asked to.
    is_told: bool,
}

struct Running {
    params: Params,
    pace: Pace,
    /// The host can do it.
    is_prepared: bool,
}

impl Stream {
    pub(super) fn new(shape: Shape, host: Box<dyn Host>) -> Self {
        let rate = shape.fastest();
        Self {
            shape,
            feature: Feature::default(),
            host,
            alternate: 0,
            rate,
            running: None,
            is_told: false,
        }
    }

    /// Is as when it was plugged in.
    pub(super) fn reset(&mut self) {
        self.set_alternate(0);
        self.rate = self.shape.fastest();
        self.feature = Feature::default();
    }

    /// An alternate setting was chosen: it begins anew.
    pub(super) fn set_alternate(&mut self, alternate: u8) {
        self.stop();
        self.alternate = alternate;
    }

    /// An attribute of the endpoint's control (5.2.3.2).
    pub(super) fn get(&self, request: u8, control: [u8; 2]) -> Option<Vec<u8>> {
        if (request, control) != (request::GET_CUR, SAMPLING_FREQUENCY) {
            return None;
        }
        let [low, middle, high, _] = self.rate?.hertz().to_le_bytes();
        Some(vec![low, middle, high])
    }

    /// Sets it; a rate that is none of those in the descriptor is refused.
    pub(super) fn set(&mut self, request: u8, control: [u8; 2], data: &[u8]) -> Option<()> {
        let [low, middle, high] = *data else { return None };
        if (request, control) != (request::SET_CUR, SAMPLING_FREQUENCY) {
            return None;
        }
        let rate = self.shape.rate(u32::from_le_bytes([low, middle, high, 0]))?;
        if self.rate != Some(rate) {
            self.stop();
            self.rate = Some(rate);
        }
        Some(())
    }

    /// Samples of the guest's: whole frames of what a packet can be; whatever else is sent is lost.
    pub(super) fn play(&mut self, from: &dyn Source) -> Answer {
        let sent = from.len();
        let Some(params) = self.start() else { return Answer::moved(sent) };
        let most = self.shape.max_packet(params.channels);
        let mut samples = from.to_vec(most.into());
        let frame = usize::try_from(params.frame).unwrap_or(usize::MAX);
        let rest = samples.len().checked_rem(frame).unwrap_or(0);
        samples.truncate(samples.len().saturating_sub(rest));
        self.feature.apply(&mut samples);
        if !samples.is_empty() {
            self.with_host(|host| host.play(&samples));
        }
        Answer::moved(sent)
    }

    /// As many samples as are due in a frame of the bus.
    pub(super) fn record(&mut self, to: &mut dyn Sink) -> Answer {
        let Some(params) = self.start() else { return Answer::Moved { bytes: 0, short: true } };
        let frames = self.running.as_mut().map_or(0, |running| running.pace.next(params.rate));
        let frame = usize::try_from(params.frame).unwrap_or(0);
        // Silence, where the host has nothing.
        let mut samples = vec![0; frames.saturating_mul(frame)];
        self.with_host(|host| host.record(&mut samples));
        self.feature.apply(&mut samples);
        if to.room() < samples.len() {
            return Answer::Babble;
        }
        Answer::Moved { bytes: to.write(&samples), short: true }
    }

    /// Has the host begin with the first packet: only then all is set. `None`: there can be no packets.
    fn start(&mut self) -> Option<Params> {
        if let Some(running) = &self.running {
            return Some(running.params);
        }
        let params = self.shape.params(self.alternate, self.rate?)?;
        let pace = Pace::default();
        self.running = Some(Running { params, pace, is_prepared: true });
        let prepare = |host: &mut dyn Host| {
            host.prepare(&params)?;
            host.run(true);
            Ok(())
        };
        if self.with_host(prepare) {
            self.is_told = false;
        } else if let Some(running) = &mut self.running {
            running.is_prepared = false;
        }
        Some(params)
    }

    /// The host has an end of it.
    pub(super) fn stop(&mut self) {
        self.with_host(|host| {
            host.run(false);
            host.release()
        });
        self.running = None;
    }

    /// Whether the host has done something.
    fn with_host(&mut self, act: impl FnOnce(&mut dyn Host) -> io::Result<()>) -> bool {
        if self.running.as_ref().is_none_or(|running| !running.is_prepared) {
            return false;
        }
        let done = act(self.host.as_mut());
        if let Err(error) = &done
            && !std::mem::replace(&mut self.is_told, true)
        {
            log::error!("audio, {}: {error}", self.shape.name());
        }
        done.is_ok()
    }

    /// What another process has to know of it, besides its alternate setting.
    pub(super) fn note(&self) -> u32 {
        let rate = self.rate.map_or(0, Rate::number);
        u32::from(rate) << NOTED_RATE | self.feature.note()
    }

    /// Is as that says, as far as it makes sense.
    pub(super) fn restore(&mut self, noted: u32) {
        let [_, _, _, number] = noted.to_le_bytes();
        let rates = self.shape.rates();
        let rate = rates.iter().find(|rate| rate.number() == number).copied();
        self.rate = rate.or(self.rate);
        self.feature.restore(noted);
    }
}
