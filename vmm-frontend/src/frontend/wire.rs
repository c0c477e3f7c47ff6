//! What `vhost`'s frontend cannot send.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use vhost::vhost_user::Error;
use vhost::vhost_user::message::{FrontendReq, VhostUserHeaderFlag};

const VERSION: u32 = 1;
/// Bytes of a header, and of an acknowledgement's payload.
const HEADER: usize = 12;
const ACKNOWLEDGEMENT: usize = 8;

/// SET_VRING_BASE, of which `vhost` sends no more than the 16 bits that a split ring has.
pub(super) fn set_vring_base(
    mut stream: &UnixStream,
    queue: u16,
    base: u32,
    acknowledged: bool,
) -> vhost::Result<()> {
    let request = u32::from(FrontendReq::SET_VRING_BASE);
    let need_reply = if acknowledged { VhostUserHeaderFlag::NEED_REPLY.bits() } else { 0 };
    let words = [request, VERSION | need_reply, 8, queue.into(), base];
    let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
    stream.write_all(&bytes).map_err(failed)?;
    if !acknowledged {
        return Ok(());
    }
    let mut reply = [0; HEADER + ACKNOWLEDGEMENT];
    stream.read_exact(&mut reply).map_err(failed)?;
    let (header, payload) = reply.split_at(HEADER);
    let flags = VERSION | VhostUserHeaderFlag::REPLY.bits();
    let expected: Vec<u8> = [request, flags, 8].into_iter().flat_map(u32::to_ne_bytes).collect();
    if header != expected {
        return Err(vhost::Error::VhostUserProtocol(Error::InvalidMessage));
    }
    match payload.iter().all(|&byte| byte == 0) {
        true => Ok(()),
        false => Err(vhost::Error::VhostUserProtocol(Error::BackendInternalError)),
    }
}

fn failed(error: io::Error) -> vhost::Error {
    vhost::Error::VhostUserProtocol(Error::SocketError(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_of_32_bits_is_sent_and_acknowledged() {
        for (reply, good) in [(0u64, true), (1, false)] {
            let (stream, mut other) = UnixStream::pair().unwrap();
            let words = [10u32, 5, 8].into_iter().flat_map(u32::to_ne_bytes);
            other.write_all(&words.chain(reply.to_ne_bytes()).collect::<Vec<u8>>()).unwrap();
            assert_eq!(set_vring_base(&stream, 3, 0x8001_8002, true).is_ok(), good);
            let mut sent = [0; 20];
            other.read_exact(&mut sent).unwrap();
            let words = [10u32, 9, 8, 3, 0x8001_8002].into_iter().flat_map(u32::to_ne_bytes);
            assert_eq!(sent.to_vec(), words.collect::<Vec<u8>>());
        }
    }
}
