//! A physical device, as the other end of a [remote](crate::device::remote) one.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::event::epoll;

use super::broker::Slot;
use super::configurations::Configurations;
use super::errands::{Done, Errand, Errands};
use super::libusb::{Context, Ended, Handle, Kind, Outcome, UsbError};
use super::streams::{Stream, status};
use crate::device::remote::backend::{Backend, Event, Id, Pipe, Status, Transfer};
use crate::usb::descriptor::Transfer as PipeKind;
use crate::usb::{Direction, Endpoint, Speed};

/// Isochronous packets take this long from here to the device, or back.
const JITTER: u32 = 16;
/// Numbers of transfers that belong to streams: the host's have fewer bits.
const STREAM: u64 = 1 << 32;
/// Bytes of a setup.
const SETUP: usize = 8;

/// Why a device can't be passed through.
#[derive(Debug, thiserror::Error)]
pub enum PhysicalError {
    /// The host refuses something.
    #[error("{0}")]
    Host(#[from] io::Error),
    /// libusb does.
    #[error("it cannot be used: {0}")]
    Usb(#[from] UsbError),
    /// SuperSpeed, or more.
    #[error("it is too fast for USB 2.0: plug it into a slower port of the host")]
    Fast,
}

/// Where devices come from.
enum Origin {
    /// The broker sends one, and another when that has gone.
    Slot(Slot),
    /// It was passed by a client, and is the only one.
    Passed,
}

/// A device that is there.
struct Attached {
    handle: Arc<Handle>,
    errands: Errands,
    speed: Speed,
    configurations: Configurations,
    streams: BTreeMap<Endpoint, Stream>,
    /// Streams that were stopped, and whose transfers have not all ended.
    stopped: Vec<Stream>,
    /// Number of the last stream's transfer.
    last: u64,
    /// The host's transfers that are under way.
    under_way: BTreeMap<Id, Shape>,
    /// Errands that are under way; transfers wait for them.
    errands_left: usize,
    waiting: VecDeque<(Id, Transfer)>,
    /// Something was done to it since its last reset.
    is_touched: bool,
}

/// What a transfer's buffer is.
#[derive(Clone, Copy)]
struct Shape {
    /// It begins with a setup.
    control: bool,
    /// It is filled by the device.
    receives: bool,
}

/// A physical device: one that is there, or one that may come.
pub struct Physical {
    origin: Origin,
    context: Arc<Context>,
    /// For all that may happen.
    epoll: OwnedFd,
    attached: Option<Attached>,
    events: VecDeque<Event>,
}

impl Physical {
    /// What the broker has for this slot, now or later.
    ///
    /// # Errors
    /// The host refuses something.
    pub fn in_slot(slot: Slot) -> Result<Self, PhysicalError> {
        let fd = slot.as_fd().as_raw_fd();
        let mut this = Self::new(Origin::Slot(slot))?;
        this.watch(fd)?;
        // A guest that has the device already is not to see it go: who had it before may give it back yet.
        while let Origin::Slot(slot) = &this.origin
            && this.attached.is_none()
            && let Some(file) = slot.first()?
        {
            this.attach_or_say(file);
        }
        Ok(this)
    }

    /// The device whose node was opened by somebody else.
    ///
    /// # Errors
    /// It is none, or the host refuses something.
    pub fn passed(file: File) -> Result<Self, PhysicalError> {
        let mut this = Self::new(Origin::Passed)?;
        this.attach(file)?;
        Ok(this)
    }

    fn new(origin: Origin) -> Result<Self, PhysicalError> {
        let context = Arc::new(Context::new()?);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(io::Error::from)?;
        let this = Self { origin, context, epoll, attached: None, events: VecDeque::new() };
        this.watch(this.context.event())?;
        Ok(this)
    }

    fn watch(&self, fd: RawFd) -> io::Result<()> {
        // SAFETY: its owner keeps it open, and it is used at once.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let data = epoll::EventData::new_u64(0);
        Ok(epoll::add(&self.epoll, fd, data, epoll::EventFlags::IN)?)
    }

    fn attach(&mut self, file: File) -> Result<(), PhysicalError> {
        let handle = Handle::new(Arc::clone(&self.context), file)?;
        let speed = handle.speed().ok_or(PhysicalError::Fast)?;
        let mut configurations = Configurations::parse(&handle.descriptors()?, speed);
        let active = handle.configuration()?;
        configurations.set_active(active);
        let interfaces = configurations.interfaces(active);
        interfaces.iter().try_for_each(|interface| handle.claim(*interface))?;
        let handle = Arc::new(handle);
        let errands = Errands::new(Arc::clone(&handle), interfaces)?;
        self.watch(errands.event())?;
        self.attached = Some(Attached {
            handle,
            errands,
            speed,
            configurations,
            streams: BTreeMap::new(),
            stopped: Vec::new(),
            last: STREAM,
            under_way: BTreeMap::new(),
            errands_left: 0,
            waiting: VecDeque::new(),
            is_touched: true,
        });
        Ok(())
    }

    /// A device that can't be used stays out, and the next one is waited for; one that is in use comes again.
    fn attach_or_say(&mut self, file: File) {
        match self.attach(file) {
            Ok(()) => log::info!("a device of the host's is plugged in"),
            Err(PhysicalError::Usb(UsbError::Busy)) => {
                if let Origin::Slot(slot) = &self.origin {
                    slot.is_busy();
                }
            }
            Err(error) => {
                log::error!("a device of the host's is left out: {error}");
                self.lose();
            }
        }
    }

    /// The device has gone.
    fn lose(&mut self) {
        if self.attached.take().is_some() {
            log::info!("a device of the host's is gone");
        }
        self.events.clear();
        if let Origin::Slot(slot) = &self.origin {
            slot.is_free();
        }
    }

    /// Sees what has happened.
    fn look(&mut self) {
        self.context.run(0);
        let mut gone = false;
        if let Some(attached) = &mut self.attached {
            gone |= attached.handle.has_gone();
            while let Some(ended) = attached.handle.take() {
                gone |= ended.outcome == Outcome::Gone;
                self.events.extend(attached.ended(ended));
            }
            for done in attached.errands.take() {
                gone |= done.result == Err(UsbError::Gone);
                self.events.extend(attached.done(done));
            }
            attached.go_on();
        }
        if gone {
            self.lose();
        }
        // While there is a device none is sent, but the process may die.
        if let Origin::Slot(slot) = &self.origin {
            match slot.next() {
                Ok(Some(file)) => self.attach_or_say(file),
                Ok(None) => {}
                Err(error) => {
                    log::error!("devices that are plugged into the host are not seen: {error}");
                    self.origin = Origin::Passed;
                }
            }
        }
    }
}

impl Attached {
    fn ended(&mut self, ended: Ended) -> Vec<Event> {
        if let Ok(id) = Id::try_from(ended.number) {
            return self
                .under_way
                .remove(&id)
                .map(|shape| of_transfer(id, shape, ended))
                .into_iter()
                .collect();
        }
        let mut streams = self.streams.values_mut().chain(&mut self.stopped);
        let events = streams.find_map(|stream| stream.ended(&ended)).unwrap_or_default();
        // What follows a failure is for who starts it anew, not for the transfers of the one that has failed.
        let failed = self.streams.iter().filter(|(_, stream)| stream.is_over());
        for endpoint in failed.map(|(endpoint, _)| *endpoint).collect::<Vec<_>>() {
            self.stop(endpoint);
        }
        self.stopped.retain(Stream::is_under_way);
        events
    }

    fn stop(&mut self, endpoint: Endpoint) {
        let Some(mut stream) = self.streams.remove(&endpoint) else { return };
        stream.stop(&self.handle);
        if stream.is_under_way() {
            self.stopped.push(stream);
        }
    }

    fn done(&mut self, Done { id, errand, result }: Done) -> Option<Event> {
        let Some(errand) = errand else {
            let failed =
                Event::Ended { id: id?, status: Status::Failed, data: Vec::new(), taken: 0 };
            return Some(failed);
        };
        self.errands_left = self.errands_left.saturating_sub(1);
        if result.is_ok() {
            match errand {
                Errand::SetConfiguration { value, .. } => self.configurations.set_active(value),
                Errand::SetInterface { interface, alternate } => {
                    self.configurations.set_alternate(interface, alternate);
                }
                Errand::Reset | Errand::ClearHalt(_) => {}
            }
        }
        let status = match result {
            Ok(()) => Status::Done,
            Err(error) => {
                log::debug!("what a guest asks a device for is refused: {error}");
                Status::Stall
            }
        };
        Some(Event::Ended { id: id?, status, data: Vec::new(), taken: 0 })
    }

    /// Streams have transfers under way, and what waited for errands is begun.
    fn go_on(&mut self) {
        if self.errands_left > 0 {
            return;
        }
        while let Some((id, transfer)) = self.waiting.pop_front() {
            self.begin(id, transfer);
            if self.errands_left > 0 {
                return;
            }
        }
        let last = &mut self.last;
        let mut number = || {
            *last = last.wrapping_add(1) | STREAM;
            *last
        };
        for stream in self.streams.values_mut() {
            if let Err(error) = stream.go_on(&self.handle, &mut number) {
                log::debug!("a stream does not go on: {error}");
            }
        }
    }

    fn errand(&mut self, id: Option<Id>, errand: Errand) {
        self.errands_left = self.errands_left.saturating_add(1);
        self.errands.send(id, errand);
    }

    fn begin(&mut self, id: Id, transfer: Transfer) {
        self.is_touched = true;
        let (kind, endpoint, buffer, receives) = match transfer {
            Transfer::SetConfiguration(value) => {
                let before = self.configurations.active_interfaces();
                let after = self.configurations.interfaces(value);
                return self.errand(Some(id), Errand::SetConfiguration { value, before, after });
            }
            Transfer::SetInterface { interface, alternate } => {
                return self.errand(Some(id), Errand::SetInterface { interface, alternate });
            }
            Transfer::ClearHalt(endpoint) => {
                return self.errand(Some(id), Errand::ClearHalt(endpoint));
            }
            Transfer::Control { setup, data } => {
                let length = if data.is_empty() { setup.length.into() } else { data.len() };
                let mut buffer = setup.bytes().to_vec();
                buffer.extend(data);
                buffer.resize(length.saturating_add(SETUP), 0);
                let receives = setup.direction() == Direction::In;
                (Kind::Control, Endpoint::of_address(0), buffer, receives)
            }
            Transfer::In { endpoint, length } => {
                (self.kind(endpoint), endpoint, vec![0; length], true)
            }
            Transfer::Out { endpoint, data } => (self.kind(endpoint), endpoint, data, false),
        };
        let shape = Shape { control: kind == Kind::Control, receives };
        match self.handle.submit(id.into(), kind, endpoint, buffer, &[]) {
            Ok(()) => drop(self.under_way.insert(id, shape)),
            Err(error) => self.errands.refuse(id, error),
        }
    }

    fn kind(&self, endpoint: Endpoint) -> Kind {
        match self.configurations.pipe(endpoint).map(|pipe| pipe.kind) {
            Some(PipeKind::Interrupt) => Kind::Interrupt,
            _ => Kind::Bulk,
        }
    }
}

fn of_transfer(id: Id, shape: Shape, ended: Ended) -> Event {
    let Ended { outcome, buffer, moved, .. } = ended;
    let status = status(outcome);
    if !shape.receives {
        return Event::Ended { id, status, data: Vec::new(), taken: moved };
    }
    let mut data = buffer;
    if shape.control {
        data.drain(..SETUP.min(data.len()));
    }
    data.truncate(moved);
    Event::Ended { id, status, data, taken: 0 }
}

impl Backend for Physical {
    fn speed(&self) -> Speed {
        self.attached.as_ref().map_or(Speed::High, |attached| attached.speed)
    }

    fn is_gone(&self) -> bool {
        self.attached.is_none()
    }

    fn pipe(&self, endpoint: Endpoint) -> Option<Pipe> {
        self.attached.as_ref()?.configurations.pipe(endpoint)
    }

    fn jitter(&self) -> u32 {
        JITTER
    }

    fn reset(&mut self) {
        if let Some(attached) = &mut self.attached
            && std::mem::take(&mut attached.is_touched)
        {
            attached.waiting.clear();
            attached.errand(None, Errand::Reset);
        }
    }

    fn submit(&mut self, id: Id, transfer: Transfer) {
        if let Some(attached) = &mut self.attached {
            attached.waiting.push_back((id, transfer));
            attached.go_on();
        }
    }

    fn cancel(&mut self, id: Id) {
        if let Some(attached) = &mut self.attached {
            attached.waiting.retain(|(waiting, _)| *waiting != id);
            attached.handle.cancel(id.into());
        }
    }

    fn start(&mut self, endpoint: Endpoint) {
        if let Some(attached) = &mut self.attached
            && let Some(pipe) = attached.configurations.pipe(endpoint)
        {
            attached.stop(endpoint);
            attached.streams.insert(endpoint, Stream::new(endpoint, pipe, attached.speed));
            attached.is_touched = true;
            attached.go_on();
        }
    }

    fn stop(&mut self, endpoint: Endpoint) {
        if let Some(attached) = &mut self.attached {
            attached.stop(endpoint);
        }
    }

    fn send(&mut self, endpoint: Endpoint, packet: Vec<u8>) {
        if let Some(Attached { streams, handle, last, .. }) = &mut self.attached
            && let Some(stream) = streams.get_mut(&endpoint)
        {
            *last = last.wrapping_add(1) | STREAM;
            if let Err(error) = stream.send(packet, handle, *last) {
                log::debug!("packets are lost: {error}");
            }
        }
    }

    fn take(&mut self) -> Option<Event> {
        if self.events.is_empty() {
            self.look();
        }
        self.events.pop_front()
    }

    fn events(&self) -> Vec<RawFd> {
        vec![self.epoll.as_raw_fd()]
    }
}
