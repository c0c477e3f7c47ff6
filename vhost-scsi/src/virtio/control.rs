//! The control queue (task management) and the event queue.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use vhost_runtime::chain::Chain;
use vhost_runtime::device::{Queues, Taken};
use vhost_runtime::queue::{Queue, QueueError};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::timerfd::TimerFd;

use super::controller::Controller;
use super::layout::{Control, Event};
use super::tmf::{Done, Function, Order, Selector};
use crate::scsi::LogicalUnit;
use crate::scsi::target::{Address, Snapshot};

/// The queues of this worker (virtio 1.2, 5.6.2).
const CONTROL_QUEUE: usize = 0;
const EVENT_QUEUE: usize = 1;

/// How long a physical unit has to end its tasks. Then the driver is told that it does not, and takes
/// a stronger measure.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whose patience is over.
const TICK: Duration = Duration::from_millis(500);

/// Events that wait for the driver at most: what is more is told as missed.
const EVENTS: usize = 256;

/// `response` of a task management function.
#[derive(Clone, Copy)]
#[repr(u8)]
enum FunctionResponse {
    Complete = 0,
    BadTarget = 3,
    Failure = 9,
    Succeeded = 10,
    Rejected = 11,
    IncorrectLun = 12,
}

/// Events on their way to the driver.
pub(super) struct EventQueue {
    waiting: Mutex<Waiting>,
    wake: EventFd,
}

#[derive(Default)]
struct Waiting {
    events: std::collections::VecDeque<Event>,
    missed: bool,
}

impl EventQueue {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { waiting: Mutex::default(), wake: EventFd::new(EFD_NONBLOCK)? })
    }

    pub(super) fn push(&self, event: Event) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.events.len() < EVENTS {
            waiting.events.push_back(event);
        } else {
            waiting.missed = true;
        }
        drop(waiting);
        if let Err(error) = self.wake.write(1) {
            log::error!("the control worker cannot be woken: {error}");
        }
    }

    pub(super) fn clear(&self) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Waiting::default();
    }

    /// Fills the driver's buffers.
    fn deliver(&self, queue: &mut Queue) {
        let _ = self.wake.read(); // several may have been pushed since
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(event) =
            waiting.events.front().copied().or(waiting.missed.then_some(Event::Missed))
        {
            let Some(chain) = queue.pop() else { return };
            let bytes = event.bytes(waiting.missed);
            let written = chain.writable().write(&bytes);
            queue.complete(chain, u32::try_from(written).unwrap_or(0));
            waiting.missed = false;
            waiting.events.pop_front();
        }
    }
}

/// A task management request that waits for tasks to end.
struct Waiter {
    chain: Chain,
    function: Function,
    selector: Selector,
    /// The resets have been done.
    reset: bool,
    /// When to give up.
    deadline: Option<Instant>,
    given_up: Arc<AtomicBool>,
}

/// Serves the control and the event queue.
pub struct ControlWorker {
    controller: Arc<Controller>,
    wake: Arc<EventFd>,
    done: Done,
    waiters: HashMap<u64, Waiter>,
    next_token: u64,
    timer: TimerFd,
}

impl ControlWorker {
    pub(super) fn new(controller: Arc<Controller>) -> io::Result<Self> {
        let wake = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        let done = Done::new(Arc::clone(&wake));
        let timer = TimerFd::new().map_err(io::Error::from)?;
        Ok(Self { controller, wake, done, waiters: HashMap::new(), next_token: 0, timer })
    }

    pub(super) fn events(&self) -> Vec<RawFd> {
        let events = &self.controller.events;
        vec![self.wake.as_raw_fd(), events.wake.as_raw_fd(), self.timer.as_raw_fd()]
    }

    pub(super) fn process(&mut self, queue: &mut Queue) -> Taken {
        if queue.index() == EVENT_QUEUE {
            self.controller.events.deliver(queue);
            return Taken::All;
        }
        while let Some(chain) = queue.pop() {
            self.begin(queue, chain);
        }
        Taken::All
    }

    fn begin(&mut self, queue: &mut Queue, chain: Chain) {
        match Control::read(chain.readable()) {
            None => queue.fail(&QueueError::Request("a control request is too short")),
            Some(Control::TaskManagement { subtype, address, tag }) => {
                self.task_management(queue, chain, subtype, address, tag);
            }
            // No asynchronous events are supported: none is there, none can be subscribed to.
            Some(Control::AsynchronousNotification) => complete(queue, chain, &[0; 5]),
            Some(Control::Unknown) => {
                let response = [super::layout::Response::Failure as u8];
                complete(queue, chain, &response);
            }
        }
    }

    fn task_management(
        &mut self,
        queue: &mut Queue,
        chain: Chain,
        subtype: u32,
        address: Option<Address>,
        tag: u64,
    ) {
        let answer = |queue: &mut Queue, chain, response: FunctionResponse| {
            complete(queue, chain, &[response as u8]);
        };
        let Some(function) = Function::from_subtype(subtype) else {
            return answer(queue, chain, FunctionResponse::Rejected);
        };
        let Some(address) = address else {
            return answer(queue, chain, FunctionResponse::BadTarget);
        };
        let snapshot = self.controller.bus().snapshot();
        if snapshot.target(address.target).next().is_none() {
            return answer(queue, chain, FunctionResponse::BadTarget);
        }
        let selector = match function {
            Function::NexusReset => Selector::Target(address.target),
            Function::ClearAca => return answer(queue, chain, FunctionResponse::Rejected),
            _ if snapshot.unit(address).is_none() => {
                return answer(queue, chain, FunctionResponse::IncorrectLun);
            }
            Function::AbortTask | Function::QueryTask => Selector::Task(address, tag),
            _ => Selector::Unit(address),
        };
        let token = self.next_token;
        self.next_token = token.wrapping_add(1);
        let reset = !matches!(function, Function::NexusReset | Function::UnitReset);
        let order = Arc::new(Order::new(function, selector, token, self.done.clone()));
        let physical = physical_units(&snapshot, selector);
        let deadline = if physical.is_empty() { None } else { self.deadline() };
        let given_up = order.given_up();
        self.waiters.insert(token, Waiter { chain, function, selector, reset, deadline, given_up });
        for remote in self.controller.remotes().iter() {
            remote.order(Arc::clone(&order));
        }
        if !reset && !physical.is_empty() {
            // What a physical unit is doing ends by its reset, so that comes first.
            self.controller.pool.run(move || {
                physical.iter().for_each(|unit| unit.reset());
                drop(order); // it is carried out, as far as it is about these units
            });
        }
    }

    /// When patience with a physical unit is over. From now on it is looked for that moment.
    fn deadline(&mut self) -> Option<Instant> {
        if let Err(error) = self.timer.reset(TICK, Some(TICK)) {
            log::error!("no timer for task management: {error}");
        }
        Instant::now().checked_add(PATIENCE)
    }

    fn give_up_in_time(&mut self, queue: &mut Queue, now: Instant) {
        if self.waiters.values().all(|waiter| waiter.deadline.is_none()) {
            return;
        }
        let over = self.waiters.extract_if(|_, waiter| waiter.deadline.is_some_and(|at| at <= now));
        for (_, waiter) in over {
            log::warn!("a physical unit does not end its tasks: task management failed");
            waiter.given_up.store(true, Ordering::Relaxed);
            complete(queue, waiter.chain, &[FunctionResponse::Failure as u8]);
        }
        if self.waiters.values().all(|waiter| waiter.deadline.is_none())
            && let Err(error) = self.timer.clear()
        {
            log::error!("a timer cannot be stopped: {error}");
        }
    }

    pub(super) fn turn(&mut self, queues: &mut Queues) {
        let _ = self.wake.read(); // the list tells what is done
        for (token, found) in self.done.take() {
            let Some(mut waiter) = self.waiters.remove(&token) else { continue };
            if !std::mem::replace(&mut waiter.reset, true) {
                self.reset(token, &waiter);
                self.waiters.insert(token, waiter);
                continue;
            }
            let response = if waiter.function.is_query() && found {
                FunctionResponse::Succeeded
            } else {
                FunctionResponse::Complete
            };
            if let Some(queue) = queues.get_mut(CONTROL_QUEUE) {
                complete(queue, waiter.chain, &[response as u8]);
            }
        }
        if let Some(queue) = queues.get_mut(CONTROL_QUEUE) {
            self.give_up_in_time(queue, Instant::now());
        }
        if let Some(queue) = queues.get_mut(EVENT_QUEUE) {
            self.controller.events.deliver(queue);
        }
    }

    /// The tasks have ended; now the units themselves are reset, but for physical ones.
    fn reset(&self, token: u64, waiter: &Waiter) {
        let selector = waiter.selector;
        let snapshot = self.controller.bus().snapshot();
        let done = self.done.clone();
        self.controller.pool.run(move || {
            for (address, unit) in snapshot.iter() {
                if selector.matches(address, 0) && unit.pass_through().is_none() {
                    unit.reset();
                }
            }
            done.put(token, true);
        });
    }

    /// The driver is told of nothing any more; what it asked for is done all the same.
    pub(super) fn stop(&mut self, _queue: &mut Queue) {}

    pub(super) fn in_flight(&self, index: usize) -> usize {
        if index == CONTROL_QUEUE { self.waiters.len() } else { 0 }
    }
}

fn physical_units(snapshot: &Snapshot, selector: Selector) -> Vec<Arc<dyn LogicalUnit>> {
    let tag = if let Selector::Task(_, tag) = selector { tag } else { 0 };
    let selected = snapshot.iter().filter(|(address, _)| selector.matches(*address, tag));
    let physical = selected.filter(|(_, unit)| unit.pass_through().is_some());
    physical.map(|(_, unit)| Arc::clone(unit)).collect()
}

fn complete(queue: &mut Queue, chain: Chain, response: &[u8]) {
    let written = chain.writable().write(response);
    if written < response.len() {
        queue.fail(&QueueError::Request("a control request has no room for its response"));
        return;
    }
    queue.complete(chain, u32::try_from(written).unwrap_or(0));
}

#[cfg(test)]
mod tests;
