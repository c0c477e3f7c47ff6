//! The worker of a pair of queues.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

use vhost_runtime::device::{QueueWorker, Queues, Taken};
use vhost_runtime::queue::Queue;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::card::Card;
use super::features::{CTRL_VLAN, MTU};
use super::receive::{Receiver, Terms};
use super::transmit::Transmitter;
use crate::host::Port;

/// Serves a receive queue and its transmit queue.
#[derive(Debug)]
pub struct PairWorker {
    card: Arc<Card>,
    number: u16,
    port: Port,
    /// What it is told of changes by: each time that it is written to, which need not be read.
    _wake: Arc<EventFd>,
    receiver: Receiver,
    transmitter: Transmitter,
    /// The receive queue is enabled.
    enabled: bool,
    /// The transmit queue is.
    transmitting: bool,
    /// The guest takes frames of this pair. `None`: the host was not told yet.
    active: Option<bool>,
}

/// A queue's part in its pair (virtio 1.3, 5.1.2).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Receive,
    Transmit,
}

fn role(index: usize) -> Role {
    if index.is_multiple_of(2) { Role::Receive } else { Role::Transmit }
}

impl PairWorker {
    pub(super) fn new(card: Arc<Card>, number: u16) -> io::Result<Self> {
        let wake = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        let mut port = card.port(number)?;
        // SAFETY: it is open as long as `wake`, which is borrowed here.
        port.waiter().add(unsafe { BorrowedFd::borrow_raw(wake.as_raw_fd()) })?;
        card.wakers().add(&wake);
        let features = card.features_negotiated();
        let header = card.header();
        let mtu = card.settings().mtu.filter(|_| features.has(MTU));
        let mut receiver = Receiver::new(header, card.is_mergeable(), mtu)?;
        // SAFETY: it is open as long as the receiver, which is borrowed here.
        port.waiter().add(unsafe { BorrowedFd::borrow_raw(receiver.timer().as_raw_fd()) })?;
        if let Some(statistics) = card.statistics_of(number).filter(|_| !card.is_resumed()) {
            receiver.drop_all(&mut port, &statistics.receiving);
        }
        let transmitter = Transmitter::new(header, features.from_guest(), card.settings().mtu);
        let (enabled, transmitting, active) = (false, false, None);
        Ok(Self {
            card,
            number,
            port,
            _wake: wake,
            receiver,
            transmitter,
            enabled,
            transmitting,
            active,
        })
    }

    fn index(&self, role: Role) -> usize {
        let first = usize::from(self.number).saturating_mul(2);
        if role == Role::Receive { first } else { first.saturating_add(1) }
    }

    fn update(&mut self) {
        self.port.refresh();
        let active = self.enabled && self.card.uses_pair(self.number);
        if self.active != Some(active) {
            self.active = Some(active);
            self.port.set_active(active);
            self.card.set_active(self.number, active);
        }
    }

    fn transmit(&mut self, queue: &mut Queue) -> Taken {
        let Some(statistics) = self.card.statistics_of(self.number) else { return Taken::All };
        let link = self.card.link();
        self.transmitter.run(queue, &mut self.port, link, &statistics.transmitting)
    }

    fn receive(&mut self, queue: &mut Queue) -> Taken {
        let Some(statistics) = self.card.statistics_of(self.number) else { return Taken::All };
        let driver = self.card.driver();
        let terms = Terms {
            link: self.card.link(),
            filter: &driver.filter,
            mac: driver.mac(self.card.settings().mac),
            by_vlan: self.card.features_negotiated().has(CTRL_VLAN),
            statistics: &statistics.receiving,
        };
        self.receiver.run(queue, &mut self.port, &terms)
    }
}

impl QueueWorker for PairWorker {
    fn events(&self) -> Vec<RawFd> {
        vec![self.port.waiter().fd()]
    }

    fn process(&mut self, queue: &mut Queue) -> Taken {
        match role(queue.index()) {
            // It is filled each time that something comes, and asks for kicks itself.
            Role::Receive => Taken::Enough,
            Role::Transmit => self.transmit(queue),
        }
    }

    fn discard(&mut self, queue: &mut Queue) {
        if role(queue.index()) == Role::Transmit
            && let Some(statistics) = self.card.statistics_of(self.number)
        {
            self.transmitter.discard(queue, &statistics.transmitting);
        }
    }

    fn enabled(&mut self, index: usize, enabled: bool) {
        match role(index) {
            Role::Receive => self.enabled = enabled,
            Role::Transmit => self.transmitting = enabled,
        }
    }

    fn turn(&mut self, queues: &mut Queues) -> Taken {
        self.update();
        let mut taken = Taken::All;
        if let Some(queue) = queues.get_mut(self.index(Role::Transmit)) {
            while let Some(chain) = self.port.returned() {
                queue.complete(chain, 0);
            }
            self.port.flush();
            if self.transmitting && self.transmitter.is_waiting() {
                taken = self.transmit(queue);
                // Who has kicked meanwhile does not do so again.
                if taken == Taken::All && queue.enable_kicks() {
                    self.transmitter.wait();
                    taken = Taken::Some;
                }
            }
        }
        if self.active == Some(true)
            && let Some(queue) = queues.get_mut(self.index(Role::Receive))
        {
            let received = self.receive(queue);
            taken = if received == Taken::Some { received } else { taken };
        }
        taken
    }

    fn stop(&mut self, queue: &mut Queue) {
        match role(queue.index()) {
            Role::Receive => {
                self.enabled = false;
                self.update();
                self.receiver.stop(queue);
            }
            Role::Transmit => self.transmitting = false,
        }
    }

    fn in_flight(&self, index: usize) -> usize {
        if role(index) == Role::Transmit { self.port.kept() } else { 0 }
    }
}
