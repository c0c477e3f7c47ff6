//! Descriptors and timers, the library's and the program's own.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// A descriptor that is waited for, or a timer; none is used twice.
pub type Token = usize;

/// Descriptors that are told of at once.
const AT_ONCE: usize = 64;

/// Whose a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Who wants the program to end.
    Shutdown,
    /// The listening socket of this number.
    Listener(usize),
    /// The port of this number.
    Port(usize),
    /// The library.
    Library,
}

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A descriptor is ready.
    Ready(Token, Owner),
    /// A timer has run down.
    Timer(Token),
}

struct Source {
    fd: RawFd,
    /// Nothing: it is not waited for.
    wanted: EventSet,
    owner: Owner,
    /// What it was ready for when that was looked at last.
    ready: EventSet,
}

/// What there is to wait for.
pub struct Events {
    epoll: Epoll,
    sources: BTreeMap<Token, Source>,
    /// When each runs down, if it runs.
    timers: BTreeMap<Token, Option<Instant>>,
    last: Token,
}

impl Events {
    /// Nothing yet.
    ///
    /// # Errors
    /// The host refuses.
    pub fn new() -> io::Result<Self> {
        let (sources, timers) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { epoll: Epoll::new()?, sources, timers, last: 0 })
    }

    fn token(&mut self) -> Token {
        self.last = self.last.wrapping_add(1);
        self.last
    }

    /// Waits for a descriptor from now on.
    ///
    /// # Errors
    /// The host refuses.
    pub fn add(&mut self, fd: RawFd, wanted: EventSet, owner: Owner) -> io::Result<Token> {
        let token = self.token();
        let (none, ready) = (EventSet::empty(), EventSet::empty());
        self.sources.insert(token, Source { fd, wanted: none, owner, ready });
        let added = self.change(token, wanted);
        if added.is_err() {
            self.sources.remove(&token);
        }
        added.map(|()| token)
    }

    /// Waits for something else of it.
    ///
    /// # Errors
    /// The host refuses.
    pub fn change(&mut self, token: Token, wanted: EventSet) -> io::Result<()> {
        let Some(source) = self.sources.get_mut(&token) else { return Ok(()) };
        let operation = match (source.wanted.is_empty(), wanted.is_empty()) {
            _ if source.wanted == wanted => return Ok(()),
            (true, _) => ControlOperation::Add,
            // A descriptor of which nothing is wanted would still tell that its other end is closed.
            (false, true) => ControlOperation::Delete,
            (false, false) => ControlOperation::Modify,
        };
        self.epoll.ctl(operation, source.fd, EpollEvent::new(wanted, token as u64))?;
        source.wanted = wanted;
        Ok(())
    }

    /// Waits for it no more. Before it is closed.
    pub fn remove(&mut self, token: Token) {
        if let Err(error) = self.change(token, EventSet::empty()) {
            log::debug!("a descriptor is not waited for any more, but was not: {error}");
        }
        self.sources.remove(&token);
    }

    /// A descriptor, and what of that which is wanted of it now it was ready for.
    #[must_use]
    pub fn ready(&self, token: Token) -> Option<(RawFd, EventSet)> {
        let source = self.sources.get(&token)?;
        let ready = source.ready & source.wanted;
        (!ready.is_empty()).then_some((source.fd, ready))
    }

    /// A timer, which does not run yet.
    pub fn add_timer(&mut self) -> Token {
        let token = self.token();
        self.timers.insert(token, None);
        token
    }

    /// Has a timer run down once, after so long.
    pub fn start(&mut self, token: Token, after: Duration) {
        if let Some(end) = self.timers.get_mut(&token) {
            *end = Instant::now().checked_add(after);
        }
    }

    /// Stops a timer.
    pub fn stop(&mut self, token: Token) {
        if let Some(end) = self.timers.get_mut(&token) {
            *end = None;
        }
    }

    /// There is no such timer any more.
    pub fn remove_timer(&mut self, token: Token) {
        self.timers.remove(&token);
    }

    /// Waits until something has happened, at most until then.
    ///
    /// # Errors
    /// The host refuses.
    pub fn wait(&mut self, until: Option<Instant>) -> io::Result<Vec<Event>> {
        let first = self.timers.values().flatten().copied().chain(until).min();
        let mut found = [EpollEvent::default(); AT_ONCE];
        let count = match self.epoll.wait(milliseconds(first), &mut found) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        let mut events = Vec::new();
        for event in found.iter().take(count) {
            let Ok(token) = Token::try_from(event.data()) else { continue };
            let Some(source) = self.sources.get_mut(&token) else { continue };
            source.ready = event.event_set();
            // What its end, or an error, makes of it is found out by whoever reads or writes.
            if source.ready.intersects(EventSet::HANG_UP | EventSet::ERROR) {
                source.ready = source.wanted;
            }
            events.push(Event::Ready(token, source.owner));
        }
        let now = Instant::now();
        let over = self.timers.iter().filter(|(_, end)| end.is_some_and(|end| end <= now));
        events.extend(over.map(|(token, _)| Event::Timer(*token)));
        Ok(events)
    }

    /// A timer has run down; it does not run any more.
    pub fn take_end(&mut self, token: Token) -> bool {
        let now = Instant::now();
        self.timers.get_mut(&token).is_some_and(|end| end.take_if(|end| *end <= now).is_some())
    }
}

/// How long epoll is to wait: rounded up, so that what is waited for has come then.
fn milliseconds(until: Option<Instant>) -> i32 {
    let Some(until) = until else { return -1 };
    let left = until.saturating_duration_since(Instant::now()).as_nanos();
    i32::try_from(left.div_ceil(1_000_000)).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    const SOON: Duration = Duration::from_millis(30);

    fn now() -> Option<Instant> {
        Some(Instant::now())
    }

    #[test]
    fn a_descriptor_tells_what_is_wanted_of_it() {
        let mut events = Events::new().unwrap();
        let (mut one, mut other) = UnixStream::pair().unwrap();
        let fd = one.as_raw_fd();
        let token = events.add(fd, EventSet::IN, Owner::Port(3)).unwrap();
        assert_eq!(events.wait(now()).unwrap(), []);
        other.write_all(b"x").unwrap();
        let ready = [Event::Ready(token, Owner::Port(3))];
        assert_eq!(events.wait(None).unwrap(), ready);
        assert_eq!(events.ready(token), Some((fd, EventSet::IN)));
        // It is told of until somebody reads, or wants something else.
        assert_eq!(events.wait(None).unwrap(), ready);
        events.change(token, EventSet::OUT).unwrap();
        assert_eq!(events.ready(token), None, "it was not ready for that");
        assert_eq!(events.wait(None).unwrap(), ready);
        assert_eq!(events.ready(token), Some((fd, EventSet::OUT)));
        one.read_exact(&mut [0]).unwrap();
        drop(other);
        events.change(token, EventSet::IN).unwrap();
        assert_eq!(events.wait(None).unwrap(), ready, "its end is something to read");
    }

    #[test]
    fn nobody_is_woken_by_what_nobody_wants() {
        let mut events = Events::new().unwrap();
        let (one, other) = UnixStream::pair().unwrap();
        let token = events.add(one.as_raw_fd(), EventSet::IN, Owner::Library).unwrap();
        events.change(token, EventSet::empty()).unwrap();
        drop(other);
        assert_eq!(events.wait(now()).unwrap(), []);
        events.change(token, EventSet::IN).unwrap();
        assert_eq!(events.wait(None).unwrap(), [Event::Ready(token, Owner::Library)]);
        events.remove(token);
        assert_eq!(events.ready(token), None, "one that was told of, and then removed");
        assert_eq!(events.wait(now()).unwrap(), []);
    }

    #[test]
    fn a_timer_runs_down_once() {
        let mut events = Events::new().unwrap();
        let (token, other) = (events.add_timer(), events.add_timer());
        let begun = Instant::now();
        events.start(token, SOON);
        assert!(!events.take_end(token));
        assert!(events.wait(None).unwrap().contains(&Event::Timer(token)));
        assert!(begun.elapsed() >= SOON);
        assert!(events.take_end(token) && !events.take_end(token) && !events.take_end(other));
        events.start(token, Duration::ZERO);
        events.stop(token);
        assert!(!events.take_end(token));
        events.start(token, Duration::ZERO);
        events.remove_timer(token);
        assert!(!events.take_end(token));
        assert_eq!(events.wait(now()).unwrap(), []);
    }

    #[test]
    fn nobody_waits_longer_than_was_wanted() {
        let mut events = Events::new().unwrap();
        let timer = events.add_timer();
        events.start(timer, Duration::from_secs(3600));
        let begun = Instant::now();
        events.wait(begun.checked_add(SOON)).unwrap();
        assert!(begun.elapsed() >= SOON && begun.elapsed() < Duration::from_secs(60));
    }
}
