//! What can stand behind a logical unit number.

pub mod cd;
pub mod disk;
pub mod identity;
pub mod pass_through;
