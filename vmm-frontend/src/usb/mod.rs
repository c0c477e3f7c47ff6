//! USB host controllers that another process serves: PCI functions whose registers are behind a vhost-user
//! socket (see [`vhost_runtime::registers`]).
//!
//! - [`UsbHost`]: the process, and what it has of the machine's memory;
//! - [`accesses`]: a function's queue of accesses to its registers;
//! - [`function`]: a controller as a PCI function;
//! - [`window`]: its registers, as the guest reads them by itself.

mod accesses;
pub mod function;
mod window;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

use vhost_runtime::inflight::Region;
use vhost_runtime::registers::{self, Access, Function as Description};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use vmm_sys_util::eventfd::EventFd;

use crate::frontend::memory::{Allocator, Memory, MemoryError, Pages};
use crate::frontend::ring::RingError;
use crate::frontend::{FrontendError, Link, QueueSetup};
use crate::lock::lock;
use crate::machine::page::Page;
use crate::machine::vm::Vm;
use accesses::Accesses;

/// Memory for the queues of accesses, in bytes: no guest reaches it.
const QUEUES: u64 = 1 << 20;
/// Controllers reach what is below.
const LIMIT: u64 = 1 << 32;
/// The queues' features: that of virtio 1 alone.
const FEATURES: u64 = 1 << VIRTIO_F_VERSION_1;

/// Why controllers can't be had.
#[derive(Debug, thiserror::Error)]
pub enum UsbError {
    /// Nobody listens, or it can't be spoken with.
    #[error("{path}: {source}")]
    Process {
        /// The socket.
        path: PathBuf,
        /// What went wrong.
        source: FrontendError,
    },
    /// Somebody else listens.
    #[error("{0}: the process there is no vhost-usb, or one of another version")]
    Foreign(PathBuf),
    /// There is no memory for the queues.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// They can't be made.
    #[error("no queue for accesses to registers can be made: {0}")]
    Ring(#[from] RingError),
}

/// The controllers of one process.
#[derive(Debug)]
pub struct UsbHost {
    link: Link,
    region: Arc<Region>,
    functions: Vec<Description>,
    accesses: Vec<Mutex<Accesses>>,
    running: Mutex<bool>,
}

impl UsbHost {
    /// Connects to the process at `path`, which gets the machine's memory.
    ///
    /// # Errors
    /// See [`UsbError`].
    pub fn connect(path: &Path, memory: &Memory) -> Result<Arc<Self>, UsbError> {
        let failed = |source| UsbError::Process { path: path.to_owned(), source };
        let place = memory.end().max(LIMIT).next_multiple_of(QUEUES);
        let mut all = memory.clone();
        all.add_sealed(place, QUEUES, Pages::Normal)?;
        let mut link = Link::connect(path, |_| 0, registers::CONFIG, &all).map_err(failed)?;
        let functions = registers::functions(&link.read_config(registers::CONFIG));
        let functions = functions.ok_or_else(|| UsbError::Foreign(path.to_owned()))?;
        let count = u16::try_from(functions.len()).unwrap_or(0);
        link.begin(count, accesses::SIZE).map_err(failed)?;
        let region = link.region(functions.len() * registers::WORDS).map_err(failed)?;
        let mut allocator = Allocator::new(place, QUEUES);
        let accesses: Result<Vec<_>, RingError> = functions
            .iter()
            .map(|_| Ok(Mutex::new(Accesses::new(&all, &mut allocator)?)))
            .collect();
        let (accesses, running) = (accesses?, Mutex::new(false));
        Ok(Arc::new(Self { link, region, functions, accesses, running }))
    }

    /// What its controllers are.
    #[must_use]
    pub fn functions(&self) -> &[Description] {
        &self.functions
    }

    /// Has the controllers work on the guest's memory.
    pub fn start(&self) {
        let mut running = lock(&self.running);
        if std::mem::replace(&mut *running, true) {
            return;
        }
        let queues = (0..).zip(&self.accesses);
        let queues = queues.map(|(index, it)| (index, QueueSetup::of(lock(it).ring()))).collect();
        if let Err(error) = self.link.start(FEATURES, queues) {
            log::error!("the USB controllers cannot start: {error}");
        }
    }

    /// Has them stop: they do not touch the guest's memory when this returns.
    pub fn stop(&self) {
        if std::mem::take(&mut *lock(&self.running)) {
            self.link.stop(false);
        }
    }

    fn accesses(&self, function: usize) -> Option<MutexGuard<'_, Accesses>> {
        self.accesses.get(function).map(lock)
    }

    /// What a function's interrupt request is written to by the process.
    fn request(&self, function: usize) -> Option<Arc<EventFd>> {
        self.accesses(function).map(|accesses| Arc::clone(&accesses.ring().events().call))
    }

    /// Whether a function requests an interrupt.
    fn is_pending(&self, function: usize) -> bool {
        word(&self.region, function, registers::PENDING) != 0
    }

    /// Says whether the guest reads a function's registers by itself. All that was sent before is done then,
    /// or the process is gone (`false`).
    fn set_watched(&self, function: usize, watched: bool) -> bool {
        if let Some(word) =
            self.region.words().get(function * registers::WORDS + registers::WATCHED)
        {
            word.store(u32::from(watched).to_le(), Ordering::SeqCst);
        }
        // The process may be asleep, and hears of an access.
        let access = Access::Read { offset: 0, width: 4 };
        !watched || self.accesses(function).is_some_and(|mut it| it.ask(access).is_some())
    }

    /// Waits until all is done that was sent. `false`: the process is gone.
    fn settle(&self, function: usize) -> bool {
        self.accesses(function).is_some_and(|mut accesses| accesses.settle())
    }

    /// A function's page of registers in the region.
    fn page(&self, vm: &Arc<Vm>, function: usize) -> Option<Page> {
        Page::new(vm, &self.region, function * registers::WORDS)
    }

    /// The guest writes a register, or the machine is reset. The process does it before it is read next.
    fn send(&self, function: usize, access: Access) {
        if let Some(mut accesses) = self.accesses(function) {
            accesses.send(access);
        }
    }

    /// What a doubleword of registers holds, after all that was sent; all ones if the process is gone.
    fn read(&self, function: usize, offset: u16) -> u32 {
        let live = self.functions.get(function).is_some_and(|it| it.live == Some(offset));
        let Some(mut accesses) = self.accesses(function) else { return u32::MAX };
        if live {
            return accesses.ask(Access::Read { offset, width: 4 }).unwrap_or(u32::MAX);
        }
        if !accesses.settle() {
            return u32::MAX;
        }
        match usize::from(offset) < registers::BYTES {
            true => word(&self.region, function, usize::from(offset / 4)),
            false => 0,
        }
    }
}

/// One of a function's doublewords in the region.
fn word(region: &Region, function: usize, place: usize) -> u32 {
    let place = function * registers::WORDS + place;
    region.words().get(place).map_or(0, |word| u32::from_le(word.load(Ordering::SeqCst)))
}
