//! Feature bits (virtio 1.3, 5.1.3), by the names that QEMU's users know, and what each needs.

use std::str::FromStr;

use virtio_bindings::bindings::virtio_config::{VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED};
use virtio_bindings::bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_MAC_ADDR,
    VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_RX_EXTRA, VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_F_CTRL_VQ,
    VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN,
    VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_UFO,
    VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_UFO, VIRTIO_NET_F_HOST_USO,
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU,
    VIRTIO_NET_F_SPEED_DUPLEX, VIRTIO_NET_F_STATUS,
};
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};

use crate::frame::offload::Accepted;

/// A set of feature bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(pub u64);

const fn bit(number: u32) -> u64 {
    1 << number
}

pub(super) const CSUM: u64 = bit(VIRTIO_NET_F_CSUM);
pub(super) const GUEST_CSUM: u64 = bit(VIRTIO_NET_F_GUEST_CSUM);
pub(super) const GUEST_OFFLOADS: u64 = bit(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS);
pub(super) const MTU: u64 = bit(VIRTIO_NET_F_MTU);
pub(super) const MAC: u64 = bit(VIRTIO_NET_F_MAC);
pub(super) const GUEST_TSO4: u64 = bit(VIRTIO_NET_F_GUEST_TSO4);
pub(super) const GUEST_TSO6: u64 = bit(VIRTIO_NET_F_GUEST_TSO6);
pub(super) const GUEST_ECN: u64 = bit(VIRTIO_NET_F_GUEST_ECN);
pub(super) const GUEST_UFO: u64 = bit(VIRTIO_NET_F_GUEST_UFO);
pub(super) const GUEST_USO: u64 = bit(VIRTIO_NET_F_GUEST_USO4) | bit(VIRTIO_NET_F_GUEST_USO6);
pub(super) const HOST_TSO4: u64 = bit(VIRTIO_NET_F_HOST_TSO4);
pub(super) const HOST_TSO6: u64 = bit(VIRTIO_NET_F_HOST_TSO6);
pub(super) const HOST_ECN: u64 = bit(VIRTIO_NET_F_HOST_ECN);
pub(super) const HOST_UFO: u64 = bit(VIRTIO_NET_F_HOST_UFO);
pub(super) const HOST_USO: u64 = bit(VIRTIO_NET_F_HOST_USO);
pub(super) const MRG_RXBUF: u64 = bit(VIRTIO_NET_F_MRG_RXBUF);
pub(super) const STATUS: u64 = bit(VIRTIO_NET_F_STATUS);
pub(super) const CTRL_VQ: u64 = bit(VIRTIO_NET_F_CTRL_VQ);
pub(super) const CTRL_RX: u64 = bit(VIRTIO_NET_F_CTRL_RX);
pub(super) const CTRL_VLAN: u64 = bit(VIRTIO_NET_F_CTRL_VLAN);
pub(super) const CTRL_RX_EXTRA: u64 = bit(VIRTIO_NET_F_CTRL_RX_EXTRA);
pub(super) const GUEST_ANNOUNCE: u64 = bit(VIRTIO_NET_F_GUEST_ANNOUNCE);
pub(super) const MQ: u64 = bit(VIRTIO_NET_F_MQ);
pub(super) const CTRL_MAC_ADDR: u64 = bit(VIRTIO_NET_F_CTRL_MAC_ADDR);
pub(super) const SPEED_DUPLEX: u64 = bit(VIRTIO_NET_F_SPEED_DUPLEX);

/// What is checksummed and cut for the guest, or by it.
const OFFLOADS: u64 = CSUM
    | GUEST_CSUM
    | GUEST_TSO4
    | GUEST_TSO6
    | GUEST_ECN
    | GUEST_USO
    | HOST_TSO4
    | HOST_TSO6
    | HOST_ECN
    | HOST_USO;
const FRAGMENTS: u64 = GUEST_UFO | HOST_UFO;
/// Whatever the host's side is.
const ALWAYS: u64 = MAC
    | MRG_RXBUF
    | STATUS
    | CTRL_VQ
    | CTRL_RX
    | CTRL_VLAN
    | CTRL_RX_EXTRA
    | CTRL_MAC_ADDR
    | GUEST_ANNOUNCE;

/// A feature's name, its bits, and the bits that it needs (5.1.3.1).
type Named = (&'static str, u64, u64);

/// As QEMU's properties of the same device are called.
const NAMES: [Named; 28] = [
    ("csum", CSUM, 0),
    ("guest_csum", GUEST_CSUM, 0),
    ("guest_tso4", GUEST_TSO4, GUEST_CSUM),
    ("guest_tso6", GUEST_TSO6, GUEST_CSUM),
    ("guest_ecn", GUEST_ECN, GUEST_CSUM),
    ("guest_ufo", GUEST_UFO, GUEST_CSUM),
    ("guest_uso", GUEST_USO, GUEST_CSUM),
    ("host_tso4", HOST_TSO4, CSUM),
    ("host_tso6", HOST_TSO6, CSUM),
    ("host_ecn", HOST_ECN, CSUM),
    ("host_ufo", HOST_UFO, CSUM),
    ("host_uso", HOST_USO, CSUM),
    ("mrg_rxbuf", MRG_RXBUF, 0),
    ("status", STATUS, 0),
    ("ctrl_vq", CTRL_VQ, 0),
    ("ctrl_rx", CTRL_RX, CTRL_VQ),
    ("ctrl_vlan", CTRL_VLAN, CTRL_VQ),
    ("ctrl_rx_extra", CTRL_RX_EXTRA, CTRL_VQ),
    ("ctrl_mac_addr", CTRL_MAC_ADDR, CTRL_VQ),
    ("ctrl_guest_offloads", GUEST_OFFLOADS, CTRL_VQ),
    ("guest_announce", GUEST_ANNOUNCE, CTRL_VQ),
    ("mq", MQ, CTRL_VQ),
    ("mac", MAC, 0),
    ("speed", SPEED_DUPLEX, 0),
    ("packed", bit(VIRTIO_F_RING_PACKED), 0),
    ("in_order", bit(VIRTIO_F_IN_ORDER), 0),
    ("indirect_desc", bit(VIRTIO_RING_F_INDIRECT_DESC), 0),
    ("event_idx", bit(VIRTIO_RING_F_EVENT_IDX), 0),
];

/// Features that are switched off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Off(u64);

impl Off {
    /// Those of the rings', whatever the device is.
    #[must_use]
    pub fn rings(self) -> u64 {
        let rings = NAMES.iter().rev().take(4);
        self.0 & rings.fold(0, |all, (_, bits, _)| all | bits)
    }
}

impl FromStr for Off {
    type Err = String;

    /// From `csum=off,mq=off`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut off = 0;
        for part in text.split(',') {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let Some((_, bits, _)) = NAMES.iter().find(|(known, ..)| *known == name) else {
                let names: Vec<_> = NAMES.iter().map(|(name, ..)| *name).collect();
                return Err(format!("there is no feature {name}; there are {}", names.join(", ")));
            };
            match value {
                "on" => off &= !bits,
                "off" => off |= bits,
                _ => return Err(format!("{name} must be on or off")),
            }
        }
        Ok(Self(off))
    }
}

/// What a host's side can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// Checksums and TCP segments are left to it, and it leaves them to the guest.
    pub offloads: bool,
    /// UDP in datagrams, too.
    pub datagrams: bool,
    /// UDP in fragments, too.
    pub fragments: bool,
    /// What the guest takes can be changed while it runs.
    pub changeable: bool,
}

impl Features {
    /// What is offered.
    #[must_use]
    pub fn offered(
        abilities: Abilities,
        pairs: u16,
        mtu: bool,
        speed: bool,
        Off(off): Off,
    ) -> Self {
        let on = |condition, bits| if condition { bits } else { 0 };
        let Abilities { offloads, datagrams, fragments, changeable } = abilities;
        let mut bits = ALWAYS
            | on(offloads, OFFLOADS)
            | on(fragments, FRAGMENTS)
            | on(changeable, GUEST_OFFLOADS)
            | on(pairs > 1, MQ)
            | on(mtu, MTU)
            | on(speed, SPEED_DUPLEX);
        if !datagrams {
            bits &= !(GUEST_USO | HOST_USO);
        }
        bits &= !off;
        Self(bits).with_needs()
    }

    /// Without those of which something that they need is missing.
    fn with_needs(self) -> Self {
        let Self(mut bits) = self;
        for (_, its, needs) in NAMES {
            if bits & needs != needs {
                bits &= !its;
            }
        }
        if bits & (GUEST_TSO4 | GUEST_TSO6) == 0 {
            bits &= !GUEST_ECN;
        }
        if bits & (HOST_TSO4 | HOST_TSO6) == 0 {
            bits &= !HOST_ECN;
        }
        Self(bits)
    }

    /// All of these are there.
    #[must_use]
    pub fn has(self, bits: u64) -> bool {
        self.0 & bits == bits
    }

    /// What the device takes of the guest.
    #[must_use]
    pub fn from_guest(self) -> Accepted {
        Accepted {
            checksum: self.has(CSUM),
            tso4: self.has(HOST_TSO4),
            tso6: self.has(HOST_TSO6),
            ecn: self.has(HOST_ECN),
            ufo: self.has(HOST_UFO),
            uso: self.has(HOST_USO),
        }
    }

    /// What the guest takes of the device.
    #[must_use]
    pub fn to_guest(self) -> Accepted {
        Accepted {
            checksum: self.has(GUEST_CSUM),
            tso4: self.has(GUEST_TSO4),
            tso6: self.has(GUEST_TSO6),
            ecn: self.has(GUEST_ECN),
            ufo: self.has(GUEST_UFO),
            uso: self.has(GUEST_USO),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Abilities =
        Abilities { offloads: true, datagrams: true, fragments: true, changeable: true };

    fn offered(off: &str) -> Features {
        let off = if off.is_empty() { Off::default() } else { off.parse().unwrap() };
        Features::offered(ALL, 4, true, true, off)
    }

    #[test]
    fn each_feature_can_be_switched_off_by_itself() {
        let all = offered("");
        for (name, bits, _) in NAMES {
            let without = offered(&format!("{name}=off"));
            let off: Off = format!("{name}=off").parse().unwrap();
            if all.0 & bits == 0 {
                assert_eq!(off.rings(), bits, "{name}");
                continue;
            }
            assert_eq!(off.rings(), 0, "{name}");
            assert_eq!(without.0 & bits, 0, "{name}");
            let dependents = NAMES.iter().filter(|(_, _, needs)| needs & bits != 0);
            let gone = dependents.fold(bits, |gone, (_, its, _)| gone | its);
            assert_eq!(without.0 | gone, all.0, "{name}");
        }
        assert!(!offered("host_tso4=off,host_tso6=off").has(HOST_ECN));
        assert_eq!(offered("csum=off,csum=on"), all);
    }

    #[test]
    fn what_the_host_cannot_do_is_not_offered() {
        let plain = Features::offered(Abilities::default(), 1, false, false, Off::default());
        assert_eq!(plain.to_guest(), Accepted::default());
        assert_eq!(plain.from_guest(), Accepted::default());
        assert!(!plain.has(MQ) && !plain.has(MTU) && plain.has(MRG_RXBUF | CTRL_VQ));
    }

    #[test]
    fn wrong_names_and_values_are_told() {
        assert!("tso=off".parse::<Off>().unwrap_err().contains("host_tso4"));
        assert!("csum=maybe".parse::<Off>().unwrap_err().contains("on or off"));
    }
}
