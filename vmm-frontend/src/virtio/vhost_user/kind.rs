//! What is known of each type of virtio device that a process can serve.

use std::fmt;
use std::str::FromStr;

use virtio_bindings::bindings::virtio_config::{
    VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_NOTIF_CONFIG_DATA, VIRTIO_F_NOTIFICATION_DATA,
    VIRTIO_F_RING_RESET,
};
use virtio_bindings::bindings::virtio_net::{
    VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_RX,
    VIRTIO_NET_F_CTRL_RX_EXTRA, VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_F_CTRL_VQ,
    VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_MQ, VIRTIO_NET_F_STATUS,
};

/// A type of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Network card (virtio 1.3, 5.1).
    Net,
    /// Disk (5.2).
    Block,
    /// SCSI controller (5.6).
    Scsi,
    /// Sound card (5.14).
    Sound,
    /// Any other, by its number.
    Generic(u16),
}

/// Not a type of device.
#[derive(Debug, thiserror::Error)]
#[error("type={0} is unknown: scsi, net, blk, sound, or generic with id=NUMBER")]
pub struct UnknownKind(String);

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        match text {
            "net" => Ok(Self::Net),
            "blk" => Ok(Self::Block),
            "scsi" => Ok(Self::Scsi),
            "sound" => Ok(Self::Sound),
            _ => Err(UnknownKind(text.to_owned())),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net => f.write_str("net"),
            Self::Block => f.write_str("blk"),
            Self::Scsi => f.write_str("scsi"),
            Self::Sound => f.write_str("sound"),
            Self::Generic(id) => write!(f, "generic ({id})"),
        }
    }
}

/// What no transport or ring here has.
const NEVER: [u32; 4] = [
    VIRTIO_F_ACCESS_PLATFORM,
    VIRTIO_F_NOTIFICATION_DATA,
    VIRTIO_F_NOTIF_CONFIG_DATA,
    VIRTIO_F_RING_RESET,
];
/// What needs a control queue, which a network process without a configuration space leaves to
/// its frontend.
const CONTROL: [u32; 8] = [
    VIRTIO_NET_F_CTRL_VQ,
    VIRTIO_NET_F_CTRL_RX,
    VIRTIO_NET_F_CTRL_VLAN,
    VIRTIO_NET_F_CTRL_RX_EXTRA,
    VIRTIO_NET_F_GUEST_ANNOUNCE,
    VIRTIO_NET_F_MQ,
    VIRTIO_NET_F_CTRL_MAC_ADDR,
    VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
];

fn bits(numbers: &[u32]) -> u64 {
    numbers.iter().fold(0, |bits, number| bits | 1 << number)
}

impl Kind {
    /// Its number (virtio 1.3, 5).
    #[must_use]
    pub fn id(self) -> u16 {
        match self {
            Self::Net => 1,
            Self::Block => 2,
            Self::Scsi => 8,
            Self::Sound => 25,
            Self::Generic(id) => id,
        }
    }

    /// Bytes of its configuration space that are read at once.
    pub(super) fn config_size(self) -> usize {
        match self {
            Self::Net => 12,
            Self::Block => 60,
            Self::Scsi => 36,
            Self::Sound => 12,
            Self::Generic(_) => 0,
        }
    }

    /// Features that a process must not be asked for.
    pub(super) fn unwanted(self, has_config: bool) -> u64 {
        let control = if self == Self::Net && !has_config { bits(&CONTROL) } else { 0 };
        bits(&NEVER) | control
    }

    /// Features that a VMM adds where the process has no configuration space.
    pub(super) fn own_features(self) -> u64 {
        match self {
            Self::Net => bits(&[VIRTIO_NET_F_STATUS]),
            _ => 0,
        }
    }

    /// The configuration space of a process that has none. `None`: it must have one.
    pub(super) fn default_config(self, processors: u16) -> Option<Vec<u8>> {
        match self {
            Self::Net => {
                let mut config = vec![0; 12];
                // Link up, and one pair of queues.
                (config[6], config[8]) = (1, 1);
                Some(config)
            }
            // What QEMU's controller says: Linux asks for no more than that.
            Self::Scsi => {
                let words: [u32; 7] = [processors.into(), 126, 0xffff, 128, 16, 32, 96];
                let mut config: Vec<u8> =
                    words.iter().flat_map(|word| word.to_le_bytes()).collect();
                let (channel, target, lun) = (0u16, 255u16, 16383u32);
                config.extend(channel.to_le_bytes());
                config.extend(target.to_le_bytes());
                config.extend(lun.to_le_bytes());
                Some(config)
            }
            Self::Generic(_) => Some(Vec::new()),
            Self::Block | Self::Sound => None,
        }
    }

    /// How many queues it has at most, by its answer to GET_QUEUE_NUM: of a network card QEMU takes
    /// that for pairs, and so passt and DPDK count them.
    pub(super) fn most_queues(self, answer: u16) -> u16 {
        match self {
            // A process that counts queues has as many at least.
            Self::Net => answer.saturating_mul(2).saturating_add(1),
            _ => answer,
        }
    }

    /// How many queues it has use for, by its configuration space.
    pub(super) fn queues(self, config: &[u8], features: u64, processors: u16, most: u16) -> u16 {
        let word = |offset: usize| match config.get(offset..) {
            Some([low, high, ..]) => u16::from_le_bytes([*low, *high]),
            _ => 0,
        };
        match self {
            Self::Net if features & 1 << VIRTIO_NET_F_MQ != 0 => {
                // Pairs, and the control queue behind the last.
                word(8).max(1).saturating_mul(2).saturating_add(1).min(most)
            }
            Self::Net => 2 + u16::from(features & 1 << VIRTIO_NET_F_CTRL_VQ != 0),
            Self::Block => {
                const MQ: u64 = 1 << 12;
                if features & MQ != 0 { word(34).clamp(1, processors.max(1)) } else { 1 }
            }
            // Control and event queue come first.
            Self::Scsi => word(0).max(1).saturating_add(2),
            Self::Sound => 4,
            Self::Generic(_) => most,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_whose_process_counts_pairs_has_its_two_queues() {
        let most = Kind::Net.most_queues(1);
        let config = Kind::Net.default_config(4).unwrap();
        assert!(Kind::Net.queues(&config, 0, 4, most) <= most);
        assert_eq!(Kind::Scsi.most_queues(1), 1);
    }
}
