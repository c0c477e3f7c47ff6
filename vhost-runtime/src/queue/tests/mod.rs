//! The two formats, each with a driver that writes to memory.

mod packed;
mod split;

use super::*;
use crate::inflight::Shape;
use crate::memory::tests::region as memory_region;

fn memory() -> Arc<Memory> {
    Arc::new(Memory::new([memory_region(0, 0x10000, 0)], Arc::default()).unwrap())
}

fn event() -> EventFd {
    EventFd::new(libc::EFD_NONBLOCK).unwrap()
}
