//! What the library's callbacks reach: they are told nothing of where that is.
//!
//! It is the thread's that serves. Whoever looks at it gives it back before the library is called again,
//! since that calls back.

use std::cell::RefCell;
use std::io;

use vmm_sys_util::epoll::EventSet;

use super::events::{Events, Owner, Token};
use super::links::Links;
use super::port::{Port, State};

/// What the program has.
pub struct World {
    /// What it waits for.
    pub events: Events,
    /// Its ports, by their numbers.
    pub ports: Vec<Port>,
    /// Where each is waited for.
    tokens: Vec<Token>,
    /// Who has not been let in yet.
    pub links: Links,
}

impl World {
    /// One with these ports.
    ///
    /// # Errors
    /// The host refuses.
    pub fn new(ports: Vec<Port>) -> io::Result<Self> {
        let mut events = Events::new()?;
        let each = ports.iter().enumerate();
        let tokens = each
            .map(|(number, port)| events.add(port.event(), EventSet::empty(), Owner::Port(number)));
        let tokens = tokens.collect::<io::Result<_>>()?;
        Ok(Self { events, ports, tokens, links: Links::default() })
    }

    /// Waits for those ports that a client has opened, and for no other.
    ///
    /// # Errors
    /// The host refuses.
    pub fn watch_ports(&mut self) -> io::Result<()> {
        for (port, token) in self.ports.iter().zip(&self.tokens) {
            let joined = port.state() == State::Joined;
            self.events.change(*token, if joined { EventSet::IN } else { EventSet::empty() })?;
        }
        Ok(())
    }
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// This is the thread that serves.
pub fn set(world: World) {
    WORLD.with(|place| place.replace(Some(world)));
}

/// Does something with it. `None`: there is none, or this is another thread.
pub fn with<T>(act: impl FnOnce(&mut World) -> T) -> Option<T> {
    WORLD.with(|place| place.borrow_mut().as_mut().map(act))
}

/// Does something with a port.
pub fn with_port<T>(number: usize, act: impl FnOnce(&mut Port) -> T) -> Option<T> {
    with(|world| world.ports.get_mut(number).map(act)).flatten()
}
