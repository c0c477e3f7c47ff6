//! Moves samples between the card and a device, by the device's clock.

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use alsa::pcm::{Frames, State};
use alsa::poll::{Descriptors, pollfd};
use vhost_sound::card::port::Direction;
use vhost_sound::card::silence::silence;
use vhost_sound::host::helper::far::{Far, Mover};
use vhost_sound::host::helper::ring::Order;

use crate::Failure;
use crate::convert::{Converter, Kind};
use crate::device::Device;
use crate::mixer::Volume;

/// What was written or read when it was too late (EPIPE), or the host had slept (ESTRPIPE).
const LATE: [i32; 2] = [32, 86];
const AGAIN: i32 = 11;
/// How often it is looked at whether it was.
const PAUSE: Duration = Duration::from_millis(5);
/// How long what was played last may take to be heard: the longest latency, and a little.
const ECHO: Duration = Duration::from_millis(1200);

/// One order's work.
pub(crate) struct Work<'a> {
    device: Device,
    far: &'a Far,
    order: Order,
    mover: Mover,
    /// Makes the one's samples to the other's, where those are not the same.
    converter: Option<Converter>,
    /// Samples as the card has them, and as the device does, which takes no more of those just now.
    near: Vec<u8>,
    beyond: Vec<u8>,
    /// Milliseconds until the device needs more, if the card had no more for it just now.
    dry: Option<i32>,
}

impl<'a> Work<'a> {
    pub(crate) fn new(device: Device, far: &'a Far, order: Order) -> Result<Self, Failure> {
        let near = Kind::of(&order);
        let converter = if device.kind == near {
            None
        } else {
            let (from, to) = match far.direction() {
                Direction::Playback => (near, device.kind),
                Direction::Capture => (device.kind, near),
            };
            Some(Converter::new(from, to).ok_or_else(|| device.unlike(&order))?)
        };
        let mover = far.mover()?;
        Ok(Self {
            device,
            far,
            order,
            mover,
            converter,
            near: Vec::new(),
            beyond: Vec::new(),
            dry: None,
        })
    }

    /// Does it until there is another.
    pub(crate) fn run(mut self, volume: &mut Volume<'_>) -> Result<(), Failure> {
        let is_capture = self.far.direction() == Direction::Capture;
        while self.far.order().is_some_and(|order| order.generation == self.order.generation) {
            let runs = self.mover.runs(&self.order);
            let moved = match runs {
                true if is_capture => self.wake().and_then(|()| self.record()),
                true => self.wake().and_then(|()| self.play()),
                false => self.rest(),
            };
            match moved {
                Ok(()) => {}
                Err(error) if LATE.contains(&error.errno()) => {
                    log::debug!("{}: too late", self.device.name);
                    self.device
                        .pcm
                        .try_recover(error, true)
                        .map_err(|it| self.device.failed(it))?;
                    continue;
                }
                Err(error) if error.errno() == AGAIN => {}
                Err(error) => return Err(self.device.failed(error).into()),
            }
            volume.follow();
            self.wait(runs, volume).map_err(|error| self.device.failed(error))?;
        }
        self.end().map_err(|error| self.device.failed(error))?;
        Ok(())
    }

    /// What was played is heard to its end, unless the device does not get there.
    fn end(&mut self) -> alsa::Result<()> {
        let begun = Instant::now();
        self.flush();
        while begun.elapsed() < ECHO
            && matches!(self.device.pcm.state(), State::Running | State::Draining)
            && (!self.beyond.is_empty() || self.device.pcm.delay().is_ok_and(|left| left > 0))
        {
            match self.rest() {
                Err(error) if error.errno() != AGAIN => return Err(error),
                _ => {}
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// What is in the converter comes out by what goes in.
    fn flush(&mut self) {
        let frame = usize::try_from(self.order.frame()).unwrap_or(0);
        let delay = self.converter.as_ref().map_or(0, Converter::delay);
        self.near.resize(delay.saturating_mul(frame), 0);
        silence(self.order.format, &mut self.near);
        if let Some(converter) = &mut self.converter {
            converter.convert(&self.near, &mut self.beyond);
        }
    }

    /// Frames of the device, as so many of the card's.
    fn near_frames(&self, frames: u64) -> u64 {
        let (near, far) = (self.order.rate.hertz(), self.device.kind.hertz);
        frames.saturating_mul(near.into()).checked_div(far.into()).unwrap_or(0)
    }

    /// Tells the card how many of the device's frames are on their way.
    fn tell_delay(&mut self, frames: u64) {
        let converting = self.converter.as_ref().map_or(0, |it| it.delay() as u64);
        let frames = self.near_frames(frames).saturating_add(converting);
        self.mover.set_delay(&self.order, frames.saturating_mul(self.order.frame()));
    }

    /// Plays what there is. Where that is too little, silence keeps the device going.
    fn play(&mut self) -> alsa::Result<()> {
        let room = frames(self.device.pcm.avail_update()?);
        let waiting = self.device.buffer.saturating_sub(room).saturating_add(self.left());
        let given = self.mover.ready(&self.order).checked_div(self.order.frame()).unwrap_or(0);
        let period = self.device.period;
        // Where nothing comes, the next look is when one period is left, and is early enough for others.
        let least = match waiting.saturating_mul(2) < period.saturating_mul(3) {
            true => period.saturating_mul(3).saturating_sub(waiting),
            false => 0,
        };
        let most = self.near_frames(room.saturating_sub(self.left()));
        let count = given.max(self.near_frames(least)).min(most);
        let bytes = usize::try_from(count.saturating_mul(self.order.frame())).unwrap_or(0);
        self.near.resize(bytes, 0);
        // Whoever is told that they were taken is told, too, how long they take from here.
        self.tell_delay(waiting.saturating_add(room.min(count)));
        let taken = self.mover.take(&self.order, &mut self.near);
        silence(self.order.format, self.near.get_mut(taken..).unwrap_or_default());
        self.put()?;
        let is_dry = given <= count && room > count;
        self.dry = is_dry.then(|| {
            let left = waiting.saturating_add(count).saturating_sub(period);
            let time = left.saturating_mul(1000).checked_div(self.device.kind.hertz.into());
            // No longer than the card may have to wait, whose ring is a quarter of a second.
            i32::try_from(time.unwrap_or(0)).unwrap_or(1).clamp(1, 100)
        });
        Ok(())
    }

    /// Frames that the device did not take yet.
    fn left(&self) -> u64 {
        self.beyond.len().checked_div(self.device.kind.frame()).unwrap_or(0) as u64
    }

    /// Gives the device what is near.
    fn put(&mut self) -> alsa::Result<()> {
        match &mut self.converter {
            Some(converter) => converter.convert(&self.near, &mut self.beyond),
            None => self.beyond.extend(&self.near),
        }
        if self.beyond.is_empty() {
            return Ok(());
        }
        let written = self.device.pcm.io_bytes().writei(&self.beyond)?;
        let bytes = written.saturating_mul(self.device.kind.frame());
        self.beyond.drain(..bytes.min(self.beyond.len()));
        Ok(())
    }

    fn record(&mut self) -> alsa::Result<()> {
        let pcm = &self.device.pcm;
        if pcm.state() == State::Prepared {
            pcm.start()?;
        }
        let (there, delay) = pcm.avail_delay()?;
        let bytes = usize::try_from(frames(there)).unwrap_or(0);
        self.beyond.resize(bytes.saturating_mul(self.device.kind.frame()), 0);
        if !self.beyond.is_empty() {
            let read = pcm.io_bytes().readi(&mut self.beyond)?;
            self.beyond.truncate(read.saturating_mul(self.device.kind.frame()));
        }
        self.tell_delay(frames(delay));
        match &mut self.converter {
            Some(converter) => {
                self.near.clear();
                converter.convert(&self.beyond, &mut self.near);
                self.mover.give(&self.order, &self.near);
            }
            None => self.mover.give(&self.order, &self.beyond),
        }
        Ok(())
    }

    /// Time does not pass any more: what was played is still heard.
    fn rest(&mut self) -> alsa::Result<()> {
        match (self.device.pcm.state(), self.far.direction()) {
            (State::Running, Direction::Playback) => {
                self.near.clear();
                self.put()?;
                match self.beyond.is_empty() {
                    true => self.device.pcm.drain(),
                    false => Ok(()),
                }
            }
            (State::Running, Direction::Capture) => self.device.pcm.drop(),
            _ => Ok(()),
        }
    }

    /// Has the device ready, if it rested.
    fn wake(&mut self) -> alsa::Result<()> {
        let pcm = &self.device.pcm;
        match pcm.state() {
            State::Draining => pcm.drop().and_then(|()| pcm.prepare()),
            State::Setup => pcm.prepare(),
            _ => Ok(()),
        }
    }

    /// Waits for the device, while it runs, for its mixer, and for another order.
    fn wait(&self, runs: bool, volume: &Volume<'_>) -> alsa::Result<()> {
        let bell = pollfd { fd: self.far.bell().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let (mut polled, limit) = match (runs, self.dry) {
            // It has room, which is no reason to look.
            (true, Some(limit)) => (Vec::new(), limit),
            (true, None) => (self.device.pcm.get()?, -1),
            (false, _) => (Vec::new(), if self.beyond.is_empty() { -1 } else { 10 }),
        };
        let own = polled.len();
        polled.push(bell);
        polled.extend(volume.descriptors()?);
        alsa::poll::poll(&mut polled, limit)?;
        if own > 0 {
            // Some of ALSA's plugins take note of what happened by this alone.
            polled.truncate(own);
            self.device.pcm.revents(&polled)?;
        }
        Ok(())
    }
}

fn frames(count: Frames) -> u64 {
    u64::try_from(count).unwrap_or(0)
}
