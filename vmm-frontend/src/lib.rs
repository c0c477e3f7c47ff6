//! The frontend side of vhost-user.
