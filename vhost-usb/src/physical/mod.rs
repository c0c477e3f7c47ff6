//! Devices that the host has, by libusb.
//!
//! - [`Filter`]: which one is meant;
//! - [`sysfs`]: which ones there are;
//! - [`broker`]: the process that opens them for the one in its sandbox, and gives them back to the host's
//!   drivers;
//! - [`configurations`]: what a device says that it is;
//! - [`libusb`]: libusb, safely;
//! - [`errands`]: what the kernel takes its time for, on a thread of its own;
//! - [`streams`]: endpoints whose packets move at the device's own pace;
//! - [`Physical`]: all of that, as a [remote](crate::device::remote) device's other end.

mod backend;
pub mod broker;
mod configurations;
mod errands;
mod filter;
mod libusb;
mod streams;
mod sysfs;

use vhost_runtime::sandbox::Call;

pub use backend::{Physical, PhysicalError};
pub use filter::Filter;
pub use libusb::UsbError;
pub use sysfs::open;

/// What libusb asks of usbfs (Linux, usbdevice_fs.h), on 64-bit hosts.
const REQUESTS: [u32; 17] = [
    0x8038_550a, // SUBMITURB
    0x4008_550d, // REAPURBNDELAY
    0x550b,      // DISCARDURB
    0xc018_5500, // CONTROL
    0x8004_550f, // CLAIMINTERFACE
    0x8004_5510, // RELEASEINTERFACE
    0x8008_5504, // SETINTERFACE
    0x8004_5505, // SETCONFIGURATION
    0x8004_5515, // CLEAR_HALT
    0x5514,      // RESET
    0x4104_5508, // GETDRIVER
    0xc010_5512, // IOCTL: DISCONNECT and CONNECT
    0x8108_551b, // DISCONNECT_CLAIM
    0x8004_551a, // GET_CAPABILITIES
    0x4008_5511, // CONNECTINFO
    0x551f,      // GET_SPEED
    0x8004_551e, // DROP_PRIVILEGES
];

/// System calls for devices of the host's.
pub fn calls() -> impl Iterator<Item = Call> {
    REQUESTS.into_iter().map(Call::ioctl)
}
