//! What plays what a guest plays, and records what it hears.
//!
//! A stream whose host has no clock of its own is served by the [card's](crate::card::clock): what has to be
//! played or recorded in a time is asked for when the time has passed.
//!
//! - [`file`](mod@file): WAV and raw files;
//! - [`loopback`]: what is played is recorded;
//! - [`tone`] and [`null`]: a sine, and silence;
//! - [`helper`]: the host's sound system, by a program that has its library.

pub mod file;
pub mod helper;
pub mod loopback;
pub mod null;
pub mod tone;

use std::fmt::Debug;
use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use crate::card::control::Level;
use crate::card::params::Params;

/// The host's end of a stream. It never blocks.
pub trait Host: Debug + Send {
    /// The stream is to have these parameters. A process that took another's place says so of a stream that may
    /// be under way.
    ///
    /// # Errors
    /// The host can't, or has failed.
    fn prepare(&mut self, params: &Params) -> io::Result<()>;

    /// Time passes from now on, or stands still.
    fn run(&mut self, _runs: bool) {}

    /// Plays whole frames, no more than there is [`room`](Time::room) for.
    ///
    /// # Errors
    /// The host has failed; the stream goes on.
    fn play(&mut self, _frames: &[u8]) -> io::Result<()> {
        Ok(())
    }

    /// Fills whole frames with what is heard, no more than [there are](Time::room): silence where there is nothing.
    ///
    /// # Errors
    /// The host has failed; the stream goes on.
    fn record(&mut self, frames: &mut [u8]) -> io::Result<()>;

    /// The stream has ended for now.
    ///
    /// # Errors
    /// What was played is not all there.
    fn release(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// How far it has come. `None`: it has no clock of its own.
    fn time(&self) -> Option<Time> {
        None
    }

    /// A buffer of so many bytes is done with.
    fn completed(&mut self, _bytes: u64) {}

    /// Bytes that have moved of buffers that are not done with, if it goes on with what it had of another process.
    fn begun(&self) -> Option<u64> {
        None
    }

    /// Has its [`event`](Self::event) written to once so much has [passed](Time::passed). `true`: it has already.
    fn wake_at(&mut self, _passed: u64) -> bool {
        false
    }

    /// How long it takes until so much has passed that is not [early](Time::early). `None`: the host is late.
    fn left(&self, _passed: u64) -> Option<Duration> {
        None
    }

    /// Makes it so loud from now on, if the host does that itself (`true`): then it may change it, too.
    fn set_level(&mut self, _level: &Level) -> bool {
        false
    }

    /// What the host has made of it since this was asked last, which its [`event`](Self::event) tells.
    fn level(&mut self) -> Option<Level> {
        None
    }

    /// See [`wake_at`](Self::wake_at).
    fn event(&self) -> Option<RawFd> {
        None
    }
}

/// How far a host with a clock of its own has come, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// What has passed, since whenever: it grows as long as the host does its work.
    pub passed: u64,
    /// What can be played, or recorded, now.
    pub room: u64,
    /// What was given to be played, and has not left for the host yet.
    pub unheard: u64,
    /// What has left for the host before its time: a host takes many frames at once.
    pub early: u64,
    /// What it took when it took something last.
    pub piece: u64,
    /// How far behind, or ahead of, the listener that place is.
    pub delay: u64,
}
