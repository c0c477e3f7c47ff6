//! A virtio-net driver (virtio 1.3, 5.1).

use std::path::Path;
use std::time::{Duration, Instant};

use vmm_frontend::frontend::ring::{Buffer, RingFeatures};
use vmm_frontend::frontend::{Session, Wanted};

use super::PATIENCE;
use super::slots::{Slots, Space};
use crate::Error;

/// Bytes of `struct virtio_net_hdr_v1`.
pub const NET_HEADER: usize = 12;
/// Bytes of a frame that is sent, at most.
const LONGEST: u32 = 70_000;

const VERSION_1: u64 = 1 << 32;
const EVENT_INDEX: u64 = 1 << 29;
const INDIRECT: u64 = 1 << 28;
const PACKED: u64 = 1 << 34;
const CTRL_VQ: u64 = 1 << 17;
const MQ: u64 = 1 << 22;

/// How a driver is made.
#[derive(Clone, Copy, Debug)]
pub struct NetOptions {
    /// Pairs of queues.
    pub pairs: u16,
    /// Descriptors of each queue.
    pub size: u16,
    /// Frames that are under way, each way.
    pub depth: u16,
    /// Bytes of a buffer that frames are received into.
    pub buffer: u32,
    /// Event index, indirect descriptors, packed rings.
    pub ring: RingFeatures,
    /// The device's features that are wanted.
    pub features: u64,
}

impl Default for NetOptions {
    /// Buffers that are merged, and no offloads.
    fn default() -> Self {
        Self {
            pairs: 1,
            size: 256,
            depth: 64,
            buffer: 2048,
            ring: RingFeatures { event_index: true, indirect: true, packed: false },
            features: NetOptions::MRG_RXBUF,
        }
    }
}

impl NetOptions {
    /// VIRTIO_NET_F_MRG_RXBUF.
    pub const MRG_RXBUF: u64 = 1 << 15;
    /// VIRTIO_NET_F_MTU.
    pub const MTU: u64 = 1 << 3;
    /// Checksums and TCP's segments, both ways: VIRTIO_NET_F_CSUM, …_GUEST_CSUM, …_TSO4, …_TSO6.
    pub const OFFLOADS: u64 = 0b11 | 0b11 << 7 | 0b11 << 11;
    /// VIRTIO_NET_F_CTRL_VQ and what is told by it.
    pub const CONTROL: u64 = CTRL_VQ | 0b11 << 18 | 1 << 20 | 1 << 21 | 1 << 23 | MQ | 1 << 2;

    fn wanted(&self) -> Wanted {
        let mut features = self.features | VERSION_1;
        features |= if self.ring.event_index { EVENT_INDEX } else { 0 };
        features |= if self.ring.indirect { INDIRECT } else { 0 };
        features |= if self.ring.packed { PACKED } else { 0 };
        Wanted::new(features)
    }

    fn memory(&self) -> u64 {
        let ring = u64::from(self.size) * 600 + (16 << 10);
        let frames = u64::from(self.depth) * (u64::from(self.buffer + LONGEST) + 16384);
        (2 * u64::from(self.pairs) + 1) * ring + u64::from(self.pairs) * frames + (2 << 20)
    }
}

/// A pair of queues.
#[derive(Debug)]
pub struct NetPair {
    /// Buffers that frames are received into: all are with the device.
    pub receive: Slots,
    /// Frames that are sent.
    pub transmit: Slots,
    buffer: usize,
}

/// A frame, and virtio's header before it.
pub type NetFrame = ([u8; NET_HEADER], Vec<u8>);

impl NetPair {
    /// Has the device have all buffers.
    fn offer(&mut self) -> Result<(), Error> {
        while let Some(slot) = self.receive.claim() {
            let data = self.receive.data(slot, self.buffer);
            self.receive.add(slot, &[], &[data])?;
        }
        self.receive.publish()
    }

    /// Sends a frame; waits until there is a place for it.
    pub fn send(&mut self, header: [u8; NET_HEADER], frame: &[u8]) -> Result<(), Error> {
        let slot = match self.transmit.claim() {
            Some(slot) => slot,
            None => self.transmit.wait()?.0,
        };
        let place = self.transmit.place(slot);
        self.transmit.write(place.head, &header)?;
        self.transmit.write(place.data, frame)?;
        let head = Buffer { address: place.head, length: NET_HEADER as u32 };
        let data = self.transmit.data(slot, frame.len());
        self.transmit.add(slot, &[head, data], &[])?;
        self.transmit.publish()?;
        while let Some((slot, _)) = self.transmit.take()? {
            self.transmit.release(slot);
        }
        Ok(())
    }

    /// Waits until all that was sent is done with.
    pub fn flush(&mut self) -> Result<(), Error> {
        while self.transmit.ring.under_way() > 0 {
            let (slot, _) = self.transmit.wait()?;
            self.transmit.release(slot);
        }
        Ok(())
    }

    /// The next frame; `None` if none comes in time.
    pub fn receive(&mut self, limit: Duration) -> Result<Option<NetFrame>, Error> {
        let Some(mut bytes) = self.buffer(limit)? else { return Ok(None) };
        let mut header = [0; NET_HEADER];
        header.copy_from_slice(&bytes[..NET_HEADER]);
        let mut frame = bytes.split_off(NET_HEADER);
        for _ in 1..u16::from_le_bytes([header[10], header[11]]) {
            let more = self.buffer(PATIENCE)?;
            frame.extend(
                more.ok_or_else(|| Error::driver::<&str>("a frame")("its end is missing"))?,
            );
        }
        Ok(Some((header, frame)))
    }

    /// Takes what has come, or comes in time, and gives the buffers to the device again; returns how many
    /// frames that were.
    pub fn absorb(&mut self, limit: Duration) -> Result<u64, Error> {
        let mut frames = 0;
        if self.receive.ring.wait(limit).map_err(Error::driver("waiting"))? {
            // How many more buffers the frame takes.
            let mut more = 0;
            while more > 0 || frames < 64 {
                let Some((slot, _)) = self.receive.take()? else { break };
                if more == 0 {
                    let mut count = [0; 2];
                    self.receive.read(self.receive.place(slot).data + 10, &mut count)?;
                    more = u16::from_le_bytes(count);
                    frames += 1;
                }
                more = more.saturating_sub(1);
                let data = self.receive.data(slot, self.buffer);
                self.receive.add(slot, &[], &[data])?;
            }
            self.receive.publish()?;
        }
        Ok(frames)
    }

    fn buffer(&mut self, limit: Duration) -> Result<Option<Vec<u8>>, Error> {
        let end = Instant::now() + limit;
        let (slot, written) = loop {
            match self.receive.take()? {
                Some(done) => break done,
                None if Instant::now() >= end => return Ok(None),
                None => {}
            }
            let left = end.saturating_duration_since(Instant::now());
            self.receive.ring.wait(left).map_err(Error::driver("waiting"))?;
        };
        let mut bytes = vec![0; written as usize];
        self.receive.read(self.receive.place(slot).data, &mut bytes)?;
        self.receive.release(slot);
        self.offer()?;
        Ok(Some(bytes))
    }
}

/// A driver of a network card.
#[derive(Debug)]
pub struct NetDriver {
    /// The device.
    pub session: Session,
    /// Guest memory.
    pub space: Space,
    /// The pairs of queues. Threads may take them.
    pub pairs: Vec<NetPair>,
    /// The control queue, and its number.
    pub control: Option<(u16, Slots)>,
}

impl NetDriver {
    /// Connects to the card at `socket` and starts all rings.
    pub fn connect(socket: &Path, options: NetOptions) -> Result<NetDriver, Error> {
        let failed = Error::driver("vhost-user");
        let mut space = Space::new(options.memory())?;
        let rings = 2 * options.pairs + 1;
        let wanted = options.wanted();
        let mut session = Session::open(socket, wanted, &space.memory).map_err(&failed)?;
        let last = session.device().queues() - 1;
        session.begin(rings.max(last + 1), options.size).map_err(&failed)?;
        let mut slots = |depth, data| {
            let ring = space.ring(options.size, options.ring)?;
            Slots::new(&mut space, ring, depth, data)
        };
        let mut pairs = Vec::new();
        for _ in 0..options.pairs {
            let receive = slots(options.depth, options.buffer)?;
            let transmit = slots(options.depth, LONGEST)?;
            pairs.push(NetPair { receive, transmit, buffer: options.buffer as usize });
        }
        let features = session.device().features();
        let number = if features & MQ != 0 { last } else { 2 };
        let control = match features & CTRL_VQ != 0 {
            true => Some((number, slots(4, 4096)?)),
            false => None,
        };
        let mut driver = NetDriver { session, space, pairs, control };
        driver.start()?;
        Ok(driver)
    }

    fn start(&mut self) -> Result<(), Error> {
        let failed = Error::driver("vhost-user");
        for (number, pair) in (0u16..).zip(&mut self.pairs) {
            self.session.start(2 * number, &pair.receive.ring).map_err(&failed)?;
            self.session.start(2 * number + 1, &pair.transmit.ring).map_err(&failed)?;
            pair.offer()?;
        }
        if let Some((number, slots)) = &self.control {
            self.session.start(*number, &slots.ring).map_err(&failed)?;
        }
        Ok(())
    }

    /// The first pair.
    pub fn pair(&mut self) -> &mut NetPair {
        &mut self.pairs[0]
    }

    /// Sends a command on the control queue; whether the device did it.
    pub fn control(&mut self, command: &[u8]) -> Result<bool, Error> {
        let missing = || Error::driver::<&str>("a command")("there is no control queue");
        let (_, slots) = self.control.as_mut().ok_or_else(missing)?;
        let slot = slots.claim().ok_or_else(missing)?;
        let place = slots.place(slot);
        slots.write(place.data, command)?;
        slots.write(place.response, &[0xff])?;
        let data = slots.data(slot, command.len());
        slots.add(slot, &[data], &[Buffer { address: place.response, length: 1 }])?;
        slots.publish()?;
        let (slot, _) = slots.wait()?;
        let mut answer = [0xff];
        slots.read(slots.place(slot).response, &mut answer)?;
        slots.release(slot);
        match answer {
            [0] => Ok(true),
            [1] => Ok(false),
            [other] => {
                Err(Error::driver::<String>("a command")(format!("it was answered {other}")))
            }
        }
    }

    /// Goes on with the process that took the place of one that died.
    pub fn reconnect(&mut self) -> Result<(), Error> {
        self.session.reconnect(PATIENCE).map_err(Error::driver("vhost-user"))
    }
}
