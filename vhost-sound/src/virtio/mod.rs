//! virtio-snd (virtio 1.3, 5.14).
//!
//! - [`message`]: what a driver says by the control queue;
//! - [`info`]: what it is told of jacks, streams, channel maps and control elements;
//! - [`stream`]: a stream at work;
//! - [`control`]: the control elements at work;
//! - [`worker`]: what serves the queues;
//! - [`card`]: the device.

pub mod card;
mod control;
mod info;
pub mod message;
mod stream;
pub mod worker;
