//! Host controllers, and the ports that they share.
//!
//! A controller knows no transport: its registers are read and written, it is run at a time, on a
//! [`Memory`], and says when it wants to be run again.
//!
//! - [`ports`]: what is plugged in, and which controller has it;
//! - [`ehci`]: USB 2.0's controller;
//! - [`uhci`]: USB 1.1's, alone or as EHCI's companion;
//! - [`host`]: the controllers of a PCI slot.

pub mod ehci;
pub mod host;
pub mod ports;
pub mod uhci;

/// The host's memory, as a controller on its PCI bus reaches it. `None`: nothing answers there.
pub trait Memory {
    /// Reads a doubleword at a multiple of 4, before anything that is read after it.
    fn load(&self, address: u32) -> Option<u32>;

    /// Writes a doubleword at a multiple of 4, after all that was written before it.
    fn store(&self, address: u32, value: u32) -> Option<()>;

    /// Reads bytes.
    fn read(&self, address: u32, to: &mut [u8]) -> Option<()>;

    /// Writes bytes.
    fn write(&self, address: u32, from: &[u8]) -> Option<()>;
}

/// A time, in nanoseconds of a clock that does not go back, of all processes of the host (CLOCK_MONOTONIC).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Time {
    /// So much later.
    #[must_use]
    pub const fn after(self, nanoseconds: u64) -> Self {
        Self(self.0.saturating_add(nanoseconds))
    }

    /// Nanoseconds since an earlier time.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// When a controller wants to be run again, if nothing happens before: a write to its registers, or an
/// event of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Next {
    /// At once: it has not done all that it could.
    Now,
    /// Then.
    At(Time),
    /// Not before something happens.
    Never,
}
