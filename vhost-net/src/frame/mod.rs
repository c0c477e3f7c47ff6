//! Ethernet frames, and what can be left undone in them.
//!
//! - [`Mac`], [`Ethernet`]: a frame's first bytes;
//! - [`offload`]: what a frame's sender left to others, as virtio's header says it;
//! - [`checksum`], [`segment`]: doing it, for a receiver that does not.

pub mod checksum;
pub mod offload;
pub mod segment;

use std::fmt;
use std::str::FromStr;

/// Bytes of an Ethernet header without a VLAN tag.
pub const ETHERNET: usize = 14;
/// Bytes of a VLAN tag.
pub const VLAN_TAG: usize = 4;
/// The longest frame: an IP packet of 64 KiB in Ethernet, with two VLAN tags.
pub const LONGEST: usize = ETHERNET + 2 * VLAN_TAG + 0xffff;
/// Bytes that most frames have at most: longer ones are segments that nobody has cut yet, or of media for them.
pub const ORDINARY: usize = 2048;

/// The longest frame of a medium with this MTU.
#[must_use]
pub fn longest(mtu: u16) -> usize {
    usize::from(mtu).saturating_add(ETHERNET + 2 * VLAN_TAG)
}

const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// All stations.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// A group's address, as [`BROADCAST`](Self::BROADCAST) is.
    #[must_use]
    pub fn is_group(self) -> bool {
        let Self([first, ..]) = self;
        first & 1 != 0
    }

    /// A locally administered address (IEEE 802, 8.4) that is always the same for a name on this host, and hardly
    /// that of another name or host.
    #[must_use]
    pub fn of_name(name: &str) -> Self {
        // Where the host has no number, names alone must do.
        let host = std::fs::read("/etc/machine-id").unwrap_or_default();
        let bytes = host.iter().chain(name.as_bytes());
        // FNV-1a, which does not change from version to version.
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let [a, b, c, d, e, ..] = hash.to_be_bytes();
        Self([0x02, a, b, c, d, e])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([a, b, c, d, e, g]) = self;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || String::from("write it as six bytes, 52:54:00:12:34:56");
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| matches!(part.len(), 1 | 2)).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() {
            return Err(wrong());
        }
        let mac = Self(bytes);
        if mac.is_group() || mac == Self([0; 6]) {
            return Err(String::from(
                "a card's own address is not zero, and its first byte is even",
            ));
        }
        Ok(mac)
    }
}

/// What a frame's first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    /// To whom.
    pub destination: Mac,
    /// From whom.
    pub source: Mac,
    /// The VLAN's number, where there is a tag of IEEE 802.1Q's, of which drivers say which they want.
    pub vlan: Option<u16>,
}

impl Ethernet {
    /// The bytes that it takes.
    pub const BYTES: usize = ETHERNET + VLAN_TAG;

    /// `None`: the frame is too short for a header.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let (destination, rest) = frame.split_first_chunk::<6>()?;
        let (source, rest) = rest.split_first_chunk::<6>()?;
        let (ethertype, rest) = rest.split_first_chunk::<2>()?;
        let vlan = match u16::from_be_bytes(*ethertype) {
            ETHERTYPE_VLAN => rest.first_chunk().map(|tag| u16::from_be_bytes(*tag) & 0xfff),
            _ => None,
        };
        Some(Self { destination: Mac(*destination), source: Mac(*source), vlan })
    }
}

/// Where the network layer begins, and its EtherType, past all VLAN tags.
#[must_use]
pub fn network_layer(frame: &[u8]) -> Option<(u16, usize)> {
    let mut at: usize = 12;
    for _ in 0..3 {
        let ethertype = u16::from_be_bytes(*frame.get(at..)?.first_chunk()?);
        at = at.saturating_add(2);
        if !matches!(ethertype, ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN) {
            return Some((ethertype, at));
        }
        at = at.saturating_add(2);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        let mac: Mac = "52:54:00:12:34:56".parse().unwrap();
        assert_eq!(mac, Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]));
        assert_eq!(mac.to_string(), "52:54:00:12:34:56");
        for wrong in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:56:78",
            "53:54:00:12:34:56",
            "0:0:0:0:0:0",
            "+2:54:00:12:34:56x",
            "525:4:00:12:34:56",
        ] {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn tags_are_found_and_passed_over() {
        let mut frame = vec![0xff; 6];
        frame.extend([2, 0, 0, 0, 0, 1, 0x81, 0, 0x20, 0x0a, 0x08, 0, 0x45]);
        let header = Ethernet::parse(&frame).unwrap();
        assert_eq!((header.destination, header.vlan), (Mac::BROADCAST, Some(10)));
        assert_eq!(network_layer(&frame), Some((0x0800, 18)));
        assert_eq!(network_layer(&frame[..16]), None);
        assert!(Ethernet::parse(&frame[..13]).is_none());
        assert_eq!(Ethernet::parse(&frame[..14]).unwrap().vlan, None);
        frame[12..14].copy_from_slice(&[0x88, 0xa8]);
        assert_eq!(Ethernet::parse(&frame).unwrap().vlan, None);
        assert_eq!(network_layer(&frame), Some((0x0800, 18)));
    }
}
