//! PCI: one bus, whose functions have configuration space, BARs, MSI-X and INTx.
//!
//! - [`config`]: a function's configuration space;
//! - [`msi`], [`msix`]: message-signalled interrupts, [`intx`]: pins;
//! - [`host`]: the host bridge, by which a guest reaches all of it;
//! - [`hotplug`]: functions that come and go.

pub use vhost_runtime::pci as config;

pub mod host;
pub mod hotplug;
pub mod intx;
pub mod msi;
pub mod msix;

use config::Config;

/// A function of a device. Virtual processors call it at the same time.
///
/// A guest chooses each access, and when it comes: whether the function is enabled or not.
pub trait Function: Send + Sync {
    /// Works on its configuration space. Whoever changes it tells the function by
    /// [`config_written`](Self::config_written).
    fn with_config(&self, use_it: &mut dyn FnMut(&mut Config));

    /// The guest reads 1, 2 or 4 bytes of its configuration space, inside a multiple of 4.
    fn read_config(&self, offset: usize, data: &mut [u8]) {
        self.with_config(&mut |config| config.read(offset, data));
    }

    /// The guest writes 1, 2 or 4 bytes of its configuration space, inside a multiple of 4.
    fn write_config(&self, offset: usize, data: &[u8]);

    /// The guest reads a register behind a BAR.
    fn read_bar(&self, bar: usize, offset: u64, data: &mut [u8]);

    /// The guest writes a register behind a BAR.
    fn write_bar(&self, bar: usize, offset: u64, data: &[u8]);

    /// A BAR answers at that address now, or nowhere.
    fn moved(&self, bar: usize, address: Option<u64>);

    /// Is as at power-on, but for its BARs.
    fn reset(&self);

    /// The machine stops: guest memory is not touched from when this returns.
    fn pause(&self) {}

    /// The machine goes on.
    fn resume(&self) {}
}
