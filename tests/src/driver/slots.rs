//! Requests with buffers of their own, on one ring.

use vm_memory::{Bytes, GuestAddress};
use vmm_frontend::frontend::memory::{Allocator, Memory};
use vmm_frontend::frontend::ring::{Buffer, Layout, Ring, RingFeatures};

use super::PATIENCE;
use crate::Error;

/// Guest memory, and what of it is not given out yet.
#[derive(Clone, Debug)]
pub struct Space {
    /// All of it.
    pub memory: Memory,
    /// Gives it out.
    pub allocator: Allocator,
}

impl Space {
    /// One region of so many bytes at guest address 0.
    pub fn new(size: u64) -> Result<Self, Error> {
        Self::of(&[(0, size)])
    }

    /// These regions, guest address and bytes of each. The first is given out.
    pub fn of(regions: &[(u64, u64)]) -> Result<Self, Error> {
        let memory = Memory::new(regions).map_err(Error::driver("guest memory"))?;
        let (start, size) = regions.first().copied().unwrap_or_default();
        Ok(Self { memory, allocator: Allocator::new(start, size) })
    }

    /// The guest address of `size` bytes of whole pages.
    pub fn take(&mut self, size: u64) -> Result<u64, Error> {
        let place = self.allocator.take(size, 4096);
        place.ok_or_else(|| Error::driver("guest memory")(format!("no room for {size} bytes")))
    }

    /// A ring of `size` descriptors.
    pub fn ring(&mut self, size: u16, features: RingFeatures) -> Result<Ring, Error> {
        let failed = Error::driver("a ring");
        let layout = Layout::allocate(&mut self.allocator, size).map_err(&failed)?;
        Ring::new(&self.memory, layout, features).map_err(failed)
    }
}

/// Guest addresses of a request's buffers.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// [`Slots::HEAD`] bytes for the request's head.
    pub head: u64,
    /// As many for the response.
    pub response: u64,
    /// The data.
    pub data: u64,
}

/// Requests, each with a place in guest memory, on one ring. A slot is claimed, sent, taken back
/// when the device is done with it, and released.
#[derive(Debug)]
pub struct Slots {
    /// The ring.
    pub ring: Ring,
    memory: Memory,
    places: Vec<Place>,
    free: Vec<usize>,
    data: u32,
}

impl Slots {
    /// Bytes of a request's head, and of its response, at most.
    pub const HEAD: u64 = 128;

    /// `count` slots of at most `data` bytes of data.
    pub fn new(space: &mut Space, ring: Ring, count: u16, data: u32) -> Result<Self, Error> {
        let mut places = Vec::new();
        for _ in 0..count {
            let head = space.take(2 * Self::HEAD)?;
            let data = space.take(data.into())?;
            places.push(Place { head, response: head + Self::HEAD, data });
        }
        let free = (0..places.len()).rev().collect();
        Ok(Self { ring, memory: space.memory.clone(), places, free, data })
    }

    /// A slot that is not in use.
    pub fn claim(&mut self) -> Option<usize> {
        self.free.pop()
    }

    /// The slot may be used again.
    pub fn release(&mut self, slot: usize) {
        self.free.push(slot);
    }

    /// Where a slot's buffers are.
    pub fn place(&self, slot: usize) -> Place {
        self.places[slot]
    }

    /// The data buffer's first `length` bytes, as buffers of a chain.
    pub fn data(&self, slot: usize, length: usize) -> Buffer {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        assert!(length <= self.data, "{length} bytes of data in a slot of {}", self.data);
        Buffer { address: self.places[slot].data, length }
    }

    /// Writes to guest memory.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        let failed = Error::driver("guest memory");
        self.memory.space().write_slice(bytes, GuestAddress(address)).map_err(failed)
    }

    /// Reads guest memory.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let failed = Error::driver("guest memory");
        self.memory.space().read_slice(bytes, GuestAddress(address)).map_err(failed)
    }

    /// Puts a slot's chain into the ring; the device sees it at the next [`publish`](Self::publish).
    pub fn add(&mut self, slot: usize, out: &[Buffer], input: &[Buffer]) -> Result<(), Error> {
        let added = self.ring.add(out, input, slot as u64).map_err(Error::driver("a request"))?;
        match added {
            true => Ok(()),
            false => Err(Error::driver::<&str>("a request")("the ring is full")),
        }
    }

    /// Shows the device what was added.
    pub fn publish(&mut self) -> Result<(), Error> {
        self.ring.publish().map_err(Error::driver("a kick"))
    }

    /// A slot that the device is done with, and the bytes that it wrote.
    pub fn take(&mut self) -> Result<Option<(usize, u32)>, Error> {
        let used = self.ring.take().map_err(Error::driver("the used ring"))?;
        Ok(used.map(|used| (used.token as usize, used.written)))
    }

    /// Waits for the next slot that the device is done with.
    pub fn wait(&mut self) -> Result<(usize, u32), Error> {
        loop {
            if let Some(done) = self.take()? {
                return Ok(done);
            }
            if !self.ring.wait(PATIENCE).map_err(Error::driver("waiting"))? {
                let doing = format!("{} requests under way", self.ring.under_way());
                return Err(Error::driver("a request")(format!("no answer in time, {doing}")));
            }
        }
    }
}
