//! What the tests here share.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use lab::Error;
use lab::driver::NET_HEADER;
use lab::net::{Header, Net, Packets};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// A header that asks for nothing.
pub(crate) const NOTHING: [u8; NET_HEADER] = [0; NET_HEADER];
/// An experimental protocol (IEEE 802), which no host answers.
const PROTOCOL: [u8; 2] = [0x88, 0xb5];

/// A frame of this size, of bytes that no other has.
pub(crate) fn frame(size: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(PROTOCOL);
    frame.extend(noise(size as u64).take(size - 14));
    frame
}

/// One from station `from` to station `to`, or to all.
pub(crate) fn addressed(to: u8, from: u8, size: usize) -> Vec<u8> {
    let mut frame = frame(size);
    let to = if to == 0xff { [0xff; 6] } else { [2, 0, 0, 0, 0, to] };
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, from]);
    frame
}

/// Bytes that depend on a number.
pub(crate) fn noise(seed: u64) -> impl Iterator<Item = u8> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    })
}

/// Sends frames of these sizes, and checks that each comes back, but for its addresses.
pub(crate) fn comes_back(
    packets: &Packets,
    sizes: impl Iterator<Item = usize>,
) -> Result<(), Error> {
    for size in sizes {
        packets.send(Header::default(), &frame(size))?;
        let (_, back) = packets.receive(10 * SECOND)?.unwrap_or_else(|| panic!("{size} bytes"));
        assert!(back[12..] == frame(size)[12..], "{size} bytes");
    }
    Ok(())
}

/// Waits until the card gives frames to its driver: those that come before it does are dropped. DPDK's does not wait
/// for the process when it starts its rings.
pub(crate) fn await_driver(net: &Net) -> Result<(), Error> {
    let end = Instant::now() + 20 * SECOND;
    while net.ctl(&["list"])?[0]["queues-used"] == 0 {
        assert!(Instant::now() < end, "no ring is enabled");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// How many frames the first card's first pair of queues has dropped for a reason, of those in a direction.
#[track_caller]
pub(crate) fn dropped(net: &Net, direction: &str, why: &str) -> Result<u64, Error> {
    let stats = net.ctl(&["stats"])?;
    let count = &stats[0]["pairs"][0][direction]["dropped"][why];
    Ok(count.as_u64().unwrap_or_else(|| panic!("{why}: {stats}")))
}

/// Waits until the link is up, or down.
pub(crate) fn await_link(net: &Net, up: bool) -> Result<(), Error> {
    let end = Instant::now() + 20 * SECOND;
    while net.ctl(&["list"])?[0]["link"] != up {
        assert!(Instant::now() < end, "the link does not become {up}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Reads a frame as QEMU's and passt's streams have it.
pub(crate) fn read_frame(stream: &mut UnixStream) -> Vec<u8> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut frame).unwrap();
    frame
}
