//! What a worker waits for on the host's side, behind one descriptor: it comes and goes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use epoll::{ControlOptions, Event, Events};

/// A set of descriptors. Readable each time that one of them becomes ready.
#[derive(Debug)]
pub struct Waiter(OwnedFd);

impl Waiter {
    /// An empty one.
    ///
    /// # Errors
    /// The host has no more descriptors.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(true)?;
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(epoll) }))
    }

    /// The descriptor that stands for all.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    fn control(
        &self,
        option: ControlOptions,
        fd: BorrowedFd<'_>,
        events: Events,
    ) -> io::Result<()> {
        epoll::ctl(self.fd(), option, fd.as_raw_fd(), Event::new(events | Events::EPOLLET, 0))
    }

    /// Waits for something to be read, too.
    ///
    /// # Errors
    /// The host refuses.
    pub fn add(&self, fd: impl AsFd) -> io::Result<()> {
        self.control(ControlOptions::EPOLL_CTL_ADD, fd.as_fd(), Events::EPOLLIN)
    }

    /// Waits for one of them to take what is written, too, or not any more.
    ///
    /// # Errors
    /// The host refuses.
    pub fn set_writing(&self, fd: impl AsFd, writing: bool) -> io::Result<()> {
        let more = if writing { Events::EPOLLOUT } else { Events::empty() };
        self.control(ControlOptions::EPOLL_CTL_MOD, fd.as_fd(), Events::EPOLLIN | more)
    }

    /// Waits for it no more.
    pub fn remove(&self, fd: impl AsFd) {
        if let Err(error) = self.control(ControlOptions::EPOLL_CTL_DEL, fd.as_fd(), Events::empty())
        {
            log::debug!("a descriptor was not waited for: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    /// What a worker's loop does, whose own events are edges.
    fn edges(waiter: &Waiter) -> impl Fn() -> usize {
        let outer = Waiter::new().unwrap();
        // SAFETY: the waiter outlives the call.
        outer.add(unsafe { BorrowedFd::borrow_raw(waiter.fd()) }).unwrap();
        move || epoll::wait(outer.fd(), 0, &mut [Event::new(Events::empty(), 0); 4]).unwrap()
    }

    #[test]
    fn each_arrival_is_told_once() {
        let (mut near, mut far) = UnixStream::pair().unwrap();
        let waiter = Waiter::new().unwrap();
        waiter.add(&near).unwrap();
        let edges = edges(&waiter);
        assert_eq!(edges(), 0);
        far.write_all(b"a").unwrap();
        assert_eq!((edges(), edges()), (1, 0));
        far.write_all(b"b").unwrap();
        assert_eq!((edges(), edges()), (1, 0), "though nothing was read");
        near.read_exact(&mut [0; 2]).unwrap();
        waiter.remove(&near);
        far.write_all(b"c").unwrap();
        assert_eq!(edges(), 0);
    }

    #[test]
    fn room_is_told_only_where_it_is_waited_for() {
        let (mut near, mut far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        far.set_nonblocking(true).unwrap();
        let waiter = Waiter::new().unwrap();
        waiter.add(&near).unwrap();
        let edges = edges(&waiter);
        while near.write(&[0; 4096]).is_ok() {}
        assert_eq!(edges(), 0);
        waiter.set_writing(&near, true).unwrap();
        assert_eq!(edges(), 0);
        while far.read(&mut [0; 65536]).is_ok() {}
        assert_eq!(edges(), 1);
        while near.write(&[0; 4096]).is_ok() {}
        waiter.set_writing(&near, false).unwrap();
        while far.read(&mut [0; 65536]).is_ok() {}
        assert_eq!(edges(), 0);
    }
}
