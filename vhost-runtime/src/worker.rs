//! The threads that serve queues: one event loop each.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use epoll::{ControlOptions, Event, Events};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::device::{Device, QueueWorker, Queues, Taken};
use crate::memory::Memory;
use crate::queue::{Base, Queue};

use self::patience::Patience;

mod patience;

/// Rounds after which a busy worker looks at its mailbox.
const ROUNDS: usize = 16;
/// How often a queue without a kick event is looked at, in milliseconds.
const POLL_INTERVAL: i32 = 1;
/// How often a worker looks for new requests between two looks at the clock.
const LOOKS: usize = 16;
const MAILBOX: u64 = u64::MAX;
const WORKER: u64 = u64::MAX - 1;

/// How the driver tells of new requests.
#[derive(Debug)]
pub enum Kick {
    /// By this event.
    Event(EventFd),
    /// Not at all: the queue is polled.
    Poll,
}

enum Message {
    Start { queue: Box<Queue>, kick: Kick, enabled: bool },
    Kick { index: usize, kick: Kick },
    Enable { index: usize, enabled: bool },
    Call { index: usize, event: Option<EventFd> },
    Error { index: usize, event: Option<EventFd> },
    Memory(Arc<Memory>),
    Stop { index: usize, base: Sender<Base> },
    Sync(Sender<()>),
    Exit,
}

/// A worker's thread, from outside.
#[derive(Debug)]
pub(crate) struct WorkerThread {
    mailbox: Sender<Message>,
    wake: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl WorkerThread {
    pub(crate) fn spawn<D: Device>(device: &Arc<D>, number: u16) -> io::Result<Self> {
        let (mailbox, messages) = channel();
        let wake = EventFd::new(EFD_NONBLOCK)?;
        let (ready, started) = channel();
        let device = Arc::clone(device);
        let waker = wake.try_clone()?;
        let thread = std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .stack_size(512 << 10)
            .spawn(move || {
                let made =
                    device.worker(number).and_then(|worker| Loop::new(worker, messages, waker));
                match made {
                    Ok(mut event_loop) => {
                        let _ = ready.send(Ok(()));
                        event_loop.run();
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error));
                    }
                }
            })?;
        match started.recv() {
            Ok(Ok(())) => Ok(Self { mailbox, wake, thread: Some(thread) }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::Error::other("the worker's thread ended")),
        }
    }

    fn send(&self, message: Message) {
        // A worker that is gone has no queue to be told about.
        if self.mailbox.send(message).is_ok()
            && let Err(error) = self.wake.write(1)
        {
            log::error!("a worker cannot be woken: {error}");
        }
    }

    pub(crate) fn start(&self, queue: Queue, kick: Kick, enabled: bool) {
        self.send(Message::Start { queue: Box::new(queue), kick, enabled });
    }

    pub(crate) fn set_kick(&self, index: usize, kick: Kick) {
        self.send(Message::Kick { index, kick });
    }

    pub(crate) fn enable(&self, index: usize, enabled: bool) {
        self.send(Message::Enable { index, enabled });
    }

    pub(crate) fn set_call(&self, index: usize, event: Option<EventFd>) {
        self.send(Message::Call { index, event });
    }

    pub(crate) fn set_error(&self, index: usize, event: Option<EventFd>) {
        self.send(Message::Error { index, event });
    }

    pub(crate) fn set_memory(&self, memory: Arc<Memory>) {
        self.send(Message::Memory(memory));
    }

    /// Asks to stop a queue; the answer, its base, comes when its last request is completed.
    pub(crate) fn stop(&self, index: usize) -> Receiver<Base> {
        let (base, answer) = channel();
        self.send(Message::Stop { index, base });
        answer
    }

    /// Waits until the worker has seen every message so far, and is between two requests.
    pub(crate) fn sync(&self) {
        let (done, answer) = channel();
        self.send(Message::Sync(done));
        let _ = answer.recv();
    }
}

impl Drop for WorkerThread {
    fn drop(&mut self) {
        self.send(Message::Exit);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the loop knows of a started queue.
struct Slot {
    index: usize,
    kick: Kick,
    enabled: bool,
    /// It has been.
    begun: bool,
    /// There may be requests that nobody has looked at.
    ready: bool,
    /// Who waits for it to stop.
    stopping: Option<Sender<Base>>,
}

struct Loop<W> {
    worker: W,
    queues: Queues,
    slots: Vec<Slot>,
    messages: Receiver<Message>,
    wake: EventFd,
    epoll: std::os::fd::OwnedFd,
    patience: Patience,
    /// The worker has more to do, whatever its queues have.
    left: bool,
    exit: bool,
}

impl<W: QueueWorker> Loop<W> {
    fn new(worker: W, messages: Receiver<Message>, wake: EventFd) -> io::Result<Self> {
        use std::os::fd::FromRawFd;
        let epoll = epoll::create(true)?;
        // SAFETY: a fresh descriptor that nobody else owns.
        let epoll = unsafe { std::os::fd::OwnedFd::from_raw_fd(epoll) };
        let this = Self {
            worker,
            queues: Queues::default(),
            slots: Vec::new(),
            messages,
            wake,
            epoll,
            patience: Patience::default(),
            left: false,
            exit: false,
        };
        this.watch(this.wake.as_raw_fd(), MAILBOX)?;
        for event in this.worker.events() {
            this.watch(event, WORKER)?;
        }
        Ok(this)
    }

    /// Edge-triggered: what a frontend gives for a kick may stay readable for ever, as an EFD_SEMAPHORE
    /// does, and is still served once for each time that it is written to.
    fn watch(&self, fd: i32, data: u64) -> io::Result<()> {
        let event = Event::new(Events::EPOLLIN | Events::EPOLLET, data);
        epoll::ctl(self.epoll.as_raw_fd(), ControlOptions::EPOLL_CTL_ADD, fd, event)
    }

    fn unwatch(&self, kick: &Kick) {
        if let Kick::Event(event) = kick {
            let nothing = Event::new(Events::empty(), 0);
            let _ = epoll::ctl(
                self.epoll.as_raw_fd(),
                ControlOptions::EPOLL_CTL_DEL,
                event.as_raw_fd(),
                nothing,
            );
        }
    }

    fn run(&mut self) {
        let mut events = [Event::new(Events::empty(), 0); 32];
        while !self.exit {
            let timeout = self.timeout();
            if timeout < 0 {
                self.patience.sleeps(Instant::now());
            }
            let count = match epoll::wait(self.epoll.as_raw_fd(), timeout, &mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) => {
                    log::error!("a worker cannot wait for events: {error}");
                    return;
                }
            };
            for event in events.iter().take(count) {
                match event.data {
                    MAILBOX => self.read_mailbox(),
                    WORKER => {}
                    index => {
                        self.patience.kicked(Instant::now());
                        self.kicked(index);
                    }
                }
            }
            self.patience.disturbed();
            self.serve();
            self.finish_stopping();
        }
    }

    fn timeout(&self) -> i32 {
        if self.left || self.slots.iter().any(|slot| slot.ready) {
            0
        } else if self.slots.iter().any(|slot| matches!(slot.kick, Kick::Poll)) {
            POLL_INTERVAL
        } else {
            -1
        }
    }

    fn slot(&mut self, index: usize) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.index == index)
    }

    fn kicked(&mut self, index: u64) {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.index as u64 == index) else {
            return;
        };
        slot.ready = true;
        if let Kick::Event(event) = &slot.kick
            && let Err(error) = event.read()
            && error.kind() != io::ErrorKind::WouldBlock
        {
            log::error!("queue {index}: its kick event cannot be read: {error}");
            let kick = std::mem::replace(&mut slot.kick, Kick::Poll);
            self.unwatch(&kick);
        }
    }

    /// Serves what is ready until nothing is, but not forever: the mailbox waits.
    fn serve(&mut self) {
        for slot in &mut self.slots {
            slot.ready |= slot.stopping.is_none() && matches!(slot.kick, Kick::Poll);
        }
        for _ in 0..ROUNDS {
            self.left = false;
            for slot in self.slots.iter_mut().filter(|slot| slot.ready) {
                let Some(queue) = self.queues.get_mut(slot.index) else { continue };
                if !slot.enabled {
                    // What waits for it to be enabled for the first time is not lost.
                    if slot.begun {
                        self.worker.discard(queue);
                    }
                    continue;
                }
                queue.disable_kicks();
                match self.worker.process(queue) {
                    Taken::All => {}
                    Taken::Some => self.left = true,
                    Taken::Enough => slot.ready = false,
                }
            }
            self.left |= self.worker.turn(&mut self.queues) == Taken::Some;
            self.queues.iter_mut().for_each(Queue::notify);
            if self.left || self.more_comes() {
                continue;
            }
            let mut more = false;
            for slot in self.slots.iter_mut().filter(|slot| slot.ready) {
                let queue = self.queues.get_mut(slot.index);
                slot.ready = queue.is_some_and(Queue::enable_kicks);
                more |= slot.ready;
            }
            if !more {
                break;
            }
        }
    }

    /// Looks for new requests as long as is worth while, unless there is something under way to be
    /// woken for anyway.
    fn more_comes(&mut self) -> bool {
        let Some(limit) = self.patience.limit().filter(|_| self.worker.hurries()) else {
            return false;
        };
        let ready = self.slots.iter().filter(|slot| slot.ready);
        let mut queues = ready.clone().filter_map(|slot| self.queues.get(slot.index));
        if ready.clone().next().is_none() || !queues.all(Queue::is_idle) {
            return false;
        }
        let begun = Instant::now();
        loop {
            for _ in 0..LOOKS {
                for slot in ready.clone() {
                    if self.queues.get_mut(slot.index).is_some_and(Queue::has_news) {
                        return true;
                    }
                }
                std::hint::spin_loop();
            }
            if begun.elapsed() >= limit {
                return false;
            }
        }
    }

    fn read_mailbox(&mut self) {
        let _ = self.wake.read(); // messages are taken below, however often it was written
        while let Ok(message) = self.messages.try_recv() {
            self.take(message);
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Start { queue, kick, enabled } => self.start(*queue, kick, enabled),
            Message::Kick { index, kick } => {
                if let Some(slot) = self.slot(index) {
                    slot.ready = true; // the old one may just have been written to
                    let old = std::mem::replace(&mut slot.kick, Kick::Poll);
                    self.unwatch(&old);
                    self.set_kick(index, kick);
                }
            }
            Message::Enable { index, enabled } => {
                if let Some(slot) = self.slot(index) {
                    slot.enabled = enabled;
                    slot.begun |= enabled;
                    slot.ready = true; // a kick may have come before
                    self.worker.enabled(index, enabled);
                }
            }
            Message::Call { index, event } => {
                if let Some(queue) = self.queues.get_mut(index) {
                    queue.set_call(event);
                }
            }
            Message::Error { index, event } => {
                if let Some(queue) = self.queues.get_mut(index) {
                    queue.set_error(event);
                }
            }
            Message::Memory(memory) => {
                for queue in self.queues.iter_mut() {
                    queue.set_memory(Arc::clone(&memory));
                }
            }
            Message::Stop { index, base } => self.stop(index, base),
            Message::Sync(done) => {
                let _ = done.send(());
            }
            Message::Exit => self.exit = true,
        }
    }

    fn start(&mut self, queue: Queue, kick: Kick, enabled: bool) {
        let index = queue.index();
        self.queues.insert(queue);
        self.slots.retain(|slot| slot.index != index);
        let (begun, ready) = (enabled, true);
        let slot = Slot { index, kick: Kick::Poll, enabled, begun, ready, stopping: None };
        self.slots.push(slot);
        self.set_kick(index, kick);
        self.worker.enabled(index, enabled);
    }

    fn set_kick(&mut self, index: usize, kick: Kick) {
        if let Kick::Event(event) = &kick
            && let Err(error) = self.watch(event.as_raw_fd(), index as u64)
        {
            log::error!(
                "queue {index}: its kick event cannot be watched, so it is polled: {error}"
            );
            return;
        }
        if let Some(slot) = self.slot(index) {
            slot.kick = kick;
        }
    }

    fn stop(&mut self, index: usize, base: Sender<Base>) {
        let place = self.slots.iter().position(|slot| slot.index == index);
        let Some(slot) = place.and_then(|place| self.slots.get_mut(place)) else { return };
        slot.enabled = false;
        slot.ready = false;
        slot.stopping = Some(base);
        let kick = std::mem::replace(&mut slot.kick, Kick::Poll);
        self.unwatch(&kick);
        if let Some(queue) = self.queues.get_mut(index) {
            self.worker.stop(queue);
        }
    }

    fn finish_stopping(&mut self) {
        let Self { slots, queues, worker, .. } = self;
        slots.retain_mut(|slot| {
            if slot.stopping.is_none() || worker.in_flight(slot.index) > 0 {
                return true;
            }
            if let Some(answer) = slot.stopping.take()
                && let Some(queue) = queues.remove(slot.index)
            {
                let _ = answer.send(queue.close());
            }
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{FromRawFd, OwnedFd, RawFd};

    /// Serves nothing.
    struct Idle;

    impl QueueWorker for Idle {
        fn events(&self) -> Vec<RawFd> {
            Vec::new()
        }
        fn process(&mut self, _queue: &mut Queue) -> Taken {
            Taken::All
        }
        fn turn(&mut self, _queues: &mut Queues) -> Taken {
            Taken::All
        }
        fn stop(&mut self, _queue: &mut Queue) {}
        fn in_flight(&self, _index: usize) -> usize {
            0
        }
    }

    /// A loop with one slot, whose kick this is.
    fn kicked_by(kick: OwnedFd) -> Loop<Idle> {
        use std::os::fd::IntoRawFd;
        let (_mailbox, messages) = channel();
        let mut this = Loop::new(Idle, messages, EventFd::new(EFD_NONBLOCK).unwrap()).unwrap();
        let (enabled, ready) = (true, false);
        let begun = enabled;
        let slot = Slot { index: 0, kick: Kick::Poll, enabled, begun, ready, stopping: None };
        this.slots.push(slot);
        // SAFETY: the descriptor is owned, and is the event's from now on.
        this.set_kick(0, Kick::Event(unsafe { EventFd::from_raw_fd(kick.into_raw_fd()) }));
        this
    }

    /// How many events there are now; each is taken.
    fn take_events(this: &mut Loop<Idle>) -> usize {
        let mut events = [Event::new(Events::empty(), 0); 4];
        let count = epoll::wait(this.epoll.as_raw_fd(), 0, &mut events).unwrap();
        events.iter().take(count).for_each(|event| this.kicked(event.data));
        count
    }

    #[test]
    fn a_kick_that_stays_readable_is_taken_once() {
        use rustix::event::{EventfdFlags, eventfd};
        let kick = eventfd(1000, EventfdFlags::NONBLOCK | EventfdFlags::SEMAPHORE).unwrap();
        let driver = kick.try_clone().unwrap();
        let mut this = kicked_by(kick);
        assert_eq!((take_events(&mut this), take_events(&mut this)), (1, 0));
        assert!(this.slots[0].ready);
        rustix::io::write(&driver, &1u64.to_ne_bytes()).unwrap();
        assert_eq!((take_events(&mut this), take_events(&mut this)), (1, 0), "but each time anew");
    }

    #[test]
    fn a_kick_that_is_at_its_end_is_polled() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(writer);
        let mut this = kicked_by(reader.into());
        assert_eq!((take_events(&mut this), take_events(&mut this)), (1, 0));
        assert!(matches!(this.slots[0].kick, Kick::Poll));
    }
}
