//! What can stand behind a logical unit number.

pub mod disk;
pub mod identity;
pub mod pass_through;
