//! What a guest says of its frames: virtio's header, and what is done with the frame for who takes nothing
//! unfinished. And control commands.
//!
//! Whatever comes: checksums and segments stay within the frame, a frame's payload goes over whole, and each
//! segment is shorter than the frame.

#![no_main]

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use vhost_net::frame::offload::{Accepted, LEGACY_HEADER, Offload};
use vhost_net::frame::{Ethernet, checksum, network_layer, segment};
use vhost_net::virtio::control::Command;

const ALL: Accepted =
    Accepted { checksum: true, tso4: true, tso6: true, ecn: true, ufo: true, uso: true };

fuzz_target!(|data: &[u8]| {
    let _ = run(&mut Unstructured::new(data));
});

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    if input.ratio(1, 4)? {
        let bytes = input.bytes(input.len())?;
        if let Some(Command::Table(stations, groups)) = Command::parse(bytes) {
            assert!((stations.len() + groups.len()) * 6 + 10 <= bytes.len());
        }
        return Ok(());
    }
    let header: [u8; LEGACY_HEADER] = input.arbitrary()?;
    let frame = input.bytes(input.len())?;
    let _ = Ethernet::parse(frame);
    assert!(network_layer(frame).is_none_or(|(_, at)| at <= frame.len()));
    let Ok(offload) = Offload::parse(header, frame.len(), &ALL) else { return Ok(()) };
    let Some(place) = offload.checksum else { return Ok(()) };
    let mut finished = frame.to_vec();
    checksum::complete(&mut finished, place);
    assert_eq!(finished.len(), frame.len());
    let Some(segmentation) = offload.segmentation else { return Ok(()) };
    let mut segments = Vec::new();
    let emit = |segment: &[u8]| {
        segments.push(segment.to_vec());
        true
    };
    if segment::segment(frame, place, segmentation, &mut Vec::new(), emit).is_ok() {
        let size = usize::from(segmentation.size);
        let [.., last] = segments.as_slice() else { panic!("no segment") };
        if let [first, _, ..] = segments.as_slice() {
            let headers = first.len() - size;
            let payload = frame.len() - headers;
            assert_eq!(segments.len(), payload.div_ceil(size));
            let rest = payload - (segments.len() - 1) * size;
            assert_eq!((last.len(), rest > 0), (headers + rest, true));
        } else {
            assert_eq!(last.len(), frame.len());
        }
    }
    Ok(())
}
