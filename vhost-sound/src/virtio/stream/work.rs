//! A stream's work: a driver's buffers move to and from the host as time passes (virtio 1.3, 5.14.6.8).

use std::io;
use std::time::Instant;

use vhost_runtime::chain::Chain;

use super::{Buffer, EVT_XRUNS, Finished, STATUS, Stream, TRANSFER};
use crate::card::params::Params;
use crate::card::port::Direction;
use crate::card::silence::silence;
use crate::card::state::State;
use crate::host::Time;
use crate::virtio::message::Status;

/// Bytes that are moved at once.
const PIECE: u64 = 64 << 10;
/// Buffers of a stream that has enough to do at least.
const ENOUGH: usize = 3;
/// How far ahead a host with a clock of its own is asked to say so at most: it may have room for no more.
const AHEAD: u64 = 256 << 10;

impl Stream {
    /// Takes a driver's buffer. `Err`: it is none of this stream's, now or at all.
    pub(in crate::virtio) fn take(
        &mut self,
        chain: Chain,
        number: u64,
        now: Instant,
    ) -> Result<(), Chain> {
        let length = match self.config.direction() {
            Direction::Playback => chain.readable().len().saturating_sub(TRANSFER),
            Direction::Capture => chain.writable().len().saturating_sub(STATUS),
        };
        let Some(params) = self.state.params().filter(|_| self.state.takes_buffers()) else {
            return Err(chain);
        };
        let frame = u64::from(params.frame);
        if length == 0 || length.checked_rem(frame) != Some(0) {
            return Err(chain);
        }
        if self.buffers.is_empty() && self.is_running() {
            // Time that passed without one is not made up for.
            self.pace.forgive(params, now);
            self.drop_recorded();
        }
        self.is_starved = false;
        let done = whole(self.begun.min(length), frame).unwrap_or(0);
        let through = self.through.min(done);
        self.begun = if done < length { 0 } else { self.begun.saturating_sub(done) };
        self.through = self.through.saturating_sub(through).min(self.begun);
        let status = Status::Ok;
        self.buffers.push_back(Buffer { chain, number, length, done, through, status });
        Ok(())
    }

    /// What came while nobody wanted it is too old: no more than a driver's buffer of it is left.
    fn drop_recorded(&mut self) {
        let Some(params) = self.state.params() else { return };
        let frame = u64::from(params.frame);
        let room = self.host.time().map_or(0, |time| time.room);
        let mut left = room.saturating_sub(params.buffer.into());
        while self.config.direction() == Direction::Capture
            && let Some(count) = whole(left.min(PIECE.max(frame)), frame)
        {
            self.piece.resize(usize::try_from(count).unwrap_or(0), 0);
            if self.host.record(&mut self.piece).is_err() {
                break;
            }
            self.host.completed(count);
            left = left.saturating_sub(count);
        }
    }

    /// Gives back what is there, each with its number: the queue stops. What had moved of them is known when they
    /// come again.
    pub(in crate::virtio) fn give_back(&mut self) -> impl Iterator<Item = (u64, Chain)> {
        self.begun = self.moved();
        self.through = self.buffers.iter().map(|it| it.through).fold(0, u64::saturating_add);
        self.buffers.drain(..).map(|buffer| (buffer.number, buffer.chain))
    }

    /// Bytes that have moved of all buffers.
    pub(super) fn moved(&self) -> u64 {
        self.buffers.iter().map(|buffer| buffer.done).fold(0, u64::saturating_add)
    }

    /// Bytes of all buffers that need not be played or recorded again.
    fn heard(&self) -> u64 {
        self.moved().saturating_sub(self.unheard)
    }

    /// It has so much to do that the next buffers are early enough when the first of these is done with: two are left
    /// then, and more than the host takes at once.
    pub(in crate::virtio) fn has_enough(&self) -> bool {
        let lengths = || self.buffers.iter().map(|buffer| buffer.length);
        let longest = lengths().max().unwrap_or(0);
        let wanted = longest.saturating_mul(2).saturating_add(self.taken_at_once);
        self.buffers.len() >= ENOUGH
            && lengths().fold(0, u64::saturating_add).saturating_sub(self.heard()) >= wanted
    }

    /// The queues stand still.
    pub(in crate::virtio) fn pause(&mut self) {
        if self.is_running() {
            self.host.run(false);
        }
    }

    /// They go on. The time meanwhile has not passed.
    pub(in crate::virtio) fn resume(&mut self, now: Instant) {
        if let State::Running(params) = &self.state {
            self.pace.hold(params, now);
            self.drop_recorded();
            self.host.run(true);
        }
    }

    /// Plays or records what is due. `true`: it has just run out of buffers, which the driver wants to be told.
    pub(in crate::virtio) fn turn(&mut self, now: Instant, finished: &mut Vec<Finished>) -> bool {
        let State::Running(params) = self.state else { return false };
        let frame = u64::from(params.frame);
        let time = self.host.time();
        let stalls = self.pace.watch(time, !self.buffers.is_empty(), &params, now);
        if stalls {
            log::error!("{}: the host's sound stands still", self.config.name);
        }
        let time = time.filter(|_| !self.pace.is_stalled());
        let mut due = self.pace.due(time, &params, now);
        let had_buffers = !self.buffers.is_empty();
        let latency = time.map_or(0, |time| u32::try_from(time.delay).unwrap_or(u32::MAX));
        for number in 0..self.buffers.len() {
            while due > 0
                && let Some(count) = self.piece(number, due, frame)
            {
                self.move_piece(number, count);
                let frames = count.checked_div(frame).unwrap_or(0);
                self.pace.moved(frames);
                due = due.saturating_sub(frames);
            }
        }
        // What was given just now is not heard yet.
        let time = time.and_then(|_| self.host.time());
        self.unheard = time.map_or(0, |time| time.unheard.saturating_add(time.early));
        self.taken_at_once = time.map_or(0, |time| time.piece);
        let is_capture = self.config.direction() == Direction::Capture;
        let mut heard = self.heard();
        while let Some(first) = self.buffers.front()
            && first.done >= first.length
            && heard >= first.length
            && let Some(buffer) = self.buffers.pop_front()
        {
            let Buffer { chain, done, length, through, status, .. } = buffer;
            heard = heard.saturating_sub(length);
            self.host.completed(through);
            let recorded = if is_capture { done } else { 0 };
            let queue = self.queue();
            finished.push(Finished { chain, queue, recorded, status, latency });
        }
        self.next = time.and_then(|time| self.follow(time, &params, now));
        let starves = self.starves(due, had_buffers, time.is_some(), now);
        (starves || stalls) && params.features & EVT_XRUNS != 0
    }

    /// When the host will have come to where there is something to do, if that is known; its event tells of the rest.
    fn follow(&mut self, time: Time, params: &Params, now: Instant) -> Option<Instant> {
        let heard = self.heard();
        let left = self.buffers.front().map(|first| first.length.saturating_sub(heard));
        if self.config.direction() == Direction::Capture {
            // Without a buffer, what comes is an overrun when it would have filled one.
            let left = left.or_else(|| (!self.is_starved).then_some(grace(params)))?;
            let here = time.passed.saturating_sub(time.room);
            return self.host.wake_at(here.saturating_add(left.min(AHEAD))).then_some(now);
        }
        let end = time.passed.saturating_sub(time.early).saturating_add(left?);
        // Where not all is there yet, there is room for more before it is heard.
        let more = self.buffers.back().filter(|last| last.done < last.length).map(|_| {
            let half = (time.unheard / 2).max(params.frame.into());
            time.passed.saturating_add(half)
        });
        let time = self.host.left(end).and_then(|left| now.checked_add(left));
        let place = match time {
            Some(_) => more,
            None => Some(more.map_or(end, |more| more.min(end))),
        };
        let is_there = place.is_some_and(|place| self.host.wake_at(place));
        if is_there { Some(now) } else { time }
    }

    /// Sees whether it has run dry, with frames that were due and had no place. `true`: just now.
    fn starves(&mut self, due: u64, had_buffers: bool, is_followed: bool, now: Instant) -> bool {
        let State::Running(params) = &self.state else { return false };
        if !self.buffers.is_empty() || self.is_starved {
            return false;
        }
        let grace = grace(params).checked_div(params.frame.into()).unwrap_or(0);
        let is_heard = is_followed && self.config.direction() == Direction::Playback;
        if !is_heard && had_buffers {
            // The driver did not know before, and this may be late: it has a period's time from here.
            if !is_followed {
                self.pace.forgive(params, now);
            }
            return false;
        }
        self.is_starved = due >= if is_heard { 1 } else { grace };
        self.is_starved
    }

    /// Bytes of a buffer that are to move now, if some are.
    fn piece(&self, number: usize, due: u64, frame: u64) -> Option<u64> {
        let buffer = self.buffers.get(number)?;
        let left = buffer.length.saturating_sub(buffer.done);
        whole(due.saturating_mul(frame).min(left).min(PIECE.max(frame)), frame)
    }

    fn move_piece(&mut self, number: usize, count: u64) {
        let Some(params) = self.state.params() else { return };
        let Some(buffer) = self.buffers.get_mut(number) else { return };
        self.piece.resize(usize::try_from(count).unwrap_or(0), 0);
        let moved = match self.config.direction() {
            Direction::Playback if self.pace.is_stalled() => Err(io::ErrorKind::TimedOut.into()),
            Direction::Playback => {
                let at = TRANSFER.saturating_add(buffer.done);
                buffer.chain.readable().split_at(at).1.read(&mut self.piece);
                self.gain.apply(params, &mut self.piece);
                self.host.play(&self.piece)
            }
            Direction::Capture => {
                let recorded = match self.pace.is_stalled() {
                    true => Err(io::ErrorKind::TimedOut.into()),
                    false => self.host.record(&mut self.piece),
                };
                if recorded.is_err() {
                    silence(params.format, &mut self.piece);
                }
                self.gain.apply(params, &mut self.piece);
                buffer.chain.writable().split_at(buffer.done).1.write(&self.piece);
                recorded
            }
        };
        buffer.done = buffer.done.saturating_add(count);
        if moved.is_ok() {
            buffer.through = buffer.through.saturating_add(count);
        }
        let had_failed = std::mem::replace(&mut self.has_failed, moved.is_err());
        if let Err(error) = moved {
            buffer.status = Status::IoError;
            if !had_failed && !self.pace.is_stalled() {
                log::error!("{}: {error}", self.config.name);
            }
        }
    }

    /// When it is to be looked at next.
    pub(in crate::virtio) fn next(&self) -> Option<Instant> {
        let State::Running(params) = &self.state else { return None };
        let is_followed = self.host.event().is_some() && !self.pace.is_stalled();
        match self.buffers.front() {
            Some(_) if is_followed => self.next.into_iter().chain(self.pace.patience()).min(),
            Some(first) => {
                let left = first.length.saturating_sub(first.done);
                self.pace.when(params, left.checked_div(params.frame.into())?)
            }
            None if is_followed || self.is_starved => self.next,
            None => self.pace.when(params, grace(params).checked_div(params.frame.into())?),
        }
    }
}

/// Bytes of the time that a driver has for its next buffer.
fn grace(params: &Params) -> u64 {
    u64::from(params.period).min(AHEAD)
}

/// As many bytes as make whole frames, if they make some.
fn whole(bytes: u64, frame: u64) -> Option<u64> {
    Some(bytes.saturating_sub(bytes.checked_rem(frame)?)).filter(|count| *count > 0)
}
