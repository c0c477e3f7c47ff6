//! USB host controllers in a process of their own.
//!
//! Read it in this order:
//! - [`usb`]: USB's own terms: speeds, requests, descriptors, data on their way;
//! - [`device`]: what can be plugged into a port;
//! - [`redirect`]: devices that are elsewhere in the network;
//! - [`channel`]: connections that are made again and again;
//! - [`controller`]: host controllers, and the ports that they share;
//! - [`serve`]: how a VMM reaches them;
//! - [`devices`], [`control`]: devices as the command line and control clients name them;
//! - [`spice`]: a program beside it, by which SPICE clients redirect devices;
//! - [`options`], [`manual`]: the program's command line, and what its manual says besides.

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

pub mod channel;
pub mod control;
pub mod controller;
pub mod device;
pub mod devices;
pub mod manual;
pub mod options;
pub mod physical;
pub mod redirect;
pub mod serve;
pub mod spice;
pub mod usb;
