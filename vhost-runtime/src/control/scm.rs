//! Bytes over a Unix socket, with file descriptors beside them (SCM_RIGHTS).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// Descriptors that Linux passes along at once (SCM_MAX_FD).
pub(super) const MOST: usize = 253;

/// Room for a control message with that many, aligned as its header wants to be.
type Ancillary = [u64; 132];

const fn size(fds: usize) -> u32 {
    fds.saturating_mul(size_of::<RawFd>()) as u32
}

const _: () = {
    // SAFETY: it only computes.
    assert!(unsafe { libc::CMSG_SPACE(size(MOST)) } as usize <= size_of::<Ancillary>());
};

/// Receives what is there, at most a buffer of it; 0 bytes at the end. Does not wait.
pub(super) fn receive(
    stream: &UnixStream,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut ancillary: Ancillary = [0; _];
    let mut bytes = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeroes is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut bytes;
    header.msg_iovlen = 1;
    header.msg_control = ancillary.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&ancillary) as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: everything that `header` points at outlives the call and is as long as it says.
    let count = unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut header, flags) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel filled `header`.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    // SAFETY: the macros stay within what the kernel wrote, and give null at its end.
    while let Some(message) = unsafe { next.as_ref() } {
        if message.cmsg_level == libc::SOL_SOCKET && message.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: it only computes.
            let head = unsafe { libc::CMSG_LEN(0) } as usize;
            let bytes = message.cmsg_len.saturating_sub(head);
            let number = bytes.checked_div(size_of::<RawFd>()).unwrap_or(0);
            for index in 0..number {
                // SAFETY: the message holds `number` descriptors, perhaps not aligned, and each of
                // them is new and nobody else's.
                fds.push(unsafe {
                    let place = libc::CMSG_DATA(next).cast::<RawFd>().add(index);
                    OwnedFd::from_raw_fd(place.read_unaligned())
                });
            }
        }
        // SAFETY: as above.
        next = unsafe { libc::CMSG_NXTHDR(&raw const header, next) };
    }
    if header.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::Error::other("descriptors were lost: this process may open no more"));
    }
    Ok(count)
}

/// Sends bytes, with descriptors beside the first of them. Returns how many bytes went.
pub(super) fn send(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if fds.len() > MOST {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut ancillary: Ancillary = [0; _];
    let mut iovec =
        libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all zeroes is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut iovec;
    header.msg_iovlen = 1;
    if !fds.is_empty() {
        header.msg_control = ancillary.as_mut_ptr().cast();
        // SAFETY: they only compute; the room was asserted above; the first header lies within it.
        unsafe {
            header.msg_controllen = libc::CMSG_SPACE(size(fds.len())) as _;
            let message = libc::CMSG_FIRSTHDR(&raw const header);
            (*message).cmsg_level = libc::SOL_SOCKET;
            (*message).cmsg_type = libc::SCM_RIGHTS;
            (*message).cmsg_len = libc::CMSG_LEN(size(fds.len())) as _;
            let place = libc::CMSG_DATA(message).cast::<RawFd>();
            for (index, fd) in fds.iter().enumerate() {
                place.add(index).write_unaligned(fd.as_raw_fd());
            }
        }
    }
    // SAFETY: everything that `header` points at outlives the call and is as long as it says.
    let count = unsafe { libc::sendmsg(stream.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}
