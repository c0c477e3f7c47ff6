//! What network devices are tested by: networks of a test's own, raw packets on their interfaces, and
//! DPDK's testpmd as the guest.

mod device;
mod lan;
mod libvirt;
mod namespace;
mod packet;
mod testpmd;

pub use device::Net;
pub use lan::{Measured, SERVER, lease, lease_for, make_lan, measure};
pub use libvirt::boot_libvirt_guest;
pub use namespace::Namespace;
pub use packet::{Header, Packets};
pub use testpmd::{Statistics, Testpmd, TestpmdBuilder};
