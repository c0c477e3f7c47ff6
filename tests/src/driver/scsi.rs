//! A virtio-scsi driver (virtio 1.2, 5.6).

use std::path::Path;
use std::time::Duration;

use vmm_frontend::frontend::ring::{Buffer, RingFeatures};
use vmm_frontend::frontend::{Session, Wanted};

use super::PATIENCE;
use super::slots::{Slots, Space};
use crate::Error;

/// Bytes of `struct virtio_scsi_cmd_req` and `…_resp` with the default CDB and sense sizes.
const REQUEST: u32 = 51;
const RESPONSE: u32 = 108;
const CDB: usize = 32;
const SENSE: usize = 96;
/// Bytes of an event.
const EVENT: u32 = 16;

const CONTROL_QUEUE: u16 = 0;
const EVENT_QUEUE: u16 = 1;
const FIRST_REQUEST_QUEUE: u16 = 2;

const VERSION_1: u64 = 1 << 32;
const EVENT_INDEX: u64 = 1 << 29;
const INDIRECT: u64 = 1 << 28;
const PACKED: u64 = 1 << 34;
const HOTPLUG: u64 = 1 << 1;
const CHANGE: u64 = 1 << 2;

/// The 8 bytes that address a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lun(pub [u8; 8]);

impl Lun {
    /// A unit of a target.
    pub const fn new(target: u8, lun: u16) -> Lun {
        let [high, low] = lun.to_be_bytes();
        Lun([1, target, 0x40 | high, low, 0, 0, 0, 0])
    }
}

/// A command's data.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    /// None.
    None,
    /// These bytes go to the device.
    Out(&'a [u8]),
    /// So many bytes of the slot's buffer, as it is, go to the device.
    Prepared(usize),
    /// So many bytes may come from the device.
    In(usize),
}

/// A command request.
#[derive(Clone, Copy, Debug)]
pub struct Command<'a> {
    /// Whom it is for.
    pub lun: Lun,
    /// The driver's name for it.
    pub tag: u64,
    /// At most 32 bytes.
    pub cdb: &'a [u8],
    /// Its data.
    pub data: Data<'a>,
}

/// A completed command. Its slot stays claimed.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Where it was.
    pub slot: usize,
    /// `response`: 0 if the command got to the unit.
    pub response: u8,
    /// SCSI status.
    pub status: u8,
    /// Bytes that were not moved.
    pub residual: u32,
    /// Bytes of sense data.
    pub sense: u32,
    /// Bytes that the device wrote, response and all.
    pub written: u32,
}

/// A command's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// `response`: 0 if the command got to the unit.
    pub response: u8,
    /// SCSI status.
    pub status: u8,
    /// Bytes that were not moved.
    pub residual: u32,
    /// Sense data.
    pub sense: Vec<u8>,
    /// What came, without what did not.
    pub data: Vec<u8>,
}

impl Answer {
    /// Sense key, additional sense code and its qualifier, of fixed format sense data.
    pub fn sense_code(&self) -> Option<(u8, u8, u8)> {
        Some((self.sense.get(2)? & 0xf, *self.sense.get(12)?, *self.sense.get(13)?))
    }

    /// The data of a command that went well.
    #[track_caller]
    pub fn good(self) -> Vec<u8> {
        assert_eq!((self.response, self.status), (0, 0), "{self:x?}");
        self.data
    }
}

/// A request queue, which a thread may have for itself.
#[derive(Debug)]
pub struct ScsiQueue {
    /// The requests.
    pub slots: Slots,
}

impl ScsiQueue {
    /// Puts a command into the ring, and returns its slot; `None`: all are in use. The device sees
    /// it at the next [`publish`](Slots::publish).
    pub fn submit(&mut self, command: &Command<'_>) -> Result<Option<usize>, Error> {
        let Some(slot) = self.slots.claim() else { return Ok(None) };
        let place = self.slots.place(slot);
        let mut head = [0; REQUEST as usize];
        head[..8].copy_from_slice(&command.lun.0);
        head[8..16].copy_from_slice(&command.tag.to_le_bytes());
        head[19..][..command.cdb.len().min(CDB)].copy_from_slice(command.cdb);
        self.slots.write(place.head, &head)?;
        let request = Buffer { address: place.head, length: REQUEST };
        let response = Buffer { address: place.response, length: RESPONSE };
        match command.data {
            Data::None => self.slots.add(slot, &[request], &[response])?,
            Data::In(length) => {
                let data = self.slots.data(slot, length);
                self.slots.add(slot, &[request], &[response, data])?;
            }
            Data::Out(bytes) => {
                let data = self.slots.data(slot, bytes.len());
                self.slots.write(place.data, bytes)?;
                self.slots.add(slot, &[request, data], &[response])?;
            }
            Data::Prepared(length) => {
                let data = self.slots.data(slot, length);
                self.slots.add(slot, &[request, data], &[response])?;
            }
        }
        Ok(Some(slot))
    }

    /// A completed command, if there is one.
    pub fn take(&mut self) -> Result<Option<Done>, Error> {
        let used = self.slots.take()?;
        used.map(|(slot, written)| self.done(slot, written)).transpose()
    }

    /// Waits for the next completed command.
    pub fn wait(&mut self) -> Result<Done, Error> {
        let (slot, written) = self.slots.wait()?;
        self.done(slot, written)
    }

    fn done(&self, slot: usize, written: u32) -> Result<Done, Error> {
        let mut bytes = [0; 12];
        self.slots.read(self.slots.place(slot).response, &mut bytes)?;
        let [a, b, c, d, e, f, g, h, _, _, status, response] = bytes;
        let (sense, residual) =
            (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        Ok(Done { slot, response, status, residual, sense, written })
    }

    /// All that is known of a completed command, whose slot is released. `length`: bytes of data
    /// that it could bring.
    pub fn answer(&mut self, done: Done, length: usize) -> Result<Answer, Error> {
        let place = self.slots.place(done.slot);
        let mut sense = vec![0; (done.sense as usize).min(SENSE)];
        self.slots.read(place.response + 12, &mut sense)?;
        let missing = usize::try_from(done.residual).unwrap_or(usize::MAX);
        let came = if done.response == 0 { length.saturating_sub(missing) } else { 0 };
        let mut data = vec![0; came];
        self.slots.read(place.data, &mut data)?;
        self.slots.release(done.slot);
        let Done { response, status, residual, .. } = done;
        Ok(Answer { response, status, residual, sense, data })
    }

    /// Sends a command, alone on its queue, and waits for its answer.
    pub fn run(&mut self, command: &Command<'_>) -> Result<Answer, Error> {
        let slot = self.submit(command)?;
        slot.ok_or_else(|| Error::driver::<&str>("a command")("no slot is free"))?;
        self.slots.publish()?;
        let done = self.wait()?;
        let length = match command.data {
            Data::In(length) => length,
            _ => 0,
        };
        self.answer(done, length)
    }
}

/// A task management function (`subtype`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs, reason = "the names are the standard's own")]
pub enum TaskManagement {
    AbortTask = 0,
    AbortTaskSet = 1,
    ClearAca = 2,
    ClearTaskSet = 3,
    NexusReset = 4,
    UnitReset = 5,
    QueryTask = 6,
    QueryTaskSet = 7,
}

/// What the device tells of its own accord.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened; bit 31: others were missed.
    pub event: u32,
    /// To which unit.
    pub lun: Lun,
    /// More about it.
    pub reason: u32,
}

/// How a driver is made.
#[derive(Clone, Copy, Debug)]
pub struct InitiatorOptions {
    /// Request queues.
    pub queues: u16,
    /// Descriptors of each.
    pub size: u16,
    /// Commands that a request queue can have under way.
    pub depth: u16,
    /// Bytes of data that a command can have.
    pub data: u32,
    /// Event index, indirect descriptors, packed rings.
    pub ring: RingFeatures,
    /// What is wanted of the transport; feature bits are added to it.
    pub wanted: Wanted,
}

impl Default for InitiatorOptions {
    fn default() -> Self {
        Self {
            queues: 1,
            size: 128,
            depth: 32,
            data: 64 << 10,
            ring: RingFeatures { event_index: true, indirect: true, packed: false },
            wanted: Wanted::new(VERSION_1 | HOTPLUG | CHANGE),
        }
    }
}

impl InitiatorOptions {
    /// Features to be negotiated for all this.
    pub fn wanted(&self) -> Wanted {
        let mut wanted = self.wanted;
        wanted.features |= if self.ring.event_index { EVENT_INDEX } else { 0 };
        wanted.features |= if self.ring.indirect { INDIRECT } else { 0 };
        wanted.features |= if self.ring.packed { PACKED } else { 0 };
        wanted
    }

    /// Guest memory that it takes, in bytes.
    pub fn memory(&self) -> u64 {
        let queues = u64::from(self.queues) + 2;
        let ring = u64::from(self.size) * 600 + (16 << 10);
        let data = u64::from(self.data).next_multiple_of(4096) + 4096;
        queues * (ring + u64::from(self.depth) * data) + (1 << 20)
    }
}

/// A driver of a virtio-scsi controller.
#[derive(Debug)]
pub struct Initiator {
    /// The device.
    pub session: Session,
    /// Guest memory.
    pub space: Space,
    /// The control queue.
    pub control: Slots,
    /// The event queue, whose slots are all with the device.
    pub events: Slots,
    /// The request queues. Threads may take them; [`Initiator::session`] stays.
    pub queues: Vec<ScsiQueue>,
}

impl Initiator {
    /// Connects to the process at `socket` and starts all rings.
    pub fn connect(socket: &Path, options: InitiatorOptions) -> Result<Initiator, Error> {
        Self::in_space(socket, options, Space::new(options.memory())?)
    }

    /// The same, with guest memory of the caller's.
    pub fn in_space(
        socket: &Path,
        options: InitiatorOptions,
        space: Space,
    ) -> Result<Initiator, Error> {
        let mut initiator = Self::prepare(socket, options, space)?;
        initiator.start()?;
        Ok(initiator)
    }

    /// The same, without starting any ring.
    pub fn prepare(
        socket: &Path,
        options: InitiatorOptions,
        mut space: Space,
    ) -> Result<Initiator, Error> {
        let rings = options.queues + FIRST_REQUEST_QUEUE;
        let wanted = options.wanted();
        let session = Session::connect(socket, wanted, &space.memory, rings, options.size)
            .map_err(Error::driver("vhost-user"))?;
        let mut slots = |depth, data| {
            let ring = space.ring(options.size, options.ring)?;
            Slots::new(&mut space, ring, depth, data)
        };
        let control = slots(8, 0)?;
        let events = slots(8, 0)?;
        let queues = (0..options.queues)
            .map(|_| Ok(ScsiQueue { slots: slots(options.depth, options.data)? }))
            .collect::<Result<_, Error>>()?;
        Ok(Initiator { session, space, control, events, queues })
    }

    /// Starts all rings.
    pub fn start(&mut self) -> Result<(), Error> {
        while let Some(slot) = self.events.claim() {
            self.offer_event(slot)?;
        }
        let failed = Error::driver("vhost-user");
        self.session.start(CONTROL_QUEUE, &self.control.ring).map_err(&failed)?;
        self.session.start(EVENT_QUEUE, &self.events.ring).map_err(&failed)?;
        for (number, queue) in (FIRST_REQUEST_QUEUE..).zip(&self.queues) {
            self.session.start(number, &queue.slots.ring).map_err(&failed)?;
        }
        self.events.publish()
    }

    /// Stops all rings, the request queues first.
    pub fn stop(&mut self) -> Result<(), Error> {
        let rings = FIRST_REQUEST_QUEUE + u16::try_from(self.queues.len()).unwrap_or(u16::MAX);
        for ring in (0..rings).rev() {
            self.session.stop(ring).map_err(Error::driver("vhost-user"))?;
        }
        Ok(())
    }

    /// Goes on with the process that took the place of one that died.
    pub fn reconnect(&mut self) -> Result<(), Error> {
        if !self.session.keeps_record() {
            self.control.ring.offer_again();
            self.events.ring.offer_again();
            self.queues.iter_mut().for_each(|queue| queue.slots.ring.offer_again());
        }
        self.session.reconnect(PATIENCE).map_err(Error::driver("vhost-user"))
    }

    /// Sends a command on the first request queue and waits for its answer.
    pub fn run(&mut self, lun: Lun, cdb: &[u8], data: Data<'_>) -> Result<Answer, Error> {
        self.queues[0].run(&Command { lun, tag: 0, cdb, data })
    }

    /// Sends a task management function; returns its response.
    pub fn manage(&mut self, function: TaskManagement, lun: Lun, tag: u64) -> Result<u8, Error> {
        let head = [0u32.to_le_bytes(), (function as u32).to_le_bytes()].concat();
        self.send_control(&[&head[..], &lun.0, &tag.to_le_bytes()].concat(), 1)?;
        self.control_answer()
    }

    /// Sends a request on the control queue, which may answer `length` bytes.
    pub fn send_control(&mut self, request: &[u8], length: u32) -> Result<(), Error> {
        let slot = self.control.claim();
        let slot = slot.ok_or_else(|| Error::driver::<&str>("a function")("no slot is free"))?;
        let place = self.control.place(slot);
        self.control.write(place.head, request)?;
        self.control.write(place.response, &[0xff; 16])?;
        let request = Buffer { address: place.head, length: request.len() as u32 };
        let response = Buffer { address: place.response, length };
        self.control.add(slot, &[request], &[response])?;
        self.control.publish()
    }

    /// Waits for the next answer on the control queue: its last byte.
    pub fn control_answer(&mut self) -> Result<u8, Error> {
        let (slot, written) = self.control.wait()?;
        let last = u64::from(written.saturating_sub(1));
        let mut response = [0xff];
        self.control.read(self.control.place(slot).response + last, &mut response)?;
        self.control.release(slot);
        Ok(response[0])
    }

    /// The next event; `None` if none comes within `limit`.
    pub fn event(&mut self, limit: Duration) -> Result<Option<Event>, Error> {
        self.events.ring.wait(limit).map_err(Error::driver("waiting"))?;
        let Some((slot, _)) = self.events.take()? else { return Ok(None) };
        let mut bytes = [0; EVENT as usize];
        self.events.read(self.events.place(slot).response, &mut bytes)?;
        let word = |at| u32::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]));
        let lun = Lun(std::array::from_fn(|byte| bytes[4 + byte]));
        let event = Event { event: word(0), lun, reason: word(12) };
        self.offer_event(slot)?;
        self.events.publish()?;
        Ok(Some(event))
    }

    fn offer_event(&mut self, slot: usize) -> Result<(), Error> {
        let address = self.events.place(slot).response;
        self.events.add(slot, &[], &[Buffer { address, length: EVENT }])
    }
}
