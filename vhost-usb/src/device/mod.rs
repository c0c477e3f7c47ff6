//! What can be plugged into a port.
//!
//! - [`Device`]: a device as a host controller sees it, token by token;
//! - [`emulated`]: what all emulated devices do alike (USB 2.0, 9), so that each is a
//!   [`Function`](emulated::Function) alone;
//! - [`audio`]: a speaker and a microphone;
//! - [`hid`]: keyboard, mouse, tablet;
//! - [`hub`]: hubs, and what is plugged into them;
//! - [`serial`]: a serial port;
//! - [`gadget_zero`]: what Linux tries controllers with;
//! - [`storage`]: mass storage;
//! - [`remote`]: devices that are elsewhere.

pub mod audio;
pub mod emulated;
pub mod gadget_zero;
pub mod hid;
#[cfg(test)]
pub(crate) mod host;
pub mod hub;
pub mod remote;
pub mod serial;
pub mod storage;

use std::io;
use std::os::fd::RawFd;

use crate::usb::data::{Sink, Source};
use crate::usb::setup::Setup;
use crate::usb::{Answer, Endpoint, Speed};

/// A device on a bus. The controller asks it whenever its schedule says so, and again after a
/// [`Nak`](Answer::Nak) when one of its [`events`](Self::events) was ready: nothing blocks.
pub trait Device: Send {
    /// How fast it signals, where it is plugged in.
    fn speed(&self) -> Speed;

    /// A reset is signalled: its address is 0 now, and it is not configured (USB 2.0, 9.1.1.3).
    fn reset(&mut self);

    /// Its address (9.4.6).
    fn address(&self) -> u8;

    /// A SETUP token with its packet, for a control endpoint's number. It begins a new request, whatever
    /// became of the last.
    fn setup(&mut self, endpoint: u8, setup: Setup) -> Answer;

    /// IN tokens, for as much as there is room for.
    fn data_in(&mut self, endpoint: u8, to: &mut dyn Sink) -> Answer;

    /// OUT tokens with these data.
    fn data_out(&mut self, endpoint: u8, from: &dyn Source) -> Answer;

    /// The host will not ask again for what an endpoint has answered [`Nak`](Answer::Nak) to.
    fn cancel(&mut self, _endpoint: Endpoint) {}

    /// It is there. One that comes and goes by itself stays in its port while it is not.
    fn is_present(&self) -> bool {
        true
    }

    /// It has come or gone by itself since this was asked last, or both.
    fn take_change(&mut self) -> bool {
        false
    }

    /// Descriptors that become readable when it may answer otherwise than by [`Nak`](Answer::Nak). They
    /// are others once [`events_changed`](Self::events_changed) has said so.
    /// A [`hub`]'s may be others after a [`turn`](Self::turn).
    fn events(&self) -> Vec<RawFd> {
        Vec::new()
    }

    /// There are more of them than when this was asked last.
    fn events_changed(&mut self) -> bool {
        false
    }

    /// One of them was ready: does what has become possible.
    fn turn(&mut self) {}

    /// The bus is suspended, or goes on (7.1.7.6 and 7.1.7.7).
    fn set_suspended(&mut self, _suspended: bool) {}

    /// Whether high speed is possible where it is plugged in: behind a full-speed hub or controller a
    /// high-speed device signals at full speed (7.1.7.5). Told before its reset.
    fn set_high_speed(&mut self, _possible: bool) {}

    /// It is suspended, and signals that it wants to go on (7.1.7.7).
    fn wakes(&self) -> bool {
        false
    }

    /// Its images are locked, and what may have changed is read: the guest runs from now on.
    ///
    /// # Errors
    /// Somebody else has them.
    fn activate(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// The guest has stopped: what it has written is made durable, and locks are given back.
    fn deactivate(&mut self) {}

    /// What a process that takes this one's place has to know of it, word by word: so much that its driver
    /// can go on, if it has to by a reset. Most devices need nothing.
    fn note(&self, _words: &mut dyn FnMut(u32)) {}

    /// Its driver knows it from another process: it was addressed and configured there, and may be in
    /// the middle of something that nobody knows here. The next words are those that it has
    /// [noted](Self::note) there, or nonsense.
    fn goes_on(&mut self, _noted: &mut dyn Iterator<Item = u32>) {}

    /// Who has an address: this device, or one that is plugged into it.
    fn find(&mut self, address: u8) -> Option<&mut dyn Device>;
}
