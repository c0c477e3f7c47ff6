//! A loop that writes to an interface and reads from it, from memory: nothing can be faster that uses it.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::time::Instant;

use lab::driver::NET_HEADER;

use crate::TIME;
use crate::load::Load;

/// Frames that a guest has under way.
const FRAMES: usize = 256;

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;

/// Opens the interface as vhost-net does.
pub(crate) fn open(name: &str) -> File {
    let tap = File::options().read(true).write(true).open("/dev/net/tun").expect("/dev/net/tun");
    let mut request = [0_u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request[16..18].copy_from_slice(&(flags as u16).to_ne_bytes());
    let size = NET_HEADER as libc::c_int;
    // SAFETY: a struct ifreq has 40 bytes, a name and flags first; the second takes an integer (checksums, and
    // TCP of both kinds), the third an int's address.
    unsafe {
        assert_eq!(libc::ioctl(tap.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()), 0);
        assert_eq!(libc::ioctl(tap.as_raw_fd(), TUNSETOFFLOAD, 7 as libc::c_ulong), 0);
        assert_eq!(libc::ioctl(tap.as_raw_fd(), TUNSETVNETHDRSZ, &raw const size), 0);
    }
    tap
}

/// Writes for the time; returns how many frames.
pub(crate) fn write(tap: &mut File, load: &Load) -> u64 {
    let (header, frame) = load.frame(0xff, 1);
    // As many as a guest has: what is written again and again would be in the processor's cache.
    let frames = vec![[&header[..], &frame].concat(); FRAMES];
    let begun = Instant::now();
    let mut count = 0;
    while begun.elapsed() < TIME {
        for bytes in &frames {
            tap.write_all(bytes).expect("the interface takes all");
            count += 1;
        }
    }
    count
}

/// Reads for the time; returns how many frames.
pub(crate) fn read(tap: &mut File) -> u64 {
    let mut frames = vec![vec![0; 70_000]; FRAMES];
    let begun = Instant::now();
    let mut count = 0;
    while begun.elapsed() < TIME {
        for bytes in &mut frames {
            match tap.read(bytes) {
                Ok(_) => count += 1,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    count
}
