//! A port's device that is there while a host has one for it.

use std::io::{self, ErrorKind};
use std::os::fd::RawFd;

use super::filter::Filter;
use super::session::Session;
use crate::channel::{Channel, Look};
use crate::device::Device;
use crate::device::remote::Remote;
use crate::usb::data::{Sink, Source};
use crate::usb::setup::Setup;
use crate::usb::{Answer, Endpoint, Speed};

/// Bytes that are read at once.
const PIECE: usize = 64 << 10;
/// Pieces that are read before others have their turn.
const PIECES: usize = 4;
/// Bytes that wait for a host that takes none. More are not waited for.
const MOST_OUTPUT: usize = 4 << 20;

/// Why a connection has ended.
#[derive(Debug, thiserror::Error)]
enum Over {
    #[error("the host has closed the connection")]
    Closed,
    #[error("the host takes nothing of what it is sent")]
    Stuck,
    #[error(transparent)]
    Protocol(#[from] super::parse::ProtocolError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What a port has for a redirected device.
pub struct Redirect {
    /// As the user wrote it.
    name: String,
    channel: Channel,
    filter: Option<Filter>,
    remote: Remote<Session>,
    /// The device has come or gone.
    changed: bool,
    piece: Vec<u8>,
}

impl Redirect {
    /// One whose host is at the other end of that, with a name for the log.
    #[must_use]
    pub fn new(name: String, channel: Channel, filter: Option<Filter>) -> Self {
        let remote = Remote::new(Session::new(filter.clone()));
        Self { name, channel, filter, remote, changed: false, piece: vec![0; PIECE] }
    }

    /// Begins with a host that knows nothing of the last one.
    fn begin(&mut self) {
        self.changed |= self.remote.is_present();
        *self.remote.backend() = Session::new(self.filter.clone());
        self.remote.renew();
    }

    fn finish(&mut self, why: &Over) {
        match why {
            Over::Closed => log::info!("--redirect {}: {why}", self.name),
            _ => log::warn!("--redirect {}: the connection is closed: {why}", self.name),
        }
        self.channel.close();
        self.begin();
    }

    /// Lets happen what can.
    fn go_on(&mut self) -> Result<(), Over> {
        if self.channel.look()? == Look::Connected {
            log::info!("--redirect {}: a host is connected", self.name);
            self.begin();
            self.remote.backend().greet();
        }
        if !self.channel.is_connected() {
            return Ok(());
        }
        for _ in 0..PIECES {
            let count = match self.channel.read(&mut self.piece) {
                Ok(0) => return Err(Over::Closed),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            let bytes = self.piece.get(..count).unwrap_or_default();
            self.remote.backend().take_input(bytes)?;
            if self.remote.backend().take_change() {
                self.changed = true;
                self.remote.renew();
            }
            self.remote.turn();
        }
        self.send()
    }

    fn send(&mut self) -> Result<(), Over> {
        let output = self.remote.backend().output();
        self.channel.write(output)?;
        if output.len() > MOST_OUTPUT { Err(Over::Stuck) } else { Ok(()) }
    }

    /// Does something to the device, and sends what comes of it.
    fn with<T>(&mut self, act: impl FnOnce(&mut Remote<Session>) -> T) -> T {
        let result = act(&mut self.remote);
        if !self.remote.backend().output().is_empty()
            && self.channel.is_connected()
            && let Err(why) = self.send()
        {
            self.finish(&why);
        }
        result
    }
}

impl Device for Redirect {
    fn speed(&self) -> Speed {
        self.remote.speed()
    }

    fn reset(&mut self) {
        self.with(Device::reset);
    }

    fn address(&self) -> u8 {
        self.remote.address()
    }

    fn setup(&mut self, endpoint: u8, setup: Setup) -> Answer {
        self.with(|remote| remote.setup(endpoint, setup))
    }

    fn data_in(&mut self, endpoint: u8, to: &mut dyn Sink) -> Answer {
        self.with(|remote| remote.data_in(endpoint, to))
    }

    fn data_out(&mut self, endpoint: u8, from: &dyn Source) -> Answer {
        self.with(|remote| remote.data_out(endpoint, from))
    }

    fn cancel(&mut self, endpoint: Endpoint) {
        self.with(|remote| remote.cancel(endpoint));
    }

    fn is_present(&self) -> bool {
        self.remote.is_present()
    }

    fn take_change(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    fn events(&self) -> Vec<RawFd> {
        vec![self.channel.event()]
    }

    fn turn(&mut self) {
        if let Err(why) = self.go_on() {
            self.finish(&why);
        }
    }

    fn set_suspended(&mut self, suspended: bool) {
        self.remote.set_suspended(suspended);
    }

    fn set_high_speed(&mut self, possible: bool) {
        self.remote.set_high_speed(possible);
    }

    fn wakes(&self) -> bool {
        self.remote.wakes()
    }

    fn goes_on(&mut self, noted: &mut dyn Iterator<Item = u32>) {
        self.remote.goes_on(noted);
    }

    fn find(&mut self, address: u8) -> Option<&mut dyn Device> {
        let is_it = self.remote.find(address).is_some();
        is_it.then_some(self)
    }
}
