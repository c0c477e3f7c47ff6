//! A virtio-snd driver (virtio 1.3, 5.14).

use std::path::Path;
use std::time::{Duration, Instant};

use vmm_frontend::frontend::ring::{Buffer, RingFeatures};
use vmm_frontend::frontend::{Session, Wanted};

use super::PATIENCE;
use super::slots::{Slots, Space};
use crate::Error;

const VERSION_1: u64 = 1 << 32;
/// VIRTIO_SND_F_CTLS.
const CTLS: u64 = 1;
const RING: u16 = 64;
const DEPTH: u16 = 32;
/// Bytes of samples in a buffer at most, and of an answer.
const LONGEST: u32 = 64 << 10;
const TRANSFER: u32 = 4;
const STATUS: u32 = 8;

/// VIRTIO_SND_S_OK, …_BAD_MSG, …_NOT_SUPP, …_IO_ERR.
pub const OK: u32 = 0x8000;
/// See [`OK`].
pub const BAD_MESSAGE: u32 = 0x8001;
/// See [`OK`].
pub const NOT_SUPPORTED: u32 = 0x8002;
/// See [`OK`].
pub const IO_ERROR: u32 = 0x8003;

/// A buffer that came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// VIRTIO_SND_S_*.
    pub status: u32,
    /// How far behind the guest what is heard is, in bytes.
    pub latency: u32,
    /// What was recorded.
    pub samples: Vec<u8>,
}

/// A driver of a sound card.
#[derive(Debug)]
pub struct Sound {
    /// The device.
    pub session: Session,
    /// Guest memory.
    pub space: Space,
    control: Slots,
    events: Slots,
    transmit: Slots,
    receive: Slots,
}

impl Sound {
    /// Connects to the card at `socket` and starts all rings.
    pub fn connect(socket: &Path) -> Result<Sound, Error> {
        let failed = Error::driver("vhost-user");
        let mut space = Space::new(24 << 20)?;
        let wanted = Wanted::new(VERSION_1 | CTLS);
        let mut session =
            Session::connect(socket, wanted, &space.memory, 4, RING).map_err(&failed)?;
        let features = RingFeatures { event_index: false, indirect: false, packed: false };
        let mut slots = |number, depth| -> Result<Slots, Error> {
            let ring = space.ring(RING, features)?;
            session.start(number, &ring).map_err(&failed)?;
            Slots::new(&mut space, ring, depth, LONGEST)
        };
        let control = slots(0, 4)?;
        let events = slots(1, 8)?;
        let (transmit, receive) = (slots(2, DEPTH)?, slots(3, DEPTH)?);
        let mut sound = Sound { session, space, control, events, transmit, receive };
        while let Some(slot) = sound.events.claim() {
            let place = sound.events.data(slot, 8);
            sound.events.add(slot, &[], &[place])?;
        }
        sound.events.publish()?;
        Ok(sound)
    }

    /// Sends a request; returns its status, and what is behind that.
    pub fn request(&mut self, request: &[u8]) -> Result<(u32, Vec<u8>), Error> {
        let missing = || Error::driver::<&str>("a request")("there is no room for it");
        let slots = &mut self.control;
        let slot = slots.claim().ok_or_else(missing)?;
        let place = slots.place(slot);
        slots.write(place.head, request)?;
        let head =
            Buffer { address: place.head, length: u32::try_from(request.len()).unwrap_or(0) };
        let answer = slots.data(slot, LONGEST as usize);
        slots.add(slot, &[head], &[answer])?;
        slots.publish()?;
        let (slot, written) = slots.wait()?;
        let mut bytes = vec![0; written as usize];
        slots.read(slots.place(slot).data, &mut bytes)?;
        slots.release(slot);
        let short = || Error::driver::<&str>("a request")("its answer has no status");
        let (status, rest) = bytes.split_first_chunk::<4>().ok_or_else(short)?;
        Ok((u32::from_le_bytes(*status), rest.to_vec()))
    }

    /// Sends a request of words; returns its status.
    pub fn words(&mut self, words: &[u32]) -> Result<u32, Error> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        Ok(self.request(&bytes)?.0)
    }

    /// PCM_SET_PARAMS: periods of so many bytes, four of them; channels, format and rate by number.
    pub fn set(&mut self, stream: u32, period: u32, kind: [u8; 3]) -> Result<u32, Error> {
        let [channels, format, rate] = kind;
        let last = u32::from_le_bytes([channels, format, rate, 0]);
        self.words(&[0x101, stream, 4 * period, period, 0, last])
    }

    /// CTL_READ: the first values of an element.
    pub fn read_control(&mut self, element: u32) -> Result<(u32, Vec<u32>), Error> {
        let request = [0x302u32, element].map(u32::to_le_bytes).concat();
        let (status, bytes) = self.request(&request)?;
        let (words, _) = bytes.as_chunks();
        Ok((status, words.iter().map(|word| u32::from_le_bytes(*word)).collect()))
    }

    /// CTL_WRITE, of a whole `virtio_snd_ctl_value`.
    pub fn write_control(&mut self, element: u32, values: &[u32]) -> Result<u32, Error> {
        let mut words = vec![0x303, element];
        words.extend(values);
        words.resize(130, 0);
        self.words(&words)
    }

    /// Has the card know nothing of what it offers on request.
    pub fn renounce_controls(&mut self) -> Result<(), Error> {
        self.session.set_features(VERSION_1).map_err(Error::driver("vhost-user"))
    }

    /// Gives a buffer to be played. `true`: the card wanted to be kicked.
    pub fn play(&mut self, stream: u32, samples: &[u8]) -> Result<bool, Error> {
        let is_wanted = self.show(stream, samples)?;
        if is_wanted {
            self.transmit.ring.kick().map_err(Error::driver("a kick"))?;
        }
        Ok(is_wanted)
    }

    /// Gives a buffer to be played, but does not kick yet. `true`: the card wants to be kicked.
    pub fn show(&mut self, stream: u32, samples: &[u8]) -> Result<bool, Error> {
        let missing = || Error::driver::<&str>("a buffer")("all are in use");
        let slots = &mut self.transmit;
        let slot = slots.claim().ok_or_else(missing)?;
        let place = slots.place(slot);
        slots.write(place.head, &stream.to_le_bytes())?;
        slots.write(place.data, samples)?;
        let head = Buffer { address: place.head, length: TRANSFER };
        let status = Buffer { address: place.response, length: STATUS };
        let data = slots.data(slot, samples.len());
        slots.add(slot, &[head, data], &[status])?;
        Ok(slots.ring.show())
    }

    /// Gives a buffer to be recorded to.
    pub fn record(&mut self, stream: u32, length: u32) -> Result<(), Error> {
        let missing = || Error::driver::<&str>("a buffer")("all are in use");
        let slots = &mut self.receive;
        let slot = slots.claim().ok_or_else(missing)?;
        let place = slots.place(slot);
        slots.write(place.head, &stream.to_le_bytes())?;
        let head = Buffer { address: place.head, length: TRANSFER };
        let status = Buffer { address: place.response, length: STATUS };
        let data = slots.data(slot, length as usize);
        slots.add(slot, &[head], &[data, status])?;
        slots.publish()?;
        Ok(())
    }

    /// Waits for the next buffer that was played.
    pub fn played(&mut self) -> Result<Moved, Error> {
        let (slot, _) = self.transmit.wait()?;
        let (status, latency) = status(&self.transmit, slot)?;
        self.transmit.release(slot);
        Ok(Moved { status, latency, samples: Vec::new() })
    }

    /// A buffer that was played, if one was.
    pub fn try_played(&mut self) -> Result<Option<Moved>, Error> {
        let Some((slot, _)) = self.transmit.take()? else { return Ok(None) };
        let (status, latency) = status(&self.transmit, slot)?;
        self.transmit.release(slot);
        Ok(Some(Moved { status, latency, samples: Vec::new() }))
    }

    /// Waits for the next buffer that was recorded to.
    pub fn recorded(&mut self) -> Result<Moved, Error> {
        let (slot, written) = self.receive.wait()?;
        self.moved(slot, written)
    }

    /// A buffer that was recorded to, if one was.
    pub fn try_recorded(&mut self) -> Result<Option<Moved>, Error> {
        let Some((slot, written)) = self.receive.take()? else { return Ok(None) };
        self.moved(slot, written).map(Some)
    }

    fn moved(&mut self, slot: usize, written: u32) -> Result<Moved, Error> {
        let (status, latency) = status(&self.receive, slot)?;
        let mut samples = vec![0; written.saturating_sub(STATUS) as usize];
        self.receive.read(self.receive.place(slot).data, &mut samples)?;
        self.receive.release(slot);
        Ok(Moved { status, latency, samples })
    }

    /// Waits for an event: its code and what it is of.
    pub fn event(&mut self, limit: Duration) -> Result<Option<(u32, u32)>, Error> {
        let end = Instant::now() + limit;
        let slot = loop {
            match self.events.take()? {
                Some((slot, _)) => break slot,
                None if Instant::now() >= end => return Ok(None),
                None => {}
            }
            let left = end.saturating_duration_since(Instant::now());
            self.events.ring.wait(left).map_err(Error::driver("waiting"))?;
        };
        let mut bytes = [0; 8];
        self.events.read(self.events.place(slot).data, &mut bytes)?;
        let place = self.events.data(slot, 8);
        self.events.add(slot, &[], &[place])?;
        self.events.publish()?;
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| bytes[at + byte]));
        Ok(Some((word(0), word(4))))
    }

    /// Goes on with the card at another socket, which gets this one's state.
    pub fn migrate(&mut self, socket: &Path) -> Result<(), Error> {
        let failed = Error::driver("vhost-user");
        self.session.stop_all().map_err(&failed)?;
        let state = self.session.device().save_state().map_err(&failed)?;
        let wanted = Wanted::new(VERSION_1);
        let mut session = Session::open(socket, wanted, &self.space.memory).map_err(&failed)?;
        session.begin(4, RING).map_err(&failed)?;
        session.device().load_state(&state).map_err(&failed)?;
        let slots = [&self.control, &self.events, &self.transmit, &self.receive];
        for (number, slots) in (0..).zip(slots) {
            session.start(number, &slots.ring).map_err(&failed)?;
        }
        self.session = session;
        Ok(())
    }

    /// Goes on with the process that took the place of one that died.
    pub fn reconnect(&mut self) -> Result<(), Error> {
        self.session.reconnect(PATIENCE).map_err(Error::driver("vhost-user"))
    }
}

fn status(slots: &Slots, slot: usize) -> Result<(u32, u32), Error> {
    let mut bytes = [0; 8];
    slots.read(slots.place(slot).response, &mut bytes)?;
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| bytes[at + byte]));
    Ok((word(0), word(4)))
}
