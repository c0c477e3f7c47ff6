//! The control queue (virtio 1.3, 5.1.6.5): what a driver says by it where its VMM does not answer itself.

use std::sync::Arc;

use vhost_runtime::chain::Chain;
use vhost_runtime::device::Taken;
use vhost_runtime::queue::Queue;

use super::card::Card;
use super::features::{
    CTRL_MAC_ADDR, CTRL_RX, CTRL_RX_EXTRA, CTRL_VLAN, Features, GUEST_ANNOUNCE, GUEST_CSUM,
    GUEST_ECN, GUEST_OFFLOADS, GUEST_TSO4, GUEST_TSO6, GUEST_UFO, GUEST_USO, MQ,
};
use super::filter::Filter;

/// Bytes of a command at most: two tables of all addresses that somebody would list.
const LONGEST: usize = 64 << 10;
const OK: u8 = 0;
const ERR: u8 = 1;
/// What a driver can be told to take.
const OFFLOADS: u64 = GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | GUEST_UFO | GUEST_USO;

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// CTRL_RX: one of the filter's switches.
    Receive(Switch, bool),
    /// CTRL_MAC, TABLE_SET: stations, then groups.
    Table(Vec<[u8; 6]>, Vec<[u8; 6]>),
    /// CTRL_MAC, ADDR_SET.
    Address([u8; 6]),
    /// CTRL_VLAN.
    Vlan(u16, bool),
    /// CTRL_ANNOUNCE, ACK.
    Announced,
    /// CTRL_MQ, VQ_PAIRS_SET.
    Pairs(u16),
    /// CTRL_GUEST_OFFLOADS, SET.
    Offloads(u64),
}

/// A switch of the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// PROMISC.
    Promiscuous,
    /// ALLMULTI.
    AllGroups,
    /// ALLUNI.
    AllStations,
    /// NOMULTI.
    NoGroups,
    /// NOUNI.
    NoStations,
    /// NOBCAST.
    NoBroadcast,
}

impl Command {
    /// Reads a command and its data. `None`: there is no such command, or its data is not what it takes.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (&[class, command], data) = bytes.split_first_chunk::<2>()?;
        let word = || Some(u16::from_le_bytes(*data.first_chunk()?));
        Some(match (class, command) {
            (0, command) => {
                let switch = match command {
                    0 => Switch::Promiscuous,
                    1 => Switch::AllGroups,
                    2 => Switch::AllStations,
                    3 => Switch::NoGroups,
                    4 => Switch::NoStations,
                    5 => Switch::NoBroadcast,
                    _ => return None,
                };
                Self::Receive(switch, *data.first()? != 0)
            }
            (1, 0) => {
                let (stations, rest) = table(data)?;
                let (groups, _) = table(rest)?;
                Self::Table(stations, groups)
            }
            (1, 1) => Self::Address(*data.first_chunk()?),
            (2, 0) => Self::Vlan(word()?, true),
            (2, 1) => Self::Vlan(word()?, false),
            (3, 0) => Self::Announced,
            (4, 0) => Self::Pairs(word()?),
            (5, 0) => Self::Offloads(u64::from_le_bytes(*data.first_chunk()?)),
            _ => return None,
        })
    }

    /// The feature that a driver has it by.
    fn needs(&self) -> u64 {
        match self {
            Self::Receive(Switch::Promiscuous | Switch::AllGroups, _) | Self::Table(..) => CTRL_RX,
            Self::Receive(..) => CTRL_RX_EXTRA,
            Self::Address(_) => CTRL_MAC_ADDR,
            Self::Vlan(..) => CTRL_VLAN,
            Self::Announced => GUEST_ANNOUNCE,
            Self::Pairs(_) => MQ,
            Self::Offloads(_) => GUEST_OFFLOADS,
        }
    }
}

/// `struct virtio_net_ctrl_mac`, and what is behind it.
fn table(bytes: &[u8]) -> Option<(Vec<[u8; 6]>, &[u8])> {
    let (count, rest) = bytes.split_first_chunk::<4>()?;
    let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
    let (table, rest) = rest.split_at_checked(count.checked_mul(6)?)?;
    Some((table.as_chunks().0.to_vec(), rest))
}

/// Serves the control queue.
#[derive(Debug)]
pub struct ControlWorker {
    card: Arc<Card>,
}

impl ControlWorker {
    pub(super) fn new(card: Arc<Card>) -> Self {
        Self { card }
    }

    pub(super) fn process(&mut self, queue: &mut Queue) -> Taken {
        while let Some(chain) = queue.pop() {
            let done = self.execute(&chain);
            let written = chain.writable().write(&[if done { OK } else { ERR }]);
            queue.complete(chain, u32::from(written > 0));
        }
        Taken::All
    }

    fn execute(&self, chain: &Chain) -> bool {
        let bytes = chain.readable().split_at(LONGEST as u64).0.to_vec();
        let Some(command) = Command::parse(&bytes) else {
            log::debug!("a control command is unknown or malformed");
            return false;
        };
        let done = self.carry_out(command.clone());
        log::debug!("{command:?}: {}", if done { "done" } else { "refused" });
        done
    }

    fn carry_out(&self, command: Command) -> bool {
        let card = &self.card;
        let negotiated = card.features_negotiated();
        if !negotiated.has(command.needs()) {
            return false;
        }
        match command {
            Command::Receive(switch, on) => card.change(|driver| {
                driver.filter.used = true;
                *place(&mut driver.filter, switch) = on;
            }),
            Command::Table(stations, groups) => card.change(|driver| {
                driver.filter.used = true;
                driver.filter.set_table(stations, groups);
            }),
            Command::Address(mac) => card.change(|driver| driver.mac = Some(mac)),
            Command::Vlan(vlan, on) => {
                let mut filter = card.driver().filter.clone();
                if !filter.set_vlan(vlan, on) {
                    return false;
                }
                card.change(|driver| driver.filter = filter);
            }
            Command::Announced => card.announced(),
            Command::Pairs(pairs) => {
                if pairs == 0 || pairs > card.settings().pairs {
                    return false;
                }
                card.change(|driver| driver.pairs = pairs);
            }
            Command::Offloads(offloads) => {
                if offloads & !OFFLOADS != 0 || !negotiated.has(offloads) {
                    return false;
                }
                let Features(negotiated) = negotiated;
                let others = negotiated & !OFFLOADS;
                card.change(|driver| driver.offloads = Some(offloads | others));
            }
        }
        true
    }
}

fn place(filter: &mut Filter, switch: Switch) -> &mut bool {
    match switch {
        Switch::Promiscuous => &mut filter.promiscuous,
        Switch::AllGroups => &mut filter.all_groups,
        Switch::AllStations => &mut filter.all_stations,
        Switch::NoGroups => &mut filter.no_groups,
        Switch::NoStations => &mut filter.no_stations,
        Switch::NoBroadcast => &mut filter.no_broadcast,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn commands_are_what_the_standard_says() {
        let parse = |bytes: &[u8]| Command::parse(bytes);
        assert_eq!(parse(&[0, 0, 1]), Some(Command::Receive(Switch::Promiscuous, true)));
        assert_eq!(parse(&[0, 5, 0]), Some(Command::Receive(Switch::NoBroadcast, false)));
        let mut table = vec![1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 1];
        assert_eq!(parse(&table), None, "no table of groups");
        table.extend([0, 0, 0, 0]);
        assert_eq!(parse(&table), Some(Command::Table(vec![[2, 0, 0, 0, 0, 1]], vec![])));
        assert_eq!(parse(&[1, 1, 2, 0, 0, 0, 0, 9]), Some(Command::Address([2, 0, 0, 0, 0, 9])));
        assert_eq!(parse(&[2, 0, 10, 0]), Some(Command::Vlan(10, true)));
        assert_eq!(parse(&[2, 1, 10, 0]), Some(Command::Vlan(10, false)));
        assert_eq!(parse(&[3, 0]), Some(Command::Announced));
        assert_eq!(parse(&[4, 0, 4, 0]), Some(Command::Pairs(4)));
        assert_eq!(parse(&[5, 0, 2, 0, 0, 0, 0, 0, 0, 0]), Some(Command::Offloads(2)));
        for wrong in [&[][..], &[0], &[0, 6, 1], &[0, 0], &[4, 0, 4], &[4, 1, 0, 0], &[9, 0]] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_command_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Some(Command::Table(stations, groups)) = Command::parse(&bytes) {
                prop_assert!((stations.len() + groups.len()) * 6 + 10 <= bytes.len());
            }
        }
    }
}
