//! Moves samples between the card and a device, by the device's clock.

use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use alsa::pcm::{Frames, State};
use alsa::poll::{Descriptors, pollfd};
use vhost_sound::card::port::Direction;
use vhost_sound::host::helper::far::{Far, Mover};
use vhost_sound::host::helper::ring::Order;
use vhost_sound::host::null::silence;

use crate::Failure;
use crate::device::Device;

/// What was written or read when it was too late (EPIPE), or the host had slept (ESTRPIPE).
const LATE: [i32; 2] = [32, 86];
const AGAIN: i32 = 11;
/// How long what was played last may take to be heard: the longest latency, and a little.
const ECHO: Duration = Duration::from_millis(1200);

/// One order's work.
pub(crate) struct Work<'a> {
    device: Device,
    far: &'a Far,
    order: Order,
    mover: Mover,
    samples: Vec<u8>,
}

impl<'a> Work<'a> {
    pub(crate) fn new(device: Device, far: &'a Far, order: Order) -> io::Result<Self> {
        let bytes = device.buffer.saturating_mul(order.frame());
        let samples = vec![0; usize::try_from(bytes).unwrap_or(0)];
        Ok(Self { device, far, order, mover: far.mover()?, samples })
    }

    /// Does it until there is another.
    pub(crate) fn run(mut self) -> Result<(), Failure> {
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
            self.wait(runs).map_err(|error| self.device.failed(error))?;
        }
        self.end().map_err(|error| self.device.failed(error))?;
        Ok(())
    }

    /// What was played is heard to its end, unless the device does not get there.
    fn end(&mut self) -> alsa::Result<()> {
        let begun = Instant::now();
        self.rest()?;
        while self.device.pcm.state() == State::Draining && begun.elapsed() < ECHO {
            let mut polled = self.device.pcm.get()?;
            alsa::poll::poll(&mut polled, 10)?;
            self.device.pcm.revents(&polled)?;
        }
        Ok(())
    }

    /// Plays what there is. Where that is too little, silence keeps the device going.
    fn play(&mut self) -> alsa::Result<()> {
        let pcm = &self.device.pcm;
        let room = frames(pcm.avail_update()?);
        let waiting = self.device.buffer.saturating_sub(room);
        let given = self.mover.ready(&self.order).checked_div(self.order.frame()).unwrap_or(0);
        let least = self.device.period.saturating_mul(2).saturating_sub(waiting);
        let count = given.max(least).min(room);
        self.mover.set_delay(&self.order, waiting.saturating_mul(self.order.frame()));
        let bytes = usize::try_from(count.saturating_mul(self.order.frame())).unwrap_or(usize::MAX);
        let Some(samples) = self.samples.get_mut(..bytes).filter(|it| !it.is_empty()) else {
            return Ok(());
        };
        let taken = self.mover.take(&self.order, samples);
        silence(self.order.format, samples.get_mut(taken..).unwrap_or_default());
        pcm.io_bytes().writei(samples).map(drop)
    }

    fn record(&mut self) -> alsa::Result<()> {
        let pcm = &self.device.pcm;
        if pcm.state() == State::Prepared {
            pcm.start()?;
        }
        let (there, delay) = pcm.avail_delay()?;
        self.mover.set_delay(&self.order, frames(delay).saturating_mul(self.order.frame()));
        let bytes = frames(there).saturating_mul(self.order.frame());
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(self.samples.len());
        let Some(samples) = self.samples.get_mut(..bytes).filter(|it| !it.is_empty()) else {
            return Ok(());
        };
        let read = pcm.io_bytes().readi(samples)?;
        let read = frames(Frames::try_from(read).unwrap_or(0)).saturating_mul(self.order.frame());
        let read = usize::try_from(read).unwrap_or(usize::MAX);
        self.mover.give(&self.order, samples.get(..read).unwrap_or_default());
        Ok(())
    }

    /// Time does not pass any more: what was played is still heard.
    fn rest(&mut self) -> alsa::Result<()> {
        let pcm = &self.device.pcm;
        match (pcm.state(), self.far.direction()) {
            (State::Running, Direction::Playback) => match pcm.drain() {
                Err(error) if error.errno() != AGAIN => Err(error),
                _ => Ok(()),
            },
            (State::Running, Direction::Capture) => pcm.drop(),
            _ => Ok(()),
        }
    }

    /// Has the device ready, if it rested.
    fn wake(&mut self) -> alsa::Result<()> {
        match self.device.pcm.state() {
            State::Setup | State::Draining => self.device.pcm.prepare(),
            _ => Ok(()),
        }
    }

    /// Waits for the device, while it runs, and for another order.
    fn wait(&self, runs: bool) -> alsa::Result<()> {
        let bell = pollfd { fd: self.far.bell().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let mut polled = match runs {
            true => self.device.pcm.get()?,
            false => Vec::new(),
        };
        polled.push(bell);
        alsa::poll::poll(&mut polled, -1)?;
        if runs {
            // Some of ALSA's plugins take note of what happened by this alone.
            polled.pop();
            self.device.pcm.revents(&polled)?;
        }
        Ok(())
    }
}

fn frames(count: Frames) -> u64 {
    u64::try_from(count).unwrap_or(0)
}
