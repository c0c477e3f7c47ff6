//! A function's queue of accesses to its registers. Writes are posted, as on a PCI bus; who reads waits
//! until they are done.

use std::time::{Duration, Instant};

use vhost_runtime::registers::{ACCESS, ANSWER, Access};
use vm_memory::{Bytes, GuestAddress};

use crate::frontend::memory::{Allocator, Memory};
use crate::frontend::ring::{Buffer, Layout, Ring, RingError, RingFeatures};

/// Accesses that are under way at most: each is a chain of two.
pub(super) const SIZE: u16 = 64;
/// Bytes of a buffer: an access, and its answer.
const SLOT: u64 = 32;
const SLOTS: u64 = SIZE as u64;

/// How long a process that is gone is waited for: another is to take its place.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked without letting others have the processor.
const SPINS: u32 = 200;
/// How long it is looked without sleeping.
const EAGER: Duration = Duration::from_micros(100);
const PAUSE: Duration = Duration::from_micros(50);

/// The queue.
#[derive(Debug)]
pub(super) struct Accesses {
    memory: Memory,
    ring: Ring,
    buffers: u64,
    next: u64,
    /// The process did not answer: nobody waits for it until it does.
    given_up: bool,
}

impl Accesses {
    pub(super) fn new(memory: &Memory, allocator: &mut Allocator) -> Result<Self, RingError> {
        let layout = Layout::allocate(allocator, SIZE)?;
        let buffers = allocator.take(SLOT * SLOTS, SLOT).ok_or(RingError::NoMemory)?;
        let ring = Ring::new(memory, layout, RingFeatures::default())?;
        Ok(Self { memory: memory.clone(), ring, buffers, next: 0, given_up: false })
    }

    pub(super) fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Hands over an access; where its answer will be. `None`: the process is gone.
    pub(super) fn send(&mut self, access: Access) -> Option<GuestAddress> {
        let slot = self.buffers + self.next % SLOTS * SLOT;
        let answer = GuestAddress(slot + ACCESS as u64);
        let access_buffer = Buffer { address: slot, length: ACCESS as u32 };
        let answer_buffer = Buffer { address: answer.0, length: ANSWER as u32 };
        // Slots are used in turn, and there are more than chains.
        if self.ring.under_way() >= SIZE / 2 && !self.settle() {
            return None;
        }
        self.memory.space().write_slice(&access.bytes(), GuestAddress(slot)).ok()?;
        let added = self.ring.add(&[access_buffer], &[answer_buffer], slot);
        if !matches!(added, Ok(true)) {
            return None;
        }
        self.next = self.next.wrapping_add(1);
        if let Err(error) = self.ring.publish() {
            log::error!("the USB controllers cannot be kicked: {error}");
        }
        Some(answer)
    }

    /// The same, and waits for the answer.
    pub(super) fn ask(&mut self, access: Access) -> Option<u32> {
        let answer = self.send(access)?;
        if !self.settle() {
            return None;
        }
        let value: u32 = self.memory.space().read_obj(answer).ok()?;
        Some(u32::from_le(value))
    }

    /// Waits until all that was sent is done. `false`: the process is gone, and no other has come.
    pub(super) fn settle(&mut self) -> bool {
        if self.take() {
            self.given_up = false;
            return true;
        }
        if self.given_up {
            return false;
        }
        for _ in 0..SPINS {
            std::hint::spin_loop();
            if self.take() {
                return true;
            }
        }
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            match begun.elapsed() < EAGER {
                true => std::thread::yield_now(),
                false => std::thread::sleep(PAUSE),
            }
            if self.take() {
                return true;
            }
        }
        log::error!("the USB controllers' process does not answer");
        self.given_up = true;
        false
    }

    /// Takes what is done; whether that is all.
    fn take(&mut self) -> bool {
        loop {
            match self.ring.take() {
                Ok(Some(_)) => {}
                Ok(None) => return self.ring.under_way() == 0,
                Err(error) => {
                    if !std::mem::replace(&mut self.given_up, true) {
                        log::error!("the USB controllers' process breaks the rules: {error}");
                    }
                    return false;
                }
            }
        }
    }
}
