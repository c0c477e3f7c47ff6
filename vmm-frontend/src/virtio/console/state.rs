//! What the device's queues and its ports' endpoints share, under one lock.

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::control::{FromDriver, HEADER, Pending, ToDriver};
use super::line::{Data, Line};
use super::port::Endpoint;
use crate::virtio::queue::{Served, TURN};

/// What a queue is for (virtio 1.3, 5.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// To this port in the guest.
    Input(usize),
    /// From this port in the guest.
    Output(usize),
    /// Messages to the driver.
    ToDriver,
    /// Messages from the driver.
    FromDriver,
}

impl Role {
    pub(super) fn of(index: u16) -> Self {
        let pair = usize::from(index >> 1);
        let input = index & 1 == 0;
        match (pair, input) {
            (1, true) => Self::ToDriver,
            (1, false) => Self::FromDriver,
            (0, true) => Self::Input(0),
            (0, false) => Self::Output(0),
            (_, true) => Self::Input(pair.saturating_sub(1)),
            (_, false) => Self::Output(pair.saturating_sub(1)),
        }
    }
}

/// Endpoints that are to be told of a change, once the lock is free.
pub(super) type Told = Vec<Arc<dyn Endpoint>>;

/// The device's state.
pub(super) struct State {
    /// The ports by their numbers; the first is the console.
    lines: Vec<Line>,
    to_driver: Option<Served>,
    from_driver: Option<Served>,
    /// Columns and rows of the console's terminal; 0 while they are not known.
    size: (u16, u16),
    generation: u8,
    config_call: Option<Arc<EventFd>>,
}

impl State {
    pub(super) fn new(lines: Vec<Line>) -> Self {
        Self {
            lines,
            to_driver: None,
            from_driver: None,
            size: (0, 0),
            generation: 0,
            config_call: None,
        }
    }

    /// `struct virtio_console_config`.
    pub(super) fn config(&self) -> [u8; 12] {
        let [columns0, columns1] = self.size.0.to_le_bytes();
        let [rows0, rows1] = self.size.1.to_le_bytes();
        let ports = u32::try_from(self.lines.len()).unwrap_or(u32::MAX);
        let [ports0, ports1, ports2, ports3] = ports.to_le_bytes();
        [columns0, columns1, rows0, rows1, ports0, ports1, ports2, ports3, 0, 0, 0, 0]
    }

    pub(super) fn generation(&self) -> u8 {
        self.generation
    }

    pub(super) fn set_config_call(&mut self, call: Arc<EventFd>) {
        self.config_call = Some(call);
    }

    /// The driver's last words, perhaps: there is no waiting for room.
    pub(super) fn emergency_write(&mut self, byte: u8) {
        if let Some(Line { endpoint: Some(endpoint), open: true, .. }) = self.lines.first() {
            endpoint.write(&[byte]);
        }
    }

    pub(super) fn start(&mut self, multiport: bool, queues: Vec<(Role, Served)>) -> Told {
        for (role, queue) in queues {
            match role {
                Role::ToDriver => self.to_driver = Some(queue),
                Role::FromDriver => self.from_driver = Some(queue),
                Role::Input(port) => {
                    if let Some(line) = self.lines.get_mut(port) {
                        line.input = Some(Data::new(queue));
                    }
                }
                Role::Output(port) => {
                    if let Some(line) = self.lines.get_mut(port) {
                        line.output = Some(Data::new(queue));
                    }
                }
            }
        }
        if multiport { Told::new() } else { self.set_guest_open(0, true) }
    }

    pub(super) fn stop(&mut self, reset: bool) -> Told {
        self.to_driver = None;
        self.from_driver = None;
        self.lines.iter_mut().for_each(Line::stop);
        if !reset {
            return Told::new();
        }
        let told =
            (0..self.lines.len()).flat_map(|port| self.set_guest_open(port, false)).collect();
        self.lines.iter_mut().for_each(Line::reset);
        told
    }

    /// A turn of a queue that was kicked.
    pub(super) fn serve(&mut self, role: Role) -> Told {
        match role {
            Role::Input(port) => self.tell_waiting(port),
            Role::Output(port) => {
                self.output(port);
                Told::new()
            }
            Role::ToDriver => {
                self.send();
                Told::new()
            }
            Role::FromDriver => {
                let told = self.receive();
                self.send();
                told
            }
        }
    }

    fn line(&mut self, port: usize) -> Option<&mut Line> {
        self.lines.get_mut(port).filter(|line| line.endpoint.is_some())
    }

    pub(super) fn wanted(&mut self, port: usize) -> usize {
        self.line(port).map_or(0, Line::wanted)
    }

    pub(super) fn input(&mut self, port: usize, bytes: &[u8]) -> usize {
        self.line(port).map_or(0, |line| line.give(bytes))
    }

    pub(super) fn guest_open(&self, port: usize) -> bool {
        self.lines.get(port).is_some_and(|line| line.guest_open)
    }

    pub(super) fn output(&mut self, port: usize) {
        // Number 0 may be no console: a driver that does not know takes it for one, and is not made to
        // wait.
        if let Some(line) = self.lines.get_mut(port) {
            line.deliver();
        }
    }

    pub(super) fn set_open(&mut self, port: usize, open: bool) {
        if let Some(line) = self.line(port) {
            line.set_open(open);
            self.send();
        }
    }

    pub(super) fn resize(&mut self, port: usize, columns: u16, rows: u16) {
        if port != 0 || self.size == (columns, rows) {
            return;
        }
        self.size = (columns, rows);
        self.generation = self.generation.wrapping_add(1);
        if let Some(call) = &self.config_call
            && let Err(error) = call.write(1)
        {
            log::warn!("the driver cannot be told of the console's size: {error}");
        }
        if let Some(line) = self.line(0).filter(|line| line.ready) {
            line.pending.add(ToDriver::Resize);
            self.send();
        }
    }

    fn set_guest_open(&mut self, port: usize, open: bool) -> Told {
        let Some(line) = self.line(port).filter(|line| line.guest_open != open) else {
            return Told::new();
        };
        line.guest_open = open;
        line.endpoint.iter().cloned().collect()
    }

    fn tell_waiting(&mut self, port: usize) -> Told {
        let Some(line) = self.line(port) else { return Told::new() };
        if !std::mem::take(&mut line.waiting) {
            return Told::new();
        }
        line.endpoint.iter().cloned().collect()
    }

    /// A turn of what the driver says.
    fn receive(&mut self) -> Told {
        let mut told = Told::new();
        let Some(mut queue) = self.from_driver.take() else { return told };
        let mut left = TURN;
        while let Some(chain) = queue.pop() {
            let mut bytes = [0; HEADER];
            let whole = chain.readable().read(&mut bytes) == HEADER;
            queue.complete(chain, 0);
            if let Some(message) = FromDriver::parse(bytes).filter(|_| whole) {
                told.extend(self.hear(message));
            }
            left = left.saturating_sub(1);
            if left == 0 {
                queue.serve_later();
                break;
            }
        }
        queue.notify();
        self.from_driver = Some(queue);
        told
    }

    pub(super) fn hear(&mut self, message: FromDriver) -> Told {
        match message {
            FromDriver::DeviceReady => {
                for line in self.lines.iter_mut().filter(|line| line.endpoint.is_some()) {
                    line.ready = false;
                    line.pending = Pending::default();
                    line.pending.add(ToDriver::Add);
                }
                Told::new()
            }
            FromDriver::PortReady { port, ready } => {
                let sized = self.size != (0, 0);
                if let Some(line) = self.line(port) {
                    line.set_ready(ready, port == 0, sized);
                }
                Told::new()
            }
            FromDriver::PortOpen { port, open } => self.set_guest_open(port, open),
        }
    }

    /// Sends what is to be said, as far as the driver has buffers for it.
    fn send(&mut self) {
        let Some(queue) = &mut self.to_driver else { return };
        for (port, line) in self.lines.iter_mut().enumerate() {
            while let Some(message) = line.pending.first() {
                let Some(chain) = queue.pop() else { return queue.notify() };
                if chain.writable().len() < HEADER as u64 {
                    return queue.fail("a buffer that no control message fits into");
                }
                let written = chain.writable().write(&message.bytes(port, &line.name, self.size));
                queue.complete(chain, written);
                line.pending.remove(message);
            }
        }
        queue.notify();
    }
}
