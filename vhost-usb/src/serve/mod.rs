//! How a VMM reaches the controllers.
//!
//! - [`vhost_user`]: over vhost-user, for `vmm-frontend`;
//! - [`guest`]: the guest's memory.

mod guest;
pub mod vhost_user;
