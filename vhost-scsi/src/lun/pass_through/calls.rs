//! Calls of `SG_IO` that can be called back.
//!
//! `/dev/sgN` moves data through memory of the kernel's own, and copies it to the caller on the
//! calling thread. A call that a signal interrupts touches the caller's memory no more, and whatever
//! becomes of its command is thrown away. That is how a command ends whose unit was reset, where the
//! adapter's driver forgets it without a word.

use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

/// How often, and how many times, a thread is interrupted that may not have been in its call yet.
const AGAIN: Duration = Duration::from_millis(5);
const TIMES: u32 = 100;

/// A command's place in time: before or after a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

#[derive(Debug, Default)]
struct State {
    now: u64,
    /// Threads in a call, with what they do it for.
    threads: Vec<(libc::pid_t, Ticket)>,
}

/// All calls for one unit.
#[derive(Debug, Default)]
pub(super) struct Calls {
    state: Mutex<State>,
}

impl Calls {
    pub(super) fn new() -> Self {
        static HANDLER: Once = Once::new();
        HANDLER.call_once(install_handler);
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ticket(&self) -> Ticket {
        Ticket(self.state().now)
    }

    /// Notes that this thread is about to make a call. `None`: the unit was reset meanwhile.
    pub(super) fn enter(&self, ticket: Ticket) -> Option<Call<'_>> {
        // SAFETY: no arguments, no failure.
        let thread = unsafe { libc::gettid() };
        let mut state = self.state();
        if ticket != Ticket(state.now) {
            return None;
        }
        state.threads.push((thread, ticket));
        Some(Call { calls: self, thread, ticket })
    }

    /// Ends all calls of tickets so far. Calls that no signal interrupts (a block device's) are left.
    pub(super) fn call_back(&self) {
        let now = {
            let mut state = self.state();
            state.now = state.now.wrapping_add(1);
            Ticket(state.now)
        };
        for _ in 0..TIMES {
            let state = self.state();
            let old = state.threads.iter().filter(|(_, ticket)| *ticket != now);
            let count = old.map(|&(thread, _)| interrupt(thread)).count();
            drop(state);
            if count == 0 {
                return;
            }
            std::thread::sleep(AGAIN);
        }
    }
}

/// A thread is in a call.
pub(super) struct Call<'a> {
    calls: &'a Calls,
    thread: libc::pid_t,
    ticket: Ticket,
}

impl Call<'_> {
    /// The unit was reset since.
    pub(super) fn is_called_back(&self) -> bool {
        self.ticket != self.calls.ticket()
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.calls.state().threads.retain(|&(thread, _)| thread != self.thread);
    }
}

/// A signal that nobody else uses.
fn signal() -> libc::c_int {
    libc::SIGRTMIN()
}

fn install_handler() {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: all zeroes are a valid sigaction: no flags (above all not SA_RESTART), nothing masked.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // SAFETY: the handler does nothing, so it may run at any moment.
    if unsafe { libc::sigaction(signal(), &raw const action, std::ptr::null_mut()) } != 0 {
        log::error!("no signal handler: {}", std::io::Error::last_os_error());
    }
}

/// The list of threads is locked meanwhile: the thread can't have gone.
fn interrupt(thread: libc::pid_t) {
    // SAFETY: a signal with a handler that does nothing, to a thread of this process.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal()) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    /// Blocks in a system call until a signal comes.
    fn block() -> i32 {
        // SAFETY: no descriptors; only a signal ends it.
        unsafe { libc::poll(std::ptr::null_mut(), 0, -1) }
    }

    #[test]
    fn calls_end_when_they_are_called_back() {
        let calls = Arc::new(Calls::new());
        let (begun, begins) = channel();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (calls, begun, ticket) = (Arc::clone(&calls), begun.clone(), calls.ticket());
                std::thread::spawn(move || {
                    let call = calls.enter(ticket).unwrap();
                    begun.send(()).unwrap();
                    (block(), call.is_called_back())
                })
            })
            .collect();
        begins.iter().take(threads.len()).for_each(drop);
        calls.call_back();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), (-1, true));
        }
    }

    #[test]
    fn a_call_from_before_a_reset_is_not_made() {
        let calls = Calls::new();
        let old = calls.ticket();
        calls.call_back();
        assert!(calls.enter(old).is_none());
        let call = calls.enter(calls.ticket()).unwrap();
        assert!(!call.is_called_back());
    }
}
