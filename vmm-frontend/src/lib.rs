//! The frontend side of vhost-user.

pub mod frontend;
