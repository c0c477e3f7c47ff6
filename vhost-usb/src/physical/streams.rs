//! Endpoints whose packets move at the device's own pace: some transfers are always under way, so that the
//! host's controller never waits for this process.

use crate::device::remote::backend::{Event, Pipe, Status};
use crate::usb::descriptor::Transfer;
use crate::usb::{Direction, Endpoint, Speed};

use super::libusb::{Ended, Handle, Kind, Outcome, UsbError};

/// Transfers of an interrupt endpoint that are under way.
const INTERRUPTS: usize = 2;
/// Of an isochronous endpoint, and how many milliseconds each takes.
const ISOCHRONOUS: usize = 4;
const MILLISECONDS: usize = 8;
/// Packets of an isochronous transfer.
const PACKETS: usize = 64;

/// An endpoint.
pub(super) struct Stream {
    endpoint: Endpoint,
    pipe: Pipe,
    speed: Speed,
    /// Numbers of the transfers that are under way.
    under_way: Vec<u64>,
    /// Isochronous packets that wait until they are a transfer.
    gathered: Vec<Vec<u8>>,
    /// It has failed, or is not wanted any more.
    over: bool,
}

pub(super) fn status(outcome: Outcome) -> Status {
    match outcome {
        Outcome::Done => Status::Done,
        Outcome::Stall => Status::Stall,
        Outcome::Babble => Status::Babble,
        Outcome::Gone | Outcome::Failed => Status::Failed,
    }
}

impl Stream {
    pub(super) fn new(endpoint: Endpoint, pipe: Pipe, speed: Speed) -> Self {
        let (under_way, gathered) = (Vec::new(), Vec::new());
        Self { endpoint, pipe, speed, under_way, gathered, over: false }
    }

    fn is_isochronous(&self) -> bool {
        self.pipe.kind == Transfer::Isochronous
    }

    /// Isochronous packets in a transfer.
    fn packets(&self) -> usize {
        let in_a_millisecond = if self.speed == Speed::High { 8usize } else { 1 };
        let pause = u32::from(self.pipe.interval.clamp(1, 16)).saturating_sub(1);
        let packets = in_a_millisecond.saturating_mul(MILLISECONDS) >> pause.min(63);
        packets.clamp(1, PACKETS)
    }

    /// Has as many transfers under way as there should be.
    pub(super) fn go_on(
        &mut self,
        handle: &Handle,
        number: &mut impl FnMut() -> u64,
    ) -> Result<(), UsbError> {
        if self.endpoint.direction() == Direction::Out {
            return Ok(());
        }
        let most = if self.is_isochronous() { ISOCHRONOUS } else { INTERRUPTS };
        while !self.over && self.under_way.len() < most {
            let number = number();
            let size = self.pipe.max_packet.max(1);
            if self.is_isochronous() {
                let packets = vec![size; self.packets()];
                let buffer = vec![0; size.saturating_mul(packets.len())];
                handle.submit(number, Kind::Isochronous, self.endpoint, buffer, &packets)?;
            } else {
                handle.submit(number, Kind::Interrupt, self.endpoint, vec![0; size], &[])?;
            }
            self.under_way.push(number);
        }
        Ok(())
    }

    /// A packet for the device. Too many are dropped.
    pub(super) fn send(
        &mut self,
        packet: Vec<u8>,
        handle: &Handle,
        number: u64,
    ) -> Result<(), UsbError> {
        self.gathered.push(packet);
        if self.gathered.len() < self.packets() {
            return Ok(());
        }
        let packets = std::mem::take(&mut self.gathered);
        if self.over || self.under_way.len() >= ISOCHRONOUS {
            return Ok(());
        }
        let lengths: Vec<usize> = packets.iter().map(Vec::len).collect();
        handle.submit(number, Kind::Isochronous, self.endpoint, packets.concat(), &lengths)?;
        self.under_way.push(number);
        Ok(())
    }

    /// A transfer has ended, if it is one of these: what there is to tell of it.
    pub(super) fn ended(&mut self, ended: &Ended) -> Option<Vec<Event>> {
        let place = self.under_way.iter().position(|number| *number == ended.number)?;
        self.under_way.remove(place);
        if self.over || self.endpoint.direction() == Direction::Out {
            return Some(Vec::new());
        }
        let (endpoint, outcome) = (self.endpoint, ended.outcome);
        if !self.is_isochronous() {
            if outcome != Outcome::Done {
                self.over = true;
                return Some(vec![Event::Stopped { endpoint, status: status(outcome) }]);
            }
            let data = ended.buffer.get(..ended.moved).unwrap_or_default().to_vec();
            return Some(vec![Event::Packet { endpoint, status: Status::Done, data }]);
        }
        let pieces = ended.buffer.chunks(self.pipe.max_packet.max(1));
        let packets = ended.packets.iter().zip(pieces).map(|((outcome, moved), piece)| {
            let data = piece.get(..*moved).unwrap_or(piece).to_vec();
            Event::Packet { endpoint, status: status(*outcome), data }
        });
        Some(packets.collect())
    }

    /// Nothing more is wanted of it.
    pub(super) fn stop(&mut self, handle: &Handle) {
        self.over = true;
        self.under_way.iter().for_each(|number| handle.cancel(*number));
    }

    /// It was stopped, or has failed: it goes on no more.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Some of its transfers have not ended.
    pub(super) fn is_under_way(&self) -> bool {
        !self.under_way.is_empty()
    }
}
