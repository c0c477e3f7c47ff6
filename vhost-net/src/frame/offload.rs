//! What a frame's sender left to others: `struct virtio_net_hdr` (virtio 1.3, 5.1.6).
//!
//! A header that a guest wrote is read once and becomes an [`Offload`], which can't be wrong about the frame
//! that it belongs to.

use super::ETHERNET;

/// Bytes of the header with `num_buffers`, which it has if VERSION_1 or MRG_RXBUF is negotiated.
pub const HEADER: usize = 12;
/// Bytes of the header of a legacy driver.
pub const LEGACY_HEADER: usize = 10;

/// Where a checksum is missing: the sum over all from `start` on belongs `offset` bytes behind that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// Bytes into the frame.
    pub start: u16,
    /// Bytes from there.
    pub offset: u16,
}

impl Checksum {
    /// Where the sum belongs, in bytes into the frame.
    #[must_use]
    pub fn place(self) -> usize {
        usize::from(self.start).saturating_add(self.offset.into())
    }
}

/// Which protocol a frame is to be cut into segments of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP over IPv4 (TSO4).
    Tcp4,
    /// TCP over IPv6 (TSO6).
    Tcp6,
    /// UDP in IP fragments (UFO).
    UdpFragments,
    /// UDP in datagrams of their own (USO).
    Udp,
}

/// How a frame is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmentation {
    /// Of which protocol it is.
    pub protocol: Protocol,
    /// Payload bytes of each segment but the last: not 0.
    pub size: u16,
    /// TCP's congestion window reduced flag is for the first segment alone.
    pub ecn: bool,
}

/// What is left to be done with a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// A checksum is missing.
    pub checksum: Option<Checksum>,
    /// It is longer than the medium allows; its checksum is missing, too.
    pub segmentation: Option<Segmentation>,
}

/// Which offloads one side takes from the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Missing checksums.
    pub checksum: bool,
    /// TCP over IPv4.
    pub tso4: bool,
    /// TCP over IPv6.
    pub tso6: bool,
    /// TCP with congestion window reduced.
    pub ecn: bool,
    /// UDP in fragments.
    pub ufo: bool,
    /// UDP in datagrams.
    pub uso: bool,
}

impl Accepted {
    /// Whether it takes a frame with this left to do.
    #[must_use]
    pub fn takes(&self, offload: &Offload) -> bool {
        let segmentation = offload.segmentation.is_none_or(|segmentation| {
            let protocol = match segmentation.protocol {
                Protocol::Tcp4 => self.tso4,
                Protocol::Tcp6 => self.tso6,
                Protocol::UdpFragments => self.ufo,
                Protocol::Udp => self.uso,
            };
            protocol && (self.ecn || !segmentation.ecn)
        });
        segmentation && (self.checksum || offload.checksum.is_none())
    }
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Less than an Ethernet header.
    #[error("a frame of {0} bytes")]
    Short(usize),
    /// The checksum's place, or what it is of, is past the end.
    #[error("a checksum at {start}+{offset} of a frame of {length} bytes")]
    Checksum {
        /// `csum_start`.
        start: u16,
        /// `csum_offset`.
        offset: u16,
        /// Bytes.
        length: usize,
    },
    /// An unknown `gso_type`.
    #[error("segmentation of an unknown type {0:#x}")]
    Type(u8),
    /// Segments of 0 bytes, no missing checksum, or headers that fill the frame.
    #[error("segments of {size} bytes of a frame of {length} bytes")]
    Segments {
        /// `gso_size`.
        size: u16,
        /// Bytes.
        length: usize,
    },
    /// It was not negotiated.
    #[error("an offload that was not negotiated")]
    Refused,
}

/// `flags`.
const NEEDS_CSUM: u8 = 1;
/// `gso_type`.
const GSO_NONE: u8 = 0;
const GSO_TCP4: u8 = 1;
const GSO_UDP: u8 = 3;
const GSO_TCP6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

impl Offload {
    /// Whether a header says that its frame is to be cut.
    #[must_use]
    pub fn is_segmented([_, gso_type, ..]: &[u8; HEADER]) -> bool {
        gso_type & !GSO_ECN != GSO_NONE
    }

    /// Reads a driver's header for a frame of `length` bytes. Flags that mean nothing here are ignored.
    ///
    /// # Errors
    /// See [`HeaderError`].
    pub fn parse(
        header: [u8; LEGACY_HEADER],
        length: usize,
        accepted: &Accepted,
    ) -> Result<Self, HeaderError> {
        let [flags, gso_type, _, _, size_low, size_high, start_low, start_high, low, high] = header;
        if length < ETHERNET {
            return Err(HeaderError::Short(length));
        }
        let checksum = (flags & NEEDS_CSUM != 0).then_some(Checksum {
            start: u16::from_le_bytes([start_low, start_high]),
            offset: u16::from_le_bytes([low, high]),
        });
        if let Some(checksum) = checksum
            && checksum.place().saturating_add(2) > length
        {
            let Checksum { start, offset } = checksum;
            return Err(HeaderError::Checksum { start, offset, length });
        }
        let size = u16::from_le_bytes([size_low, size_high]);
        let protocol = match gso_type & !GSO_ECN {
            GSO_NONE => None,
            GSO_TCP4 => Some(Protocol::Tcp4),
            GSO_TCP6 => Some(Protocol::Tcp6),
            GSO_UDP => Some(Protocol::UdpFragments),
            GSO_UDP_L4 => Some(Protocol::Udp),
            _ => return Err(HeaderError::Type(gso_type)),
        };
        let ecn = gso_type & GSO_ECN != 0;
        let segmentation = protocol.map(|protocol| Segmentation { protocol, size, ecn });
        if segmentation.is_some() && (size == 0 || checksum.is_none()) {
            return Err(HeaderError::Segments { size, length });
        }
        let offload = Self { checksum, segmentation };
        if accepted.takes(&offload) { Ok(offload) } else { Err(HeaderError::Refused) }
    }

    /// The header for a frame of `length` bytes.
    #[must_use]
    pub fn header(&self, length: usize) -> [u8; HEADER] {
        let mut flags = 0;
        let (mut start, mut offset) = (0, 0);
        if let Some(checksum) = self.checksum {
            flags = NEEDS_CSUM;
            (start, offset) = (checksum.start, checksum.offset);
        }
        let (mut kind, mut size, mut headers) = (GSO_NONE, 0, 0);
        if let Some(segmentation) = self.segmentation {
            kind = match segmentation.protocol {
                Protocol::Tcp4 => GSO_TCP4,
                Protocol::Tcp6 => GSO_TCP6,
                Protocol::UdpFragments => GSO_UDP,
                Protocol::Udp => GSO_UDP_L4,
            };
            if segmentation.ecn {
                kind |= GSO_ECN;
            }
            size = segmentation.size;
            // A hint: what is sure to be headers.
            headers = usize::from(start).saturating_add(usize::from(offset)).saturating_add(2);
            headers = headers.min(length);
        }
        let [a, b] = u16::try_from(headers).unwrap_or(0).to_le_bytes();
        let ([c, d], [e, f], [g, h]) =
            (size.to_le_bytes(), start.to_le_bytes(), offset.to_le_bytes());
        [flags, kind, a, b, c, d, e, f, g, h, 0, 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: Accepted =
        Accepted { checksum: true, tso4: true, tso6: true, ecn: true, ufo: true, uso: true };

    fn header(flags: u8, kind: u8, size: u16, start: u16, offset: u16) -> [u8; LEGACY_HEADER] {
        let ([a, b], [c, d], [e, f]) =
            (size.to_le_bytes(), start.to_le_bytes(), offset.to_le_bytes());
        [flags, kind, 0xff, 0xff, a, b, c, d, e, f]
    }

    #[test]
    fn a_header_is_what_the_standard_says() {
        let parsed = Offload::parse(header(1, 0x81, 1448, 34, 16), 64000, &ALL).unwrap();
        let segmentation = Segmentation { protocol: Protocol::Tcp4, size: 1448, ecn: true };
        let checksum = Checksum { start: 34, offset: 16 };
        let expected = Offload { checksum: Some(checksum), segmentation: Some(segmentation) };
        assert_eq!(parsed, expected);
        assert_eq!(expected.header(64000), [1, 0x81, 52, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0]);
        assert_eq!(Offload::default().header(60), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Offload::parse(header(2, 0, 9, 9, 9), 60, &ALL), Ok(Offload::default()));
    }

    #[test]
    fn wrong_headers_are_told_apart() {
        let parse = |header, length| Offload::parse(header, length, &ALL).unwrap_err();
        assert_eq!(parse(header(0, 0, 0, 0, 0), 13), HeaderError::Short(13));
        let past = HeaderError::Checksum { start: 50, offset: 9, length: 60 };
        assert_eq!(parse(header(1, 0, 0, 50, 9), 60), past);
        assert!(matches!(parse(header(1, 0, 0, 0xffff, 0xffff), 60), HeaderError::Checksum { .. }));
        assert_eq!(parse(header(1, 7, 1, 34, 16), 60), HeaderError::Type(7));
        let segments = |size| HeaderError::Segments { size, length: 60 };
        assert_eq!(parse(header(1, 1, 0, 34, 16), 60), segments(0));
        assert_eq!(parse(header(0, 1, 9, 34, 16), 60), segments(9));
    }

    #[test]
    fn what_was_not_negotiated_is_refused() {
        let without = |change: fn(&mut Accepted)| {
            let mut accepted = ALL;
            change(&mut accepted);
            accepted
        };
        for (kind, accepted) in [
            (0, without(|accepted| accepted.checksum = false)),
            (1, without(|accepted| accepted.tso4 = false)),
            (3, without(|accepted| accepted.ufo = false)),
            (4, without(|accepted| accepted.tso6 = false)),
            (5, without(|accepted| accepted.uso = false)),
            (0x81, without(|accepted| accepted.ecn = false)),
        ] {
            let parse = |accepted| Offload::parse(header(1, kind, 9, 34, 6), 60, accepted);
            assert!(parse(&ALL).is_ok(), "{kind}");
            assert_eq!(parse(&accepted), Err(HeaderError::Refused), "{kind}");
        }
    }

    proptest! {
        #[test]
        fn what_is_parsed_is_within_the_frame(bytes: [u8; LEGACY_HEADER], length in 0usize..70000) {
            if let Ok(offload) = Offload::parse(bytes, length, &ALL) {
                prop_assert!(offload.checksum.is_none_or(|checksum| checksum.place() + 2 <= length));
                prop_assert!(offload.segmentation.is_none_or(|segmentation| segmentation.size > 0));
                let [header @ .., _, _] = offload.header(length);
                prop_assert_eq!(Offload::parse(header, length, &ALL), Ok(offload));
            }
        }
    }
}
