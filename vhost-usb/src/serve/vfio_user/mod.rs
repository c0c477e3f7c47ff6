//! The controllers over vfio-user, for VMMs that present any PCI function: one socket for each function,
//! one client for each socket.
//!
//! - [`wire`]: messages, [`stream`]: a connection that they come by;
//! - [`function`]: a controller as a PCI function, with its [`interrupts`] and the memory that it reaches
//!   by [`dma`].
//!
//! One thread does it all, and waits for nobody: neither a slow client nor a hostile one.
//!
//! The crate `vfio_user` has a server, too. It can't be this one: it follows the sizes that a client
//! writes (a panic, or gigabytes), and takes what follows a command that it does not know for the next
//! one.

mod dma;
mod function;
mod interrupts;
mod stream;
mod wire;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::epoll::{self, EventData, EventFlags};
use vhost_runtime::control::Events;
use vhost_runtime::program::{ProgramError, Shutdown, Socket, wait};
use vhost_runtime::supervisor::Link;

use self::function::Function;
use self::stream::{Connection, Lost, Message};
use self::wire::Request;
use super::run::{Runner, now};
use crate::controller::Next;
use crate::controller::host::Host;

/// The option that names the folder.
const OPTION: &str = "--vfio-user";
/// Messages of one client before others have their turn.
const MESSAGES: usize = 64;
/// Events that are taken at once.
const EVENTS: usize = 16;

/// What an event is of, in its low bits; the slot is in the others.
const LISTENER: u64 = 0;
const CONNECTION: u64 = 1;
const UNMASK: u64 = 2;
const KINDS: u64 = 4;
/// It is of the controllers themselves.
const RUN: u64 = u64::MAX;

/// The socket of a function in a folder.
fn path(folder: &Path, function: u8) -> PathBuf {
    folder.join(format!("{function}.sock"))
}

/// Sockets for these functions.
///
/// # Errors
/// One can't be made.
pub fn sockets(folder: &Path, host: &Host) -> Result<Vec<Socket>, ProgramError> {
    if !folder.is_dir() {
        return Err(ProgramError::NoFolder(OPTION, folder.to_owned()));
    }
    let functions = host.functions().into_iter();
    functions.map(|it| Socket::listen(OPTION, &path(folder, it.number), false)).collect()
}

/// A function, and who presents it.
struct Slot<'a> {
    listener: &'a UnixListener,
    function: Function,
    connection: Option<Connection>,
    /// The connection waits for its client to take an answer.
    full: bool,
}

/// Serves the controllers to whoever connects, until SIGTERM.
///
/// # Errors
/// The host refuses.
pub fn serve(
    sockets: &[Socket],
    shutdown: &Shutdown,
    events: &Events,
    link: &Link,
    host: &Mutex<Host>,
) -> Result<(), ProgramError> {
    let lock = || host.lock().unwrap_or_else(PoisonError::into_inner);
    let mut server = Server::new(sockets, &mut lock()).map_err(failed)?;
    let (mut ready, mut attached) = (Vec::with_capacity(EVENTS), false);
    while wait(&[server.epoll.as_raw_fd()], shutdown)? {
        ready.clear();
        let at_once = rustix::event::Timespec::default();
        let spare = rustix::buffer::spare_capacity(&mut ready);
        match epoll::wait(&server.epoll, spare, Some(&at_once)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed(error)),
        }
        let mut host = lock();
        // Who is gone makes room for who comes.
        ready.sort_by_key(|event| event.data.u64() % KINDS == LISTENER);
        for event in &ready {
            server.take(event.data.u64(), event.flags, &mut host);
        }
        server.run(&mut host);
        drop(host);
        if std::mem::replace(&mut attached, server.attached()) != attached {
            events.set_connected(attached);
            if attached {
                link.attached();
            }
        }
    }
    let mut host = lock();
    (0..server.slots.len()).for_each(|slot| server.hang_up(slot, &mut host));
    Ok(())
}

fn failed(error: impl Into<io::Error>) -> ProgramError {
    ProgramError::Host { what: "VMMs cannot be served", error: error.into() }
}

struct Server<'a> {
    slots: Vec<Slot<'a>>,
    runner: Runner,
    epoll: Arc<OwnedFd>,
}

/// What an event of a slot is told with.
fn token(slot: usize, kind: u64) -> u64 {
    (slot as u64).saturating_mul(KINDS).saturating_add(kind)
}

impl<'a> Server<'a> {
    fn new(sockets: &'a [Socket], host: &mut Host) -> io::Result<Self> {
        let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        let runner = Runner::new(host)?;
        for fd in runner.events() {
            epoll::add(&*epoll, fd, EventData::new_u64(RUN), EventFlags::IN)?;
        }
        let mut slots = Vec::new();
        for (slot, socket) in sockets.iter().enumerate() {
            let (Socket::Listening { listener, .. }, Some(function)) =
                (socket, Function::new(host, slot))
            else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            listener.set_nonblocking(true)?;
            let data = EventData::new_u64(token(slot, LISTENER));
            epoll::add(&epoll, listener, data, EventFlags::IN)?;
            slots.push(Slot { listener, function, connection: None, full: false });
        }
        Ok(Self { slots, runner, epoll })
    }

    /// Somebody is connected.
    fn attached(&self) -> bool {
        self.slots.iter().any(|slot| slot.connection.is_some())
    }

    /// Something has happened.
    fn take(&mut self, event: u64, flags: EventFlags, host: &mut Host) {
        let Ok(slot) = usize::try_from(event / KINDS) else { return };
        match event % KINDS {
            LISTENER => self.accept(slot, host),
            // Whatever it has said: nobody waits for it any more, and another may have come.
            CONNECTION if flags.contains(EventFlags::HUP) => self.end(slot, &Lost::Closed, host),
            CONNECTION => self.receive(slot, host),
            UNMASK => {
                if let Some(slot) = self.slots.get_mut(slot) {
                    slot.function.unmask();
                }
            }
            _ => {}
        }
    }

    fn accept(&mut self, number: usize, host: &mut Host) {
        let first = !self.attached();
        let Some(slot) = self.slots.get_mut(number) else { return };
        let stream = match slot.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => return log::warn!("a connection was not accepted: {error}"),
        };
        if slot.connection.is_some() {
            return log::warn!("function {}: a second client is turned away", slot.name());
        }
        if first && let Err(error) = host.activate() {
            return log::error!("a client is turned away: {error}");
        }
        let data = EventData::new_u64(token(number, CONNECTION));
        match epoll::add(&self.epoll, &stream, data, EventFlags::IN) {
            Ok(()) => {
                log::info!("function {}: a VMM is connected", slot.name());
                slot.connection = Some(Connection::new(stream));
            }
            Err(error) => {
                log::error!("a client is turned away: {error}");
                if first {
                    host.deactivate();
                }
            }
        }
    }

    fn receive(&mut self, number: usize, host: &mut Host) {
        if let Err(lost) = self.answer(number, host) {
            self.end(number, &lost, host);
        }
    }

    fn end(&mut self, number: usize, lost: &Lost, host: &mut Host) {
        let name = self.slots.get(number).map_or(0, Slot::name);
        match lost {
            Lost::Closed => log::info!("function {name}: {lost}"),
            _ => log::error!("function {name}: {lost}"),
        }
        self.hang_up(number, host);
    }

    fn answer(&mut self, number: usize, host: &mut Host) -> Result<(), Lost> {
        for _ in 0..MESSAGES {
            let Some(slot) = self.slots.get_mut(number) else { break };
            let Some(connection) = &mut slot.connection else { break };
            let Some(Message { header, body, fds }) = connection.receive()? else { break };
            let place = (&self.epoll, token(number, UNMASK));
            let result = Request::parse(header, &body)
                .and_then(|request| slot.function.handle(request, fds, host, now(), place));
            if let Err(error) = &result {
                log::debug!("function {}: {header:?}: {error}", slot.function.name());
            }
            // What a write changes is known before it is answered. It may have changed others' ports.
            self.slots.iter_mut().for_each(|slot| slot.function.interrupt(host));
            let connection = self.slots.get_mut(number).and_then(|slot| slot.connection.as_mut());
            if let (Some(connection), Some(reply)) = (connection, header.reply(result)) {
                connection.send(&reply)?;
            }
        }
        self.watch(number)
    }

    /// Has a connection wait for what it can go on with.
    fn watch(&mut self, number: usize) -> Result<(), Lost> {
        let Some(slot) = self.slots.get_mut(number) else { return Ok(()) };
        let Some(connection) = &slot.connection else { return Ok(()) };
        if std::mem::replace(&mut slot.full, connection.is_full()) != connection.is_full() {
            let flags = if slot.full { EventFlags::OUT } else { EventFlags::IN };
            let data = EventData::new_u64(token(number, CONNECTION));
            epoll::modify(&self.epoll, connection, data, flags)?;
        }
        Ok(())
    }

    /// The client is gone; when all are, so is their guest.
    fn hang_up(&mut self, number: usize, host: &mut Host) {
        let Some(slot) = self.slots.get_mut(number) else { return };
        if slot.connection.take().is_none() {
            return;
        }
        slot.full = false;
        slot.function.forget(host, now());
        if !self.attached() {
            host.reset();
            host.deactivate();
        }
    }

    /// Lets the controllers of those who are connected do what there is to do.
    fn run(&mut self, host: &mut Host) {
        let slots = &mut self.slots;
        self.runner.run(host, |host, now| {
            let mut next = Next::Never;
            for slot in slots.iter_mut().filter(|slot| slot.connection.is_some()) {
                next = next.min(slot.function.run(host, now));
            }
            slots.iter_mut().for_each(|slot| slot.function.interrupt(host));
            next
        });
    }
}

impl Slot<'_> {
    fn name(&self) -> u8 {
        self.function.name()
    }
}
