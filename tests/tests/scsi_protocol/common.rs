//! What the tests here share.

use std::io::Write;
use std::os::unix::net::UnixStream;

use lab::driver::{Answer, Data, Initiator, Lun, ScsiQueue, Slots, Space};
use lab::{Error, Scsi};
use vhost::vhost_user::Frontend;
use vhost::{VhostUserMemoryRegionInfo, VringConfigData};
use vmm_frontend::frontend::FrontendError;
use vmm_frontend::frontend::ring::{Ring, RingFeatures};

pub(crate) const DISK: Lun = Lun::new(0, 0);
pub(crate) const BLOCK: usize = 512;

pub(crate) const VERSION_1: u64 = 1 << 32;
pub(crate) const EVENT_INDEX: u64 = 1 << 29;
pub(crate) const INDIRECT: u64 = 1 << 28;
pub(crate) const PROTOCOL_FEATURES: u64 = 1 << 30;
pub(crate) const LOG_ALL: u64 = 1 << 26;
pub(crate) const HOTPLUG: u64 = 1 << 1;
pub(crate) const CHANGE: u64 = 1 << 2;

/// A process with one disk of 16 MiB.
pub(crate) fn one_disk() -> Result<Scsi, Error> {
    Scsi::new()?.disk(16 << 20, "")?.start()
}

pub(crate) fn read16(block: u64, blocks: u32) -> [u8; 16] {
    transfer16(0x88, block, blocks)
}

pub(crate) fn write16(block: u64, blocks: u32) -> [u8; 16] {
    transfer16(0x8a, block, blocks)
}

fn transfer16(opcode: u8, block: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[2..10].copy_from_slice(&block.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

pub(crate) fn inquiry(length: u8) -> [u8; 6] {
    [0x12, 0, 0, 0, length, 0]
}

/// Bytes that belong to a block, and to one write of it.
pub(crate) fn pattern(block: u64, version: u64) -> Vec<u8> {
    let word =
        block.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ version.wrapping_mul(0xff51_afd7_ed55_8ccd);
    (0..BLOCK as u64 / 8).flat_map(|at| word.wrapping_add(at).to_le_bytes()).collect()
}

/// INQUIRY, WRITE, READ: the disk works.
#[track_caller]
pub(crate) fn works(queue: &mut ScsiQueue) -> Result<(), Error> {
    let mut run = |cdb: &[u8], data: Data<'_>| {
        queue.run(&lab::driver::Command { lun: DISK, tag: 1, cdb, data })
    };
    let identity = run(&inquiry(36), Data::In(36))?.good();
    assert_eq!((identity[0], identity.len()), (0, 36), "a disk");
    let mut attention = run(&[0; 6], Data::None)?;
    while attention.status == 2 {
        assert_eq!(attention.sense_code().map(|code| code.0), Some(6), "a unit attention");
        attention = run(&[0; 6], Data::None)?;
    }
    attention.good();
    let bytes: Vec<u8> = (8..16).flat_map(|block| pattern(block, 1)).collect();
    run(&write16(8, 8), Data::Out(&bytes))?.good();
    let zeroes = run(&read16(0, 8), Data::In(8 * BLOCK))?.good();
    assert_ne!(zeroes, bytes);
    assert_eq!(run(&read16(8, 8), Data::In(8 * BLOCK))?.good(), bytes);
    Ok(())
}

/// Unit attentions are told once, and are not what most tests are about.
pub(crate) fn clear_attention(initiator: &mut Initiator, lun: Lun) -> Result<Answer, Error> {
    loop {
        let answer = initiator.run(lun, &[0; 6], Data::None)?;
        if answer.sense_code().map(|code| code.0) != Some(6) {
            return Ok(answer);
        }
    }
}

/// A virtio-scsi driver whose messages a test sends one by one: `vhost`'s frontend asks for no
/// acknowledgement, as most frontends do.
pub(crate) struct ByHand {
    pub(crate) messages: Frontend,
    pub(crate) stream: UnixStream,
    pub(crate) space: Space,
    pub(crate) control: Slots,
    pub(crate) events: Slots,
    pub(crate) request: ScsiQueue,
}

/// Rings that the driver has: control, event and one request queue.
pub(crate) const RINGS: usize = 3;

impl ByHand {
    pub(crate) fn new(stream: UnixStream, ring: RingFeatures, size: u16) -> Result<ByHand, Error> {
        let mut space = Space::new(16 << 20)?;
        let mut slots = |depth, data| {
            let ring = space.ring(size, ring)?;
            Slots::new(&mut space, ring, depth, data)
        };
        let (control, events) = (slots(4, 0)?, slots(4, 0)?);
        let request = ScsiQueue { slots: slots(8, 64 << 10)? };
        let copy = stream.try_clone().map_err(|source| io("socket", source))?;
        let messages = Frontend::from_stream(copy, 256);
        Ok(ByHand { messages, stream, space, control, events, request })
    }

    pub(crate) fn connect(scsi: &Scsi, ring: RingFeatures, size: u16) -> Result<ByHand, Error> {
        let stream = UnixStream::connect(scsi.socket()).map_err(|source| io("connect", source))?;
        Self::new(stream, ring, size)
    }

    pub(crate) fn ring(&self, index: usize) -> &Ring {
        match index {
            0 => &self.control.ring,
            1 => &self.events.ring,
            _ => &self.request.slots.ring,
        }
    }

    pub(crate) fn regions(&self) -> Vec<VhostUserMemoryRegionInfo> {
        use vm_memory::GuestMemoryBackend;
        let regions = self.space.memory.space().iter();
        regions.filter_map(|one| VhostUserMemoryRegionInfo::from_guest_region(one).ok()).collect()
    }

    /// What SET_VRING_ADDR says.
    pub(crate) fn addresses(&self, index: usize) -> VringConfigData {
        let layout = self.ring(index).layout();
        let user = |guest| self.space.memory.user_address(guest).unwrap();
        VringConfigData {
            queue_max_size: layout.size,
            queue_size: layout.size,
            flags: 0,
            desc_table_addr: user(layout.descriptors),
            used_ring_addr: user(layout.used),
            avail_ring_addr: user(layout.available),
            log_addr: None,
        }
    }

    /// A message that `vhost` can't send, or not in this way.
    pub(crate) fn raw(&mut self, request: u32, flags: u32, payload: &[u8]) -> Result<(), Error> {
        let header = [request, flags, payload.len() as u32];
        let header = header.into_iter().flat_map(u32::to_ne_bytes);
        let bytes: Vec<u8> = header.chain(payload.iter().copied()).collect();
        self.stream.write_all(&bytes).map_err(|source| io("a message", source))
    }
}

pub(crate) fn io(what: &str, source: std::io::Error) -> Error {
    Error::Io { what: what.to_owned(), source }
}

/// A message went well.
pub(crate) trait Sent<T> {
    fn sent(self) -> Result<T, Error>;
}

impl<T> Sent<T> for vhost::Result<T> {
    #[track_caller]
    fn sent(self) -> Result<T, Error> {
        let place = std::panic::Location::caller();
        self.map_err(|error| io("a message", std::io::Error::other(format!("{place}: {error}"))))
    }
}

impl<T> Sent<T> for Result<T, FrontendError> {
    fn sent(self) -> Result<T, Error> {
        self.map_err(|error| io("a message", std::io::Error::other(error)))
    }
}
