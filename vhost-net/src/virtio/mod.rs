//! The virtio-net device (virtio 1.3, 5.1): between a guest's rings and the [host's side](crate::host).
//!
//! - [`features`]: what is offered, by QEMU's names;
//! - [`card`]: the device as its VMM and its control clients see it; [`state`]: what a driver set in it;
//! - [`pair`]: the worker of a pair of queues: [`transmit`], [`receive`];
//! - [`control`]: the worker of the control queue; [`filter`]: what it has a card take in;
//! - [`statistics`]: what each queue has done.

pub mod card;
pub mod control;
pub mod features;
pub mod filter;
mod pair;
mod receive;
pub mod state;
pub mod statistics;
mod transmit;
mod wakers;
