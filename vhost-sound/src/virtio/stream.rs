//! A stream at work: the driver's buffers, played or recorded as time passes (virtio 1.3, 5.14.6.8).

use std::collections::VecDeque;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use vhost_runtime::chain::Chain;

use super::card::{RECEIVE, TRANSMIT};
use super::message::Status;
use crate::card::StreamConfig;
use crate::card::clock::Clock;
use crate::card::control::Level;
use crate::card::gain::Gain;
use crate::card::params::{Asked, Params, ParamsError};
use crate::card::port::Direction;
use crate::card::state::{self, Command, State};
use crate::host::Host;

/// VIRTIO_SND_PCM_F_EVT_XRUNS.
pub(super) const EVT_XRUNS: u32 = 1 << 4;
/// Bytes of a `virtio_snd_pcm_xfer`, and of a `virtio_snd_pcm_status`.
pub(super) const TRANSFER: u64 = 4;
pub(super) const STATUS: u64 = 8;
/// Bytes that are moved at once.
const PIECE: u64 = 64 << 10;

/// A driver's buffer.
#[derive(Debug)]
struct Buffer {
    chain: Chain,
    /// When it was taken, among those of all streams.
    number: u64,
    /// Bytes of samples in it, and those that have moved.
    length: u64,
    done: u64,
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
    level: Level,
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
    clock: Clock,
    buffers: VecDeque<Buffer>,
    /// Bytes that had moved of the first buffer when it was given back.
    begun: u64,
    /// Frames that were played or recorded since it was prepared.
    position: u64,
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
            clock: Clock::default(),
            buffers: VecDeque::new(),
            begun: 0,
            position: 0,
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
        (self.level, self.gain) = (level, Gain::of(&level));
    }

    /// Which queue its buffers are of.
    pub(super) fn queue(&self) -> usize {
        match self.config.direction() {
            Direction::Playback => TRANSMIT,
            Direction::Capture => RECEIVE,
        }
    }

    /// Buffers that are here.
    pub(super) fn waiting(&self) -> usize {
        self.buffers.len()
    }

    pub(super) fn set_params(&mut self, asked: Asked) -> Status {
        let params = match Params::check(asked, &self.config, EVT_XRUNS) {
            Ok(params) => params,
            Err(ParamsError::Unsupported) => return Status::NotSupported,
            Err(ParamsError::Size) => return Status::BadMessage,
        };
        self.go(Command::Set(params))
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
            log::error!("{}: it cannot be used so: {error}", self.config.name);
            return Status::IoError;
        }
        (self.clock, self.position, self.begun) = (Clock::default(), 0, 0);
        self.is_starved = false;
        self.go(Command::Prepare)
    }

    pub(super) fn start(&mut self, now: Instant) -> Status {
        let status = self.go(Command::Start);
        if status == Status::Ok {
            self.clock.start(now);
        }
        status
    }

    pub(super) fn stop(&mut self, now: Instant) -> Status {
        let status = self.go(Command::Stop);
        if status == Status::Ok {
            self.clock.stop(now);
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

    /// What another process needs to go on, without buffers: those come again.
    pub(super) fn save(&self) -> Saved {
        let begun = self.buffers.front().map_or(self.begun, |first| first.done);
        Saved { name: self.config.name.clone(), state: self.state.save(), begun, level: self.level }
    }

    /// Goes on where another process has stopped.
    pub(super) fn restore(&mut self, saved: &Saved) -> Result<(), String> {
        let Self { config, host, .. } = self;
        let state = saved.state.state(config, EVT_XRUNS);
        let state = state.map_err(|error| format!("{}: {error}", config.name))?;
        if !saved.level.is_possible() {
            return Err(format!("{}: a volume of it is more than the most", config.name));
        }
        if let Some(params) = state.params().filter(|_| state.takes_buffers()) {
            host.prepare(params).map_err(|error| format!("{}: {error}", config.name))?;
        }
        (self.state, self.begun, self.position) = (state, saved.begun, 0);
        (self.clock, self.is_starved) = (Clock::default(), false);
        self.set_level(saved.level);
        if self.is_running() {
            self.clock.start(Instant::now());
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
        if length == 0 || length.checked_rem(params.frame.into()) != Some(0) {
            return Err(chain);
        }
        if self.buffers.is_empty() && self.is_running() {
            // Time that passed without one is not made up for.
            let passed = self.clock.frames(params, now);
            if passed > self.position {
                self.clock.hold(params, self.position, now);
            }
        }
        self.is_starved = false;
        let done = std::mem::take(&mut self.begun).min(length);
        self.buffers.push_back(Buffer { chain, number, length, done });
        Ok(())
    }

    /// Gives back what is there, each with its number: the queue stops. What had moved of the first is known when it
    /// comes again.
    pub(super) fn give_back(&mut self) -> impl Iterator<Item = (u64, Chain)> {
        self.begun = self.buffers.front().map_or(0, |first| first.done);
        self.buffers.drain(..).map(|buffer| (buffer.number, buffer.chain))
    }

    /// The time while the queues stood still has not passed.
    pub(super) fn resume(&mut self, now: Instant) {
        if let State::Running(params) = &self.state {
            self.clock.hold(params, self.position, now);
        }
    }

    /// Plays or records what is due. `true`: it has just run out of buffers, which the driver wants to be told.
    pub(super) fn turn(&mut self, now: Instant, finished: &mut Vec<Finished>) -> bool {
        let State::Running(params) = self.state else { return false };
        let mut due = self.clock.frames(&params, now).saturating_sub(self.position);
        while due > 0
            && let Some(buffer) = self.buffers.front_mut()
        {
            let frame = u64::from(params.frame);
            let left = buffer.length.saturating_sub(buffer.done);
            let most = (PIECE.checked_div(frame).unwrap_or(1)).max(1).saturating_mul(frame);
            let count = due.saturating_mul(frame).min(left).min(most);
            self.piece.resize(usize::try_from(count).unwrap_or(0), 0);
            let moved = match self.config.direction() {
                Direction::Playback => {
                    let at = TRANSFER.saturating_add(buffer.done);
                    buffer.chain.readable().split_at(at).1.read(&mut self.piece);
                    self.gain.apply(&params, &mut self.piece);
                    self.host.play(&self.piece)
                }
                Direction::Capture => {
                    let recorded = self.host.record(&mut self.piece);
                    self.gain.apply(&params, &mut self.piece);
                    buffer.chain.writable().split_at(buffer.done).1.write(&self.piece);
                    recorded
                }
            };
            buffer.done = buffer.done.saturating_add(count);
            let frames = count.checked_div(frame).unwrap_or(0);
            self.position = self.position.saturating_add(frames);
            due = due.saturating_sub(frames);
            let had_failed = std::mem::replace(&mut self.has_failed, moved.is_err());
            let status = match moved {
                Ok(()) => Status::Ok,
                Err(error) => {
                    if !had_failed {
                        log::error!("{}: {error}", self.config.name);
                    }
                    Status::IoError
                }
            };
            if (buffer.done >= buffer.length || status != Status::Ok)
                && let Some(Buffer { chain, done, .. }) = self.buffers.pop_front()
            {
                let is_capture = self.config.direction() == Direction::Capture;
                let recorded = if is_capture { done } else { 0 };
                let queue = self.queue();
                finished.push(Finished { chain, queue, recorded, status, latency: 0 });
            }
        }
        let starves = due > 0 && self.buffers.is_empty() && !self.is_starved;
        self.is_starved |= starves;
        starves && params.features & EVT_XRUNS != 0
    }

    /// When it is to be looked at next.
    pub(super) fn next(&self) -> Option<Instant> {
        let State::Running(params) = &self.state else { return None };
        let buffer = self.buffers.front()?;
        let left = buffer.length.saturating_sub(buffer.done).checked_div(params.frame.into())?;
        self.clock.when(params, self.position.saturating_add(left))
    }
}
