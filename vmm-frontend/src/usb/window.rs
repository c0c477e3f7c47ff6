//! A controller's registers as the guest reads them by itself, while it reads them often.
//!
//! An exit for each read is what a driver's interrupt handler costs most. But one register of the page changes
//! at any time, and to keep it fresh costs wake-ups: so the page is shown to the guest only while the driver is
//! busy with others. What the guest writes is then done before it goes on, as it would read it next.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use super::UsbHost;
use crate::lock::lock;
use crate::machine::page::Page;
use crate::machine::timer::{SECOND, Timer};
use crate::machine::vm::Vm;
use crate::reactor::{Events, Reactor, Watch};

/// How many reads in a row, each not longer than that after the one before, are often.
const OFTEN: u32 = 256;
const SOON: Duration = Duration::from_millis(20);
/// When nothing was written for so long, the driver is not busy. To hide a page costs KVM much: it forgets what
/// it knows of all of the guest's memory.
const IDLE: i128 = 3 * SECOND;

/// The page, and whether it is shown.
pub(super) struct Window {
    host: Arc<UsbHost>,
    number: usize,
    /// KVM and the process can show it.
    page: Option<Page>,
    reads: Mutex<Reads>,
    /// It is shown, or about to be: what is written has to be done at once.
    open: AtomicBool,
    /// Something was written since the timer has last gone off.
    written: AtomicBool,
    /// Nobody who has it waits for the process.
    state: Mutex<State>,
}

struct State {
    /// Where the registers are.
    address: Option<u64>,
    /// How often it was closed.
    closed: u64,
    timer: Timer,
    watch: Option<Watch>,
}

/// Reads in a row.
#[derive(Debug, Default)]
struct Reads {
    count: u32,
    last: Option<Instant>,
}

impl Reads {
    /// One more; whether they are often. One of the register that has to be fresh begins anew: a driver that
    /// wants to know the time is not kept from it.
    fn count(&mut self, now: Instant, live: bool) -> bool {
        let soon = self.last.is_some_and(|last| now.duration_since(last) <= SOON);
        self.count = if live || !soon { 0 } else { self.count.saturating_add(1) };
        self.last = Some(now);
        self.count >= OFTEN
    }
}

impl std::fmt::Debug for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Window")
            .field("page", &self.page)
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

impl Window {
    /// The window of a process's function, closed.
    ///
    /// # Errors
    /// No timer can be had.
    pub(super) fn new(
        host: &Arc<UsbHost>,
        number: usize,
        vm: &Arc<Vm>,
        reactor: &Reactor,
    ) -> io::Result<Arc<Self>> {
        let state = State { address: None, closed: 0, timer: Timer::monotonic()?, watch: None };
        let this = Arc::new(Self {
            host: Arc::clone(host),
            number,
            page: host.page(vm, number),
            reads: Mutex::default(),
            open: AtomicBool::new(false),
            written: AtomicBool::new(false),
            state: Mutex::new(state),
        });
        let weak = Arc::downgrade(&this);
        let mut state = lock(&this.state);
        let look = move || {
            if let Some(this) = Weak::upgrade(&weak) {
                this.look();
            }
        };
        state.watch = Some(reactor.watch(&state.timer, Events::IN, Arc::new(look))?);
        drop(state);
        Ok(this)
    }

    /// The guest has read a register, by an exit: the one that has to be fresh (`live`), or another.
    pub(super) fn was_read(&self, live: bool) {
        let often = lock(&self.reads).count(Instant::now(), live);
        // A driver that only looks has nothing to do.
        if often && self.written.load(Ordering::Relaxed) && self.page.is_some() {
            self.open();
        }
    }

    /// The guest has written a register, which is under way.
    pub(super) fn was_written(&self) {
        self.written.store(true, Ordering::Relaxed);
        if self.open.load(Ordering::SeqCst) && !self.host.settle(self.number) {
            self.close(&mut lock(&self.state));
        }
    }

    /// The registers are there now, or nowhere.
    pub(super) fn moved(&self, address: Option<u64>) {
        let mut state = lock(&self.state);
        self.close(&mut state);
        state.address = address;
    }

    /// What the registers hold is about to change by another way than the guest's.
    pub(super) fn hide(&self) {
        self.close(&mut lock(&self.state));
    }

    fn open(&self) {
        let closed = {
            let state = lock(&self.state);
            if state.address.is_none() || self.open.swap(true, Ordering::SeqCst) {
                return;
            }
            state.closed
        };
        // Who has not seen that it is open has written before, which is done when this returns.
        let answers = self.host.set_watched(self.number, true);
        let mut state = lock(&self.state);
        if state.closed != closed {
            // If another opens it now, what this has waited for is not enough.
            return;
        }
        let (true, Some(page), Some(address)) = (answers, &self.page, state.address) else {
            return self.close(&mut state);
        };
        match page.show(Some(address)) {
            Ok(()) => self.look_again(&mut state),
            Err(error) => {
                log::warn!("a USB controller's registers cannot be shown to the guest: {error}");
                // Here it never can: it is not tried again.
                state.address = None;
                self.close(&mut state);
            }
        }
    }

    fn close(&self, state: &mut State) {
        if let Some(page) = &self.page
            && page.is_shown()
            && let Err(error) = page.show(None)
        {
            log::error!("a USB controller's registers cannot be hidden from the guest: {error}");
            // It stays open, and this is tried again.
            return self.look_again(state);
        }
        state.timer.set(None);
        *lock(&self.reads) = Reads::default();
        self.written.store(false, Ordering::Relaxed);
        self.host.set_watched(self.number, false);
        state.closed = state.closed.wrapping_add(1);
        self.open.store(false, Ordering::SeqCst);
    }

    fn look_again(&self, state: &mut State) {
        self.written.store(false, Ordering::Relaxed);
        let now = state.timer.now();
        state.timer.set(Some(now + IDLE));
    }

    /// The timer has gone off.
    fn look(&self) {
        let mut state = lock(&self.state);
        state.timer.take();
        match self.written.load(Ordering::Relaxed) {
            true => self.look_again(&mut state),
            false => self.close(&mut state),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_reads_in_a_row_are_often() {
        let (mut reads, mut now) = (Reads::default(), Instant::now());
        let mut read = |after: u64, live| {
            now += Duration::from_millis(after);
            reads.count(now, live)
        };
        assert!((0..OFTEN).all(|_| !read(20, false)));
        assert!(read(20, false));
        assert!(!read(21, false), "a pause");
        assert!((1..OFTEN).all(|_| !read(1, false)));
        assert!(!read(1, true), "the time is wanted");
        assert!((1..OFTEN).all(|_| !read(1, false)));
        assert!(read(1, false));
    }
}
