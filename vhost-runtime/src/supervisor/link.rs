//! The serving process's way to its supervisor: a pair of sockets, a message a packet.
//!
//! A message is one byte of what it is; to keep and to forget also have a key (its length in two
//! bytes, then UTF-8) and, to keep, a description to the end and descriptors. All but the notice of a
//! VMM are answered by one byte. The serving process may have been taken over by a guest: what it sends is stored, or
//! dropped, and never looked into.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg,
    send, sendmsg, socketpair,
};

use super::keep::{DESCRIPTION, FDS, KEY, Keeper, Kept, Store};
use super::tell_systemd;
use crate::program::{ProgramError, Socket};

const READY: u8 = 1;
const ATTACHED: u8 = 2;
const KEEP: u8 = 3;
const FORGET: u8 = 4;

const DONE: u8 = 0;
const REFUSED: u8 = 1;

/// Bytes of the longest message.
const LONGEST: usize = 3 + KEY + DESCRIPTION;

/// What the supervisor has to know.
pub(super) enum Notice {
    /// VMMs can be served. Answered when the sockets listen.
    Ready,
    /// One is connected.
    Attached,
    /// Something that was dealt with.
    Other,
}

/// The supervisor's end.
pub(super) struct SupervisorEnd {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

/// The serving process's end.
#[derive(Debug)]
pub(super) struct ServingEnd {
    socket: OwnedFd,
}

/// Both ends; which process closes which is decided by what it drops.
pub(super) fn pair() -> Result<(SupervisorEnd, Link), Errno> {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    let (ours, theirs) = socketpair(AddressFamily::UNIX, kind, flags, None)?;
    let end = Arc::new(Mutex::new(ServingEnd { socket: theirs }));
    let link = Link { end: Some(end), kept: Mutex::default() };
    Ok((SupervisorEnd { socket: ours, buffer: Vec::new() }, link))
}

impl SupervisorEnd {
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Takes one message, if there is one.
    pub(super) fn receive(&mut self, store: &mut Store) -> Result<Option<Notice>, Errno> {
        self.buffer.resize(LONGEST, 0);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = {
            let mut parts = [IoSliceMut::new(&mut self.buffer)];
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            recvmsg(&self.socket, &mut parts, &mut control, flags)
        };
        let message = match received {
            Ok(message) if message.bytes == 0 => return Err(Errno::PIPE),
            Ok(message) => message,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut fds = Vec::new();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = part {
                fds.extend(rights);
            }
        }
        let whole = !message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
        let bytes = self.buffer.get(..message.bytes).unwrap_or_default();
        Ok(Some(match bytes.split_first() {
            Some((&READY, _)) => Notice::Ready,
            Some((&ATTACHED, _)) => Notice::Attached,
            Some((&KEEP, rest)) => {
                let kept = whole
                    && parse(rest)
                        .is_some_and(|(key, description)| store.keep(key, description, fds));
                self.answer(kept);
                Notice::Other
            }
            Some((&FORGET, rest)) => {
                if let Some((key, _)) = parse(rest) {
                    store.forget(key);
                }
                self.answer(true);
                Notice::Other
            }
            _ => Notice::Other,
        }))
    }

    /// Who does not take an answer does not get one.
    pub(super) fn answer(&self, done: bool) {
        let answer = [if done { DONE } else { REFUSED }];
        let _ = send(&self.socket, &answer, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}

/// A key, and what comes after it.
fn parse(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let (key, rest) = rest.split_at_checked(u16::from_le_bytes(*length).into())?;
    let key = str::from_utf8(key).ok().filter(|key| key.len() <= KEY)?;
    (rest.len() <= DESCRIPTION).then_some((key, rest))
}

pub(super) fn keep(key: &str, description: &[u8]) -> Vec<u8> {
    let length = u16::try_from(key.len()).unwrap_or(u16::MAX).to_le_bytes();
    [&[KEEP], length.as_slice(), key.as_bytes(), description].concat()
}

pub(super) fn forget(key: &str) -> Vec<u8> {
    let mut message = keep(key, &[]);
    if let Some(first) = message.first_mut() {
        *first = FORGET;
    }
    message
}

impl ServingEnd {
    /// Whether it was done.
    pub(super) fn ask(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<bool> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        sendmsg(&self.socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)?;
        let mut answer = [REFUSED];
        let (count, _) = recv(&self.socket, &mut answer, RecvFlags::empty())?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(answer == [DONE])
    }
}

/// A serving process's way to its supervisor, where there is one.
#[derive(Debug)]
pub struct Link {
    end: Option<Arc<Mutex<ServingEnd>>>,
    kept: Mutex<Vec<Kept>>,
}

impl Link {
    pub(super) fn alone() -> Self {
        Self { end: None, kept: Mutex::default() }
    }

    pub(super) fn with(self, kept: Vec<Kept>) -> Self {
        Self { kept: Mutex::new(kept), ..self }
    }

    /// All is open and the sandbox entered: others may find the sockets.
    ///
    /// # Errors
    /// One can't listen; with a supervisor, that is said there.
    pub fn ready(&self, sockets: &mut [&mut Socket]) -> Result<(), ProgramError> {
        let Some(end) = &self.end else {
            sockets.iter_mut().try_for_each(|socket| socket.publish())?;
            tell_systemd();
            return Ok(());
        };
        let end = end.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = |error| ProgramError::Host { what: "the supervisor does not answer", error };
        end.ask(&[READY], &[]).map(drop).map_err(lost)
    }

    /// A VMM is connected.
    pub fn attached(&self) {
        let Some(end) = &self.end else { return };
        let end = end.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = send(&end.socket, &[ATTACHED], SendFlags::NOSIGNAL) {
            log::debug!("the supervisor is not told: {error}");
        }
    }

    /// Has things kept that a process in this one's place will need.
    #[must_use]
    pub fn keeper(&self) -> Keeper {
        Keeper { link: self.end.clone() }
    }

    /// What processes before this one had kept, once. It stays kept. See [`Keeper`] for how far it
    /// can be trusted.
    #[must_use]
    pub fn kept(&self) -> Vec<Kept> {
        std::mem::take(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests;
