//! A sound card in a process of its own.
//!
//! - [`card`]: the card, as it was configured, and what a driver may have it do: no virtio, no host;
//! - [`host`]: what plays and records;
//! - [`virtio`]: the virtio-snd device;
//! - [`options`], [`manual`], [`streams`]: the program's command line, what its manual says besides, and what it
//!   names of the host;
//! - [`control`]: what control clients can do.

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
pub mod control;
pub mod host;
pub mod manual;
pub mod options;
pub mod streams;
pub mod virtio;
