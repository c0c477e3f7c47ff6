//! The bytes that wait for the host's side of a line, or for the guest.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::peer::Peer;
use crate::usb::data::{Sink, Source};

/// Bytes that wait in each direction.
const MOST: usize = 16 << 10;
/// Bytes that are read at once.
const PIECE: usize = 4096;
/// Of whom an event tells.
const PEER: u64 = 0;
const FILE: u64 = 1;

/// The host's side.
pub(super) struct Stream {
    peer: Peer,
    /// Where the peer is, while it is there.
    file: Option<File>,
    /// Readable when somebody may have come, or the file is as it is waited for.
    epoll: Epoll,
    /// What of the file is waited for, if it is.
    armed: Option<EventSet>,
    /// Nobody takes what the guest sends; what is still to be read is.
    hung_up: bool,
    /// For the guest.
    input: VecDeque<u8>,
    /// The guest has asked in vain: only then it is worth while to wait for the file.
    is_asked: bool,
    /// From the guest.
    output: VecDeque<u8>,
}

impl Stream {
    pub(super) fn new(peer: Peer) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        if let Some(event) = peer.event() {
            epoll.ctl(ControlOperation::Add, event, EpollEvent::new(EventSet::IN, PEER))?;
        }
        let mut stream = Self {
            peer,
            file: None,
            epoll,
            armed: None,
            hung_up: false,
            input: VecDeque::new(),
            is_asked: false,
            output: VecDeque::new(),
        };
        stream.look();
        stream.arm();
        Ok(stream)
    }

    pub(super) fn event(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// Something is at the host's side, or was and the guest has not read all of it.
    pub(super) fn has_carrier(&self) -> bool {
        self.file.is_some() || !self.input.is_empty()
    }

    pub(super) fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// Whether the guest has the port open.
    pub(super) fn set_wanted(&mut self, wanted: bool) {
        self.peer.set_wanted(wanted);
        if wanted {
            self.look();
            self.arm();
        }
    }

    /// Sees whether somebody has come, if nobody is there.
    fn look(&mut self) {
        if self.file.is_some() {
            return;
        }
        match self.peer.look() {
            Ok(file) => self.file = file,
            Err(error) => {
                log::warn!("a serial port: somebody cannot be connected: {error}");
                self.peer.has_gone();
            }
        }
    }

    fn close(&mut self) {
        self.wait_for(None);
        self.leave();
    }

    fn leave(&mut self) {
        if self.file.take().is_some() {
            self.peer.has_gone();
        }
        self.output.clear();
        self.hung_up = false;
    }

    /// Somebody may have come, or the file may be as it was waited for.
    pub(super) fn turn(&mut self) {
        let mut events = [EpollEvent::default(); 2];
        // It can only fail by being interrupted, and is then still readable.
        let count = self.epoll.wait(0, &mut events).unwrap_or(0);
        if let Some(event) = events.iter().take(count).find(|event| event.data() == FILE) {
            let over = EventSet::HANG_UP | EventSet::READ_HANG_UP | EventSet::ERROR;
            self.hung_up |= event.event_set().intersects(over);
            self.flush();
            self.fill();
            if self.hung_up && self.input.len() >= MOST {
                // The rest is lost: the guest may never read, and others are to have their turn.
                self.close();
            }
        }
        self.look();
        self.arm();
    }

    /// Sends the guest what there is and what it has room for.
    pub(super) fn send(&mut self, to: &mut dyn Sink) -> usize {
        let mut bytes: usize = 0;
        while to.room() > 0 {
            if self.input.is_empty() {
                self.fill();
            }
            let count = to.write(self.input.as_slices().0);
            if count == 0 {
                break;
            }
            self.input.drain(..count.min(self.input.len()));
            bytes = bytes.saturating_add(count);
        }
        self.is_asked = bytes == 0 && to.room() > 0;
        self.arm();
        bytes
    }

    /// Takes what the guest sends, as many whole packets of `packet` bytes as there is room for, or the
    /// rest: all, if nobody is there to get it.
    pub(super) fn take(&mut self, from: &dyn Source, packet: usize) -> usize {
        self.look();
        let mut bytes: usize = 0;
        while bytes < from.len() {
            if self.file.is_none() || self.hung_up {
                bytes = from.len();
                break;
            }
            let room = MOST.saturating_sub(self.output.len());
            let left = from.len().saturating_sub(bytes);
            // What is left of a packet would be lost by who sends no packet twice.
            let whole = room.saturating_sub(room.checked_rem(packet).unwrap_or(0));
            let mut piece = vec![0; if left <= room { left } else { whole }];
            let count = from.read(bytes, &mut piece);
            if count == 0 {
                break;
            }
            self.output.extend(piece.iter().take(count));
            bytes = bytes.saturating_add(count);
            self.flush();
        }
        self.arm();
        bytes
    }

    /// Reads what there is room for.
    fn fill(&mut self) {
        let mut piece = [0; PIECE];
        while self.input.len() < MOST
            && let Some(file) = &mut self.file
        {
            match file.read(&mut piece) {
                // A file that was hung up has no more to come.
                Err(error) if error.kind() == ErrorKind::WouldBlock && !self.hung_up => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A pseudo-terminal tells of its end by an error.
                Ok(0) | Err(_) => self.close(),
                Ok(count) => self.input.extend(piece.iter().take(count)),
            }
        }
    }

    /// Writes what waits, and can be written.
    fn flush(&mut self) {
        if self.hung_up {
            self.output.clear();
        }
        while !self.output.is_empty()
            && let Some(file) = &mut self.file
        {
            match file.write(self.output.as_slices().0) {
                Ok(count) if count > 0 => drop(self.output.drain(..count.min(self.output.len()))),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => {
                    self.hung_up = true;
                    self.output.clear();
                    self.fill();
                }
            }
        }
    }

    /// Waits for what is worth while: else a file that is always readable would wake for nothing.
    fn arm(&mut self) {
        if self.file.is_none() || self.hung_up {
            // The rest is read when the guest asks; what has ended would be ready for ever.
            return self.wait_for(None);
        }
        let mut events = EventSet::READ_HANG_UP;
        if self.input.is_empty() && self.is_asked {
            events |= EventSet::IN;
        }
        if !self.output.is_empty() {
            events |= EventSet::OUT;
        }
        self.wait_for(Some(events));
    }

    fn wait_for(&mut self, events: Option<EventSet>) {
        let Some(file) = &self.file else {
            self.armed = None; // it went with the file
            return;
        };
        let operation = match (self.armed, events) {
            (armed, wanted) if armed == wanted => return,
            (None, _) => ControlOperation::Add,
            (Some(_), Some(_)) => ControlOperation::Modify,
            (Some(_), None) => ControlOperation::Delete,
        };
        let event = EpollEvent::new(events.unwrap_or(EventSet::empty()), FILE);
        match self.epoll.ctl(operation, file.as_raw_fd(), event) {
            Ok(()) => self.armed = events,
            Err(error) => {
                log::warn!("a serial port's stream can't be waited for, and is closed: {error}");
                self.armed = None;
                self.leave();
            }
        }
    }
}
