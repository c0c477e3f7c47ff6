//! A peer to which each frame goes behind its length, in four bytes, over a stream: QEMU's `-netdev stream`,
//! passt, gvproxy.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::space::Space;
use super::{Received, Sent};
use crate::frame::LONGEST;

/// Bytes of a frame's length.
const PREFIX: usize = 4;
/// Bytes that are received at once: some of the longest frames.
pub(super) const BUFFER: usize = 256 << 10;

/// Whether the peer has closed its end, and all that it sent was read.
pub(super) fn has_ended(stream: &OwnedFd) -> bool {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    !matches!(recv(stream, &mut [0; 1][..], flags), Ok((1.., _)) | Err(Errno::AGAIN | Errno::INTR))
}

/// A stream, cut into frames, and put together of frames.
#[derive(Debug)]
pub(super) struct Framing {
    received: Vec<u8>,
    /// What of it was not taken yet.
    from: usize,
    to: usize,
    /// What of a frame the host did not take yet.
    unsent: Vec<u8>,
}

impl Framing {
    /// With room for so many bytes.
    pub(super) fn new(room: usize) -> Self {
        Self { received: vec![0; room], from: 0, to: 0, unsent: Vec::new() }
    }

    /// Forgets what a connection that is no more has left.
    pub(super) fn clear(&mut self) {
        (self.from, self.to) = (0, 0);
        self.unsent.clear();
    }

    /// Something of a frame is still to be sent.
    pub(super) fn is_full(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Sends what is left. `true`: all of it.
    pub(super) fn flush(&mut self, to: BorrowedFd<'_>) -> io::Result<bool> {
        while !self.unsent.is_empty() {
            let flags = rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT;
            match rustix::net::send(to, &self.unsent, flags) {
                Ok(count) => drop(self.unsent.drain(..count.min(self.unsent.len()))),
                Err(rustix::io::Errno::AGAIN) => return Ok(false),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// What goes before a frame of `length` bytes.
    pub(super) fn prefix(length: usize) -> [u8; PREFIX] {
        u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
    }

    /// Sends a frame behind its prefix, whole, or keeps what the host does not take of it.
    pub(super) fn send(&mut self, to: BorrowedFd<'_>, frame: &Space<'_>) -> io::Result<Sent> {
        if self.is_full() && !self.flush(to)? {
            return Ok(Sent::Full);
        }
        match frame.send(to) {
            Ok(count) if count < frame.len() => {
                self.unsent = frame.rest(count);
                Ok(Sent::Done)
            }
            Ok(_) => Ok(Sent::Done),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Sent::Full),
            Err(error) => Err(error),
        }
    }

    /// The next frame that is whole.
    fn next(&mut self) -> io::Result<Option<(usize, usize)>> {
        let waiting = self.received.get(self.from..self.to).unwrap_or_default();
        let Some((prefix, rest)) = waiting.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
        if length > LONGEST {
            let text = format!("a frame of {length} bytes was announced");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        if rest.len() < length {
            return Ok(None);
        }
        let start = self.from.saturating_add(PREFIX);
        self.from = start.saturating_add(length);
        Ok(Some((start, self.from)))
    }

    /// Receives a frame.
    pub(super) fn receive(
        &mut self,
        from: BorrowedFd<'_>,
        space: &mut Space<'_>,
    ) -> io::Result<Received> {
        loop {
            if let Some((start, end)) = self.next()? {
                let frame = self.received.get(start..end).unwrap_or_default();
                space.fill(frame);
                return Ok(Received::Frame { length: frame.len(), header: None });
            }
            // Room for the rest of the frame that has begun.
            self.received.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to.saturating_sub(self.from));
            let room = self.received.get_mut(self.to..).unwrap_or_default();
            match rustix::net::recv(from, room, rustix::net::RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((_, count)) => self.to = self.to.saturating_add(count),
                Err(rustix::io::Errno::AGAIN) => return Ok(Received::Nothing),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn frame(length: usize) -> Vec<u8> {
        (0..length).map(|place| place as u8).collect()
    }

    fn receive(framing: &mut Framing, from: &UnixStream) -> io::Result<Option<Vec<u8>>> {
        let (mut memory, mut list) = (vec![0; LONGEST], Vec::new());
        let mut space = Space::new(&mut list);
        space.add_own(&mut memory);
        Ok(match framing.receive(from.as_fd(), &mut space)? {
            Received::Frame { length, .. } => Some(memory[..length].to_vec()),
            _ => None,
        })
    }

    #[test]
    fn frames_are_cut_out_however_they_come() {
        let (mut far, near) = UnixStream::pair().unwrap();
        let mut framing = Framing::new(BUFFER);
        let mut stream = Vec::new();
        for length in [0usize, 13, 60, 1514, LONGEST] {
            stream.extend((length as u32).to_be_bytes());
            stream.extend(frame(length));
        }
        let mut received = Vec::new();
        for part in stream.chunks(777) {
            far.write_all(part).unwrap();
            while let Some(frame) = receive(&mut framing, &near).unwrap() {
                received.push(frame);
            }
        }
        let expected: Vec<_> = [0, 13, 60, 1514, LONGEST].map(frame).to_vec();
        assert_eq!(received, expected);
        far.write_all(&[0, 2, 0, 0]).unwrap();
        assert!(receive(&mut framing, &near).is_err(), "longer than any frame");
        framing.clear();
        drop(far);
        assert!(receive(&mut framing, &near).is_err());
    }

    #[test]
    fn a_frame_that_the_host_takes_half_of_is_sent_whole() {
        let (mut far, near) = UnixStream::pair().unwrap();
        let mut framing = Framing::new(BUFFER);
        let mut sent = 0;
        loop {
            let (mut bytes, mut list) = (frame(LONGEST), Vec::new());
            let prefix = Framing::prefix(bytes.len());
            let mut space = Space::new(&mut list);
            space.add_prefix(&prefix);
            space.add_own(&mut bytes);
            match framing.send(near.as_fd(), &space).unwrap() {
                Sent::Done => sent += 1,
                Sent::Full => break,
            }
        }
        let mut expected = (LONGEST as u32).to_be_bytes().to_vec();
        expected.extend(frame(LONGEST));
        let reader = std::thread::spawn(move || {
            for _ in 0..sent {
                let mut bytes = vec![0; 4 + LONGEST];
                far.read_exact(&mut bytes).unwrap();
                assert!(bytes == expected);
            }
            far
        });
        while !framing.flush(near.as_fd()).unwrap() {
            std::thread::yield_now();
        }
        reader.join().unwrap();
    }
}
