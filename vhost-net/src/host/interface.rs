//! What the kernel says of an interface (rtnetlink(7); Linux, if_link.h).

use std::io;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

/// Bytes of an nlmsghdr, and of that and an ifinfomsg.
const HEADER: usize = 16;
const MESSAGE: usize = 32;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const NLM_F_REQUEST: u16 = 1;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_TUN_NUM_QUEUES: u16 = 8;

/// How many queues of a TAP interface are in use: others may be open, and get no frames. `None`: it has but one at
/// any time, or is none.
///
/// # Errors
/// The host refuses.
pub(super) fn queues_in_use(index: u32) -> io::Result<Option<u32>> {
    let mut request = [0; MESSAGE];
    let mut words = request.chunks_exact_mut(4);
    let parts = [
        u32::try_from(MESSAGE).unwrap_or(0).to_ne_bytes(),
        both(RTM_GETLINK, NLM_F_REQUEST),
        [0; 4],
        [0; 4],
        [0; 4],
        index.to_ne_bytes(),
    ];
    words.by_ref().zip(parts).for_each(|(to, from)| to.copy_from_slice(&from));
    let flags = SocketFlags::CLOEXEC;
    // The first of the protocols is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    sendto(&socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0; 1 << 15];
    let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    Ok(queues_in(answer.get(..length).unwrap_or_default()))
}

fn both(one: u16, other: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (one.to_ne_bytes(), other.to_ne_bytes());
    [a, b, c, d]
}

fn queues_in(answer: &[u8]) -> Option<u32> {
    let header: &[u8; HEADER] = answer.first_chunk()?;
    let &[_, _, _, _, low, high, ..] = header;
    if u16::from_ne_bytes([low, high]) != RTM_NEWLINK {
        return None;
    }
    let data = attribute(attribute(answer.get(MESSAGE..)?, IFLA_LINKINFO)?, IFLA_INFO_DATA)?;
    Some(u32::from_ne_bytes(*attribute(data, IFLA_TUN_NUM_QUEUES)?.first_chunk()?))
}

/// An attribute's value.
fn attribute(mut list: &[u8], wanted: u16) -> Option<&[u8]> {
    /// Bits of a kind that say how its value is written.
    const FLAGS: u16 = 0xc000;
    loop {
        let &[a, b, c, d] = list.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = list.get(4..length)?;
        if u16::from_ne_bytes([c, d]) & !FLAGS == wanted {
            return Some(value);
        }
        list = list.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_no_tap_has_no_queues() {
        // SAFETY: the name is a C string.
        let index = unsafe { libc::if_nametoindex(c"lo".as_ptr()) };
        assert_eq!(queues_in_use(index).unwrap(), None);
        assert_eq!(queues_in_use(0x7fff_ffff).unwrap(), None);
    }

    proptest::proptest! {
        #[test]
        fn any_answer_is_read(bytes: Vec<u8>) {
            let mut answer = [0; MESSAGE];
            answer[4] = 16;
            queues_in(&[&answer[..], &bytes].concat());
            queues_in(&bytes);
        }
    }
}
