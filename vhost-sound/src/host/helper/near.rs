//! The card's end of what it shares with a helper.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use vmm_sys_util::eventfd::EventFd;

use super::ring::{Order, Phase, Ring};
use crate::card::params::Params;
use crate::card::port::Direction;
use crate::host::{Host, Time};

/// A stream that a helper plays or records.
#[derive(Debug)]
pub struct Near {
    ring: Ring,
    direction: Direction,
    /// Written to by the helper.
    wake: EventFd,
    /// Written to when the helper is to look at its order.
    bell: EventFd,
}

impl Near {
    pub(super) fn new(ring: Ring, direction: Direction, wake: EventFd, bell: EventFd) -> Self {
        Self { ring, direction, wake, bell }
    }

    fn order(&self, order: Order) -> io::Result<()> {
        if self.ring.order() == Some(order) {
            return Ok(());
        }
        self.ring.set_order(order);
        self.bell.write(1)
    }

    /// How far this end has come.
    fn place(&self) -> u64 {
        match self.direction {
            Direction::Playback => self.ring.written(),
            Direction::Capture => self.ring.read(),
        }
    }

    /// How far the helper has.
    fn passed(&self) -> u64 {
        match self.direction {
            Direction::Playback => self.ring.read(),
            Direction::Capture => self.ring.written(),
        }
    }
}

impl Host for Near {
    fn prepare(&mut self, params: &Params) -> io::Result<()> {
        let last = self.ring.order();
        if last.is_some_and(|last| last.phase != Phase::Idle && last.is_of(params)) {
            return Ok(()); // another process has begun it
        }
        let generation = last.map_or(0, |last| last.generation).wrapping_add(1);
        let Params { format, rate, channels, .. } = *params;
        self.ring.restart();
        self.order(Order { phase: Phase::Ready, format, rate, channels, generation })
    }

    fn run(&mut self, runs: bool) {
        let phase = if runs { Phase::Running } else { Phase::Ready };
        if let Some(last) = self.ring.order()
            && let Err(error) = self.order(Order { phase, ..last })
        {
            log::error!("a helper is not told what to do: {error}");
        }
    }

    fn play(&mut self, frames: &[u8]) -> io::Result<()> {
        self.ring.put(frames);
        Ok(())
    }

    fn record(&mut self, frames: &mut [u8]) -> io::Result<()> {
        self.ring.get(frames);
        Ok(())
    }

    fn release(&mut self) -> io::Result<()> {
        match self.ring.order() {
            Some(last) => self.order(Order { phase: Phase::Idle, ..last }),
            None => Ok(()),
        }
    }

    fn time(&self) -> Option<Time> {
        let (filled, delay) = (self.ring.filled(), self.ring.delay());
        let (room, unheard) = match self.direction {
            Direction::Playback => (self.ring.room(), filled),
            Direction::Capture => (filled, 0),
        };
        Some(Time { passed: self.passed(), room, unheard, delay })
    }

    fn completed(&mut self, bytes: u64) {
        self.ring.complete(bytes);
    }

    fn begun(&self) -> u64 {
        self.place().saturating_sub(self.ring.begun())
    }

    fn wake_after(&mut self, bytes: u64) -> bool {
        let wanted = self.ring.read().saturating_add(bytes);
        self.ring.wake_at(wanted);
        // It may have come there before it saw that.
        self.passed() >= wanted
    }

    fn event(&self) -> Option<RawFd> {
        Some(self.wake.as_raw_fd())
    }
}
