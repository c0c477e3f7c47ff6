//! What a command moves, and where: a reply, or stretches of the medium, piece by piece.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use vhost_scsi::image::Image;
use vhost_scsi::image::pool::Pool;
use vhost_scsi::scsi::target::{Address, Bus};
use vhost_scsi::scsi::{self, Action, Cdb, DataLengths, LogicalUnit, Reply};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::wire::Command;
use crate::usb::Direction;
use crate::usb::data::{Sink, Source};

/// Bytes that move between the medium and memory at once.
const PIECE: u32 = 256 << 10;
/// Bytes of parameter data that a command may have: more than any has use for.
const PARAMETERS: usize = 1 << 20;
/// How often what waits for the host is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Passed,
    Failed {
        /// For the REQUEST SENSE that follows.
        sense: Vec<u8>,
    },
    /// The device and the host do not agree on how much was to move (6.6.2).
    PhaseError,
}

impl Ended {
    fn of(reply: &Reply) -> Self {
        match reply.status == scsi::Status::Good as u8 {
            true => Self::Passed,
            false => Self::Failed { sense: reply.sense.clone() },
        }
    }
}

/// What a thread did.
pub(super) struct Done {
    data: Vec<u8>,
    result: io::Result<Option<Reply>>,
}

/// A command's unit, and what it wants done.
struct Task {
    unit: Arc<dyn LogicalUnit>,
    image: Option<Arc<dyn Image>>,
    cdb: Cdb,
}

/// Where a command is.
enum Stage {
    /// Data go to the host.
    Send { data: Vec<u8>, sent: usize },
    /// A stretch of the medium goes to the host: this piece does now, or is awaited; after it the
    /// stretch goes on at an offset.
    Read { transfer: scsi::Transfer, next: u64, piece: Vec<u8>, sent: usize },
    /// A stretch of the medium comes from the host: this piece does now, or is awaited.
    Write { transfer: scsi::Transfer, next: u64, piece: Vec<u8> },
    /// Parameter data come from the host, so many in all.
    Collect { wanted: usize, data: Vec<u8> },
    /// A thread is awaited.
    Job,
    /// It is over.
    Over,
}

/// A command under way.
pub(super) struct Work {
    task: Option<Task>,
    stage: Stage,
    /// What a thread does for it has this number.
    awaited: Option<u64>,
    /// Bytes that the host has room for.
    room: usize,
    ended: Ended,
}

impl Work {
    /// These data, as far as there is room, and all is well.
    pub(super) fn reply(mut data: Vec<u8>, command: &Command) -> Self {
        data.truncate(command.room());
        Self::over(Ended::Passed, data)
    }

    fn over(ended: Ended, data: Vec<u8>) -> Self {
        let stage = if data.is_empty() { Stage::Over } else { Stage::Send { data, sent: 0 } };
        Self { task: None, stage, awaited: None, room: 0, ended }
    }

    /// How it ended, if it has.
    pub(super) fn ended(&self) -> Option<Ended> {
        matches!(self.stage, Stage::Over).then(|| self.ended.clone())
    }

    fn finish(&mut self, reply: &Reply) {
        self.ended = Ended::of(reply);
        self.stage = Stage::Over;
    }

    /// Sends what is there, at most so many bytes; returns how many.
    pub(super) fn send(&mut self, to: &mut dyn Sink, most: u32) -> u32 {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let (data, sent) = match &mut self.stage {
            Stage::Send { data, sent } | Stage::Read { piece: data, sent, .. } => (data, sent),
            _ => return 0,
        };
        let rest = data.get(*sent..).unwrap_or_default();
        let count = to.write(rest.get(..most.min(rest.len())).unwrap_or_default());
        *sent = sent.saturating_add(count);
        let all = *sent >= data.len() || count == most;
        if all && matches!(self.stage, Stage::Send { .. }) {
            self.stage = Stage::Over;
        }
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Takes what comes, at most so many bytes; returns how many.
    pub(super) fn take(&mut self, from: &dyn Source, most: u32, medium: &mut Medium) -> usize {
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(from.len());
        if self.awaited.is_some() {
            return 0;
        }
        let (data, wanted) = match &mut self.stage {
            Stage::Write { transfer, next, piece } => {
                let left = transfer.offset.saturating_add(transfer.length).saturating_sub(*next);
                (piece, usize::try_from(left.min(PIECE.into())).unwrap_or(0))
            }
            Stage::Collect { wanted, data } => (data, *wanted),
            _ => return 0,
        };
        let count = most.min(wanted.saturating_sub(data.len()));
        data.extend(from.to_vec(count));
        if data.len() >= wanted {
            self.go_on(medium);
        }
        count
    }

    /// A piece is whole, or has gone: begins with the next.
    pub(super) fn go_on(&mut self, medium: &mut Medium) {
        let Some(task) = self.task.as_ref().filter(|_| self.awaited.is_none()) else { return };
        match &mut self.stage {
            Stage::Read { transfer, next, piece, sent } if *sent >= piece.len() => {
                let end = transfer.offset.saturating_add(transfer.length);
                if *next >= end {
                    let reply = task.unit.finish(transfer, Ok(()));
                    return self.finish(&reply);
                }
                let length = end.saturating_sub(*next).min(PIECE.into());
                let mut data = std::mem::take(piece);
                data.resize(usize::try_from(length).unwrap_or(0), 0);
                *sent = 0;
                self.awaited = medium.read(task, transfer.direction, *next, data);
            }
            Stage::Write { transfer, next, piece } => {
                let data = std::mem::take(piece);
                self.awaited = medium.write(task, transfer.direction, *next, data);
            }
            Stage::Collect { data, .. } => {
                let data = std::mem::take(data);
                self.stage = Stage::Job;
                self.awaited = medium.run(task, data);
            }
            _ => {}
        }
    }

    /// A thread has done something.
    pub(super) fn done(&mut self, number: u64, done: Done) {
        if self.awaited != Some(number) {
            return; // of a command that was given up
        }
        self.awaited = None;
        let Some(task) = &self.task else { return };
        let Done { data, result } = done;
        match (&mut self.stage, result) {
            (Stage::Read { transfer, .. } | Stage::Write { transfer, .. }, Err(error)) => {
                let reply = task.unit.finish(transfer, Err(error));
                self.finish(&reply);
            }
            (Stage::Read { next, piece, .. }, Ok(_)) => {
                *next = next.saturating_add(data.len() as u64);
                *piece = data;
            }
            (Stage::Write { transfer, next, .. }, Ok(_)) => {
                *next = next.saturating_add(data.len() as u64);
                if *next >= transfer.offset.saturating_add(transfer.length) {
                    let reply = task.unit.finish(transfer, Ok(()));
                    self.finish(&reply);
                }
            }
            (Stage::Job, Ok(Some(reply))) => {
                self.ended = Ended::of(&reply);
                let mut data = reply.data;
                data.truncate(self.room);
                self.stage =
                    if data.is_empty() { Stage::Over } else { Stage::Send { data, sent: 0 } };
            }
            (_, result) => {
                let reply = task.unit.finish_flush(result.map(drop));
                self.finish(&reply);
            }
        }
    }
}

/// The units, and the threads that work on them.
pub(super) struct Medium {
    bus: Bus,
    threads: Pool,
    number: u64,
    /// What threads have, and have not told of.
    pub(super) outstanding: usize,
    /// What they told of while the media were given back.
    finished: Vec<(u64, Done)>,
    /// Set for what was begun before and is given up.
    given_up: Arc<AtomicBool>,
    /// The media are to be given back: nobody waits for the host.
    stopping: Arc<AtomicBool>,
    tell: Sender<(u64, Done)>,
    told: Receiver<(u64, Done)>,
    wake: Arc<EventFd>,
}

impl Medium {
    pub(super) fn new(bus: Bus) -> io::Result<Self> {
        let wake = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        let (tell, told) = channel();
        Ok(Self {
            bus,
            threads: Pool::default(),
            number: 0,
            outstanding: 0,
            finished: Vec::new(),
            given_up: Arc::default(),
            stopping: Arc::default(),
            tell,
            told,
            wake,
        })
    }

    pub(super) fn bus(&self) -> &Bus {
        &self.bus
    }

    pub(super) fn events(&self) -> Vec<RawFd> {
        vec![self.wake.as_raw_fd()]
    }

    /// Locks all media, and reads what is kept beside them.
    pub(super) fn acquire(&mut self) -> io::Result<()> {
        let units = self.bus.snapshot();
        let mut held: Vec<Arc<dyn Image>> = Vec::new();
        for (_, unit) in units.iter() {
            let Some(image) = unit.locked_image() else { continue };
            let taken = image.acquire().inspect(|()| held.push(Arc::clone(&image)));
            if let Err(error) = taken.and_then(|()| unit.taken_into_use()) {
                held.iter().for_each(|image| release(image.as_ref()));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Gives them back, with all that was written durable.
    pub(super) fn release(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        while self.outstanding > 0 {
            let Ok(done) = self.told.recv() else { break };
            self.finished.push(done);
            self.outstanding = self.outstanding.saturating_sub(1);
        }
        self.stopping.store(false, Ordering::Relaxed);
        if !self.finished.is_empty() {
            // For the next turn.
            let _ = self.wake.write(1);
        }
        for (_, unit) in self.bus.snapshot().iter() {
            unit.out_of_use();
            if let Some(image) = unit.locked_image() {
                release(image.as_ref());
            }
        }
    }

    /// What is under way is not waited for any more.
    pub(super) fn forget(&mut self) {
        self.given_up.store(true, Ordering::Relaxed);
        self.given_up = Arc::default();
    }

    /// What threads have done.
    pub(super) fn turn(&mut self) -> Vec<(u64, Done)> {
        let _ = self.wake.read(); // however often it was written
        let mut done = std::mem::take(&mut self.finished);
        let before = done.len();
        done.extend(self.told.try_iter());
        let came = done.len().saturating_sub(before);
        self.outstanding = self.outstanding.saturating_sub(came);
        done
    }

    /// A thread still has something to do, maybe of a command that was given up: what comes after it must
    /// not overtake it.
    pub(super) fn is_busy(&self) -> bool {
        self.outstanding > 0
    }

    /// Begins a command.
    pub(super) fn begin(&mut self, command: &Command) -> Work {
        let room = command.room();
        let lengths = match command.direction {
            Direction::In => DataLengths { out: 0, room: command.length.into() },
            Direction::Out => DataLengths { out: command.length.into(), room: 0 },
        };
        let address = Address { target: 0, lun: command.lun.into() };
        let snapshot = self.bus.snapshot();
        let Some(started) = snapshot.start(address, &command.cdb, lengths) else {
            return Work::over(Ended::PhaseError, Vec::new());
        };
        let (action, unit) = match (started.action, started.unit) {
            (Action::Complete(reply), _) => {
                let mut data = reply.data.clone();
                data.truncate(room);
                return Work::over(Ended::of(&reply), data);
            }
            (Action::Overrun, _) | (_, None) => return Work::over(Ended::PhaseError, Vec::new()),
            (action, Some(unit)) => (action, Arc::clone(unit)),
        };
        let task = Task { image: unit.image(), unit, cdb: command.cdb };
        self.work_on(task, action, room)
    }

    fn work_on(&mut self, task: Task, action: Action, room: usize) -> Work {
        let stage = match action {
            Action::Transfer(transfer) if transfer.length == 0 => {
                return Work::over(Ended::of(&task.unit.finish(&transfer, Ok(()))), Vec::new());
            }
            Action::Transfer(transfer) => match transfer.direction {
                scsi::Direction::Read => {
                    Stage::Read { transfer, next: transfer.offset, piece: Vec::new(), sent: 0 }
                }
                scsi::Direction::Write { .. } => {
                    Stage::Write { transfer, next: transfer.offset, piece: Vec::new() }
                }
            },
            Action::Defer { parameters, .. } if parameters <= PARAMETERS => {
                Stage::Collect { wanted: parameters, data: Vec::new() }
            }
            Action::Flush => Stage::Job,
            _ => return Work::over(Ended::PhaseError, Vec::new()),
        };
        let flushes = matches!(stage, Stage::Job);
        let awaited = if flushes { self.flush(&task) } else { None };
        let ended = Ended::Passed;
        let mut work = Work { task: Some(task), stage, awaited, room, ended };
        if matches!(work.stage, Stage::Read { .. } | Stage::Collect { wanted: 0, .. }) {
            work.go_on(self);
        }
        work
    }

    fn spawn(&mut self, job: impl FnOnce() -> Done + Send + 'static) -> Option<u64> {
        self.number = self.number.wrapping_add(1);
        self.outstanding = self.outstanding.saturating_add(1);
        let (number, tell, wake) = (self.number, self.tell.clone(), Arc::clone(&self.wake));
        self.threads.run(move || {
            // Who has gone needs neither.
            if tell.send((number, job())).is_ok() {
                let _ = wake.write(1);
            }
        });
        Some(number)
    }

    fn read(
        &mut self,
        task: &Task,
        direction: scsi::Direction,
        offset: u64,
        mut data: Vec<u8>,
    ) -> Option<u64> {
        let (attempt, image) = (self.attempt(task, direction), task.image.clone());
        self.spawn(move || {
            let result = attempt(&mut || match &image {
                Some(image) => image.read_at(&mut data, offset),
                None => Err(io::ErrorKind::NotFound.into()),
            });
            Done { data, result: result.map(|()| None) }
        })
    }

    fn write(
        &mut self,
        task: &Task,
        direction: scsi::Direction,
        offset: u64,
        data: Vec<u8>,
    ) -> Option<u64> {
        let (attempt, image) = (self.attempt(task, direction), task.image.clone());
        let fua = direction == scsi::Direction::Write { fua: true };
        self.spawn(move || {
            let result = attempt(&mut || match &image {
                Some(image) => {
                    image.write_at(&data, offset)?;
                    if fua && image.durable() { image.flush() } else { Ok(()) }
                }
                None => Err(io::ErrorKind::NotFound.into()),
            });
            Done { data, result: result.map(|()| None) }
        })
    }

    fn flush(&mut self, task: &Task) -> Option<u64> {
        let image = task.image.clone().filter(|image| image.durable() && !image.read_only());
        self.spawn(move || {
            let result = image.map_or(Ok(()), |image| image.flush());
            Done { data: Vec::new(), result: result.map(|()| None) }
        })
    }

    fn run(&mut self, task: &Task, parameters: Vec<u8>) -> Option<u64> {
        let (unit, cdb) = (Arc::clone(&task.unit), task.cdb);
        self.spawn(move || {
            let reply = unit.run(&cdb, &parameters);
            Done { data: Vec::new(), result: Ok(Some(reply)) }
        })
    }

    /// Does something until the host can, or its error is to be told, or nobody waits any more.
    fn attempt(
        &self,
        task: &Task,
        direction: scsi::Direction,
    ) -> impl FnOnce(&mut dyn FnMut() -> io::Result<()>) -> io::Result<()> + Send + use<> {
        let policy = task.unit.error_policy();
        let (given_up, stopping) = (Arc::clone(&self.given_up), Arc::clone(&self.stopping));
        move |act| loop {
            if given_up.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            match act() {
                Err(error)
                    if policy.waits(direction, &error) && !stopping.load(Ordering::Relaxed) =>
                {
                    std::thread::sleep(RETRY);
                }
                result => return result,
            }
        }
    }
}

fn release(image: &dyn Image) {
    if let Err(error) = image.release() {
        log::error!("an image cannot be flushed or unlocked: {error}");
    }
}
