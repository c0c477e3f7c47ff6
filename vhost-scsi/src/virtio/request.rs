//! The workers of the request queues.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use vhost_runtime::chain::Chain;
use vhost_runtime::device::{Queues, Taken};
use vhost_runtime::queue::{Queue, QueueError};
use vmm_sys_util::timerfd::TimerFd;

use super::controller::Controller;
use super::layout::{COMMAND, Command, RESPONSE, Response, response};
use super::remote::Remote;
use super::task::{Finished, Phase, Task, begin_job, begin_pass_through, begin_transfer, data_in};
use super::tmf::Order;
use crate::image::engine::{Completed, Engine, IoVecs, Operation};
use crate::image::gate::Entry;
use crate::scsi::bytes::Fields;
use crate::scsi::target::Snapshot;
use crate::scsi::{Action, Cdb, DataLengths, Direction, Reply, Status};

/// How often a command is tried again that waits for the host.
const RETRY: Duration = Duration::from_millis(500);

/// Requests that begin together. What is in the page cache is done at once: a driver that gets the
/// first completions while the others are under way has new requests ready when these are done, and
/// nobody needs to be woken.
const BATCH: usize = 8;

const GOOD: u8 = Status::Good as u8;
const CONDITION_MET: u8 = Status::ConditionMet as u8;

/// Serves a request queue.
pub struct RequestWorker {
    controller: Arc<Controller>,
    /// Its number: who counts what units do.
    number: u16,
    remote: Arc<Remote>,
    engine: Engine<Finished>,
    timer: TimerFd,
    /// It was set, and its end was not noticed yet.
    timer_set: bool,
    snapshot: Snapshot,
    generation: u64,
    tasks: Vec<Option<Task>>,
    free: Vec<usize>,
    /// Tasks in [`Phase::Gate`] or [`Phase::Host`].
    waiting: usize,
    done: Vec<(u64, Completed<Finished>)>,
}

impl RequestWorker {
    pub(super) fn new(controller: Arc<Controller>, number: u16) -> io::Result<Self> {
        let remote = Arc::new(Remote::new()?);
        let engine = Engine::new(controller.engine(), controller.pool.clone())?;
        let timer = TimerFd::new().map_err(io::Error::from)?;
        controller.remotes().push(Arc::clone(&remote));
        let (snapshot, generation) = (controller.bus().snapshot(), controller.bus().generation());
        Ok(Self {
            controller,
            number,
            remote,
            engine,
            timer,
            timer_set: false,
            snapshot,
            generation,
            tasks: Vec::new(),
            free: Vec::new(),
            waiting: 0,
            done: Vec::new(),
        })
    }

    pub(super) fn events(&self) -> Vec<RawFd> {
        let mut events = self.engine.events();
        events.extend([self.remote.event(), self.timer.as_raw_fd()]);
        events
    }

    fn refresh(&mut self) {
        let generation = self.controller.bus().generation();
        if generation != self.generation {
            self.generation = generation;
            self.snapshot = self.controller.bus().snapshot();
        }
    }

    pub(super) fn process(&mut self, queue: &mut Queue) -> Taken {
        self.refresh();
        for _ in 0..BATCH {
            let Some(chain) = queue.pop() else { return Taken::All };
            self.begin(queue, chain);
        }
        Taken::Some
    }

    fn begin(&mut self, queue: &mut Queue, chain: Chain) {
        let room = chain.writable().len().checked_sub(RESPONSE as u64);
        let command = Command::read(chain.readable());
        let (Some(command), Some(room)) = (command, room) else {
            queue.fail(&QueueError::Request(
                "a command request is too short, or has no room for its response",
            ));
            return;
        };
        let out = chain.readable().len().saturating_sub(COMMAND as u64);
        let lengths = DataLengths { out, room };
        if out > 0 && room > 0 {
            // Bidirectional: VIRTIO_SCSI_F_INOUT is not offered.
            return respond(queue, chain, Response::Failure, &Reply::good());
        }
        let Some(address) = command.address else {
            return respond(queue, chain, Response::BadTarget, &Reply::good());
        };
        let Some(started) = self.snapshot.start(address, &command.cdb, lengths) else {
            return respond(queue, chain, Response::BadTarget, &Reply::good());
        };
        match (started.action, started.unit) {
            (Action::Complete(reply), unit) => {
                if let Some(cd) = unit.filter(|_| moves_tray(&command.cdb)).and_then(|u| u.cd()) {
                    self.controller.tray_moved(address, cd.is_open());
                }
                respond(queue, chain, Response::Ok, &reply);
            }
            (Action::Overrun, _) => respond(queue, chain, Response::Overrun, &Reply::good()),
            (action, Some(unit)) => {
                let unit = Arc::clone(unit);
                let task = Task {
                    queue: queue.index(),
                    chain: Some(chain),
                    command,
                    address,
                    image: unit.image(),
                    unit,
                    action,
                    entry: None,
                    phase: Phase::Gate,
                    waited: false,
                    orders: Vec::new(),
                };
                let index = self.insert(task);
                self.proceed(queue, index);
            }
            (_, None) => respond(queue, chain, Response::Failure, &Reply::good()),
        }
    }

    fn insert(&mut self, task: Task) -> usize {
        self.waiting = self.waiting.saturating_add(1);
        if let Some(index) = self.free.pop()
            && let Some(place) = self.tasks.get_mut(index)
        {
            *place = Some(task);
            return index;
        }
        self.tasks.push(Some(task));
        self.tasks.len().saturating_sub(1)
    }

    /// Takes a task in [`Phase::Gate`] or [`Phase::Host`] as far as it goes.
    fn proceed(&mut self, queue: &mut Queue, index: usize) {
        let Some(Some(task)) = self.tasks.get_mut(index) else { return };
        let entry = match task.action {
            Action::Transfer(_) => Some(Entry::Shared),
            Action::Defer { exclusive: true, .. } => Some(Entry::Exclusive),
            Action::Defer { exclusive: false, .. } => Some(Entry::Shared),
            _ => None,
        };
        if task.entry.is_none()
            && let (Some(entry), Some(gate)) = (entry, task.unit.gate())
        {
            if !gate.enter(entry) {
                return; // whoever leaves says so
            }
            task.entry = Some(entry);
        }
        self.waiting = self.waiting.saturating_sub(1);
        let token = index as u64;
        match task.action {
            Action::Transfer(transfer) => {
                task.phase = Phase::Transfer(transfer);
                begin_transfer(&mut self.engine, task, transfer, token);
            }
            Action::Flush => self.begin_flush(queue, index),
            Action::Defer { parameters, .. } => {
                task.phase = Phase::Job;
                begin_job(&mut self.engine, task, parameters, token);
            }
            Action::PassThrough => {
                task.phase = Phase::Job;
                begin_pass_through(&mut self.engine, task, token);
            }
            Action::Complete(_) | Action::Overrun => {
                self.end(queue, index, Response::Failure, &Reply::good());
            }
        }
    }

    fn begin_flush(&mut self, queue: &mut Queue, index: usize) {
        let Some(Some(task)) = self.tasks.get_mut(index) else { return };
        task.phase = Phase::Flush;
        let image = task.image.as_ref().filter(|image| image.durable() && !image.read_only());
        let Some(image) = image else {
            let reply = task.unit.finish_flush(Ok(()));
            return self.end(queue, index, Response::Ok, &reply);
        };
        match image.direct() {
            // SAFETY: the task keeps the image, hence the file, until completion; no memory is used.
            Some(direct) => unsafe {
                self.engine.submit(Operation::Flush, direct, IoVecs::new(), 0, index as u64);
            },
            None => {
                let Some(chain) = task.chain.take() else { return };
                let (image, unit) = (Arc::clone(image), Arc::clone(&task.unit));
                task.phase = Phase::Job;
                self.engine.spawn(index as u64, move || {
                    let reply = unit.finish_flush(image.flush());
                    Finished { chain, result: Ok((reply, Response::Ok)) }
                });
            }
        }
    }

    pub(super) fn turn(&mut self, queues: &mut Queues) {
        // First what may begin operations, then the engine, which hands them to the kernel.
        if self.remote.take_news() {
            self.refresh();
            self.take_orders(queues);
            self.retry(queues, false);
        }
        if self.timer_set && self.timer_expired() {
            self.timer_set = false;
            self.retry(queues, true);
        }
        let mut done = std::mem::take(&mut self.done);
        self.engine.turn(&mut done);
        for (token, completed) in done.drain(..) {
            let index = usize::try_from(token).unwrap_or(usize::MAX);
            let Some(Some(task)) = self.tasks.get(index) else { continue };
            let Some(queue) = queues.get_mut(task.queue) else { continue };
            self.completed(queue, index, completed);
        }
        self.done = done;
    }

    fn timer_expired(&mut self) -> bool {
        let mut poll =
            libc::pollfd { fd: self.timer.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, which outlives the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 0) } > 0;
        ready && self.timer.wait().is_ok()
    }

    fn completed(&mut self, queue: &mut Queue, index: usize, completed: Completed<Finished>) {
        let Some(Some(task)) = self.tasks.get_mut(index) else { return };
        let result = match completed {
            Completed::Io(result) => result.map(|()| None),
            Completed::Job(Finished { chain, result }) => {
                task.chain = Some(chain);
                result.map(Some)
            }
        };
        let reply = match (&task.phase, result) {
            (_, Ok(Some((reply, response)))) => return self.end(queue, index, response, &reply),
            (Phase::Transfer(transfer), Err(error))
                if task.ended_by().is_none()
                    && task.unit.error_policy().waits(transfer.direction, &error) =>
            {
                if !std::mem::replace(&mut task.waited, true) {
                    log::warn!("a command waits for the host: {error}");
                    self.controller.io_error(task.address, transfer.direction, &error, true);
                }
                task.phase = Phase::Host;
                self.waiting = self.waiting.saturating_add(1);
                return self.arm();
            }
            (Phase::Transfer(transfer), result) => {
                if let (Some(chain), Direction::Read) = (&task.chain, transfer.direction) {
                    data_in(chain, transfer.length).mark_dirty();
                }
                if let Err(error) = &result {
                    self.controller.io_error(task.address, transfer.direction, error, false);
                }
                task.unit.finish(transfer, result.map(drop))
            }
            (_, result) => task.unit.finish_flush(result.map(drop)),
        };
        self.end(queue, index, Response::Ok, &reply);
    }

    /// Ends a task: the driver gets its response, the gate opens, orders are carried out.
    fn end(&mut self, queue: &mut Queue, index: usize, response: Response, reply: &Reply) {
        let Some(task) = self.tasks.get_mut(index).and_then(Option::take) else { return };
        self.free.push(index);
        if let (Some(entry), Some(gate)) = (task.entry, task.unit.gate())
            && gate.leave(entry)
        {
            self.controller.remotes().iter().for_each(|remote| remote.refresh());
        }
        let ended_by = task.ended_by();
        let failed = ended_by.is_some()
            || response != Response::Ok
            || !matches!(reply.status, GOOD | CONDITION_MET);
        task.unit.statistics().count(self.number, &task.command.cdb, reply.moved, failed);
        if let Some(chain) = task.chain {
            match ended_by {
                Some(ended) => respond(queue, chain, ended, &Reply::good()),
                None => respond(queue, chain, response, reply),
            }
        }
        if !task.orders.is_empty() {
            // The driver is not to see an order carried out before the command's response.
            queue.publish();
        }
        // `task.orders` are let go of here.
    }

    fn take_orders(&mut self, queues: &mut Queues) {
        for order in self.remote.take_orders() {
            for index in 0..self.tasks.len() {
                self.apply(queues, index, &order);
            }
        }
    }

    fn apply(&mut self, queues: &mut Queues, index: usize, order: &Arc<Order>) {
        let Some(Some(task)) = self.tasks.get_mut(index) else { return };
        if !order.selector.matches(task.address, task.command.tag) {
            return;
        }
        order.found();
        if order.function.is_query() {
            return;
        }
        task.orders.push(Arc::clone(order));
        // What the host is doing can't be taken back: the order waits for it. The rest ends now.
        if let Some(queue) = queues.get_mut(task.queue) {
            self.end_if_waiting(queue, index);
        }
    }

    fn end_if_waiting(&mut self, queue: &mut Queue, index: usize) {
        let Some(Some(task)) = self.tasks.get(index) else { return };
        if !matches!(task.phase, Phase::Gate | Phase::Host) {
            return;
        }
        if task.entry.is_none()
            && matches!(task.action, Action::Defer { exclusive: true, .. })
            && let Some(gate) = task.unit.gate()
        {
            gate.give_up();
            self.controller.remotes().iter().for_each(|remote| remote.refresh());
        }
        self.waiting = self.waiting.saturating_sub(1);
        // A driver sends a busy command again.
        self.end(queue, index, Response::Ok, &Reply::status(Status::Busy));
    }

    /// Looks again at what waits for a gate, and at the timer's tick for the host.
    fn retry(&mut self, queues: &mut Queues, tick: bool) {
        if self.waiting == 0 {
            return;
        }
        for index in 0..self.tasks.len() {
            let Some(Some(task)) = self.tasks.get(index) else { continue };
            let again = match task.phase {
                Phase::Gate => true,
                Phase::Host => tick,
                _ => false,
            };
            if again && let Some(queue) = queues.get_mut(task.queue) {
                self.proceed(queue, index);
            }
        }
    }

    fn arm(&mut self) {
        if std::mem::replace(&mut self.timer_set, true) {
            return;
        }
        if let Err(error) = self.timer.reset(RETRY, None) {
            log::error!("no timer for commands that wait: {error}");
        }
    }

    /// What waits would wait for ever.
    pub(super) fn stop(&mut self, queue: &mut Queue) {
        for index in 0..self.tasks.len() {
            if matches!(self.tasks.get(index), Some(Some(task)) if task.queue == queue.index()) {
                self.end_if_waiting(queue, index);
            }
        }
    }

    pub(super) fn in_flight(&self, index: usize) -> usize {
        self.tasks.iter().flatten().filter(|task| task.queue == index).count()
    }
}

impl Drop for RequestWorker {
    fn drop(&mut self) {
        self.controller.remotes().retain(|remote| !Arc::ptr_eq(remote, &self.remote));
        // Orders that nobody reads any more are carried out by being dropped with the mailbox.
        drop(self.remote.take_orders());
    }
}

/// START STOP UNIT that loads or ejects (LOEJ).
fn moves_tray(cdb: &Cdb) -> bool {
    cdb.u8(0) == 0x1b && cdb.bit(4, 1)
}

/// Writes the response and gives the request back.
fn respond(queue: &mut Queue, chain: Chain, kind: Response, reply: &Reply) {
    let (head, data) = chain.writable().split_at(RESPONSE as u64);
    let written = data.write(&reply.data) as u64;
    let out = chain.readable().len().saturating_sub(COMMAND as u64);
    let prepared = data.len().max(out);
    let moved = reply.moved.max(written);
    let residual = prepared.saturating_sub(moved);
    let (bytes, length) = response(kind, reply, residual);
    head.write(bytes.get(..length).unwrap_or(&bytes));
    let used = if data.is_empty() { 0 } else { moved.min(data.len()) };
    let used = used.saturating_add(RESPONSE as u64);
    queue.complete(chain, u32::try_from(used).unwrap_or(u32::MAX));
}
