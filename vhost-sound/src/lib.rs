//! A sound card in a process of its own.
//!
//! - [`card`]: the card, as it was configured, and what a driver may have it do: no virtio, no host;
//! - [`host`]: what plays and records;
//! - [`virtio`]: the virtio-snd device.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

pub mod card;
pub mod host;
pub mod virtio;
