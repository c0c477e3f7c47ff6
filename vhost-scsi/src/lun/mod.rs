//! What can stand behind a logical unit number.

pub mod pass_through;
