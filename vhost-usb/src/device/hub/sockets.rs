//! Where devices are plugged into a hub and out of it while it is in use, on any thread.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::device::Device;

/// What is to be done at a port.
pub(super) enum Order {
    Plug(usize, Box<dyn Device>),
    Unplug(usize),
    OverCurrent(usize, bool),
}

/// A hub's ports, as its user sees them. What is asked for is done at the hub's next turn.
pub struct Sockets {
    orders: Mutex<Vec<Order>>,
    wake: EventFd,
}

impl Sockets {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { orders: Mutex::default(), wake: EventFd::new(EFD_NONBLOCK)? })
    }

    pub(super) fn event(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    pub(super) fn take(&self) -> Vec<Order> {
        let _ = self.wake.read(); // however often it was written
        std::mem::take(&mut *self.orders.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn order(&self, order: Order) {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).push(order);
        // A counter that is full is readable as well.
        let _ = self.wake.write(1);
    }

    /// Plugs a device into a port, counted from 0; what was there before is taken out. It is
    /// [active](Device::activate) if the guest runs.
    pub fn plug(&self, port: usize, device: Box<dyn Device>) {
        self.order(Order::Plug(port, device));
    }

    /// Takes out what is plugged into a port.
    pub fn unplug(&self, port: usize) {
        self.order(Order::Unplug(port));
    }

    /// A port's device takes more current than it may, or does not any more.
    pub fn set_over_current(&self, port: usize, over: bool) {
        self.order(Order::OverCurrent(port, over));
    }
}
