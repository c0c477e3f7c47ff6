//! virtio-snd (virtio 1.3, 5.14).
//!
//! - [`message`]: what a driver says by the control queue;
//! - [`info`]: what it is told of jacks, streams and channel maps;
//! - [`stream`]: a stream at work;
//! - [`worker`]: what serves the queues;
//! - [`card`]: the device.

pub mod card;
mod info;
pub mod message;
mod stream;
pub mod worker;
