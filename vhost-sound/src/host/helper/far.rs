//! The helper's end of what it shares with a card, and what all helpers' command lines have.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use clap::Parser;
use vhost_runtime::arguments::{self, ArgumentError};
use vhost_runtime::program;
use vmm_sys_util::eventfd::EventFd;

use super::ring::{FIRST, Order, Phase, Ring};
use crate::card::control::Level;
use crate::card::port::Direction;

/// The descriptors that a helper is started with: the memory, the card's event, and its own.
pub(super) const RING: RawFd = 3;
pub(super) const WAKE: RawFd = 4;
pub(super) const BELL: RawFd = 5;

/// Of what both ends are: what they share has no version of its own.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Plays or records a stream of vhost-sound, which starts it
#[derive(Debug, Clone, Parser)]
#[command(version)]
pub struct Options {
    /// Record instead of playing
    #[arg(long)]
    pub capture: bool,
    /// What the host calls what it is to play to, or to record from; without, what it prefers
    #[arg(long)]
    pub target: Option<String>,
    /// What the stream is called
    #[arg(long, default_value = "vhost-sound")]
    pub name: String,
    /// Microseconds from here to the listener that are to do
    #[arg(long, default_value_t = 10_000)]
    pub latency: u32,
    /// The element of the card's mixer that is as loud as the stream (ALSA)
    #[arg(long)]
    pub mixer: Option<String>,
    /// The version of the vhost-sound that starts it, which must be this one's
    #[arg(long, hide = true)]
    pub of: Option<String>,
    /// See whether it can be had, and end
    #[arg(long)]
    pub check: bool,
}

impl Options {
    /// Which way samples go.
    #[must_use]
    pub fn direction(&self) -> Direction {
        if self.capture { Direction::Capture } else { Direction::Playback }
    }
}

/// Why a helper does not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its command line is of no use.
    #[error(transparent)]
    Arguments(#[from] ArgumentError),
    /// One of them was installed alone.
    #[error(
        "it is of version {VERSION}, and vhost-sound of {0}: install both of one version, and start vhost-sound again"
    )]
    Version(String),
    /// It was started by somebody else.
    #[error("it is started by vhost-sound alone: {0}")]
    Alone(io::Error),
}

/// Begins a helper's program, which `check` sees for whether its options can be had. `None`: no more was asked for.
///
/// # Errors
/// See [`StartError`], and those of `check`.
pub fn start<E: From<StartError>>(
    check: impl FnOnce(&Options) -> Result<(), E>,
) -> Result<Option<(Options, Far)>, E> {
    // The other options of another version may be ones that this has not.
    let version = |argument: OsString| Some(argument.to_str()?.strip_prefix("--of=")?.to_owned());
    let of = env::args_os().find_map(version);
    if let Some(other) = of.filter(|of| of != VERSION) {
        return Err(StartError::Version(other).into());
    }
    let options: Options = arguments::read().map_err(StartError::from)?;
    program::start_logging(0);
    if options.check {
        check(&options)?;
        return Ok(None);
    }
    let far = Far::inherited(options.direction()).map_err(StartError::Alone)?;
    Ok(Some((options, far)))
}

/// The helper's end.
#[derive(Debug)]
pub struct Far {
    ring: Ring,
    wake: EventFd,
    bell: EventFd,
}

impl Far {
    /// The one that this process was started with.
    ///
    /// # Errors
    /// It was started by somebody else.
    fn inherited(direction: Direction) -> io::Result<Self> {
        let [ring, wake, bell] = [RING, WAKE, BELL].map(|fd| {
            // SAFETY: the descriptor is only looked at, and if it is open nobody else in this process knows of it.
            match unsafe { libc::fcntl(fd, libc::F_GETFD) } {
                -1 => Err(io::Error::last_os_error()),
                // SAFETY: as above: it is open, and this takes it once, at the program's start.
                _ => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
            }
        });
        let event = |fd: OwnedFd| {
            use std::os::fd::IntoRawFd;
            // SAFETY: it is open, and given away here.
            unsafe { EventFd::from_raw_fd(fd.into_raw_fd()) }
        };
        let ring = Ring::map(std::os::fd::AsFd::as_fd(&ring?), direction)?;
        Ok(Self { ring, wake: event(wake?), bell: event(bell?) })
    }

    /// Which way samples go.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.ring.direction()
    }

    /// What is wanted now, if it is anything. What made it different has rung the [bell](Self::bell).
    #[must_use]
    pub fn order(&self) -> Option<Order> {
        let _ = self.bell.read(); // that it rang is no more than a reason to look
        self.ring.order().filter(|order| order.phase != Phase::Idle)
    }

    /// Becomes readable when there is another order.
    #[must_use]
    pub fn bell(&self) -> BorrowedFd<'_> {
        // SAFETY: it lives as long as this does.
        unsafe { BorrowedFd::borrow_raw(self.bell.as_raw_fd()) }
    }

    /// How loud the stream is. What the card wanted before is wanted still.
    ///
    /// # Errors
    /// The host has no more descriptors.
    pub fn levels(&self) -> io::Result<Levels> {
        let (seen, (_, known)) = (FIRST, self.ring.wanted());
        Ok(Levels { ring: self.ring.clone(), wake: self.wake.try_clone()?, known, seen })
    }

    /// What moves samples; it may be on another thread.
    ///
    /// # Errors
    /// The host has no more descriptors.
    pub fn mover(&self) -> io::Result<Mover> {
        Ok(Mover { ring: self.ring.clone(), wake: self.wake.try_clone()? })
    }
}

/// How loud the stream is, on both sides.
#[derive(Debug)]
pub struct Levels {
    ring: Ring,
    wake: EventFd,
    /// What both know of.
    known: Level,
    seen: u8,
}

impl Levels {
    /// What the card wants, if that is something new.
    pub fn wanted(&mut self) -> Option<Level> {
        let (number, level) = self.ring.wanted();
        let is_new = std::mem::replace(&mut self.seen, number) != number;
        self.known = if is_new { level } else { self.known };
        is_new.then_some(level)
    }

    /// The host has made it so loud: the card is told, if it does not know.
    pub fn tell(&mut self, level: Level) {
        if std::mem::replace(&mut self.known, level) != level {
            self.ring.set_found(self.seen, &level);
            let _ = self.wake.write(1); // full of what nobody has read: it is readable
        }
    }

    /// What both know of.
    #[must_use]
    pub fn known(&self) -> Level {
        self.known
    }
}

/// Moves samples, of one stream. It never blocks, nor allocates.
#[derive(Debug)]
pub struct Mover {
    ring: Ring,
    wake: EventFd,
}

impl Mover {
    /// Bytes that the card has given to be played, or has room for.
    #[must_use]
    pub fn ready(&self, order: &Order) -> u64 {
        let ready = match self.ring.direction() {
            Direction::Playback => self.ring.filled(),
            Direction::Capture => self.ring.room(),
        };
        ready.saturating_sub(ready.checked_rem(order.frame()).unwrap_or(0))
    }

    /// Time passes for the card.
    #[must_use]
    pub fn runs(&self, order: &Order) -> bool {
        self.ring.order() == Some(Order { phase: Phase::Running, ..*order })
    }

    /// Takes whole frames to be played, and returns their bytes: none while the card stands still.
    pub fn take(&mut self, order: &Order, samples: &mut [u8]) -> usize {
        if !self.runs(order) {
            return 0;
        }
        self.ring.align(order.frame());
        let most = self.whole(order, samples.len());
        if most == 0 {
            return 0;
        }
        self.ring.set_last(self.ring.read(), super::nanoseconds());
        let taken = samples.get_mut(..most).map_or(0, |samples| self.ring.get(samples));
        self.tell();
        usize::try_from(taken).unwrap_or(0)
    }

    /// Gives whole frames that were recorded: what there is no room for, or comes while the card stands still, is lost.
    pub fn give(&mut self, order: &Order, samples: &[u8]) {
        let most = self.whole(order, samples.len());
        if self.runs(order) {
            self.ring.put(samples.get(..most).unwrap_or_default());
            self.tell();
        }
    }

    /// As many of so many bytes as are ready, and make whole frames.
    fn whole(&self, order: &Order, length: usize) -> usize {
        let most = usize::try_from(self.ready(order)).unwrap_or(usize::MAX).min(length);
        let frame = usize::try_from(order.frame()).unwrap_or(usize::MAX);
        most.saturating_sub(most.checked_rem(frame).unwrap_or(0))
    }

    /// How many bytes there are between here and the listener, or the microphone.
    pub fn set_delay(&mut self, order: &Order, bytes: u64) {
        if self.runs(order) {
            self.ring.set_delay(bytes);
        }
    }

    fn tell(&self) {
        let place = match self.ring.direction() {
            Direction::Playback => self.ring.read(),
            Direction::Capture => self.ring.written(),
        };
        if self.ring.is_awaited(place) {
            let _ = self.wake.write(1); // full of what nobody has read: it is readable
        }
    }
}
