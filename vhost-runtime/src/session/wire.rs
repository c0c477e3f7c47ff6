//! What `vhost`'s codec does not do: to skip messages that it does not know (it would end the
//! session), and to tell the frontend of configuration changes.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use vhost::vhost_user::message::{BackendReq, FrontendReq};

/// Bytes of a message's header.
const HEADER: usize = 12;
/// Payload bytes that a message may have.
const MAX_PAYLOAD: u32 = 0x1000;
const VERSION: u32 = 0x1;
const REPLY: u32 = 0x4;
const NEED_REPLY: u32 = 0x8;

/// A message's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) request: u32,
    flags: u32,
    size: u32,
}

impl Header {
    fn parse(bytes: [u8; HEADER]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = bytes;
        Self {
            request: u32::from_ne_bytes([a, b, c, d]),
            flags: u32::from_ne_bytes([e, f, g, h]),
            size: u32::from_ne_bytes([i, j, k, l]),
        }
    }

    fn bytes(self) -> Vec<u8> {
        [self.request, self.flags, self.size].into_iter().flat_map(u32::to_ne_bytes).collect()
    }
}

/// A message that waits in the socket.
pub(super) enum Peeked {
    /// `vhost` handles it.
    Known(Header),
    /// SET_BACKEND_REQ_FD: `vhost` handles it too, but this is our own end of the channel.
    BackendChannel(UnixStream),
    /// SET_VRING_ENABLE, which QEMU's network card sends before SET_FEATURES too: `vhost` would end the session.
    Enable(Header),
    /// `vhost` would end the session.
    Foreign(Header),
}

/// Waits for a message and looks at it, leaving it where it is. `None`: the frontend hung up.
pub(super) fn peek(stream: BorrowedFd<'_>) -> io::Result<Option<Peeked>> {
    let mut bytes = [0; HEADER];
    let Some(mut fds) = peek_bytes(stream, &mut bytes)? else { return Ok(None) };
    let header = Header::parse(bytes);
    let is = |request: FrontendReq| header.request == u32::from(request);
    if is(FrontendReq::SET_BACKEND_REQ_FD)
        && let Some(fd) = fds.pop()
    {
        return Ok(Some(Peeked::BackendChannel(UnixStream::from(fd))));
    }
    if is(FrontendReq::SET_VRING_ENABLE) {
        return Ok(Some(Peeked::Enable(header)));
    }
    let foreign = [
        FrontendReq::SET_LOG_FD,
        FrontendReq::SEND_RARP,
        FrontendReq::NET_SET_MTU,
        FrontendReq::IOTLB_MSG,
        FrontendReq::SET_VRING_ENDIAN,
        FrontendReq::CREATE_CRYPTO_SESSION,
        FrontendReq::CLOSE_CRYPTO_SESSION,
        FrontendReq::POSTCOPY_ADVISE,
        FrontendReq::POSTCOPY_LISTEN,
        FrontendReq::POSTCOPY_END,
        FrontendReq::VRING_KICK,
        FrontendReq::SET_STATUS,
        FrontendReq::GET_STATUS,
    ];
    let known = header.request != 0 && header.request <= u32::from(FrontendReq::GET_SHMEM_CONFIG);
    if !known || foreign.into_iter().any(is) {
        return Ok(Some(Peeked::Foreign(header)));
    }
    Ok(Some(Peeked::Known(header)))
}

/// Fills `bytes` from the front of the socket without taking them, and duplicates the descriptors
/// that came with them.
fn peek_bytes(stream: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<Option<Vec<OwnedFd>>> {
    loop {
        let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        // Room for what the kernel passes in one message at most (SCM_MAX_FD).
        let mut control = [0u64; 160];
        // SAFETY: all zeroes is a valid msghdr.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        let flags = libc::MSG_PEEK | libc::MSG_WAITALL | libc::MSG_CMSG_CLOEXEC;
        // SAFETY: the message's buffers outlive the call.
        let count = unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut message, flags) };
        let fds = if count >= 0 { received_fds(&message) } else { Vec::new() };
        match usize::try_from(count) {
            Err(_) => {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::Interrupted => continue,
                    io::ErrorKind::ConnectionReset => return Ok(None),
                    _ => return Err(error),
                }
            }
            Ok(0) => return Ok(None),
            Ok(count) if count < bytes.len() => {
                // The rest of the header is on its way, or never comes.
                if !wait_for_more(stream)? {
                    return Ok(None);
                }
            }
            Ok(_) => return Ok(Some(fds)),
        }
    }
}

/// A peek does not wait for a whole header: it is tried again a little later. `false`: hung up.
fn wait_for_more(stream: BorrowedFd<'_>) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: stream.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one pollfd, which outlives the call.
    match unsafe { libc::poll(&raw mut poll, 1, 10) } {
        0 => Ok(true),
        1 => Ok(false),
        _ => Err(io::Error::last_os_error()),
    }
}

fn received_fds(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: `message` was filled by recvmsg and its control buffer is alive; the macros stay
    // within msg_controllen, and each descriptor found is ours alone.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while let Some(control) = header.as_ref() {
            if control.cmsg_level == libc::SOL_SOCKET && control.cmsg_type == libc::SCM_RIGHTS {
                let data = libc::CMSG_DATA(control).cast::<libc::c_int>();
                let start = libc::CMSG_LEN(0) as usize;
                let count =
                    control.cmsg_len.saturating_sub(start).div_euclid(size_of::<libc::c_int>());
                for index in 0..count {
                    let fd = data.wrapping_add(index).read_unaligned();
                    fds.push(OwnedFd::from_raw_fd(fd));
                }
            }
            header = libc::CMSG_NXTHDR(message, control);
        }
    }
    fds
}

/// Takes a message out of the socket, and gives its payload.
pub(super) fn take(stream: &UnixStream, header: &Header) -> io::Result<Vec<u8>> {
    if header.size > MAX_PAYLOAD {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message of an impossible size"));
    }
    // Descriptors that came with it are closed by the kernel: a plain read does not take them.
    let size = usize::try_from(header.size).unwrap_or(0);
    let mut message = vec![0; HEADER.saturating_add(size)];
    let mut reader = stream;
    reader.read_exact(&mut message)?;
    Ok(message.split_off(HEADER))
}

/// Says that a message was followed, or refused, where the frontend wants to know.
pub(super) fn acknowledge(
    mut stream: &UnixStream,
    header: &Header,
    followed: bool,
) -> io::Result<()> {
    if header.flags & NEED_REPLY == 0 {
        return Ok(());
    }
    let reply = Header { request: header.request, flags: VERSION | REPLY, size: 8 };
    let mut bytes = reply.bytes();
    bytes.extend(u64::from(!followed).to_ne_bytes());
    stream.write_all(&bytes)
}

/// Tells the frontend that the configuration space has changed.
pub(super) fn send_config_change(mut stream: &UnixStream) -> io::Result<()> {
    let request = u32::from(BackendReq::CONFIG_CHANGE_MSG);
    stream.write_all(&Header { request, flags: VERSION, size: 0 }.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn message(request: u32, flags: u32, payload: &[u8]) -> Vec<u8> {
        let header = Header { request, flags, size: payload.len() as u32 };
        [header.bytes(), payload.to_vec()].concat()
    }

    #[test]
    fn an_unknown_message_is_skipped_and_refused() {
        let (mut frontend, backend) = UnixStream::pair().unwrap();
        frontend.write_all(&message(4711, VERSION | NEED_REPLY, b"payload")).unwrap();
        frontend.write_all(&message(1, VERSION, b"")).unwrap();
        let Some(Peeked::Foreign(header)) = peek(backend.as_fd()).unwrap() else { panic!() };
        assert_eq!(take(&backend, &header).unwrap(), b"payload");
        acknowledge(&backend, &header, false).unwrap();
        let mut reply = [0; 20];
        frontend.read_exact(&mut reply).unwrap();
        assert_eq!(reply.to_vec(), message(4711, VERSION | REPLY, &1u64.to_ne_bytes()));
        assert!(matches!(peek(backend.as_fd()).unwrap(), Some(Peeked::Known(_))));
    }

    #[test]
    fn a_header_may_come_in_pieces() {
        let (mut frontend, backend) = UnixStream::pair().unwrap();
        let bytes = message(1, VERSION, b"");
        frontend.write_all(&bytes[..5]).unwrap();
        let late = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(30));
            frontend.write_all(&bytes[5..]).unwrap();
            frontend
        });
        assert!(matches!(peek(backend.as_fd()).unwrap(), Some(Peeked::Known(_))));
        drop(late.join().unwrap());
    }

    #[test]
    fn half_a_header_and_then_nothing_is_a_hang_up() {
        let (mut frontend, backend) = UnixStream::pair().unwrap();
        frontend.write_all(&[1, 0, 0]).unwrap();
        drop(frontend);
        assert!(peek(backend.as_fd()).unwrap().is_none());
    }

    #[test]
    fn an_impossible_size_ends_the_session() {
        let (_frontend, backend) = UnixStream::pair().unwrap();
        let header = Header { request: 99, flags: VERSION, size: u32::MAX };
        assert!(take(&backend, &header).is_err());
    }
}
