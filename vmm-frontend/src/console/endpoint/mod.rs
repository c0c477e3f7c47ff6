//! The open end of a console on the host.
//!
//! Output is kept in a buffer, which the reactor empties as fast as the host takes it: who writes
//! never waits. Readiness is told once when it changes (edge-triggered), so nothing has to be switched
//! on and off, and an idle console costs nothing.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use rustix::event::Timespec;
use rustix::io::Errno;
use vhost_runtime::program::Socket;
use vmm_sys_util::eventfd::EventFd;

use crate::console::client::Client;
use crate::console::end::End;
use crate::console::escape::{Escape, HELP, Typed};
use crate::console::terminal::Terminal;
use crate::lock::lock;
use crate::reactor::{Events, Handler, Reactor, Watch};

/// Bytes of output that wait for the host at most.
const CAPACITY: usize = 64 << 10;
/// Bytes of input that are read at once.
const READ: usize = 1024;
/// What a user has typed, and a guest has not taken, at most. It is read before there is room for it:
/// the escape key has to work while a guest takes nothing.
const TYPED: usize = 64 << 10;
/// Reads until others have their turn.
const TURN: usize = 64;
/// How long a host that takes nothing is waited for at the end.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

/// What a console is connected to. A clone is the same one; it ends with the last.
#[derive(Clone)]
pub struct Endpoint(Arc<Inner>);

struct Inner {
    name: String,
    /// There is output, or room for input.
    kick: EventFd,
    attached: OnceLock<Attached>,
    state: Mutex<State>,
}

struct Attached {
    client: Weak<dyn Client>,
    reactor: Reactor,
    handler: Handler,
    _watches: Vec<Watch>,
}

struct State {
    kind: Kind,
    input: Option<End>,
    output: Option<End>,
    waiting: VecDeque<u8>,
    /// A write was taken in part.
    short: bool,
    /// The host took nothing for a reason that was told.
    failing: bool,
    escape: Escape,
    /// Bytes and break conditions that wait for the client, of a terminal alone.
    typed: VecDeque<Typed>,
}

/// What is behind an endpoint.
pub(in crate::console) enum Kind {
    /// Nothing, or what stays as it is.
    Plain,
    /// The user's terminal, and what Ctrl-A x does.
    Terminal(Terminal, Handler),
    /// A pseudo-terminal, and the link to it.
    Pty { _link: Option<Link> },
    /// A socket with one client after the other.
    Socket(Socket),
}

/// A symbolic link, which goes with its endpoint.
pub(in crate::console) struct Link(pub(super) PathBuf);

impl Drop for Link {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            log::debug!("{}: not removed: {error}", self.0.display());
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Endpoint").field(&self.0.name).finish()
    }
}

impl Endpoint {
    /// `name` is what it is called in the log.
    pub(in crate::console) fn new(
        name: String,
        kind: Kind,
        input: Option<End>,
        output: Option<End>,
    ) -> io::Result<Self> {
        let kick = EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK)?;
        let state = State {
            kind,
            input,
            output,
            waiting: VecDeque::new(),
            short: false,
            failing: false,
            escape: Escape::default(),
            typed: VecDeque::new(),
        };
        Ok(Self(Arc::new(Inner {
            name,
            kick,
            attached: OnceLock::new(),
            state: Mutex::new(state),
        })))
    }

    /// Takes output without waiting; returns how many bytes. If not all, the client is told when
    /// there is room again. What nobody is there for is taken, and lost.
    #[must_use]
    pub fn write(&self, data: &[u8]) -> usize {
        let mut state = self.0.state();
        if state.output.is_none() {
            return data.len();
        }
        let (was_empty, taken) = (state.waiting.is_empty(), state.take(data));
        drop(state);
        if was_empty && taken > 0 {
            self.0.kick();
        }
        taken
    }

    /// There is room for input again, after the client said that there was none.
    pub fn resume(&self) {
        self.0.kick();
    }

    /// Begins to give input to a client and to take its output to the host. Once.
    ///
    /// # Errors
    /// The host refuses.
    pub fn attach(&self, reactor: &Reactor, client: Weak<dyn Client>) -> io::Result<()> {
        let inner = Arc::downgrade(&self.0);
        let pump = move |then: fn(&Inner)| {
            if let Some(inner) = inner.upgrade() {
                then(&inner);
            }
        };
        let resize = pump.clone();
        let handler: Handler = Arc::new(move || pump(Inner::pump));
        let mut watches = vec![reactor.watch_event(&self.0.kick, Arc::clone(&handler))?];
        let mut state = self.0.state();
        match &mut state.kind {
            Kind::Plain | Kind::Pty { .. } => {}
            Kind::Terminal(terminal, _) => {
                let signal = Arc::new(move || resize(Inner::signal));
                watches.push(reactor.watch(&*terminal, Events::IN, signal)?);
            }
            Kind::Socket(socket) => {
                if let Socket::Listening { listener, .. } = socket {
                    listener.set_nonblocking(true)?;
                    let events = Events::IN | Events::ET;
                    watches.push(reactor.watch(listener, events, Arc::clone(&handler))?);
                }
            }
        }
        state.watch(reactor, &handler)?;
        let there = !matches!(state.kind, Kind::Socket(_));
        drop(state);
        let reactor = reactor.clone();
        let attached = Attached { client, reactor, handler, _watches: watches };
        if self.0.attached.set(attached).is_err() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if there && let Some(client) = self.0.client() {
            client.connected(true);
        }
        self.0.tell_size();
        self.0.kick();
        Ok(())
    }

    /// One whose other end is a socket of the test.
    #[cfg(test)]
    pub(crate) fn pair() -> (Self, UnixStream) {
        let (here, there) = UnixStream::pair().unwrap();
        let input = End::own(here.try_clone().unwrap().into()).unwrap();
        let output = End::own(here.into()).unwrap();
        let name = String::from("test");
        (Self::new(name, Kind::Plain, Some(input), Some(output)).unwrap(), there)
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn kick(&self) {
        // It fails only while as many kicks as can be counted are waiting.
        let _ = self.kick.write(1);
    }

    fn client(&self) -> Option<Arc<dyn Client>> {
        self.attached.get()?.client.upgrade()
    }

    /// Does whatever can be done now.
    fn pump(&self) {
        let (Some(attached), Some(client)) = (self.attached.get(), self.client()) else { return };
        if let Kind::Terminal(terminal, _) = &mut self.state().kind {
            terminal.begin();
        }
        let accepted = self.state().accept(&self.name, attached);
        if accepted {
            client.connected(true);
        }
        let emptied = self.state().empty(&self.name);
        if emptied == Emptied::Room {
            client.writable();
        }
        if emptied == Emptied::Gone || self.fill(&*client) == Filled::Gone {
            self.state().leave();
            client.connected(false);
            // The output that waited is lost, and so is waiting for it.
            client.writable();
            // The next one may have come already.
            self.kick();
        }
    }

    /// Reads input as long as there is some, and room for it.
    fn fill(&self, client: &dyn Client) -> Filled {
        let mut data = [0; READ];
        for _ in 0..TURN {
            let room = self.room(client).min(READ);
            let Some(data) = data.get_mut(..room).filter(|data| !data.is_empty()) else {
                return Filled::Waits;
            };
            let mut state = self.state();
            let Some(input) = &state.input else { return Filled::Waits };
            match input.read(data) {
                Ok(count @ 1..) => {
                    let is_typed = matches!(state.kind, Kind::Terminal(..));
                    drop(state);
                    let data = data.get(..count).unwrap_or_default();
                    if is_typed { self.typed(data) } else { client.input(data) }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Filled::Waits,
                Ok(0) | Err(_) => match state.kind {
                    Kind::Socket(_) => return Filled::Gone,
                    // Nobody has opened it, and somebody may.
                    Kind::Pty { .. } => return Filled::Waits,
                    Kind::Plain | Kind::Terminal(..) => {
                        state.input = None;
                        return Filled::Waits;
                    }
                },
            }
        }
        self.kick();
        Filled::Waits
    }

    /// How much input can be taken, after the client has taken what it wants of what was typed.
    fn room(&self, client: &dyn Client) -> usize {
        if !matches!(self.state().kind, Kind::Terminal(..)) {
            return client.room();
        }
        while !self.state().typed.is_empty() && client.room() > 0 {
            let typed = self.state().typed.pop_front();
            match typed {
                Some(Typed::Byte(byte)) => client.input(&[byte]),
                Some(Typed::Break) => client.line_break(),
                _ => {}
            }
        }
        TYPED.saturating_sub(self.state().typed.len())
    }

    /// Takes what a user has typed.
    fn typed(&self, data: &[u8]) {
        for byte in data {
            let typed = self.state().escape.typed(*byte);
            match typed {
                Typed::Nothing => {}
                Typed::Byte(_) | Typed::Break => self.state().typed.push_back(typed),
                Typed::Help => {
                    self.state().take(HELP.as_bytes());
                    self.kick();
                }
                Typed::Quit => {
                    let quit = match &self.state().kind {
                        Kind::Terminal(_, quit) => Some(Arc::clone(quit)),
                        _ => None,
                    };
                    if let Some(quit) = quit {
                        quit();
                    }
                }
            }
        }
    }

    /// Takes a signal that has to do with the terminal.
    fn signal(&self) {
        if let Kind::Terminal(terminal, _) = &self.state().kind {
            terminal.signal();
        }
        self.tell_size();
    }

    fn tell_size(&self) {
        let size = match &self.state().kind {
            Kind::Terminal(terminal, _) => terminal.size(),
            _ => None,
        };
        if let (Some((columns, rows)), Some(client)) = (size, self.client()) {
            client.resized(columns, rows);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Emptied {
    /// Who could not write before now can.
    Room,
    /// Nobody is there any more.
    Gone,
    Nothing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Filled {
    /// Until there is more, or more room.
    Waits,
    Gone,
}

impl State {
    /// Keeps output, as much as there is room for.
    fn take(&mut self, data: &[u8]) -> usize {
        let room = CAPACITY.saturating_sub(self.waiting.len());
        let taken = room.min(data.len());
        self.waiting.extend(data.iter().take(taken));
        self.short |= taken < data.len();
        taken
    }

    fn watch(&mut self, reactor: &Reactor, handler: &Handler) -> io::Result<()> {
        if let Some(input) = &mut self.input {
            input.watch(reactor, Events::IN, Arc::clone(handler))?;
        }
        if let Some(output) = &mut self.output {
            output.watch(reactor, Events::OUT, Arc::clone(handler))?;
        }
        Ok(())
    }

    /// Takes the next client of a socket, if there is one, and none now.
    fn accept(&mut self, name: &str, attached: &Attached) -> bool {
        let Kind::Socket(Socket::Listening { listener, .. }) = &self.kind else { return false };
        if self.input.is_some() {
            return false;
        }
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error) => {
                log::warn!("{name}: a client was not accepted: {error}");
                return false;
            }
        };
        let connected = self.connect(stream, attached);
        if let Err(error) = &connected {
            log::warn!("{name}: a client cannot be served: {error}");
            self.leave();
        }
        connected.is_ok()
    }

    fn connect(&mut self, stream: UnixStream, attached: &Attached) -> io::Result<()> {
        self.output = Some(End::own(stream.try_clone()?.into())?);
        self.input = Some(End::own(stream.into())?);
        self.watch(&attached.reactor, &attached.handler)
    }

    /// The client of a socket is gone.
    fn leave(&mut self) {
        self.input = None;
        self.output = None;
        self.short = false;
        self.lose();
    }

    fn lose(&mut self) {
        // From the start again: memory that was never needed is never touched.
        self.waiting.clear();
    }

    /// Writes what waits, as much as the host takes.
    fn empty(&mut self, name: &str) -> Emptied {
        if let Some(gone) = self.write_out(name) {
            return gone;
        }
        if self.short && self.waiting.len() <= CAPACITY / 2 {
            self.short = false;
            return Emptied::Room;
        }
        Emptied::Nothing
    }

    fn write_out(&mut self, name: &str) -> Option<Emptied> {
        let Some(output) = &self.output else {
            self.lose();
            return None;
        };
        if matches!(self.kind, Kind::Pty { .. }) && !self.waiting.is_empty() && output.is_hung_up()
        {
            self.lose();
            return None;
        }
        loop {
            let (data, _) = self.waiting.as_slices();
            if data.is_empty() {
                self.lose();
                return None;
            }
            match output.write(data) {
                Ok(count) => {
                    self.waiting.drain(..count.min(self.waiting.len()));
                    self.failing = false;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return None,
                Err(_) if matches!(self.kind, Kind::Socket(_)) => return Some(Emptied::Gone),
                Err(error) => {
                    self.lose();
                    if !std::mem::replace(&mut self.failing, true) {
                        log::warn!("{name}: output is lost: {error}");
                    }
                    if error == Errno::PIPE {
                        self.output = None;
                    }
                    return None;
                }
            }
        }
    }
}

impl Drop for Inner {
    /// A guest's last words may be the ones that matter.
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        loop {
            let gone = state.write_out(&self.name).is_some();
            let waits = |output: &End| !output.wait_writable(PATIENCE);
            if gone || state.waiting.is_empty() || state.output.as_ref().is_none_or(waits) {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests;
