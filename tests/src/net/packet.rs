//! Frames into and out of a network interface, as they are (packet(7)).

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::Namespace;
use crate::Error;
use crate::error::Context;

/// What an interface knows of a frame besides its bytes: a `virtio_net_hdr`, in this machine's byte order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// VIRTIO_NET_HDR_F_…
    pub flags: u8,
    /// VIRTIO_NET_HDR_GSO_…
    pub gso_type: u8,
    /// The size of the headers, which each segment has.
    pub header_size: u16,
    /// The payload of each segment.
    pub segment_size: u16,
    /// Where the bytes start that a checksum is to be made of.
    pub checksum_start: u16,
    /// Where it is to go, from there.
    pub checksum_offset: u16,
}

/// Its size on the wire.
const HEADER: usize = 10;
/// What a frame can be at most: an IP packet, an Ethernet header with two tags, and the header above.
const FRAME: usize = 65535 + 22 + HEADER;
/// Of frames that nobody has received yet, as the kernel counts it.
const BACKLOG: libc::c_int = 64 << 20;

impl Header {
    /// VIRTIO_NET_HDR_F_NEEDS_CSUM: the checksum is to be made yet.
    pub const NEEDS_CHECKSUM: u8 = 1;
    /// VIRTIO_NET_HDR_GSO_TCPV4.
    pub const TCPV4: u8 = 1;
    /// VIRTIO_NET_HDR_GSO_TCPV6.
    pub const TCPV6: u8 = 4;

    /// A frame with a TCP segment of IPv4, larger than those that go on a wire, and its header: the
    /// sender has left it to the interface to cut it, and to make the checksum of TCP.
    ///
    /// # Errors
    /// The payload is too large for a packet of IP.
    pub fn tcp(payload: &[u8], segment_size: u16) -> Result<(Header, Vec<u8>), Error> {
        const ETHERNET: [u8; 14] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        const ADDRESSES: [u8; 8] = [192, 0, 2, 1, 192, 0, 2, 2];
        const TCP: u8 = 6;
        let size = |headers| {
            let size = u16::try_from(payload.len() + headers).map_err(io::Error::other);
            size.context(|| format!("{} bytes in a packet", payload.len()))
        };
        let mut ip = [0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, TCP, 0, 0].to_vec();
        ip[2..4].copy_from_slice(&size(40)?.to_be_bytes());
        ip.extend(ADDRESSES);
        let checksum = !sum(&ip);
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        // Ports, sequence numbers, an acknowledgement, a window. The checksum is so far that of TCP's pseudo-header.
        let mut tcp = [16, 0, 32, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 255, 255, 0, 0, 0, 0];
        let [high, low] = size(20)?.to_be_bytes();
        let pseudo = [&ADDRESSES[..], &[0, TCP, high, low]].concat();
        tcp[16..18].copy_from_slice(&sum(&pseudo).to_be_bytes());
        let header = Header {
            flags: Header::NEEDS_CHECKSUM,
            gso_type: Header::TCPV4,
            header_size: 54,
            segment_size,
            checksum_start: 34,
            checksum_offset: 16,
        };
        Ok((header, [&ETHERNET, ip.as_slice(), &tcp, payload].concat()))
    }

    fn to_bytes(self) -> [u8; HEADER] {
        let [a, b] = self.header_size.to_ne_bytes();
        let [c, d] = self.segment_size.to_ne_bytes();
        let [e, f] = self.checksum_start.to_ne_bytes();
        let [g, h] = self.checksum_offset.to_ne_bytes();
        [self.flags, self.gso_type, a, b, c, d, e, f, g, h]
    }

    fn from_bytes([flags, gso_type, a, b, c, d, e, f, g, h]: [u8; HEADER]) -> Header {
        Header {
            flags,
            gso_type,
            header_size: u16::from_ne_bytes([a, b]),
            segment_size: u16::from_ne_bytes([c, d]),
            checksum_start: u16::from_ne_bytes([e, f]),
            checksum_offset: u16::from_ne_bytes([g, h]),
        }
    }
}

/// A raw socket on an interface. It receives what the interface receives, but not what is sent from it.
#[derive(Debug)]
pub struct Packets {
    socket: File,
    interface: String,
}

impl Packets {
    /// A socket on an interface of a network; the interface must be there, and up.
    ///
    /// # Errors
    /// It is not, or this process is not root.
    pub fn open(network: &Namespace, interface: &str) -> Result<Packets, Error> {
        let socket = network.enter(|| open(interface))?;
        let socket = socket.context(|| format!("cannot open a packet socket on {interface}"))?;
        Ok(Packets { socket, interface: interface.to_owned() })
    }

    /// Sends a frame, which starts with its Ethernet header; waits while the interface's queue is full.
    ///
    /// # Errors
    /// The frame is larger than the interface's MTU, or the header says what can't be.
    pub fn send(&self, header: Header, frame: &[u8]) -> Result<(), Error> {
        let what = || format!("cannot send {} bytes from {}", frame.len(), self.interface);
        let bytes = [&header.to_bytes(), frame].concat();
        let sent = (&self.socket).write(&bytes).context(what)?;
        match sent == bytes.len() {
            true => Ok(()),
            false => Err(io::Error::from(io::ErrorKind::WriteZero)).context(what),
        }
    }

    /// Receives a frame; `None` if none comes within the time.
    ///
    /// # Errors
    /// The interface is down.
    pub fn receive(&self, limit: Duration) -> Result<Option<(Header, Vec<u8>)>, Error> {
        let receive = || {
            if !self.is_readable(limit)? {
                return Ok(None);
            }
            let mut bytes = vec![0; FRAME];
            let size = (&self.socket).read(&mut bytes)?;
            bytes.truncate(size);
            let frame = bytes.split_off(HEADER.min(size));
            let header = bytes.try_into().map_err(|_| io::ErrorKind::UnexpectedEof)?;
            Ok(Some((Header::from_bytes(header), frame)))
        };
        receive().context(|| format!("cannot receive from {}", self.interface))
    }

    fn is_readable(&self, limit: Duration) -> io::Result<bool> {
        let end = Instant::now() + limit;
        loop {
            let mut files = [PollFd::new(&self.socket, PollFlags::IN)];
            let left = end.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut files, Some(&left)) {
                Err(Errno::INTR) => {}
                other => return Ok(other? > 0),
            }
        }
    }
}

/// The sum that checksums of the Internet are made of (RFC 1071).
fn sum(bytes: &[u8]) -> u16 {
    bytes.chunks(2).fold(0, |sum: u16, pair| {
        let pair = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        let (sum, carry) = sum.overflowing_add(pair);
        sum + u16::from(carry)
    })
}

fn open(interface: &str) -> io::Result<File> {
    let all = u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?.to_be();
    // SAFETY: socket(2) takes integers.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it has just been made, and is nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let index = rustix::net::netdevice::name_to_index(socket.as_fd(), interface)?;
    set(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
    set(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BACKLOG)?;

    // Only from here on, with a protocol, does it receive.
    // SAFETY: all bytes zero are a valid address: it has numbers only.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    address.sll_protocol = all;
    address.sll_ifindex = index.cast_signed();
    let size = mem::size_of_val(&address);
    let size = libc::socklen_t::try_from(size).map_err(io::Error::other)?;
    // SAFETY: the address is one of this family, and of this size.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) };
    match bound {
        0 => Ok(File::from(socket)),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set(socket: &OwnedFd, level: i32, option: i32, value: libc::c_int) -> io::Result<()> {
    let size = libc::socklen_t::try_from(mem::size_of_val(&value)).map_err(io::Error::other)?;
    let (socket, value) = (socket.as_raw_fd(), (&raw const value).cast());
    // SAFETY: the value is an integer of this size, as all of these options take.
    match unsafe { libc::setsockopt(socket, level, option, value, size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
