//! What every vhost-user device process shares.
//!
//! A device implements one trait, [`device::Device`], and its queues' work, [`device::QueueWorker`].
//! The rest lives here:
//! - [`memory`], [`dirty_log`]: the guest's memory, and the log of writes to it;
//! - [`chain`], [`queue`], [`inflight`]: virtqueues, and the record of requests under way;
//! - [`registers`]: a device that a driver knows by registers, not by virtqueues, and [`pci`]: its
//!   configuration space;
//! - [`worker`]: the threads that serve queues;
//! - [`session`]: one frontend's connection, from its first message to its last;
//! - [`arguments`], [`manual`], [`program`]: what every device program does alike;
//! - [`control`]: the control interface of every device program;
//! - [`pty`]: pseudo-terminals of the host's, which serial ports and consoles are connected to;
//! - [`sandbox`], [`supervisor`]: what a program gives up before it serves, and who starts it again;
//! - [`broker`]: who opens for it what it may not open any more;
//! - [`state`]: a device's state on its way to another process.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

pub mod arguments;
pub mod broker;
pub mod chain;
pub mod control;
pub mod device;
pub mod dirty_log;
pub mod inflight;
pub mod manual;
pub mod memory;
pub mod pci;
pub mod program;
pub mod pty;
pub mod queue;
pub mod registers;
pub mod sandbox;
pub mod session;
pub mod state;
pub mod supervisor;
pub mod worker;
