//! How a VMM reaches the controllers.
//!
//! - [`vhost_user`]: over vhost-user, for `vmm-frontend`;
//! - [`vfio_user`]: over vfio-user, for QEMU and others;
//! - [`guest`]: the guest's memory;
//! - [`run`]: when there is something to do.

mod guest;
mod run;
pub mod vfio_user;
pub mod vhost_user;
