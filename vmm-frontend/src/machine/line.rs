//! Interrupt lines.

use std::sync::atomic::{AtomicBool, Ordering};

use vmm_sys_util::eventfd::EventFd;

/// An interrupt line, as a device drives it: high while the device wants to be served.
pub trait Line: Send + Sync {
    /// Sets its level. A device may set the same level again.
    fn set(&self, high: bool);
}

/// A line of an edge-triggered input, as those of the ISA bus are: each rise is an event.
#[derive(Debug)]
pub struct Edge {
    rise: EventFd,
    high: AtomicBool,
}

impl Edge {
    /// One that is low, and will write to `rise`.
    #[must_use]
    pub fn new(rise: EventFd) -> Self {
        Self { rise, high: AtomicBool::new(false) }
    }
}

impl Line for Edge {
    fn set(&self, high: bool) {
        let was_high = self.high.swap(high, Ordering::AcqRel);
        if high && !was_high {
            // It fails only if as many rises as the counter can hold were not yet taken.
            let _ = self.rise.write(1);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    /// A line that tells its level.
    #[derive(Debug, Default)]
    pub(crate) struct Probe(AtomicBool);

    impl Probe {
        pub(crate) fn is_high(&self) -> bool {
            self.0.load(Ordering::Relaxed)
        }
    }

    impl Line for Probe {
        fn set(&self, high: bool) {
            self.0.store(high, Ordering::Relaxed);
        }
    }

    #[test]
    fn each_rise_is_one_event() {
        let rise = EventFd::new(EFD_NONBLOCK).unwrap();
        let line = Edge::new(rise.try_clone().unwrap());
        for high in [true, true, false, true, false] {
            line.set(high);
        }
        assert_eq!(rise.read().unwrap(), 2);
    }
}
