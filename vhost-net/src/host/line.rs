//! One pair's way to the host: its descriptor, which may be lost and come again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::side::Side;
use super::stream::Framing;
use super::waiter::Waiter;

/// A pair's descriptor.
#[derive(Debug)]
pub(super) struct Line {
    side: Arc<Side>,
    number: usize,
    generation: u64,
    fd: Option<Arc<OwnedFd>>,
}

impl Line {
    pub(super) fn new(side: Arc<Side>, number: usize) -> Self {
        Self { side, number, generation: 0, fd: None }
    }

    /// It is the first pair's.
    pub(super) fn is_first(&self) -> bool {
        self.number == 0
    }

    /// Takes what has come in place of what was lost. `true`: it is another one.
    pub(super) fn refresh(&mut self, waiter: &Waiter) -> io::Result<bool> {
        if self.side.generation() == self.generation {
            return Ok(false);
        }
        if let Some(old) = self.fd.take() {
            waiter.remove(&old);
        }
        (self.fd, self.generation) = self.side.queue(self.number);
        if let Some(fd) = &self.fd {
            waiter.add(fd)?;
        }
        Ok(true)
    }

    /// What a worker before has left of the stream.
    pub(super) fn unpark(&self) -> Option<Box<Framing>> {
        self.side.unpark(self.generation)
    }

    /// Leaves it to the next worker.
    pub(super) fn park(&self, framing: Box<Framing>) {
        self.side.park(self.generation, framing);
    }

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(|fd| fd.as_fd())
    }

    /// It is of no use any more, as the host said.
    pub(super) fn lost(&mut self, waiter: &Waiter, error: &io::Error) {
        if let Some(old) = self.fd.take() {
            waiter.remove(&old);
            self.side.lost(self.generation, error);
        }
    }
}
