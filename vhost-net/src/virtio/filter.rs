//! Which frames a card takes in, as its driver says by the control queue (virtio 1.3, 5.1.6.5.1 to 5.1.6.5.3).

use serde::{Deserialize, Serialize};

use crate::frame::{Ethernet, Mac};

/// Addresses of a kind at most: with more, all of that kind are taken.
pub const ADDRESSES: usize = 64;
/// VLANs.
const VLANS: u16 = 4096;

/// A card that is not told anything takes all: there may be nobody who would tell it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Filter {
    /// It is used: the driver has said something.
    pub used: bool,
    /// Everything.
    pub promiscuous: bool,
    /// All groups.
    pub all_groups: bool,
    /// All that are no group.
    pub all_stations: bool,
    /// No groups but broadcast.
    pub no_groups: bool,
    /// Nothing for one station.
    pub no_stations: bool,
    /// No broadcast.
    pub no_broadcast: bool,
    /// Further addresses of the card.
    pub stations: Vec<[u8; 6]>,
    /// Groups that it belongs to.
    pub groups: Vec<[u8; 6]>,
    /// There were more of them than are looked at.
    pub too_many_stations: bool,
    /// The same of groups.
    pub too_many_groups: bool,
    /// VLANs that it takes, where its driver knows of VLANs: a bit each.
    pub vlans: Vec<u64>,
}

impl Filter {
    /// Whether a card with this address takes the frame. `by_vlan`: its driver says which VLANs.
    #[must_use]
    pub fn takes(&self, frame: &Ethernet, own: Mac, by_vlan: bool) -> bool {
        if !self.used || self.promiscuous {
            return true;
        }
        if by_vlan && let Some(vlan) = frame.vlan.filter(|vlan| *vlan != 0 && !self.has_vlan(*vlan))
        {
            log::trace!("a frame of VLAN {vlan} is not wanted");
            return false;
        }
        let destination = frame.destination;
        if destination == Mac::BROADCAST {
            return !self.no_broadcast;
        }
        let Mac(bytes) = destination;
        if destination.is_group() {
            let all = self.all_groups || self.too_many_groups;
            return !self.no_groups && (all || self.groups.contains(&bytes));
        }
        let all = self.all_stations || self.too_many_stations;
        !self.no_stations && (all || destination == own || self.stations.contains(&bytes))
    }

    fn has_vlan(&self, vlan: u16) -> bool {
        let word = self.vlans.get(usize::from(vlan / 64)).copied().unwrap_or(0);
        word >> (vlan % 64) & 1 != 0
    }

    /// Takes a VLAN's frames, or no more. `false`: there is no such VLAN.
    pub fn set_vlan(&mut self, vlan: u16, on: bool) -> bool {
        if vlan >= VLANS {
            return false;
        }
        self.vlans.resize(usize::from(VLANS / 64), 0);
        if let Some(word) = self.vlans.get_mut(usize::from(vlan / 64)) {
            let bit = 1 << (vlan % 64);
            *word = if on { *word | bit } else { *word & !bit };
        }
        true
    }

    /// Takes these addresses in place of those before.
    pub fn set_table(&mut self, stations: Vec<[u8; 6]>, groups: Vec<[u8; 6]>) {
        self.too_many_stations = stations.len() > ADDRESSES;
        self.too_many_groups = groups.len() > ADDRESSES;
        let few = |list: Vec<[u8; 6]>| if list.len() > ADDRESSES { Vec::new() } else { list };
        (self.stations, self.groups) = (few(stations), few(groups));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const GROUP: Mac = Mac([1, 0, 0x5e, 0, 0, 1]);

    fn takes(filter: &Filter, destination: Mac) -> bool {
        filter.takes(&Ethernet { destination, source: OTHER, vlan: None }, OWN, true)
    }

    #[test]
    fn a_card_takes_its_own_and_what_it_is_told() {
        let mut filter = Filter::default();
        assert!(takes(&filter, OTHER), "nobody has said anything");
        filter.used = true;
        assert!(takes(&filter, OWN) && takes(&filter, Mac::BROADCAST));
        assert!(!takes(&filter, OTHER) && !takes(&filter, GROUP));
        filter.set_table(vec![OTHER.0], vec![GROUP.0]);
        assert!(takes(&filter, OTHER) && takes(&filter, GROUP));
        (filter.no_stations, filter.no_groups, filter.no_broadcast) = (true, true, true);
        assert!(!takes(&filter, OWN) && !takes(&filter, GROUP) && !takes(&filter, Mac::BROADCAST));
        filter.promiscuous = true;
        assert!(takes(&filter, OWN) && takes(&filter, GROUP) && takes(&filter, Mac::BROADCAST));
    }

    #[test]
    fn too_many_addresses_are_all() {
        let mut filter = Filter { used: true, ..Filter::default() };
        filter.set_table(vec![[2; 6]; ADDRESSES + 1], vec![[3; 6]; ADDRESSES + 1]);
        assert!(takes(&filter, OTHER) && takes(&filter, GROUP));
    }

    #[test]
    fn vlans_are_taken_one_by_one() {
        let mut filter = Filter { used: true, ..Filter::default() };
        let tagged = |vlan| Ethernet { destination: OWN, source: OTHER, vlan: Some(vlan) };
        assert!(!filter.takes(&tagged(10), OWN, true) && filter.takes(&tagged(10), OWN, false));
        assert!(
            filter.takes(&tagged(0), OWN, true),
            "a priority alone is no VLAN (IEEE 802.1Q, 9.6)"
        );
        assert!(
            filter.set_vlan(10, true)
                && filter.set_vlan(4095, true)
                && !filter.set_vlan(4096, true)
        );
        assert!(filter.takes(&tagged(10), OWN, true) && filter.takes(&tagged(4095), OWN, true));
        assert!(filter.set_vlan(10, false) && !filter.takes(&tagged(10), OWN, true));
    }
}
