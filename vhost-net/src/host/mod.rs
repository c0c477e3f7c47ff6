//! Where a card's frames go.
//!
//! - [`broker`]: what opens the host's side, and opens it again: [`tap`] (by what [`interface`] tells),
//!   [`place`] (streams), [`datagram`], [`passt`];
//! - [`side`]: the same as the serving process has it;
//! - [`switch`]: the guests of this machine among each other;
//! - [`Port`]: one pair of queues' way to any of them, in [`space`]s of memory.

pub mod broker;
pub mod datagram;
mod interface;
mod line;
pub mod passt;
pub mod place;
pub mod side;
pub mod space;
mod stream;
pub mod switch;
pub mod tap;
pub mod waiter;

use std::io;
use std::sync::Arc;

use vhost_runtime::chain::{Buffers, Chain};

use crate::frame::ORDINARY;
use crate::frame::offload::{HEADER, Offload};
use line::Line;
use side::Side;
use space::Space;
use stream::Framing;
use waiter::Waiter;

/// What kind of host's side a card has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TAP or macvtap.
    Tap,
    /// Frames behind their lengths.
    Stream,
    /// A frame a datagram.
    Datagram,
}

/// A guest's frame, on its way.
#[derive(Debug)]
pub struct Packet {
    /// Where it is, behind virtio's header.
    pub chain: Chain,
    /// Bytes of that.
    pub header: u64,
    /// What is left to do.
    pub offload: Offload,
}

impl Packet {
    /// The frame.
    #[must_use]
    pub fn frame(&self) -> Buffers<'_> {
        self.chain.readable().split_at(self.header).1
    }
}

/// What became of a frame that was sent. Who gets the chain back completes it.
#[derive(Debug)]
pub enum Outcome {
    /// It is on its way.
    Done(Chain),
    /// It waits in its chain, which [`Port::returned`] gives back.
    Kept,
    /// There is no room for it now.
    Full(Chain),
    /// It can't be sent.
    Lost(Chain),
}

/// Whether the host took a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Done,
    Full,
}

/// What has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// A frame of `length` bytes, with virtio's header if the port [carries](Port::carries_header) it, of
    /// which what did not fit is lost.
    Frame {
        /// Bytes.
        length: usize,
        /// The header, of a port that does not carry it, where there is something to say in it.
        header: Option<[u8; HEADER]>,
    },
    /// Nothing: the port's descriptor becomes readable when there is.
    Nothing,
    /// Something that the host could not hand over: there may be more.
    Lost,
}

/// One pair of queues' way to the host, or to other guests.
#[derive(Debug)]
pub struct Port {
    waiter: Waiter,
    way: Way,
    list: Vec<libc::iovec>,
}

#[derive(Debug)]
enum Way {
    Host(Line, Medium),
    Switch(Box<switch::Port>),
}

/// How frames go over a descriptor.
#[derive(Debug)]
enum Medium {
    Tap {
        /// Bytes of virtio's header.
        header: usize,
        /// The host is to use it for what it sends.
        attached: bool,
        /// A place for a frame of an ordinary size.
        copy: Box<[u8]>,
    },
    Stream(Box<Framing>),
    Datagram,
}

impl Port {
    /// Pair `number`'s way to the host, with headers of `header` bytes.
    ///
    /// # Errors
    /// The host has no more descriptors.
    pub fn to_host(kind: Kind, side: &Arc<Side>, number: usize, header: usize) -> io::Result<Self> {
        let medium = match kind {
            Kind::Tap => {
                let copy = vec![0; ORDINARY.saturating_add(HEADER)].into();
                Medium::Tap { header, attached: false, copy }
            }
            Kind::Stream => Medium::Stream(Box::new(Framing::new(stream::BUFFER))),
            Kind::Datagram => Medium::Datagram,
        };
        let way = Way::Host(Line::new(Arc::clone(side), number), medium);
        let mut port = Self { waiter: Waiter::new()?, way, list: Vec::new() };
        port.refresh();
        Ok(port)
    }

    /// A pair's way to other guests.
    ///
    /// # Errors
    /// The host has no more descriptors.
    pub fn to_switch(port: switch::Port) -> io::Result<Self> {
        let waiter = Waiter::new()?;
        port.wait_with(&waiter)?;
        Ok(Self { waiter, way: Way::Switch(Box::new(port)), list: Vec::new() })
    }

    /// What a worker waits for; more can be added to it.
    #[must_use]
    pub fn waiter(&self) -> &Waiter {
        &self.waiter
    }

    /// Frames come with virtio's header before them.
    #[must_use]
    pub fn carries_header(&self) -> bool {
        matches!(self.way, Way::Host(_, Medium::Tap { .. }))
    }

    /// Takes what has come in place of what was lost.
    pub fn refresh(&mut self) {
        let Way::Host(line, medium) = &mut self.way else { return };
        match line.refresh(&self.waiter) {
            Ok(true) => medium.begin(line, &self.waiter),
            Ok(false) => {}
            Err(error) => log::error!("the host's side cannot be waited for: {error}"),
        }
    }

    /// The guest takes frames of this pair, or no more: the host is to use it, or not.
    pub fn set_active(&mut self, active: bool) {
        match &mut self.way {
            Way::Host(line, medium @ Medium::Tap { .. }) => {
                if let Medium::Tap { attached, .. } = medium {
                    *attached = active;
                }
                medium.attach(line);
            }
            Way::Switch(port) => port.set_active(active),
            Way::Host(..) => {}
        }
    }

    /// Sends what a frame before has left. `true`: there is room for more.
    pub fn flush(&mut self) -> bool {
        let Way::Host(line, Medium::Stream(framing)) = &mut self.way else { return true };
        let Some(fd) = line.fd().filter(|_| framing.is_full()) else { return true };
        match framing.flush(fd) {
            Ok(room) => {
                await_room(&self.waiter, line, !room);
                room
            }
            Err(error) => {
                line.lost(&self.waiter, &error);
                true
            }
        }
    }

    /// Sends a frame.
    pub fn send(&mut self, packet: Packet) -> Outcome {
        let Self { waiter, way, list } = self;
        let (line, medium) = match way {
            Way::Switch(port) => return port.send(packet),
            Way::Host(line, medium) => (line, medium),
        };
        let Some(fd) = line.fd() else { return Outcome::Lost(packet.chain) };
        let length = usize::try_from(packet.frame().len()).unwrap_or(usize::MAX);
        let (offload, prefix);
        let mut space = Space::new(list);
        match medium {
            Medium::Tap { header, .. } => {
                offload = packet.offload.header(length);
                space.add_prefix(offload.get(..*header).unwrap_or(&offload));
            }
            Medium::Stream(_) => {
                prefix = Framing::prefix(length);
                space.add_prefix(&prefix);
            }
            Medium::Datagram => {}
        }
        if !space.add(packet.frame()) {
            return Outcome::Lost(packet.chain);
        }
        let mut send = || {
            let sent = match medium {
                Medium::Tap { copy, .. } => space.write(fd, copy).map(|_| Sent::Done),
                Medium::Stream(framing) => framing.send(fd, &space),
                Medium::Datagram => space.send(fd).map(|_| Sent::Done),
            };
            sent.or_else(|error| if is_full(&error) { Ok(Sent::Full) } else { Err(error) })
        };
        let mut sent = send();
        if matches!(sent, Ok(Sent::Full)) {
            await_room(waiter, line, true);
            sent = send(); // there may be room since, of which nobody is told
        }
        match sent {
            Ok(Sent::Done) => {
                // The rest of it may be still to go, even if nothing comes behind.
                if let Medium::Stream(framing) = medium
                    && framing.is_full()
                {
                    await_room(waiter, line, true);
                    // As above. What is wrong is found by the next frame.
                    let _ = framing.flush(fd);
                }
                Outcome::Done(packet.chain)
            }
            Ok(Sent::Full) => Outcome::Full(packet.chain),
            Err(error) => {
                if is_end(&error) {
                    line.lost(waiter, &error);
                }
                Outcome::Lost(packet.chain)
            }
        }
    }

    /// A chain that was kept, and is done with.
    pub fn returned(&mut self) -> Option<Chain> {
        match &mut self.way {
            Way::Switch(port) => port.returned(),
            Way::Host(..) => None,
        }
    }

    /// Chains that are kept.
    #[must_use]
    pub fn kept(&self) -> usize {
        match &self.way {
            Way::Switch(port) => port.kept(),
            Way::Host(..) => 0,
        }
    }

    /// The guest has no room for what has come. Returns how many frames it has lost by that, as far as it
    /// is known here: the host's side keeps them itself, or not.
    pub fn starved(&mut self) -> u64 {
        match &mut self.way {
            Way::Switch(port) => port.starved(),
            Way::Host(..) => 0,
        }
    }

    /// Receives a frame.
    pub fn receive(&mut self, space: &mut Space<'_>) -> Received {
        let (line, medium) = match &mut self.way {
            Way::Switch(port) => return port.receive(space),
            Way::Host(line, medium) => (line, medium),
        };
        let Some(fd) = line.fd() else { return Received::Nothing };
        let frame = |length| Received::Frame { length, header: None };
        let received = match medium {
            Medium::Tap { .. } => space.read(fd).map(frame),
            Medium::Stream(framing) => framing.receive(fd, space),
            Medium::Datagram => space.receive(fd).map(frame),
        };
        received.unwrap_or_else(|error| {
            if is_end(&error) {
                line.lost(&self.waiter, &error);
            }
            match error.raw_os_error() {
                Some(libc::EINVAL | libc::EFAULT | libc::ENOMEM | libc::EMSGSIZE) => Received::Lost,
                _ => Received::Nothing,
            }
        })
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if let Way::Host(line, Medium::Stream(framing)) = &mut self.way {
            line.park(std::mem::replace(framing, Box::new(Framing::new(0))));
        }
    }
}

impl Medium {
    /// There is another descriptor.
    fn begin(&mut self, line: &mut Line, waiter: &Waiter) {
        match self {
            Self::Tap { header, .. } => {
                if let Some(fd) = line.fd()
                    && let Err(error) = tap::set_header(fd, *header)
                {
                    if is_end(&error) {
                        return line.lost(waiter, &error);
                    }
                    log::warn!("the interface takes no header of {header} bytes: {error}");
                }
                // As it was opened, or as a process before has left it, for what waits in it.
                if matches!(self, Self::Tap { attached: true, .. }) {
                    self.attach(line);
                }
            }
            Self::Stream(framing) => match line.unpark() {
                Some(parked) => *framing = parked,
                None => framing.clear(),
            },
            Self::Datagram => {}
        }
    }

    /// The first queue is used always: what comes while the guest takes nothing waits there.
    fn attach(&self, line: &Line) {
        if let (Self::Tap { attached, .. }, Some(fd)) = (self, line.fd())
            && (*attached || !line.is_first())
            && let Err(error) = tap::set_attached(fd, *attached)
        {
            // One queue alone is always used; and it may be so already.
            log::trace!("a queue of the interface stays as it is: {error}");
        }
    }
}

fn await_room(waiter: &Waiter, line: &Line, writing: bool) {
    if let Some(fd) = line.fd()
        && let Err(error) = waiter.set_writing(fd, writing)
    {
        log::error!("room at the host's side cannot be waited for: {error}");
    }
}

/// The host takes it later.
fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS))
}

/// It is no matter of this frame.
fn is_end(error: &io::Error) -> bool {
    match error.raw_os_error() {
        // The interface is down, or does not like the frame.
        Some(
            libc::EAGAIN
            | libc::EINTR
            | libc::EIO
            | libc::EINVAL
            | libc::EMSGSIZE
            | libc::ENOMEM
            | libc::ENOBUFS
            | libc::EFAULT
            | libc::ENETDOWN,
        ) => false,
        Some(_) => true,
        // What a peer of a stream did.
        None => true,
    }
}
