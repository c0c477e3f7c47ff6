//! What a driver has set in the card: it outlives the process that serves it, and moves with the guest.

use serde::{Deserialize, Serialize};

use super::features::Features;
use super::filter::Filter;
use crate::frame::Mac;
use crate::frame::offload::Accepted;

/// A driver's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Driver {
    /// Pairs of queues that it uses.
    pub pairs: u16,
    /// The card's address, if it is another than the card's own.
    pub mac: Option<[u8; 6]>,
    /// What it takes in.
    pub filter: Filter,
    /// Guest offloads, as feature bits; `None`: all that were negotiated.
    pub offloads: Option<u64>,
}

impl Default for Driver {
    /// After a reset one pair is in use (virtio 1.3, 5.1.6.5.5).
    fn default() -> Self {
        Self { pairs: 1, mac: None, filter: Filter::default(), offloads: None }
    }
}

impl Driver {
    /// Its address.
    #[must_use]
    pub fn mac(&self, own: Mac) -> Mac {
        self.mac.map_or(own, Mac)
    }

    /// What the guest takes of what was negotiated.
    #[must_use]
    pub fn accepted(&self, Features(negotiated): Features) -> Accepted {
        Features(negotiated & self.offloads.unwrap_or(u64::MAX)).to_guest()
    }
}
