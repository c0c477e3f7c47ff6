//! A port that firmware and tiny guests write messages to, byte by byte, without any ado: 0x402 is
//! SeaBIOS's and OVMF's, 0xE9 is Bochs's.

use std::io;
use std::sync::{Arc, Mutex};

use super::bus::Registers;
use crate::console::{Client, Endpoint};
use crate::lock::lock;
use crate::reactor::Reactor;

/// What is read from it, so that firmware knows that it is there.
const SIGNATURE: u8 = 0xe9;

/// The port. A message that the host has no room for is lost.
#[derive(Debug)]
pub struct DebugPort {
    endpoint: Endpoint,
}

impl DebugPort {
    /// One that is connected to an endpoint, of which it takes no input.
    ///
    /// # Errors
    /// The host refuses.
    pub fn new(reactor: &Reactor, endpoint: Endpoint) -> io::Result<Arc<Self>> {
        let port = Arc::new(Self { endpoint });
        let client: Arc<dyn Client> = Arc::clone(&port) as Arc<dyn Client>;
        port.endpoint.attach(reactor, Arc::downgrade(&client))?;
        Ok(port)
    }
}

impl Registers for DebugPort {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(SIGNATURE);
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        let _ = self.endpoint.write(data);
    }
}

impl Client for DebugPort {
    fn room(&self) -> usize {
        0
    }

    fn input(&self, _data: &[u8]) {}
}

/// The same, with each line in the program's log.
#[derive(Debug, Default)]
pub struct Messages(Mutex<Vec<u8>>);

/// A line is cut here.
const LONGEST: usize = 256;

impl Registers for Messages {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(SIGNATURE);
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        let mut line = lock(&self.0);
        for byte in data {
            if *byte != b'\n' {
                line.push(*byte);
            }
            if *byte == b'\n' || line.len() >= LONGEST {
                log::debug!("firmware: {}", line.escape_ascii());
                line.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn what_is_written_comes_out() {
        let reactor = Reactor::new().unwrap();
        let (endpoint, mut user) = Endpoint::pair();
        let port = DebugPort::new(&reactor, endpoint).unwrap();
        port.write(0, b"h");
        port.write(0, b"i");
        drop(port);
        let mut all = String::new();
        user.read_to_string(&mut all).unwrap();
        assert_eq!(all, "hi");
    }
}
