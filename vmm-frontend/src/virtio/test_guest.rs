//! A guest for tests: memory, the driver's side of rings, and the reactor that serves the device.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use vhost_runtime::memory::Memory as DeviceMemory;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Queue, queue};
use crate::frontend::memory::{Allocator, Memory};
use crate::frontend::ring::{Buffer, Descriptor, Layout, Ring, RingFeatures};
use crate::reactor::{Reactor, Watch};

const SIZE: u64 = 2 << 20;

pub(super) struct Guest {
    pub(super) memory: Memory,
    pub(super) reactor: Reactor,
    allocator: Allocator,
    bell: EventFd,
    rung: Arc<AtomicBool>,
    _watch: Watch,
}

impl Guest {
    pub(super) fn new() -> Self {
        let reactor = Reactor::new().unwrap();
        let bell = EventFd::new(EFD_NONBLOCK).unwrap();
        let rung = Arc::new(AtomicBool::new(false));
        let ring = Arc::clone(&rung);
        let handler = move || ring.store(true, Ordering::Relaxed);
        let watch = reactor.watch_event(&bell, Arc::new(handler)).unwrap();
        Self {
            memory: Memory::new(&[(0, SIZE)]).unwrap(),
            reactor,
            allocator: Allocator::new(0x1000, SIZE - 0x1000),
            bell,
            rung,
            _watch: watch,
        }
    }

    pub(super) fn device_memory(&self) -> Arc<DeviceMemory> {
        queue::memory(&self.memory, Arc::default()).unwrap()
    }

    /// Lets the reactor do what is to be done: as many rounds as the tests' longest work takes.
    pub(super) fn run(&self) {
        for _ in 0..8 {
            self.rung.store(false, Ordering::Relaxed);
            self.bell.write(1).unwrap();
            self.reactor.run(|| !self.rung.load(Ordering::Relaxed)).unwrap();
        }
    }

    pub(super) fn ring(&mut self, size: u16) -> Ring {
        let layout = Layout::allocate(&mut self.allocator, size).unwrap();
        let features = RingFeatures { event_index: true, indirect: true, packed: false };
        let mut ring = Ring::new(&self.memory, layout, features).unwrap();
        ring.enable_calls();
        ring
    }

    pub(super) fn queue(&self, index: u16, ring: &Ring) -> Queue {
        let Layout { size, descriptors, available, used, .. } = ring.layout();
        let (kick, call) = (Arc::clone(&ring.events().kick), Arc::clone(&ring.events().call));
        Queue { index, size, descriptors, available, used, kick, call }
    }

    pub(super) fn buffer(&mut self, length: u32) -> Buffer {
        Buffer { address: self.allocator.take(length.into(), 8).unwrap(), length }
    }

    pub(super) fn read(&self, buffer: Buffer) -> Vec<u8> {
        let mut bytes = vec![0; buffer.length as usize];
        self.memory.space().read_slice(&mut bytes, GuestAddress(buffer.address)).unwrap();
        bytes
    }

    pub(super) fn write(&self, buffer: Buffer, bytes: &[u8]) {
        assert!(bytes.len() <= buffer.length as usize);
        self.memory.space().write_slice(bytes, GuestAddress(buffer.address)).unwrap();
    }

    /// Offers what no driver would.
    pub(super) fn offer(&self, ring: &mut Ring, chains: &[(u16, Descriptor)], more: u16) {
        for (index, &(_, descriptor)) in chains.iter().enumerate() {
            ring.set_raw(index as u16, descriptor);
        }
        for &(head, _) in chains {
            ring.offer_raw(head);
        }
        ring.show_raw(more);
        ring.kick().unwrap();
    }
}

/// Heads for a ring of eight, and descriptors for its table: some in memory, some not, some loops.
pub(super) fn raw_chains() -> impl Strategy<Value = Vec<(u16, Descriptor)>> {
    let address = prop_oneof![8 => 0x10_0000..SIZE + 0x1000, 1 => any::<u64>()];
    let length = prop_oneof![8 => 0u32..0x3000, 1 => any::<u32>()];
    let descriptor = (address, length, 0u16..8, 0u16..10)
        .prop_map(|(address, length, flags, next)| Descriptor { address, length, flags, next });
    proptest::collection::vec((0u16..9, descriptor), 0..8)
}
