//! How a VMM reaches the controllers.
//!
//! - [`vhost_user`]: over vhost-user, for `vmm-frontend`;
//! - [`guest`]: the guest's memory;
//! - [`run`]: when there is something to do.

mod guest;
mod run;
pub mod vhost_user;
