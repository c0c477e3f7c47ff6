//! A stream at work: the driver's buffers, played or recorded as time passes (virtio 1.3, 5.14.6.8).

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use vhost_runtime::chain::Chain;

use super::card::{RECEIVE, TRANSMIT};
use super::message::Status;
use super::pace::Pace;
use crate::card::StreamConfig;
use crate::card::control::Level;
use crate::card::gain::Gain;
use crate::card::params::{Asked, Params, ParamsError};
use crate::card::port::Direction;
use crate::card::silence::silence;
use crate::card::state::{self, Command, State};
use crate::host::{Host, Time};

/// VIRTIO_SND_PCM_F_EVT_XRUNS.
pub(super) const EVT_XRUNS: u32 = 1 << 4;
/// Bytes of a `virtio_snd_pcm_xfer`, and of a `virtio_snd_pcm_status`.
pub(super) const TRANSFER: u64 = 4;
pub(super) const STATUS: u64 = 8;
/// Bytes that are moved at once.
const PIECE: u64 = 64 << 10;
/// Buffers of a stream that has enough to do at least.
const ENOUGH: usize = 3;
/// How far ahead a host with a clock of its own is asked to say so at most: it may have room for no more.
const AHEAD: u64 = 256 << 10;

/// A driver's buffer.
#[derive(Debug)]
struct Buffer {
    chain: Chain,
    /// When it was taken, among those of all streams.
    number: u64,
    /// Bytes of samples in it, and those that have moved.
    length: u64,
    done: u64,
    /// Those that the host had.
    through: u64,
    status: Status,
}

/// A stream, as another process gets it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Saved {
    pub(super) name: String,
    state: state::Saved,
    /// Bytes that had moved of the first buffer.
    begun: u64,
    /// A version without volumes has them at their loudest.
    #[serde(default)]
    pub(super) level: Level,
}

impl Saved {
    /// Whether it can be of such a stream.
    pub(super) fn check(&self, config: &StreamConfig) -> Result<(), String> {
        let name = &config.name;
        self.state.state(config, EVT_XRUNS).map_err(|error| format!("{name}: {error}"))?;
        match self.level.is_possible() {
            true => Ok(()),
            false => Err(format!("{name}: a volume of it is more than the most")),
        }
    }
}

/// A buffer that is done with.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) chain: Chain,
    /// Of which queue it is.
    pub(super) queue: usize,
    /// Bytes that were written to it, without the status.
    pub(super) recorded: u64,
    pub(super) status: Status,
    /// How long it takes until what was played is heard, in bytes.
    pub(super) latency: u32,
}

/// A stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) config: StreamConfig,
    state: State,
    host: Box<dyn Host>,
    pace: Pace,
    buffers: VecDeque<Buffer>,
    /// Bytes that had moved of the first buffers when those were given back, and those that the host had.
    begun: u64,
    through: u64,
    /// Bytes of the buffers that a host with a clock of its own has, and that are not heard.
    unheard: u64,
    /// Bytes that such a host takes at once.
    taken_at_once: u64,
    /// When it will have come to where there is something to do, if that is known.
    next: Option<Instant>,
    /// There was nothing to be played, or no room, and that was told.
    is_starved: bool,
    /// The host has failed, and that was logged.
    has_failed: bool,
    level: Level,
    gain: Gain,
    piece: Vec<u8>,
}

impl Stream {
    pub(super) fn new(config: StreamConfig, host: Box<dyn Host>) -> Self {
        Self {
            config,
            state: State::Idle,
            host,
            pace: Pace::new(),
            buffers: VecDeque::new(),
            begun: 0,
            through: 0,
            unheard: 0,
            taken_at_once: 0,
            next: None,
            is_starved: false,
            has_failed: false,
            level: Level::default(),
            gain: Gain::of(&Level::default()),
            piece: Vec::new(),
        }
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, State::Running(_))
    }

    /// How loud it is.
    pub(super) fn level(&self) -> Level {
        self.level
    }

    /// Makes it so loud from now on.
    pub(super) fn set_level(&mut self, level: Level) {
        // What the host does need not be done twice.
        let gain = match self.host.set_level(&level) {
            true => Level::default(),
            false => level,
        };
        (self.level, self.gain) = (level, Gain::of(&gain));
    }

    /// Is as loud as its host has made it. `true`: it has done so since the last look.
    pub(super) fn follow_host(&mut self) -> bool {
        let level = self.host.level();
        self.level = level.unwrap_or(self.level);
        level.is_some()
    }

    /// Which queue its buffers are of.
    pub(super) fn queue(&self) -> usize {
        match self.config.direction() {
            Direction::Playback => TRANSMIT,
            Direction::Capture => RECEIVE,
        }
    }

    /// What becomes readable when its host has done something.
    pub(super) fn event(&self) -> Option<RawFd> {
        self.host.event()
    }

    /// Buffers that are here.
    pub(super) fn waiting(&self) -> usize {
        self.buffers.len()
    }

    /// It has so much to do that the next buffers are early enough when the first of these is done with: two are left
    /// then, and more than the host takes at once.
    pub(super) fn has_enough(&self) -> bool {
        let lengths = || self.buffers.iter().map(|buffer| buffer.length);
        let longest = lengths().max().unwrap_or(0);
        let wanted = longest.saturating_mul(2).saturating_add(self.taken_at_once);
        self.buffers.len() >= ENOUGH
            && lengths().fold(0, u64::saturating_add).saturating_sub(self.heard()) >= wanted
    }

    /// Sets what its samples are like. What was given, or got ready, for others comes back.
    pub(super) fn set_params(&mut self, asked: Asked, finished: &mut Vec<Finished>) -> Status {
        let params = match Params::check(asked, &self.config, EVT_XRUNS) {
            Ok(params) => params,
            Err(ParamsError::Unsupported) => return Status::NotSupported,
            Err(ParamsError::Size) => return Status::BadMessage,
        };
        let was_ready = self.state.takes_buffers();
        let status = self.go(Command::Set(params));
        if status == Status::Ok && was_ready {
            self.end(finished);
        }
        status
    }

    fn go(&mut self, command: Command) -> Status {
        match self.state.after(command) {
            Some(state) => {
                self.state = state;
                Status::Ok
            }
            None => Status::BadMessage,
        }
    }

    pub(super) fn prepare(&mut self) -> Status {
        let Some(State::Prepared(params)) = self.state.after(Command::Prepare) else {
            return Status::BadMessage;
        };
        if let Err(error) = self.host.prepare(&params) {
            // Once, however often the driver tries.
            if !std::mem::replace(&mut self.has_failed, true) {
                log::error!("{}: it cannot be used so: {error}", self.config.name);
            }
            return Status::IoError;
        }
        self.has_failed = false;
        self.pace = Pace::new();
        (self.begun, self.through) = (0, 0);
        (self.is_starved, self.unheard) = (false, 0);
        self.go(Command::Prepare)
    }

    pub(super) fn start(&mut self, now: Instant) -> Status {
        let status = self.go(Command::Start);
        if status == Status::Ok {
            self.pace.start(now);
            self.host.run(true);
        }
        status
    }

    pub(super) fn stop(&mut self, now: Instant) -> Status {
        let status = self.go(Command::Stop);
        if status == Status::Ok {
            self.pace.stop(now);
            self.host.run(false);
        }
        status
    }

    /// Ends it. All buffers come back first (5.14.6.6.6).
    pub(super) fn release(&mut self, finished: &mut Vec<Finished>) -> Status {
        let status = self.go(Command::Release);
        if status == Status::Ok {
            self.end(finished);
        }
        status
    }

    /// What a process on another host needs to go on, without buffers: those come again.
    pub(super) fn save(&self) -> Saved {
        let unheard = self.host.time().map_or(0, |time| time.unheard);
        let begun = self.begun.saturating_add(self.moved()).saturating_sub(unheard);
        Saved { begun, ..self.keep() }
    }

    /// The same for the process that takes this one's place, at whatever time: how much of the buffers has moved by
    /// then is not known, so they are played once more, unless the host knows.
    pub(super) fn keep(&self) -> Saved {
        let name = self.config.name.clone();
        Saved { name, state: self.state.save(), begun: 0, level: self.level }
    }

    /// Goes on where another process has stopped.
    pub(super) fn restore(&mut self, saved: &Saved) -> Result<(), String> {
        let Self { config, host, .. } = self;
        let state = saved.state.state(config, EVT_XRUNS);
        let state = state.map_err(|error| format!("{}: {error}", config.name))?;
        if let Some(params) = state.params().filter(|_| state.takes_buffers()) {
            host.prepare(params).map_err(|error| format!("{}: {error}", config.name))?;
        }
        (self.begun, self.through) = match host.begun() {
            Some(begun) => (begun, begun),
            None => (saved.begun, 0),
        };
        (self.state, self.pace, self.is_starved) = (state, Pace::new(), false);
        self.set_level(saved.level);
        if self.is_running() {
            self.pace.start(Instant::now());
            self.host.run(true);
        }
        Ok(())
    }

    /// As it was before the driver came, but as loud as it is: so may the host want it. No buffer is here.
    pub(super) fn reset(&mut self) {
        if self.state.takes_buffers() {
            self.end(&mut Vec::new());
        }
        self.state = State::Idle;
    }

    fn end(&mut self, finished: &mut Vec<Finished>) {
        let queue = self.queue();
        finished.extend(self.buffers.drain(..).map(|buffer| Finished {
            queue,
            recorded: if self.config.direction() == Direction::Capture { buffer.done } else { 0 },
            chain: buffer.chain,
            status: Status::Ok,
            latency: 0,
        }));
        if let Err(error) = self.host.release() {
            log::error!("{}: {error}", self.config.name);
        }
    }

    /// Takes a driver's buffer. `Err`: it is none of this stream's, now or at all.
    pub(super) fn take(&mut self, chain: Chain, number: u64, now: Instant) -> Result<(), Chain> {
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
    pub(super) fn give_back(&mut self) -> impl Iterator<Item = (u64, Chain)> {
        self.begun = self.moved();
        self.through = self.buffers.iter().map(|it| it.through).fold(0, u64::saturating_add);
        self.buffers.drain(..).map(|buffer| (buffer.number, buffer.chain))
    }

    /// Bytes that have moved of all buffers.
    fn moved(&self) -> u64 {
        self.buffers.iter().map(|buffer| buffer.done).fold(0, u64::saturating_add)
    }

    /// Bytes of all buffers that need not be played or recorded again.
    fn heard(&self) -> u64 {
        self.moved().saturating_sub(self.unheard)
    }

    /// The queues stand still.
    pub(super) fn pause(&mut self) {
        if self.is_running() {
            self.host.run(false);
        }
    }

    /// They go on. The time meanwhile has not passed.
    pub(super) fn resume(&mut self, now: Instant) {
        if let State::Running(params) = &self.state {
            self.pace.hold(params, now);
            self.drop_recorded();
            self.host.run(true);
        }
    }

    /// Plays or records what is due. `true`: it has just run out of buffers, which the driver wants to be told.
    pub(super) fn turn(&mut self, now: Instant, finished: &mut Vec<Finished>) -> bool {
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
    pub(super) fn next(&self) -> Option<Instant> {
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
