//! Cuts a frame into segments of TCP or datagrams of UDP, as its sender left it to be done.

use super::checksum::{Sum, carried};
use super::network_layer;
use super::offload::{Checksum, Protocol, Segmentation};

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Bytes of IPv6's header, and of UDP's.
const IPV6: usize = 40;
const UDP: usize = 8;
/// Bytes of all headers behind Ethernet's at most, and segments: those of TCP's least size (Linux: 48 bytes with
/// options) of the longest frame are fewer. With more, a few frames would be work for seconds.
const HEADERS: usize = 512;
const SEGMENTS: usize = 2048;
/// TCP's flags (RFC 9293, 3.1).
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Why a frame can't be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the frame is not what is to be cut")]
pub struct SegmentError;

/// Where a frame's parts begin.
struct Layers {
    ip: usize,
    ipv6: bool,
    udp: bool,
    transport: usize,
    payload: usize,
}

impl Layers {
    fn find(
        frame: &[u8],
        checksum: Checksum,
        segmentation: Segmentation,
    ) -> Result<Self, SegmentError> {
        let (ethertype, ip) = network_layer(frame).ok_or(SegmentError)?;
        let transport = usize::from(checksum.start);
        let ipv6 = match (ethertype, segmentation.protocol) {
            (ETHERTYPE_IPV4, Protocol::Tcp4 | Protocol::Udp) => false,
            (ETHERTYPE_IPV6, Protocol::Tcp6 | Protocol::Udp) => true,
            _ => return Err(SegmentError),
        };
        let byte = |at: usize| frame.get(at).copied().ok_or(SegmentError);
        let header =
            if ipv6 { IPV6 } else { usize::from(byte(ip)? & 0xf).saturating_mul(4).max(20) };
        let end = ip.saturating_add(header);
        if if ipv6 { transport < end } else { transport != end } {
            return Err(SegmentError);
        }
        let udp = segmentation.protocol == Protocol::Udp;
        let length = if udp {
            UDP
        } else {
            let offset = byte(transport.saturating_add(12))?;
            usize::from(offset >> 4).saturating_mul(4).max(20)
        };
        let payload = transport.saturating_add(length);
        if payload >= frame.len() || payload.saturating_sub(ip) > HEADERS {
            return Err(SegmentError);
        }
        Ok(Self { ip, ipv6, udp, transport, payload })
    }
}

fn put(frame: &mut [u8], at: usize, value: u16) {
    if let Some(field) = frame.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<2>) {
        *field = value.to_be_bytes();
    }
}

fn add(frame: &mut [u8], at: usize, value: u32) {
    if let Some(field) = frame.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<4>) {
        *field = u32::from_be_bytes(*field).wrapping_add(value).to_be_bytes();
    }
}

/// Cuts `frame`, and hands each segment to `emit`, whole and with its checksums, in `space`, until that wants
/// no more: `false`.
///
/// # Errors
/// It is not of that protocol; nothing was emitted then.
pub fn segment(
    frame: &[u8],
    checksum: Checksum,
    segmentation: Segmentation,
    space: &mut Vec<u8>,
    mut emit: impl FnMut(&[u8]) -> bool,
) -> Result<bool, SegmentError> {
    let layers = Layers::find(frame, checksum, segmentation)?;
    let (headers, payload) = frame.split_at_checked(layers.payload).ok_or(SegmentError)?;
    let size = usize::from(segmentation.size.max(1));
    let count = payload.len().div_ceil(size);
    if count > SEGMENTS {
        return Err(SegmentError);
    }
    for (number, part) in payload.chunks(size).enumerate() {
        space.clear();
        space.extend_from_slice(headers);
        space.extend_from_slice(part);
        let place = Place { first: number == 0, last: number.saturating_add(1) == count };
        // A payload has less than 2^16 bytes: so have the number and the offset.
        let number = u16::try_from(number).unwrap_or(u16::MAX);
        let offset = u32::from(number).saturating_mul(segmentation.size.into());
        network(space, &layers, number);
        if layers.udp {
            udp(space, &layers);
        } else {
            tcp(space, &layers, offset, place);
        }
        transport_checksum(space, &layers);
        if !emit(space) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[derive(Clone, Copy)]
struct Place {
    first: bool,
    last: bool,
}

/// The length from `at` on, as a header says it.
fn length_from(frame: &[u8], at: usize) -> u16 {
    u16::try_from(frame.len().saturating_sub(at)).unwrap_or(u16::MAX)
}

fn network(frame: &mut [u8], layers: &Layers, number: u16) {
    let Layers { ip, ipv6, transport, .. } = *layers;
    if ipv6 {
        let length = length_from(frame, ip.saturating_add(IPV6));
        put(frame, ip.saturating_add(4), length);
        return;
    }
    let length = length_from(frame, ip);
    put(frame, ip.saturating_add(2), length);
    let identification = ip.saturating_add(4);
    let field = frame.get(identification..).and_then(<[u8]>::first_chunk::<2>);
    let old = field.map_or(0, |field| u16::from_be_bytes(*field));
    put(frame, identification, old.wrapping_add(number));
    let sum = ip.saturating_add(10);
    put(frame, sum, 0);
    let checksum = Sum::default().with(frame.get(ip..transport).unwrap_or_default()).finish();
    put(frame, sum, checksum);
}

fn tcp(frame: &mut [u8], layers: &Layers, offset: u32, place: Place) {
    add(frame, layers.transport.saturating_add(4), offset);
    if let Some(flags) = frame.get_mut(layers.transport.saturating_add(13)) {
        if !place.last {
            *flags &= !(FIN | PSH);
        }
        if !place.first {
            *flags &= !CWR;
        }
    }
}

fn udp(frame: &mut [u8], layers: &Layers) {
    let length = length_from(frame, layers.transport);
    put(frame, layers.transport.saturating_add(4), length);
}

/// The sum over pseudo header (RFC 9293, 3.1; RFC 8200, 8.1), header and payload.
fn transport_checksum(frame: &mut [u8], layers: &Layers) {
    let Layers { ip, ipv6, udp, transport, .. } = *layers;
    let place = transport.saturating_add(if udp { 6 } else { 16 });
    put(frame, place, 0);
    let (from, to) = if ipv6 { (8, IPV6) } else { (12, 20) };
    let addresses = frame.get(ip.saturating_add(from)..ip.saturating_add(to)).unwrap_or_default();
    let sum = Sum::default()
        .with(addresses)
        .with_word(if udp { 17 } else { 6 })
        .with_word(length_from(frame, transport))
        .with(frame.get(transport..).unwrap_or_default());
    put(frame, place, carried(sum.finish()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A frame of TCP or UDP over IPv4 or IPv6, with `payload`.
    fn frame(ipv6: bool, udp: bool, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        let number = if udp { 17 } else { 6 };
        if ipv6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, number, 64]);
            frame.extend([0xfd; 32]);
        } else {
            frame.extend([0x08, 0, 0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, number, 0, 0]);
            frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        }
        if udp {
            frame.extend([0x10, 0, 0x20, 0, 0, 0, 0, 0]);
        } else {
            frame.extend([0x10, 0, 0x20, 0, 0, 0, 0, 100, 0, 0, 0, 0, 0x50]);
            frame.extend([FIN | PSH | CWR | 0x10, 1, 0, 0, 0, 0, 0]);
        }
        frame.extend(payload);
        frame
    }

    fn start(ipv6: bool) -> u16 {
        if ipv6 { 54 } else { 34 }
    }

    fn cut(ipv6: bool, udp: bool, payload: &[u8], size: u16) -> Vec<Vec<u8>> {
        let protocol = match (udp, ipv6) {
            (true, _) => Protocol::Udp,
            (false, true) => Protocol::Tcp6,
            (false, false) => Protocol::Tcp4,
        };
        let checksum = Checksum { start: start(ipv6), offset: if udp { 6 } else { 16 } };
        let segmentation = Segmentation { protocol, size, ecn: false };
        let mut segments = Vec::new();
        let whole = frame(ipv6, udp, payload);
        let mut emit = |segment: &[u8]| {
            segments.push(segment.to_vec());
            true
        };
        segment(&whole, checksum, segmentation, &mut Vec::new(), &mut emit).unwrap();
        segments
    }

    fn word(frame: &[u8], at: usize) -> u16 {
        u16::from_be_bytes([frame[at], frame[at + 1]])
    }

    #[test]
    fn tcp_has_its_sequence_numbers_and_flags() {
        let segments = cut(false, false, &[7; 250], 100);
        assert_eq!(segments.len(), 3);
        let sequence = |frame: &[u8]| u32::from_be_bytes(frame[38..42].try_into().unwrap());
        assert_eq!(
            segments.iter().map(|frame| sequence(frame)).collect::<Vec<_>>(),
            [100, 200, 300]
        );
        assert_eq!(segments.iter().map(|frame| frame[47]).collect::<Vec<_>>(), [0x90, 0x10, 0x19]);
        let identifications: Vec<_> = segments.iter().map(|frame| word(frame, 18)).collect();
        assert_eq!(identifications, [0x1234, 0x1235, 0x1236]);
        assert_eq!(
            segments.iter().map(|frame| word(frame, 16)).collect::<Vec<_>>(),
            [140, 140, 90]
        );
    }

    #[test]
    fn udp_has_its_lengths() {
        let segments = cut(true, true, &[7; 250], 100);
        assert_eq!(
            segments.iter().map(|frame| word(frame, 58)).collect::<Vec<_>>(),
            [108, 108, 58]
        );
        assert_eq!(
            segments.iter().map(|frame| word(frame, 18)).collect::<Vec<_>>(),
            [108, 108, 58]
        );
    }

    #[test]
    fn what_is_something_else_is_not_cut() {
        let checksum = Checksum { start: 34, offset: 16 };
        let try_cut = |frame: &[u8], checksum, protocol| {
            let segmentation = Segmentation { protocol, size: 10, ecn: false };
            segment(frame, checksum, segmentation, &mut Vec::new(), |_| true)
        };
        let tcp = frame(false, false, &[1; 30]);
        assert_eq!(try_cut(&tcp, checksum, Protocol::Tcp4), Ok(true));
        assert_eq!(try_cut(&tcp, checksum, Protocol::Tcp6), Err(SegmentError));
        assert_eq!(try_cut(&tcp, checksum, Protocol::UdpFragments), Err(SegmentError));
        assert_eq!(try_cut(&tcp[..54], checksum, Protocol::Tcp4), Err(SegmentError));
        let many = frame(false, false, &[1; 10 * SEGMENTS + 1]);
        assert_eq!(try_cut(&many, checksum, Protocol::Tcp4), Err(SegmentError));
        // Extension headers of IPv6 that are most of the frame.
        let mut long = frame(true, false, &[1; 2000]);
        long[1054 + 12] = 0x50;
        let deep = Checksum { start: 1054, offset: 16 };
        assert_eq!(try_cut(&long, deep, Protocol::Tcp6), Err(SegmentError));
        assert_eq!(
            try_cut(&tcp, Checksum { start: 36, ..checksum }, Protocol::Tcp4),
            Err(SegmentError)
        );
        assert_eq!(try_cut(&[0; 20], checksum, Protocol::Tcp4), Err(SegmentError));
    }

    proptest! {
        #[test]
        fn segments_carry_the_payload_and_right_checksums(
            ipv6: bool, udp: bool, payload in proptest::collection::vec(any::<u8>(), 1..3000), size in 2u16..1500,
        ) {
            let segments = cut(ipv6, udp, &payload, size);
            let start = usize::from(start(ipv6));
            let headers = start + if udp { 8 } else { 20 };
            let carried: Vec<u8> = segments.iter().flat_map(|frame| frame[headers..].to_vec()).collect();
            prop_assert_eq!(carried, payload);
            for frame in &segments {
                if !ipv6 {
                    prop_assert_eq!(Sum::default().with(&frame[14..34]).finish(), 0);
                }
                let addresses = if ipv6 { &frame[22..54] } else { &frame[26..34] };
                let length = u16::try_from(frame.len() - start).unwrap();
                let sum = Sum::default().with(addresses).with_word(if udp { 17 } else { 6 });
                prop_assert_eq!(sum.with_word(length).with(&frame[start..]).finish(), 0);
            }
        }

        #[test]
        fn no_frame_is_too_strange(
            frame in proptest::collection::vec(any::<u8>(), 0..200), start: u16, offset: u16, size in 1u16..100, which in 0..4,
        ) {
            let protocols = [Protocol::Tcp4, Protocol::Tcp6, Protocol::Udp, Protocol::UdpFragments];
            let segmentation = Segmentation { protocol: protocols[which as usize], size, ecn: true };
            let _ = segment(&frame, Checksum { start, offset }, segmentation, &mut Vec::new(), |_| true);
        }
    }
}
