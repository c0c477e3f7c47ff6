//! A bulk endpoint, or an interrupt endpoint that takes packets: one transfer at a time is under way, which
//! is what the host asks for now.
//!
//! A host asks again and again until there is an answer, and does not say when it asks for something else:
//! that is seen by what it asks for.

use super::Line;
use super::backend::{Backend, Event, Id, MOST, Pipe, Status, Transfer};
use crate::usb::data::{Sink, Source};
use crate::usb::descriptor::Transfer as Kind;
use crate::usb::{Answer, Endpoint};

/// What is under way.
#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    /// So many bytes are wanted.
    Wanted { id: Id, length: usize },
    /// They have come, all of them or until a short packet; so many have been handed on.
    Arrived { data: Vec<u8>, sent: usize, short: bool, then: Status },
    /// These have been sent.
    Sent { id: Id, data: Vec<u8> },
    /// So many of them have been taken.
    Taken { data: Vec<u8>, count: usize, then: Status },
    /// The host is to be told, once.
    Failed(Status),
    /// Until the host clears it (9.4.5).
    Halted,
}

/// An endpoint.
#[derive(Debug)]
pub(super) struct Transfers {
    state: State,
    /// Bytes that are sent at once, at most.
    most_sent: usize,
}

impl Transfers {
    pub(super) fn new(pipe: &Pipe) -> Self {
        // Of an interrupt endpoint a transfer is a packet for some who have devices.
        let is_packet = pipe.kind == Kind::Interrupt && pipe.max_packet > 0;
        let most_sent = if is_packet { pipe.max_packet.min(MOST) } else { MOST };
        Self { state: State::Idle, most_sent }
    }

    /// IN tokens.
    pub(super) fn receive<B: Backend>(
        &mut self,
        endpoint: Endpoint,
        to: &mut dyn Sink,
        line: &mut Line<B>,
    ) -> Answer {
        let wanted = to.room().min(MOST);
        match &mut self.state {
            State::Arrived { data, sent, short, then } => {
                let count = to.write(data.get(*sent..).unwrap_or_default());
                *sent = sent.saturating_add(count);
                let (over, short, then) = (*sent >= data.len(), *short, *then);
                if over {
                    self.go_on(then);
                }
                return Answer::Moved { bytes: count, short: short && over };
            }
            State::Failed(_) | State::Halted => return self.tell(),
            State::Wanted { length, .. } if *length == wanted => return Answer::Nak,
            State::Wanted { id, .. } => line.backend.cancel(*id),
            State::Idle | State::Sent { .. } | State::Taken { .. } => {}
        }
        let id = line.submit(Transfer::In { endpoint, length: wanted });
        self.state = State::Wanted { id, length: wanted };
        Answer::Nak
    }

    /// OUT tokens.
    pub(super) fn transmit<B: Backend>(
        &mut self,
        endpoint: Endpoint,
        from: &dyn Source,
        line: &mut Line<B>,
    ) -> Answer {
        let data = from.to_vec(self.most_sent);
        match &mut self.state {
            State::Taken { data: sent, count, then } if *sent == data => {
                let (count, then) = (*count, *then);
                self.go_on(then);
                return Answer::moved(count);
            }
            State::Failed(_) | State::Halted => return self.tell(),
            State::Sent { data: sent, .. } if *sent == data => return Answer::Nak,
            State::Sent { id, .. } => line.backend.cancel(*id),
            State::Idle | State::Wanted { .. } | State::Arrived { .. } | State::Taken { .. } => {}
        }
        let id = line.submit(Transfer::Out { endpoint, data: data.clone() });
        self.state = State::Sent { id, data };
        Answer::Nak
    }

    /// What comes after bytes that have moved.
    fn go_on(&mut self, then: Status) {
        self.state = if then == Status::Done { State::Idle } else { State::Failed(then) };
    }

    fn tell(&mut self) -> Answer {
        let State::Failed(status) = self.state else { return Answer::Stall };
        self.state = if status == Status::Stall { State::Halted } else { State::Idle };
        answer(status)
    }

    /// A transfer has ended. `false`: it was not this endpoint's.
    pub(super) fn ended(&mut self, event: &mut Event) -> bool {
        let Event::Ended { id: ended, status, data: arrived, taken } = event else { return false };
        match &mut self.state {
            State::Wanted { id, length } if id == ended => {
                let (length, data) = (*length, std::mem::take(arrived));
                self.state = match *status {
                    _ if data.len() > length => State::Failed(Status::Babble),
                    Status::Done => {
                        let short = data.len() < length;
                        State::Arrived { data, sent: 0, short, then: Status::Done }
                    }
                    status if data.is_empty() => State::Failed(status),
                    then => State::Arrived { data, sent: 0, short: false, then },
                };
                true
            }
            State::Sent { id, data } if id == ended => {
                let (data, status) = (std::mem::take(data), *status);
                let count = (*taken).min(data.len());
                self.state = match status {
                    Status::Done => State::Taken { data, count, then: status },
                    _ if count == 0 => State::Failed(status),
                    _ => State::Taken { data, count, then: status },
                };
                true
            }
            _ => false,
        }
    }

    /// Nobody wants to know any more what becomes of a transfer.
    pub(super) fn cancel<B: Backend>(&mut self, line: &mut Line<B>) {
        if let State::Wanted { id, .. } | State::Sent { id, .. } = self.state {
            line.backend.cancel(id);
            self.state = State::Idle;
        }
    }
}

/// What the host is answered when something has not gone well.
pub(super) fn answer(status: Status) -> Answer {
    match status {
        Status::Done => Answer::Nak,
        Status::Stall => Answer::Stall,
        Status::Babble => Answer::Babble,
        Status::Failed => Answer::Silent,
    }
}
