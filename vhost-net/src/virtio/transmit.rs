//! Frames from the guest.

use vhost_runtime::chain::Chain;
use vhost_runtime::device::Taken;
use vhost_runtime::queue::Queue;

use super::statistics::Transmitting;
use crate::frame::offload::{Accepted, HeaderError, LEGACY_HEADER, Offload};
use crate::frame::{LONGEST, longest};
use crate::host::{Outcome, Packet, Port};

/// Frames that are sent between two looks at what was received.
const BUDGET: usize = 128;

/// What there is to know of the guest's frames.
#[derive(Debug)]
pub(super) struct Transmitter {
    /// Bytes of the header before each.
    header: u64,
    accepted: Accepted,
    /// Bytes of a frame that is not to be cut.
    longest: usize,
    /// The host takes no more for now.
    full: bool,
    /// Frames were left that nobody kicks for.
    waiting: bool,
}

impl Transmitter {
    pub(super) fn new(header: usize, accepted: Accepted, mtu: Option<u16>) -> Self {
        let longest = mtu.map_or(LONGEST, longest);
        Self { header: header as u64, accepted, longest, full: false, waiting: false }
    }

    /// Frames were left that nobody kicks for.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting
    }

    /// There is more, for which nobody kicks.
    pub(super) fn wait(&mut self) {
        self.waiting = true;
    }

    /// Sends what is available.
    pub(super) fn run(
        &mut self,
        queue: &mut Queue,
        port: &mut Port,
        link: bool,
        statistics: &Transmitting,
    ) -> Taken {
        let taken = self.send_all(queue, port, link, statistics);
        self.waiting = taken != Taken::All;
        taken
    }

    fn send_all(
        &mut self,
        queue: &mut Queue,
        port: &mut Port,
        link: bool,
        statistics: &Transmitting,
    ) -> Taken {
        self.full = !port.flush();
        for _ in 0..BUDGET {
            if self.full {
                return Taken::Enough;
            }
            let Some(chain) = queue.pop() else { return Taken::All };
            if !link {
                statistics.link_down.add(1);
                queue.complete(chain, 0);
                continue;
            }
            if let Some(chain) = self.send(chain, port, statistics) {
                if self.full {
                    queue.give_back(chain);
                } else {
                    queue.complete(chain, 0);
                }
            }
        }
        Taken::Some
    }

    /// Sends a frame; returns the chain unless it is kept.
    fn send(&mut self, chain: Chain, port: &mut Port, statistics: &Transmitting) -> Option<Chain> {
        let (offload, length) = match self.parse(&chain) {
            Ok(parsed) => parsed,
            Err(error) => {
                log::debug!("a frame is dropped: {error}");
                statistics.malformed.add(1);
                return Some(chain);
            }
        };
        let segment = offload.segmentation.map(|segmentation| usize::from(segmentation.size));
        if segment.unwrap_or(length) > self.longest || length > LONGEST {
            statistics.too_long.add(1);
            return Some(chain);
        }
        let back = match port.send(Packet { chain, header: self.header, offload }) {
            Outcome::Kept => None,
            Outcome::Done(chain) => Some(chain),
            Outcome::Full(chain) => {
                self.full = true;
                return Some(chain);
            }
            Outcome::Lost(chain) => {
                statistics.refused.add(1);
                return Some(chain);
            }
        };
        statistics.frames.add(1);
        statistics.bytes.add(length as u64);
        statistics.unsegmented.add(u64::from(segment.is_some()));
        back
    }

    fn parse(&self, chain: &Chain) -> Result<(Offload, usize), HeaderError> {
        let (header, frame) = chain.readable().split_at(self.header);
        let length = usize::try_from(frame.len()).unwrap_or(usize::MAX);
        let mut bytes = [0; LEGACY_HEADER];
        // A header that is not whole has no frame behind it.
        header.read(&mut bytes);
        Ok((Offload::parse(bytes, length, &self.accepted)?, length))
    }

    /// Drops what is available: the queue is not in use.
    pub(super) fn discard(&self, queue: &mut Queue, statistics: &Transmitting) {
        while let Some(chain) = queue.pop() {
            statistics.link_down.add(1);
            queue.complete(chain, 0);
        }
    }
}
