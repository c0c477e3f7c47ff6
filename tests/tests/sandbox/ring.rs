//! The smallest frontend that has a command executed: one queue, one request at a time.

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const SET_FEATURES: u32 = 2;
const SET_OWNER: u32 = 3;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const GET_VRING_BASE: u32 = 11;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;

const VERSION_1: u64 = 1 << 32;
/// The first request queue.
const QUEUE: u32 = 2;
const SIZE: u16 = 8;
const MEMORY: u64 = 1 << 20;
/// Where things are in the guest's memory, which is at the same addresses for the frontend.
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const REQUEST: u64 = 0x4000;
const RESPONSE: u64 = 0x5000;
const DATA: u64 = 0x10000;

/// Which way a command's data moves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Data<'a> {
    Out(&'a [u8]),
    In(u32),
}

/// A controller that is being driven.
pub(crate) struct Driven {
    stream: UnixStream,
    memory: File,
    kick: File,
    call: File,
    done: u16,
}

impl Driven {
    pub(crate) fn start(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // SAFETY: the name outlives the call; each call returns a descriptor that is ours alone.
        let [memory, kick, call] = unsafe {
            let memory = libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC);
            [memory, libc::eventfd(0, 0), libc::eventfd(0, 0)].map(|fd| {
                assert!(fd >= 0);
                File::from(OwnedFd::from_raw_fd(fd))
            })
        };
        memory.set_len(MEMORY).unwrap();
        let driven = Self { stream, memory, kick, call, done: 0 };
        driven.send(SET_OWNER, &[], None);
        driven.send(SET_FEATURES, &VERSION_1.to_le_bytes(), None);
        let region = [1, 0, MEMORY, 0, 0].map(u64::to_le_bytes).concat();
        driven.send(SET_MEM_TABLE, &region, Some(driven.memory.as_fd()));
        let state = |value: u32| [QUEUE, value].map(u32::to_le_bytes).concat();
        driven.send(SET_VRING_NUM, &state(SIZE.into()), None);
        driven.send(SET_VRING_BASE, &state(0), None);
        let flags = [QUEUE, 0].map(u32::to_le_bytes).concat();
        let addresses = [DESCRIPTORS, USED, AVAILABLE, 0].map(u64::to_le_bytes).concat();
        driven.send(SET_VRING_ADDR, &[flags, addresses].concat(), None);
        let queue = u64::from(QUEUE).to_le_bytes();
        driven.send(SET_VRING_CALL, &queue, Some(driven.call.as_fd()));
        driven.send(SET_VRING_KICK, &queue, Some(driven.kick.as_fd()));
        driven
    }

    fn send(&self, request: u32, payload: &[u8], fd: Option<BorrowedFd<'_>>) {
        let length = u32::try_from(payload.len()).unwrap();
        let message =
            [[request, 1, length].map(u32::to_le_bytes).concat(), payload.to_vec()].concat();
        let Some(fd) = fd else { return (&self.stream).write_all(&message).unwrap() };
        let mut iov = IoSlice::new(&message);
        let mut control = [0u64; 4];
        // SAFETY: all zeroes is a valid msghdr; its buffers outlive the call; the control message
        // fits its buffer.
        let sent = unsafe {
            let mut header: libc::msghdr = std::mem::zeroed();
            header.msg_iov = (&raw mut iov).cast();
            header.msg_iovlen = 1;
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = libc::CMSG_SPACE(4) as usize;
            let first = libc::CMSG_FIRSTHDR(&raw const header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(4) as usize;
            libc::CMSG_DATA(first).cast::<i32>().write_unaligned(fd.as_raw_fd());
            libc::sendmsg(self.stream.as_raw_fd(), &raw const header, 0)
        };
        assert_eq!(sent, message.len().cast_signed());
    }

    fn write(&self, bytes: &[u8], address: u64) {
        self.memory.write_all_at(bytes, address).unwrap();
    }

    fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.memory.read_exact_at(&mut bytes, address).unwrap();
        bytes
    }

    fn describe(&self, index: u64, address: u64, length: u32, flags: u16) {
        let next = u16::try_from(index + 1).unwrap();
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.write(&bytes, DESCRIPTORS + 16 * index);
    }

    /// Has a command executed on target 0, LUN 0; it must end with GOOD.
    pub(crate) fn command(&mut self, cdb: &[u8], data: Data<'_>) -> Vec<u8> {
        const NEXT: u16 = 1;
        const WRITE: u16 = 2;
        let mut request = [0; 51];
        request[..4].copy_from_slice(&[1, 0, 0x40, 0]);
        request[19..19 + cdb.len()].copy_from_slice(cdb);
        self.write(&request, REQUEST);
        self.describe(0, REQUEST, 51, NEXT);
        let length = match data {
            Data::Out(bytes) => {
                self.write(bytes, DATA);
                self.describe(1, DATA, u32::try_from(bytes.len()).unwrap(), NEXT);
                self.describe(2, RESPONSE, 108, WRITE);
                0
            }
            Data::In(length) => {
                self.describe(1, RESPONSE, 108, NEXT | WRITE);
                self.describe(2, DATA, length, WRITE);
                length
            }
        };
        if matches!(data, Data::Out([]) | Data::In(0)) {
            self.describe(0, REQUEST, 51, NEXT);
            self.describe(1, RESPONSE, 108, WRITE);
        }
        // The entry is always 0: the chain that begins at the first descriptor.
        self.done = self.done.wrapping_add(1);
        self.write(&self.done.to_le_bytes(), AVAILABLE + 2);
        self.kick.write_all(&1u64.to_ne_bytes()).unwrap();
        let mut poll = libc::pollfd { fd: self.call.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, which outlives the call.
        assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 10_000) }, 1, "{cdb:x?}: no answer");
        self.call.read_exact(&mut [0; 8]).unwrap();
        assert_eq!(u16::from_le_bytes(self.read(USED + 2)), self.done);
        let response: [u8; 30] = self.read(RESPONSE);
        // A unit attention tells of a new start, and is told once.
        if response[10] == 2 && response[14] & 0xf == 6 {
            return self.command(cdb, data);
        }
        assert_eq!(response[10..12], [0, 0], "{cdb:x?}: status, response; {:x?}", &response[12..]);
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        self.memory.read_exact_at(&mut bytes, DATA).unwrap();
        bytes
    }

    /// Stops the ring.
    pub(crate) fn stop(mut self) {
        self.send(GET_VRING_BASE, &[QUEUE, 0].map(u32::to_le_bytes).concat(), None);
        let mut answer = [0; 20];
        self.stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[16..18], self.done.to_le_bytes());
    }
}
