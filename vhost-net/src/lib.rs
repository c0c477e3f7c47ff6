//! A network card in a process of its own.
//!
//! Read it in this order:
//! - [`frame`]: Ethernet frames and what can be left undone in them (checksums, segmentation), free of any
//!   transport;
//! - [`host`]: where a card's frames go: TAP, stream, datagram, or the switch between guests;
//! - [`virtio`]: the virtio-net device between both;
//! - [`control`]: what control clients see and change;
//! - [`options`], [`manual`]: the program's command line, and what its manual says besides;
//! - [`confinement`]: what its sandbox lets it do.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

pub mod confinement;
pub mod control;
pub mod frame;
pub mod host;
pub mod manual;
pub mod options;
pub mod virtio;
