//! What plays what a guest plays, and records what it hears.
//!
//! A stream whose host has no clock of its own is served by the [card's](crate::card::clock): what has to be
//! played or recorded in a time is asked for when the time has passed.
//!
//! - [`file`](mod@file): WAV and raw files;
//! - [`loopback`]: what is played is recorded;
//! - [`tone`] and [`null`]: a sine, and silence.

pub mod file;
pub mod loopback;
pub mod null;
pub mod tone;

use std::io;

use crate::card::params::Params;

/// The host's end of a stream.
pub trait Host: Send + std::fmt::Debug {
    /// The stream is to have these parameters.
    ///
    /// # Errors
    /// The host can't, or has failed.
    fn prepare(&mut self, params: &Params) -> io::Result<()>;

    /// Plays whole frames.
    ///
    /// # Errors
    /// The host has failed; the stream goes on.
    fn play(&mut self, _frames: &[u8]) -> io::Result<()> {
        Ok(())
    }

    /// Fills whole frames with what is heard: silence where there is nothing.
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
}
