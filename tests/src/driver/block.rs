//! A virtio-blk driver (virtio 1.2, 5.2): what other projects' vhost-user-blk processes are compared
//! by.

use std::path::Path;

use vmm_frontend::frontend::ring::{Buffer, RingFeatures};
use vmm_frontend::frontend::{Session, Wanted};

use super::slots::{Slots, Space};
use crate::Error;

const VERSION_1: u64 = 1 << 32;
const EVENT_INDEX: u64 = 1 << 29;
const INDIRECT: u64 = 1 << 28;
const FLUSH: u64 = 1 << 9;

/// A request.
#[derive(Clone, Copy, Debug)]
pub enum BlockRequest {
    /// So many bytes from a sector of 512 bytes on come into the slot's buffer.
    Read {
        /// The first sector.
        sector: u64,
        /// Bytes.
        length: usize,
    },
    /// So many bytes of the slot's buffer go there.
    Write {
        /// The first sector.
        sector: u64,
        /// Bytes.
        length: usize,
    },
    /// What was written is made durable.
    Flush,
}

/// A completed request. Its slot stays claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockDone {
    /// Where it was.
    pub slot: usize,
    /// `status`: 0 if it went well.
    pub status: u8,
}

/// A request queue, which a thread may have for itself.
#[derive(Debug)]
pub struct BlockQueue {
    /// The requests.
    pub slots: Slots,
}

impl BlockQueue {
    /// Puts a request into the ring, and returns its slot; `None`: all are in use. The device sees
    /// it at the next [`publish`](Slots::publish).
    pub fn submit(&mut self, request: BlockRequest) -> Result<Option<usize>, Error> {
        let Some(slot) = self.slots.claim() else { return Ok(None) };
        let place = self.slots.place(slot);
        let (kind, sector) = match request {
            BlockRequest::Read { sector, .. } => (0u32, sector),
            BlockRequest::Write { sector, .. } => (1, sector),
            BlockRequest::Flush => (4, 0),
        };
        let mut head = [0; 16];
        head[..4].copy_from_slice(&kind.to_le_bytes());
        head[8..].copy_from_slice(&sector.to_le_bytes());
        self.slots.write(place.head, &head)?;
        let head = Buffer { address: place.head, length: 16 };
        let status = Buffer { address: place.response, length: 1 };
        match request {
            BlockRequest::Read { length, .. } => {
                let data = self.slots.data(slot, length);
                self.slots.add(slot, &[head], &[data, status])?;
            }
            BlockRequest::Write { length, .. } => {
                let data = self.slots.data(slot, length);
                self.slots.add(slot, &[head, data], &[status])?;
            }
            BlockRequest::Flush => self.slots.add(slot, &[head], &[status])?,
        }
        Ok(Some(slot))
    }

    /// A completed request, if there is one.
    pub fn take(&mut self) -> Result<Option<BlockDone>, Error> {
        let used = self.slots.take()?;
        used.map(|(slot, _)| self.done(slot)).transpose()
    }

    /// Waits for the next completed request.
    pub fn wait(&mut self) -> Result<BlockDone, Error> {
        let (slot, _) = self.slots.wait()?;
        self.done(slot)
    }

    fn done(&self, slot: usize) -> Result<BlockDone, Error> {
        let mut status = [0];
        self.slots.read(self.slots.place(slot).response, &mut status)?;
        Ok(BlockDone { slot, status: status[0] })
    }
}

/// A driver of a virtio-blk device.
#[derive(Debug)]
pub struct Block {
    /// The device.
    pub session: Session,
    /// The request queues. Threads may take them.
    pub queues: Vec<BlockQueue>,
}

impl Block {
    /// Connects to the process at `socket` and starts `queues` rings, each with room for `depth`
    /// requests of at most `data` bytes.
    pub fn connect(socket: &Path, queues: u16, depth: u16, data: u32) -> Result<Block, Error> {
        const SIZE: u16 = 128;
        let each = u64::from(data).next_multiple_of(4096) + 4096;
        let room = u64::from(queues) * (u64::from(depth) * each + (128 << 10)) + (1 << 20);
        let mut space = Space::new(room)?;
        let wanted = Wanted::new(VERSION_1 | EVENT_INDEX | INDIRECT | FLUSH);
        let failed = Error::driver("vhost-user");
        let mut session =
            Session::connect(socket, wanted, &space.memory, queues, SIZE).map_err(&failed)?;
        let offered = session.device().features();
        let ring = RingFeatures {
            event_index: offered & EVENT_INDEX != 0,
            indirect: offered & INDIRECT != 0,
            packed: false,
        };
        let mut all = Vec::new();
        for number in 0..queues {
            let ring = space.ring(SIZE, ring)?;
            session.start(number, &ring).map_err(&failed)?;
            all.push(BlockQueue { slots: Slots::new(&mut space, ring, depth, data)? });
        }
        Ok(Block { session, queues: all })
    }
}
