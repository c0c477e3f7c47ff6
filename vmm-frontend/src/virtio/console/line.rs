//! One port's two queues, and what passes through them.

use std::sync::Arc;

use vhost_runtime::chain::Chain;

use super::control::{Pending, ToDriver};
use super::port::Endpoint;
use crate::virtio::queue::{Served, TURN};

/// Bytes that a port's output queue is served before others have their turn.
const TURN_BYTES: usize = 64 << 10;
/// Bytes that are given to an endpoint at a time.
const PIECE: usize = 4096;

/// A started queue of a port.
#[derive(Debug)]
pub(super) struct Data {
    queue: Served,
    /// The queue's first chain, if it has been taken from the ring: output that the endpoint has not
    /// taken all of, or room for input.
    held: Option<Chain>,
}

impl Data {
    pub(super) fn new(queue: Served) -> Self {
        Self { queue, held: None }
    }

    fn first(&mut self) -> Option<Chain> {
        self.held.take().or_else(|| self.queue.pop())
    }
}

/// What has become of a chain of output.
enum Delivery {
    Done,
    /// The endpoint takes no more.
    Stalled,
    /// It is others' turn.
    Later,
}

/// A port.
#[derive(Default)]
pub(super) struct Line {
    /// `None`: number 0, if there is no console.
    pub(super) endpoint: Option<Arc<dyn Endpoint>>,
    /// Empty: it has none.
    pub(super) name: String,
    pub(super) input: Option<Data>,
    pub(super) output: Option<Data>,
    /// Somebody is at the host's end.
    pub(super) open: bool,
    /// The driver has the port, and may be told of it.
    pub(super) ready: bool,
    /// The driver opened it.
    pub(super) guest_open: bool,
    /// Messages about it that the driver was not sent yet.
    pub(super) pending: Pending,
    /// The endpoint is to be told when input is wanted.
    pub(super) waiting: bool,
    /// Bytes of the output queue's first chain that the endpoint has. They outlive a stop: the chain
    /// is still in the ring when it goes on.
    done: u64,
}

impl Line {
    pub(super) fn new(name: String, endpoint: Option<Arc<dyn Endpoint>>) -> Self {
        Self { name, endpoint, ..Self::default() }
    }

    /// How much input there is room for; if none, the endpoint will be told when there is.
    pub(super) fn wanted(&mut self) -> usize {
        let room = self.room();
        self.waiting = room == 0;
        room
    }

    fn room(&mut self) -> usize {
        // A driver may lose what comes for a port that it has not opened.
        let Some(input) = self.input.as_mut().filter(|_| self.guest_open) else { return 0 };
        for _ in 0..TURN {
            let Some(chain) = input.first() else {
                input.queue.notify();
                return 0;
            };
            if !chain.writable().is_empty() {
                let room = usize::try_from(chain.writable().len()).unwrap_or(usize::MAX);
                input.held = Some(chain);
                return room;
            }
            input.queue.complete(chain, 0);
        }
        input.queue.notify();
        input.queue.serve_later();
        0
    }

    pub(super) fn give(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while !rest.is_empty() && self.wanted() > 0 {
            let Some(input) = &mut self.input else { break };
            let Some(chain) = input.held.take() else { break };
            let written = chain.writable().write(rest);
            input.queue.complete(chain, written);
            rest = rest.get(written..).unwrap_or_default();
        }
        if let Some(input) = &mut self.input {
            input.queue.notify();
        }
        bytes.len().saturating_sub(rest.len())
    }

    /// Gives the endpoint what the driver wrote, as far as it takes it: the rest stays in the ring,
    /// which makes the driver wait. Nobody waits for a host's end that nobody is at.
    ///
    /// Linux waits for a console with the processor busy and its locks held, so an endpoint that stays
    /// full for long should rather say that nobody is there.
    pub(super) fn deliver(&mut self) {
        let Some(mut output) = self.output.take() else { return };
        self.deliver_from(&mut output);
        output.queue.notify();
        self.output = Some(output);
    }

    fn deliver_from(&mut self, output: &mut Data) {
        let mut left = TURN_BYTES;
        for _ in 0..TURN {
            let Some(chain) = output.first() else { return };
            match self.deliver_chain(&chain, &mut left) {
                Delivery::Done => {
                    self.done = 0;
                    output.queue.complete(chain, 0);
                }
                Delivery::Stalled => {
                    output.held = Some(chain);
                    return;
                }
                Delivery::Later => {
                    output.held = Some(chain);
                    break;
                }
            }
        }
        output.queue.serve_later();
    }

    fn deliver_chain(&mut self, chain: &Chain, left: &mut usize) -> Delivery {
        let Some(endpoint) = self.endpoint.as_ref().filter(|_| self.open) else {
            return Delivery::Done;
        };
        let mut bytes = [0; PIECE];
        let (_, mut rest) = chain.readable().split_at(self.done);
        while !rest.is_empty() {
            if *left == 0 {
                return Delivery::Later;
            }
            let piece = bytes.get_mut(..PIECE.min(*left)).unwrap_or_default();
            let count = rest.read(piece);
            let taken = endpoint.write(piece.get(..count).unwrap_or_default()).min(count);
            self.done = self.done.saturating_add(taken as u64);
            *left = left.saturating_sub(taken);
            if taken < count {
                return Delivery::Stalled;
            }
            (_, rest) = rest.split_at(taken as u64);
        }
        Delivery::Done
    }

    pub(super) fn set_open(&mut self, open: bool) {
        if open == self.open {
            return;
        }
        self.open = open;
        if self.ready && open {
            self.pending.add(ToDriver::Open);
        } else if self.ready {
            // The driver does not know yet of an opening that was not sent.
            if self.pending.contains(ToDriver::Open) {
                self.pending.remove(ToDriver::Open);
            } else {
                self.pending.add(ToDriver::Close);
            }
        }
        if !open {
            self.deliver();
        }
    }

    /// The driver has the port: it is told all there is to know. A console has a size, if it is
    /// known.
    pub(super) fn set_ready(&mut self, ready: bool, console: bool, sized: bool) {
        self.ready = ready;
        self.pending = Pending::default();
        let messages = [
            (console, ToDriver::Console),
            (!self.name.is_empty(), ToDriver::Name),
            (console && sized, ToDriver::Resize),
            (self.open, ToDriver::Open),
        ];
        for (_, message) in messages.into_iter().filter(|&(is, _)| is && ready) {
            self.pending.add(message);
        }
    }

    /// Gives its queues up.
    pub(super) fn stop(&mut self) {
        self.input = None;
        self.output = None;
    }

    /// It is as it was before the driver came; what the endpoint did stays.
    pub(super) fn reset(&mut self) {
        self.guest_open = false;
        self.ready = false;
        self.pending = Pending::default();
        self.done = 0;
    }
}
