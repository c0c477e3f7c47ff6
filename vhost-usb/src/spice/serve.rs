//! The loop: clients are let in, and what has happened is told to whom it concerns.

use std::io;
use std::net::{TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use vhost_runtime::program::{Shutdown, Socket};
use vhost_runtime::supervisor::Link;
use vmm_sys_util::epoll::EventSet;

use super::events::{Event, Owner};
use super::library::{LibraryError, Server};
use super::port::State;
use super::world::{self, World};

/// How long nobody is let in when somebody could not be.
const PAUSE: Duration = Duration::from_millis(100);

/// Why it can't serve any more.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The host refuses what it needs.
    #[error("waiting failed: {0}")]
    Host(#[from] io::Error),
    /// The library refuses something.
    #[error(transparent)]
    Library(#[from] LibraryError),
}

/// Listens on the first of a host's addresses that it can.
///
/// # Errors
/// It can on none.
pub fn listen(host: &str, port: u16) -> io::Result<TcpListener> {
    let addresses: Vec<_> = (host, port).to_socket_addrs()?.collect();
    TcpListener::bind(addresses.as_slice())
}

/// Where clients connect.
pub struct Listener<'a> {
    socket: BorrowedFd<'a>,
}

impl<'a> Listener<'a> {
    /// A socket that does not keep anybody who asks it for a connection.
    ///
    /// # Errors
    /// The host refuses.
    pub fn tcp(listener: &'a TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { socket: listener.as_fd() })
    }

    /// As well; none if it is connected already.
    ///
    /// # Errors
    /// The host refuses.
    pub fn unix(socket: &'a Socket) -> io::Result<Option<Self>> {
        let Socket::Listening { listener, .. } = socket else { return Ok(None) };
        listener.set_nonblocking(true)?;
        Ok(Some(Self { socket: listener.as_fd() }))
    }

    /// The next connection, if there is one.
    fn accept(&self) -> io::Result<Option<OwnedFd>> {
        match accept_with(self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => Ok(Some(socket)),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// The world is there: it was given to the server, in this thread.
fn look<T>(act: impl FnOnce(&mut World) -> T) -> Result<T, io::Error> {
    world::with(act).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Serves until the program is to end.
///
/// # Errors
/// See [`ServeError`].
pub fn serve(
    server: &mut Server,
    listeners: &[Listener<'_>],
    shutdown: &Shutdown,
    link: &Link,
) -> Result<(), ServeError> {
    look(|world| {
        let events = &mut world.events;
        events.add(shutdown.as_fd().as_raw_fd(), EventSet::IN, Owner::Shutdown)?;
        for (number, listener) in listeners.iter().enumerate() {
            events.add(listener.socket.as_raw_fd(), EventSet::IN, Owner::Listener(number))?;
        }
        io::Result::Ok(())
    })??;
    loop {
        settle(server)?;
        for event in look(wait)?? {
            match event {
                Event::Ready(_, Owner::Shutdown) => return Ok(()),
                Event::Ready(_, Owner::Listener(number)) => {
                    if let Some(listener) = listeners.get(number) {
                        let_in(server, listener, link);
                    }
                }
                Event::Ready(_, Owner::Port(number)) => turn(server, number),
                other => server.tell(other),
            }
            settle(server)?;
        }
    }
}

fn wait(world: &mut World) -> io::Result<Vec<Event>> {
    let away = world.ports.iter().filter_map(|port| match port.state() {
        State::Away(until) => Some(until),
        _ => None,
    });
    let until = away.chain(world.links.due()).min();
    let events = world.events.wait(until)?;
    world.links.expire(Instant::now());
    Ok(events)
}

fn let_in(server: &Server, listener: &Listener<'_>, link: &Link) {
    let accepted = listener.accept().and_then(|socket| match socket {
        Some(socket) => {
            link.attached();
            server.add_client(socket)
        }
        None => Ok(()),
    });
    if let Err(error) = accepted {
        log::warn!("a client is not let in: {error}");
        // The host has no descriptors: the connection waits, and so does this, not to ask again and again.
        std::thread::sleep(PAUSE);
    }
}

/// A port's connection has something for it to do.
fn turn(server: &Server, number: usize) {
    if world::with_port(number, |port| port.turn()) == Some(true) {
        server.wake(number);
        world::with_port(number, |port| port.after_turn());
    }
}

/// Does with channels what their ports want. Between the library's callbacks: in them it would be too early.
fn settle(server: &mut Server) -> Result<(), ServeError> {
    let states = look(|world| world.ports.iter().map(|port| port.state()).collect::<Vec<_>>())?;
    let now = Instant::now();
    for (number, state) in states.into_iter().enumerate() {
        match state {
            State::Away(until) if until <= now => {
                server.offer(number)?;
                world::with_port(number, |port| port.offered());
            }
            State::Over => {
                server.withdraw(number);
                world::with_port(number, |port| port.withdrawn());
            }
            _ => {}
        }
    }
    Ok(look(World::watch_ports)??)
}
