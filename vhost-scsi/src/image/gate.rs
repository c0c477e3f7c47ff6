//! Keeps transfers away from a unit while a command runs on it that must see no other's data in
//! between (COMPARE AND WRITE, ORWRITE, WRITE ATOMIC). Nobody blocks: who is refused comes again
//! when told.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// An exclusive command is inside.
const INSIDE: u32 = 1 << 31;
/// An exclusive command waits: no transfer enters before it.
const WANTED: u32 = 1 << 30;
const COUNT: u32 = WANTED - 1;

/// How a command wants a unit for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Beside other transfers.
    Shared,
    /// Alone.
    Exclusive,
}

/// A unit's gate.
#[derive(Debug, Default)]
pub struct Gate {
    state: AtomicU32,
    refused: AtomicBool,
}

impl Gate {
    /// Enters, or is refused and has to try again after a [`leave`](Self::leave) that returns true.
    pub fn enter(&self, entry: Entry) -> bool {
        let entered = match entry {
            Entry::Shared => self.enter_shared(),
            Entry::Exclusive => self.enter_exclusive(),
        };
        if entered {
            return true;
        }
        // Whoever leaves from now on says so; but the last one may just have left.
        self.refused.store(true, Ordering::SeqCst);
        match entry {
            Entry::Shared => self.enter_shared(),
            Entry::Exclusive => self.enter_exclusive(),
        }
    }

    fn enter_shared(&self) -> bool {
        let before = self.state.fetch_add(1, Ordering::SeqCst);
        if before & (INSIDE | WANTED) == 0 {
            return true;
        }
        self.state.fetch_sub(1, Ordering::SeqCst);
        false
    }

    fn enter_exclusive(&self) -> bool {
        let before = self.state.fetch_or(WANTED, Ordering::SeqCst);
        before & (INSIDE | COUNT) == 0
            && self
                .state
                .compare_exchange(WANTED, INSIDE, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
    }

    /// Leaves. `true`: somebody was refused meanwhile and is to be told to try again.
    #[must_use]
    pub fn leave(&self, entry: Entry) -> bool {
        match entry {
            Entry::Shared => self.state.fetch_sub(1, Ordering::SeqCst),
            // Wishes of others are forgotten too: they come again.
            Entry::Exclusive => self.state.fetch_and(COUNT, Ordering::SeqCst),
        };
        self.refused.load(Ordering::Relaxed) && self.refused.swap(false, Ordering::SeqCst)
    }

    /// Gives up on a wish to enter alone; the others are to be told to try again.
    pub fn give_up(&self) {
        self.state.fetch_and(!WANTED, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn alone_means_alone() {
        let gate = Gate::default();
        assert!(gate.enter(Entry::Shared));
        assert!(!gate.enter(Entry::Exclusive));
        assert!(!gate.enter(Entry::Shared), "no transfer enters before the one that waits");
        assert!(gate.leave(Entry::Shared));
        assert!(gate.enter(Entry::Exclusive));
        assert!(!gate.enter(Entry::Shared));
        assert!(gate.leave(Entry::Exclusive));
        assert!(gate.enter(Entry::Shared));
        assert!(!gate.leave(Entry::Shared));
    }

    #[test]
    fn an_abandoned_wish_lets_transfers_in_again() {
        let gate = Gate::default();
        assert!(gate.enter(Entry::Shared));
        assert!(!gate.enter(Entry::Exclusive));
        gate.give_up();
        assert!(gate.enter(Entry::Shared));
    }

    #[test]
    fn threads_never_meet_an_exclusive_one() {
        let gate = Arc::new(Gate::default());
        let inside = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = (0..4)
            .map(|number| {
                let (gate, inside) = (Arc::clone(&gate), Arc::clone(&inside));
                std::thread::spawn(move || {
                    let entry = if number == 0 { Entry::Exclusive } else { Entry::Shared };
                    let weight = if number == 0 { 1000 } else { 1 };
                    for _ in 0..2000 {
                        while !gate.enter(entry) {
                            std::thread::yield_now();
                        }
                        let before = inside.fetch_add(weight, Ordering::SeqCst);
                        assert!(if number == 0 { before == 0 } else { before < 1000 });
                        inside.fetch_sub(weight, Ordering::SeqCst);
                        let _ = gate.leave(entry);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}
