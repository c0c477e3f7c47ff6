//! A client's connection: whole messages in, whole answers out, and nobody waits for the client.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, recvmsg, send,
};

use super::wire::{FDS, HEADER, Header};

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    /// The client has closed it.
    #[error("the client has disconnected")]
    Closed,
    /// What comes can't be followed.
    #[error("what the client sends is no message of vfio-user")]
    Malformed,
    /// More than it was told.
    #[error("a message has more than {FDS} descriptors")]
    Descriptors,
    /// The host says so.
    #[error("the connection is lost: {0}")]
    Host(#[from] Errno),
}

/// A command, whole.
pub(super) struct Message {
    pub(super) header: Header,
    pub(super) body: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

/// A connection.
pub(super) struct Connection {
    stream: UnixStream,
    /// What has come of a message.
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
    /// What the client has not taken of an answer.
    unsent: Vec<u8>,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, bytes: Vec::new(), fds: Vec::new(), unsent: Vec::new() }
    }

    /// It waits for the client to take an answer: until then nothing is received.
    pub(super) fn is_full(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// A message, once all of it has come.
    pub(super) fn receive(&mut self) -> Result<Option<Message>, Lost> {
        self.flush()?;
        while !self.is_full() {
            let (header, length) = match self.bytes.len() {
                ..HEADER => (None, HEADER),
                _ => {
                    let (header, body) = Header::parse(&self.bytes).ok_or(Lost::Malformed)?;
                    (Some(header), body.saturating_add(HEADER))
                }
            };
            let missing = length.saturating_sub(self.bytes.len());
            if let (Some(header), 0) = (header, missing) {
                let body = self.bytes.split_off(HEADER);
                self.bytes.clear();
                return Ok(Some(Message { header, body, fds: std::mem::take(&mut self.fds) }));
            }
            // No more than is missing: descriptors are with the message that they belong to.
            if !self.take(missing)? {
                break;
            }
        }
        Ok(None)
    }

    /// `false`: there is nothing now.
    fn take(&mut self, most: usize) -> Result<bool, Lost> {
        let filled = self.bytes.len();
        self.bytes.resize(filled.saturating_add(most), 0);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = {
            let (_, free) = self.bytes.split_at_mut(filled);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            recvmsg(&self.stream, &mut [IoSliceMut::new(free)], &mut control, flags)
        };
        let count = received.as_ref().map_or(0, |message| message.bytes);
        self.bytes.truncate(filled.saturating_add(count));
        let message = match received {
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            received => received?,
        };
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = part {
                self.fds.extend(rights);
            }
        }
        if self.fds.len() > FDS || message.flags.contains(ReturnFlags::CTRUNC) {
            return Err(Lost::Descriptors);
        }
        if count == 0 { Err(Lost::Closed) } else { Ok(true) }
    }

    /// Answers.
    pub(super) fn send(&mut self, answer: &[u8]) -> Result<(), Lost> {
        self.unsent.extend(answer);
        self.flush()
    }

    fn flush(&mut self) -> Result<(), Lost> {
        while self.is_full() {
            match send(&self.stream, &self.unsent, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => drop(self.unsent.drain(..count.min(self.unsent.len()))),
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(Lost::Closed),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
