//! USB devices that are elsewhere in the network: the USB Network Redirection protocol, 0.7 (usbredir).
//!
//! - [`device`]: what a port has for one;
//! - [`session`]: what the host and its device are at;
//! - [`packet`]: what is said; [`parse`]: by the host; [`write`]: to it;
//! - [`filter`]: which devices are let in.

pub mod device;
pub mod filter;
pub mod packet;
pub mod parse;
pub mod session;
#[cfg(test)]
mod tests;
pub mod write;
