//! The entropy device (virtio 1.3, 5.4): the host's random numbers for the guest.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use vhost_runtime::chain::Buffers;
use vhost_runtime::memory::Memory;
use vmm_sys_util::eventfd::EventFd;

use super::queue::{FEATURES, Served, TURN};
use super::{Device, Queue, StartError};
use crate::lock::lock;
use crate::reactor::Reactor;

/// VIRTIO_ID_RNG.
const ID: u16 = 4;
/// Bytes that a chain gets at most, however large it is: fewer are allowed (5.4.6.2), and the host
/// makes them.
const MOST: u64 = 64 << 10;
/// Bytes that are made at a time.
const PIECE: usize = 4096;

/// The device.
pub struct Rng {
    reactor: Reactor,
    memory: Arc<Memory>,
    requests: Arc<Requests>,
}

#[derive(Default)]
struct Requests(Mutex<Option<Served>>);

impl fmt::Debug for Rng {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rng").finish_non_exhaustive()
    }
}

impl Rng {
    /// A device that is served on `reactor`, and reaches the guest's `memory`.
    #[must_use]
    pub fn new(reactor: Reactor, memory: Arc<Memory>) -> Self {
        Self { reactor, memory, requests: Arc::default() }
    }
}

impl Device for Rng {
    fn id(&self) -> u16 {
        ID
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn queue_sizes(&self) -> &[u16] {
        &[256]
    }

    fn read_config(&mut self, _offset: u32, data: &mut [u8]) {
        data.fill(0);
    }

    fn write_config(&mut self, _offset: u32, _data: &[u8]) {}

    fn config_generation(&self) -> u8 {
        0
    }

    fn set_config_call(&mut self, _call: Arc<EventFd>) {}

    fn start(&mut self, features: u64, queues: Vec<Queue>) -> Result<(), StartError> {
        let Some(queue) = queues.iter().find(|queue| queue.index == 0) else { return Ok(()) };
        let requests = Arc::downgrade(&self.requests);
        let kicked = Arc::new(move || {
            if let Some(requests) = requests.upgrade() {
                requests.serve();
            }
        });
        // Held until the queue is in its place, for the handler to find it there.
        let mut place = self.requests.lock();
        *place = Some(Served::start(queue, features, &self.memory, &self.reactor, kicked)?);
        Ok(())
    }

    fn stop(&mut self, _reset: bool) {
        *self.requests.lock() = None;
    }
}

impl Requests {
    fn lock(&self) -> MutexGuard<'_, Option<Served>> {
        lock(&self.0)
    }

    /// A turn of the queue, if it is started.
    fn serve(&self) {
        let mut place = self.lock();
        let Some(queue) = place.as_mut() else { return };
        for _ in 0..TURN {
            let Some(chain) = queue.pop() else { return queue.notify() };
            match fill(chain.writable()) {
                Ok(written) => queue.complete(chain, written),
                Err(error) => {
                    log::error!("the host gives no random numbers: {error}");
                    return queue.fail("there are no random numbers");
                }
            }
        }
        queue.notify();
        queue.serve_later();
    }
}

/// Writes random bytes, at most [`MOST`]; returns how many.
fn fill(buffers: Buffers<'_>) -> io::Result<usize> {
    let (mut rest, _) = buffers.split_at(MOST);
    let mut bytes = [0; PIECE];
    let mut done: usize = 0;
    while !rest.is_empty() {
        let count = usize::try_from(rest.len()).unwrap_or(PIECE).min(PIECE);
        let made =
            match getrandom(bytes.get_mut(..count).unwrap_or_default(), GetRandomFlags::empty()) {
                Ok(made) => made,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
        let written = rest.write(bytes.get(..made).unwrap_or_default());
        if written == 0 {
            break;
        }
        done = done.saturating_add(written);
        (_, rest) = rest.split_at(written as u64);
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::{Device, Queue, Rng};
    use crate::frontend::ring::{Descriptor, Ring};
    use crate::virtio::test_guest::{Guest, raw_chains};
    use proptest::prelude::*;
    use vm_memory::{Bytes, GuestAddress};

    const WRITE: u16 = 2;

    fn device(guest: &Guest) -> Rng {
        Rng::new(guest.reactor.clone(), guest.device_memory())
    }

    fn start(device: &mut Rng, guest: &Guest, ring: &Ring) {
        device.start(device.features(), vec![guest.queue(0, ring)]).unwrap();
    }

    #[test]
    fn a_buffer_is_filled_with_random_bytes() {
        let mut guest = Guest::new();
        let mut device = device(&guest);
        let mut ring = guest.ring(8);
        let (first, second) = (guest.buffer(32), guest.buffer(100));
        ring.add(&[], &[first, second], 7).unwrap();
        ring.publish().unwrap();
        start(&mut device, &guest, &ring);
        guest.run();
        let used = ring.take().unwrap().unwrap();
        assert_eq!((used.token, used.written), (7, 132));
        for buffer in [first, second] {
            let bytes = guest.read(buffer);
            assert!(bytes.iter().any(|&byte| byte != bytes[0]), "{bytes:?}");
        }
        ring.add(&[], &[first], 8).unwrap();
        ring.publish().unwrap();
        guest.run();
        assert_eq!(ring.take().unwrap().unwrap().written, 32, "kicked");
        assert!(ring.events().call.read().is_ok());
    }

    #[test]
    fn no_chain_makes_much_work() {
        let mut guest = Guest::new();
        let mut device = device(&guest);
        let mut ring = guest.ring(8);
        let whole = guest.buffer(0x8_0000);
        ring.add(&[], &[whole; 8], 0).unwrap();
        ring.add(&[whole], &[], 1).unwrap();
        ring.publish().unwrap();
        start(&mut device, &guest, &ring);
        guest.run();
        assert_eq!(ring.take().unwrap().unwrap().written, 0x1_0000);
        assert_eq!(ring.take().unwrap().unwrap().written, 0, "nothing can be written there");
    }

    #[test]
    fn more_chains_than_a_turn_has_are_served_in_several() {
        let mut guest = Guest::new();
        let mut device = device(&guest);
        let mut ring = guest.ring(256);
        let buffer = guest.buffer(8);
        for token in 0..256 {
            ring.add(&[], &[buffer], token).unwrap();
        }
        ring.publish().unwrap();
        start(&mut device, &guest, &ring);
        guest.run();
        for token in 0..256 {
            assert_eq!(ring.take().unwrap().unwrap().token, token);
        }
    }

    #[test]
    fn memory_is_not_touched_while_it_is_stopped() {
        let mut guest = Guest::new();
        let mut device = device(&guest);
        let mut ring = guest.ring(8);
        let buffer = guest.buffer(8);
        start(&mut device, &guest, &ring);
        device.stop(false);
        ring.add(&[], &[buffer], 3).unwrap();
        ring.publish().unwrap();
        ring.kick().unwrap();
        guest.run();
        assert_eq!(ring.take().unwrap(), None);
        start(&mut device, &guest, &ring);
        guest.run();
        assert_eq!(ring.take().unwrap().unwrap().token, 3, "started again, it goes on");
        device.stop(true);
    }

    #[test]
    fn a_ring_outside_memory_or_not_aligned_is_refused() {
        let mut guest = Guest::new();
        let mut device = device(&guest);
        let ring = guest.ring(8);
        let queue = guest.queue(0, &ring);
        for wrong in [
            Queue { used: u64::MAX - 1, ..queue.clone() },
            Queue { used: queue.used + 1, ..queue.clone() },
            Queue { descriptors: 1 << 40, ..queue.clone() },
            Queue { available: queue.available + 1, ..queue.clone() },
            Queue { size: 0, ..queue },
        ] {
            assert!(device.start(device.features(), vec![wrong]).is_err());
        }
    }

    #[test]
    fn a_broken_ring_is_served_no_more_until_it_is_reset() {
        let mut guest = Guest::new();
        let mut device = device(&guest);
        let mut ring = guest.ring(8);
        let buffer = guest.buffer(8);
        start(&mut device, &guest, &ring);
        ring.set_raw(0, Descriptor { address: 1 << 40, length: 1, flags: WRITE, next: 0 });
        ring.offer_raw(0);
        ring.show_raw(0);
        ring.kick().unwrap();
        guest.run();
        assert_eq!(ring.take_raw(), None);
        device.stop(true);
        ring.clear();
        ring.add(&[], &[buffer], 1).unwrap();
        ring.publish().unwrap();
        start(&mut device, &guest, &ring);
        guest.run();
        assert_eq!(ring.take().unwrap().unwrap().written, 8);
    }

    proptest! {
        #[test]
        fn any_ring_is_survived(chains in raw_chains(), more in 0u16..12, features: u64) {
            let mut guest = Guest::new();
            let mut device = device(&guest);
            let mut ring = guest.ring(8);
            guest.offer(&mut ring, &chains, more);
            device.start(features, vec![guest.queue(0, &ring)]).unwrap();
            guest.run();
            device.stop(true);
            let index = GuestAddress(ring.layout().used + 2);
            let used: u16 = guest.memory.space().read_obj(index).unwrap();
            prop_assert!(usize::from(used) <= chains.len() + usize::from(more));
        }
    }
}
