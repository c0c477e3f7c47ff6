//! Connections that have not been linked yet: whoever made them has not said the password, or anything.
//!
//! The library waits for such a client for ever. Here it is given ten seconds, and not more than a few of them
//! are waited for: who connects again and again, and is silent, keeps nobody else out.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many of them are waited for; a client makes a connection for each channel.
const MOST: usize = 64;

/// A connection, by the number that the library has for it.
pub type Id = usize;

struct Link {
    /// To end it by; the library has a descriptor of its own.
    socket: OwnedFd,
    /// When it came, and how many had come before.
    order: (Instant, u64),
}

impl Link {
    /// The library sees its end, and forgets it.
    fn end(&self) {
        if let Err(error) = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both) {
            log::debug!("a connection is not ended: {error}");
        }
    }
}

/// Connections that have not been linked yet.
#[derive(Default)]
pub struct Links {
    waiting: BTreeMap<Id, Link>,
    /// The next one's.
    coming: Option<OwnedFd>,
    count: u64,
}

impl Links {
    /// This connection is given to the library, which tells of it at once.
    ///
    /// # Errors
    /// The host refuses.
    pub fn expect(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.coming = Some(socket.try_clone_to_owned()?);
        Ok(())
    }

    /// The library has it, and calls it that.
    pub fn connected(&mut self, id: Id) {
        let Some(socket) = self.coming.take() else { return };
        self.count = self.count.wrapping_add(1);
        self.waiting.insert(id, Link { socket, order: (Instant::now(), self.count) });
        if self.waiting.len() > MOST
            && let Some(oldest) = self.oldest()
        {
            self.end(oldest, "too many are silent");
        }
    }

    /// It is linked, or gone.
    pub fn settled(&mut self, id: Id) {
        self.waiting.remove(&id);
    }

    fn oldest(&self) -> Option<Id> {
        self.waiting.iter().min_by_key(|(_, link)| link.order).map(|(id, _)| *id)
    }

    fn end(&mut self, id: Id, why: &str) {
        if let Some(link) = self.waiting.remove(&id) {
            log::debug!("a connection is closed on which nobody has logged in: {why}");
            link.end();
        }
    }

    /// When the first of them has to be ended.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.waiting.values().map(|link| link.order.0).min()?.checked_add(PATIENCE)
    }

    /// Ends those that have had their time.
    pub fn expire(&mut self, now: Instant) {
        while let Some(oldest) = self.oldest().filter(|_| self.due().is_some_and(|due| due <= now))
        {
            self.end(oldest, "it was given ten seconds");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Makes a connection; the client's end, and the library's.
    fn link(links: &mut Links, id: Id) -> (UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        links.expect(ours.as_fd()).unwrap();
        links.connected(id);
        (theirs, ours)
    }

    fn has_ended((client, _): &mut (UnixStream, UnixStream)) -> bool {
        match client.read(&mut [0]) {
            Ok(0) => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_is_silent_is_given_ten_seconds() {
        let mut links = Links::default();
        assert_eq!(links.due(), None);
        let (mut one, mut linked) = (link(&mut links, 1), link(&mut links, 2));
        links.settled(2);
        links.expire(Instant::now());
        assert!(!has_ended(&mut one));
        links.expire(links.due().unwrap());
        assert_eq!((has_ended(&mut one), has_ended(&mut linked)), (true, false));
        assert_eq!(links.due(), None);
        links.settled(1);
    }

    #[test]
    fn of_many_the_first_has_to_go() {
        let mut links = Links::default();
        // Their numbers say nothing of when they came.
        let mut all: Vec<_> = (0..=MOST).rev().map(|id| link(&mut links, id)).collect();
        let ended: Vec<usize> = (0..all.len()).filter(|at| has_ended(&mut all[*at])).collect();
        assert_eq!(ended, [0]);
    }

    #[test]
    fn a_connection_that_nobody_made_is_nobodys() {
        let mut links = Links::default();
        links.connected(7);
        assert_eq!(links.due(), None);
    }
}
