//! A stream, and what a driver has it do (virtio 1.3, 5.14.6.6).
//!
//! - [`work`]: its buffers, played or recorded as time passes;
//! - [`pace`]: how time passes.

mod pace;
mod work;

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use vhost_runtime::chain::Chain;

use super::card::{RECEIVE, TRANSMIT};
use super::message::Status;
use crate::card::StreamConfig;
use crate::card::control::Level;
use crate::card::gain::Gain;
use crate::card::params::{Asked, Params, ParamsError};
use crate::card::port::Direction;
use crate::card::state::{self, Command, State};
use crate::host::Host;

use pace::Pace;

/// VIRTIO_SND_PCM_F_EVT_XRUNS.
pub(super) const EVT_XRUNS: u32 = 1 << 4;
/// Bytes of a `virtio_snd_pcm_xfer`, and of a `virtio_snd_pcm_status`.
pub(super) const TRANSFER: u64 = 4;
pub(super) const STATUS: u64 = 8;

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

    /// Goes on where another process has stopped. Where the host can't, time passes as if nobody heard.
    pub(super) fn restore(&mut self, saved: &Saved) -> Result<(), String> {
        let Self { config, host, .. } = self;
        let state = saved.state.state(config, EVT_XRUNS);
        let state = state.map_err(|error| format!("{}: {error}", config.name))?;
        let params = state.params().filter(|_| state.takes_buffers());
        let failure = params.and_then(|params| host.prepare(params).err());
        (self.begun, self.through) = match host.begun() {
            Some(begun) => (begun, begun),
            None => (saved.begun, 0),
        };
        (self.state, self.pace, self.is_starved) = (state, Pace::new(), false);
        self.set_level(saved.level);
        if failure.is_some() {
            self.pace.stall();
        }
        if self.is_running() {
            self.pace.start(Instant::now());
            self.host.run(true);
        }
        match failure {
            Some(error) => Err(format!("{}: {error}", self.config.name)),
            None => Ok(()),
        }
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
}
