//! Endpoints whose packets come at the device's own pace, and wait here for the host: interrupt and
//! isochronous ones, and bulk ones that are read ahead; and isochronous ones that are sent to.

use std::collections::VecDeque;

use super::Line;
use super::backend::{Backend, Pipe, Status};
use super::transfers::answer;
use crate::usb::data::{Sink, Source};
use crate::usb::descriptor::Transfer as Kind;
use crate::usb::{Answer, Endpoint, Speed};

/// Bytes that can move in a microframe (USB 2.0, 5.6.3 and 5.7.3).
const MOST: usize = 3 * 1024;
/// Interrupt packets that wait before no more are received, till half of them are taken; and bulk packets that
/// were read ahead. Some are lost then: usbredirhost drops those that it has under way.
const WAITING: usize = 256;
const AHEAD: usize = 2048;
/// Isochronous packets that are gathered, at most.
const GATHERED: usize = 512;

/// An endpoint.
#[derive(Debug)]
pub(super) struct Packets {
    kind: Kind,
    max_packet: usize,
    started: bool,
    waiting: VecDeque<(Status, Vec<u8>)>,
    /// Packets that wait, at most.
    most: usize,
    /// It was stopped because so many wait.
    paused: bool,
    /// It has stopped by itself: the host is to be told, once.
    stopped: Option<Status>,
    /// Until the host clears it (9.4.5).
    halted: bool,
    /// Isochronous packets to gather before the first is handed on.
    wanted: usize,
    /// So many were there, and some still are.
    gathered: bool,
    /// Packets that have come since the host asked last.
    unasked: usize,
}

/// Isochronous packets in so many milliseconds (9.6.6, bInterval).
fn packets(milliseconds: u32, speed: Speed, interval: u8) -> usize {
    let per_second: u32 = if speed == Speed::High { 8000 } else { 1000 };
    let pause = u32::from(interval.clamp(1, 16)).saturating_sub(1);
    let count = (per_second >> pause).saturating_mul(milliseconds) / 1000;
    usize::try_from(count).unwrap_or(GATHERED).clamp(1, GATHERED)
}

impl Packets {
    pub(super) fn new<B: Backend>(pipe: &Pipe, line: &Line<B>) -> Self {
        let wanted = packets(line.backend.jitter(), line.backend.speed(), pipe.interval);
        Self {
            kind: pipe.kind,
            most: match pipe.kind {
                Kind::Isochronous => wanted.saturating_mul(2),
                Kind::Bulk => AHEAD,
                Kind::Control | Kind::Interrupt => WAITING,
            },
            paused: false,
            max_packet: pipe.max_packet,
            started: false,
            waiting: VecDeque::new(),
            stopped: None,
            halted: false,
            wanted,
            gathered: false,
            unasked: 0,
        }
    }

    /// Something waits for the host. What was read ahead may, for a host that does not want it.
    pub(super) fn is_waiting(&self) -> bool {
        self.kind != Kind::Bulk && !self.waiting.is_empty()
    }

    fn is_isochronous(&self) -> bool {
        self.kind == Kind::Isochronous
    }

    /// Bytes of a packet, at most.
    fn longest(&self) -> usize {
        if self.kind == Kind::Bulk { self.max_packet } else { MOST }
    }

    fn start<B: Backend>(&mut self, endpoint: Endpoint, line: &mut Line<B>) {
        if !self.started {
            self.started = true;
            self.paused = false;
            self.gathered = false;
            line.backend.start(endpoint);
        }
    }

    pub(super) fn stop<B: Backend>(&mut self, endpoint: Endpoint, line: &mut Line<B>) {
        if std::mem::take(&mut self.started) {
            line.backend.stop(endpoint);
        }
    }

    /// IN tokens, for one packet.
    pub(super) fn receive<B: Backend>(
        &mut self,
        endpoint: Endpoint,
        to: &mut dyn Sink,
        line: &mut Line<B>,
    ) -> Answer {
        self.unasked = 0;
        if self.halted {
            return Answer::Stall;
        }
        if self.is_isochronous() && !self.gathered {
            self.gathered = self.started && self.waiting.len() >= self.wanted;
        }
        let ready = !self.is_isochronous() || self.gathered;
        if ready && let Some((status, data)) = self.waiting.pop_front() {
            if self.paused && self.waiting.len() <= self.most / 2 {
                self.start(endpoint, line);
            }
            return self.hand_on(status, &data, to);
        }
        self.gathered = false;
        if let Some(status) = self.stopped.take() {
            return self.tell(status);
        }
        self.start(endpoint, line);
        Answer::Nak
    }

    fn hand_on(&mut self, status: Status, data: &[u8], to: &mut dyn Sink) -> Answer {
        match status {
            Status::Done if data.len() > to.room() => Answer::Babble,
            Status::Done => {
                // Of packets whose size nobody knows, each is taken for the last of its transfer.
                let full = self.max_packet > 0 && data.len() >= self.max_packet;
                let short = self.is_isochronous() || !full;
                Answer::Moved { bytes: to.write(data), short }
            }
            status => self.tell(status),
        }
    }

    fn tell(&mut self, status: Status) -> Answer {
        // An isochronous endpoint is never halted (5.6.4).
        if self.is_isochronous() {
            return Answer::Silent;
        }
        self.halted = status == Status::Stall;
        answer(status)
    }

    /// OUT tokens, with one packet.
    pub(super) fn transmit<B: Backend>(
        &mut self,
        endpoint: Endpoint,
        from: &dyn Source,
        line: &mut Line<B>,
    ) -> Answer {
        if self.stopped.take().is_some() {
            return Answer::Silent;
        }
        self.start(endpoint, line);
        let data = from.to_vec(MOST);
        let answer = Answer::moved(data.len());
        line.backend.send(endpoint, data);
        answer
    }

    /// A packet has come.
    pub(super) fn arrived<B: Backend>(
        &mut self,
        endpoint: Endpoint,
        status: Status,
        data: Vec<u8>,
        line: &mut Line<B>,
    ) {
        // What was on its way when the endpoint was stopped is for nobody; if it was because too many wait,
        // it is one of them.
        let is_wanted = self.started || self.paused;
        if !is_wanted || self.waiting.len() >= self.most.saturating_mul(2) {
            return;
        }
        self.unasked = self.unasked.saturating_add(1);
        self.waiting.push_back(match data.len() {
            length if length > self.longest() => (Status::Babble, Vec::new()),
            _ => (status, data),
        });
        if self.waiting.len() < self.most {
            return;
        }
        if !self.is_isochronous() {
            // The device is not asked until the host has asked for half of these.
            self.stop(endpoint, line);
            self.paused = true;
        } else if self.unasked >= self.most {
            // Nobody listens.
            self.stop(endpoint, line);
            self.waiting.clear();
        } else {
            // The device's clock is faster than the host's.
            let surplus = self.waiting.len().saturating_sub(self.wanted);
            self.waiting.drain(..surplus);
        }
    }

    /// It has stopped by itself.
    pub(super) fn has_stopped(&mut self, status: Status) {
        if std::mem::take(&mut self.started) {
            self.stopped = Some(status);
        }
    }
}
