//! Lists of pieces of memory, as the host's system calls take them: where a frame comes from, or goes.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::{io, ptr};

use vhost_runtime::chain::Buffers;

/// Pieces in a list at most (IOV_MAX).
const MOST: usize = 1024;

/// A list of pieces, each a guest's or our own, for as long as those are borrowed.
///
/// A guest may change its pieces at any time: what is read of them is read once.
#[derive(Debug)]
pub struct Space<'a> {
    list: &'a mut Vec<libc::iovec>,
    length: usize,
}

impl<'a> Space<'a> {
    /// An empty one, with the place that a former one had.
    pub fn new(list: &'a mut Vec<libc::iovec>) -> Self {
        list.clear();
        Self { list, length: 0 }
    }

    /// With a guest's buffers behind the others. `false`: they are in too many pieces, and are left out.
    pub fn add(&mut self, buffers: Buffers<'a>) -> bool {
        let (pieces, length) = (self.list.len(), self.length);
        for piece in buffers.iovecs() {
            // Two are for what is ours.
            if self.list.len() >= MOST.saturating_sub(2) {
                self.list.truncate(pieces);
                self.length = length;
                return false;
            }
            self.length = self.length.saturating_add(piece.iov_len);
            self.list.push(piece);
        }
        true
    }

    /// Copies from behind its first `skip` bytes; returns how many there were.
    pub fn peek(&self, mut skip: usize, target: &mut [u8]) -> usize {
        let mut done: usize = 0;
        for piece in self.list.iter() {
            let here = skip.min(piece.iov_len);
            skip = skip.saturating_sub(here);
            let Some(rest) = target.get_mut(done..) else { break };
            let count = piece.iov_len.saturating_sub(here).min(rest.len());
            let from = piece.iov_base.cast::<u8>().wrapping_add(here);
            // SAFETY: `count` bytes from there are within the piece, which is borrowed for 'a, and within
            // `rest`, which is not the guest's.
            unsafe { ptr::copy_nonoverlapping(from, rest.as_mut_ptr(), count) };
            done = done.saturating_add(count);
        }
        done
    }

    /// With memory of our own behind the others.
    pub fn add_own(&mut self, own: &'a mut [u8]) {
        self.length = self.length.saturating_add(own.len());
        self.list.push(libc::iovec { iov_base: own.as_mut_ptr().cast(), iov_len: own.len() });
    }

    /// With memory of our own behind the others, which is only read: such a space is not to be read into.
    pub fn add_prefix(&mut self, own: &'a [u8]) {
        self.length = self.length.saturating_add(own.len());
        let base = own.as_ptr().cast_mut().cast();
        self.list.push(libc::iovec { iov_base: base, iov_len: own.len() });
    }

    /// A copy of all but the first `count` bytes.
    #[must_use]
    pub fn rest(&self, count: usize) -> Vec<u8> {
        let mut all = vec![0; self.length];
        let mut done: usize = 0;
        for piece in self.list.iter() {
            let Some(to) = all.get_mut(done..).and_then(|rest| rest.get_mut(..piece.iov_len))
            else {
                break;
            };
            // SAFETY: the piece is borrowed for 'a, and `to`, which is as long, is not the guest's.
            unsafe { ptr::copy_nonoverlapping(piece.iov_base.cast(), to.as_mut_ptr(), to.len()) };
            done = done.saturating_add(piece.iov_len);
        }
        all.split_off(count.min(all.len()))
    }

    /// Bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// No bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Reads from a descriptor into it; returns how many bytes.
    ///
    /// # Errors
    /// What the host said.
    pub fn read(&mut self, from: BorrowedFd<'_>) -> io::Result<usize> {
        let count = self.list.len().min(MOST).try_into().unwrap_or(0);
        // SAFETY: the pieces are borrowed for 'a, and writable where something is read into them.
        done(unsafe { libc::readv(from.as_raw_fd(), self.list.as_ptr(), count) })
    }

    /// Writes all of it to a descriptor; returns how many bytes. What fits into `copy` goes through it: for a
    /// frame of an ordinary size a copy costs less than the kernel's walk over several pieces.
    ///
    /// # Errors
    /// What the host said.
    pub fn write(&self, to: BorrowedFd<'_>, copy: &mut [u8]) -> io::Result<usize> {
        if let Some(copy) = copy.get_mut(..self.length) {
            self.peek(0, copy);
            return Ok(rustix::io::write(to, copy)?);
        }
        let count = self.list.len().min(MOST).try_into().unwrap_or(0);
        // SAFETY: the pieces are borrowed for 'a.
        done(unsafe { libc::writev(to.as_raw_fd(), self.list.as_ptr(), count) })
    }

    fn message(&self) -> libc::msghdr {
        // SAFETY: all zeroes is a valid msghdr.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = self.list.as_ptr().cast_mut();
        message.msg_iovlen = self.list.len().min(MOST);
        message
    }

    /// Sends all of it to a socket, which does not block.
    ///
    /// # Errors
    /// What the host said.
    pub fn send(&self, to: BorrowedFd<'_>) -> io::Result<usize> {
        let (message, flags) = (self.message(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
        // SAFETY: the pieces are borrowed for 'a, and outlive the message.
        done(unsafe { libc::sendmsg(to.as_raw_fd(), &raw const message, flags) })
    }

    /// Receives a datagram, which does not block; returns its length, though not all of it may fit.
    ///
    /// # Errors
    /// What the host said.
    pub fn receive(&mut self, from: BorrowedFd<'_>) -> io::Result<usize> {
        let (mut message, flags) = (self.message(), libc::MSG_DONTWAIT | libc::MSG_TRUNC);
        // SAFETY: as in `send`, and nobody else uses those that are our own.
        done(unsafe { libc::recvmsg(from.as_raw_fd(), &raw mut message, flags) })
    }

    /// Copies to its front; returns how many bytes there was room for.
    pub fn fill(&mut self, source: &[u8]) -> usize {
        let mut rest = source;
        for piece in self.list.iter() {
            let count = piece.iov_len.min(rest.len());
            // SAFETY: `count` is within the piece, which is borrowed for 'a, and within `rest`, which is
            // not the guest's: they don't overlap.
            unsafe { ptr::copy_nonoverlapping(rest.as_ptr(), piece.iov_base.cast(), count) };
            rest = rest.get(count..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
        }
        source.len().saturating_sub(rest.len())
    }

    /// Copies a guest's buffers to its front; returns how many bytes there was room for.
    pub fn fill_from(&mut self, source: Buffers<'_>) -> usize {
        let mut pieces = self.list.iter().map(|piece| (piece.iov_base.cast::<u8>(), piece.iov_len));
        let (mut to, mut room) = pieces.next().unwrap_or((ptr::null_mut(), 0));
        let mut done: usize = 0;
        for piece in source.iovecs() {
            let (mut from, mut left) = (piece.iov_base.cast::<u8>().cast_const(), piece.iov_len);
            while left > 0 {
                if room == 0 {
                    match pieces.next() {
                        Some(next) => (to, room) = next,
                        None => return done,
                    }
                    continue;
                }
                let count = left.min(room);
                // SAFETY: `count` is within both pieces, which are borrowed; a guest's may overlap.
                unsafe { ptr::copy(from, to, count) };
                (from, to) = (from.wrapping_add(count), to.wrapping_add(count));
                (left, room) = (left.saturating_sub(count), room.saturating_sub(count));
                done = done.saturating_add(count);
            }
        }
        done
    }
}

fn done(count: isize) -> io::Result<usize> {
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn what_is_copied_goes_on_in_the_next_piece() {
        let (mut a, mut b) = ([0; 3], [0; 4]);
        let mut list = Vec::new();
        let mut space = Space::new(&mut list);
        space.add_own(&mut a);
        space.add_own(&mut b);
        assert_eq!(space.len(), 7);
        assert_eq!(space.fill(b"abcde"), 5);
        assert_eq!(space.fill(b"abcdefghij"), 7);
        let mut peeked = [0; 3];
        assert_eq!((space.peek(2, &mut peeked), &peeked), (3, b"cde"));
        assert_eq!(space.peek(6, &mut peeked), 1);
        assert_eq!(space.peek(9, &mut peeked), 0);
        assert_eq!((&a, &b), (b"abc", b"defg"));
    }

    #[test]
    fn frames_come_and_go_in_pieces() {
        let (one, other) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let (mut out, mut space_out) = (*b"cdefgh", Vec::new());
        let mut space = Space::new(&mut space_out);
        space.add_prefix(b"ab");
        space.add_own(&mut out);
        assert_eq!(space.send(one.as_fd()).unwrap(), 8);
        let (mut a, mut b, mut list) = ([0; 3], [0; 3], Vec::new());
        let mut space = Space::new(&mut list);
        space.add_own(&mut a);
        space.add_own(&mut b);
        assert_eq!(space.receive(other.as_fd()).unwrap(), 8, "more than fits");
        assert!(space.receive(other.as_fd()).is_err());
        assert_eq!((&a, &b), (b"abc", b"def"));
    }
}
