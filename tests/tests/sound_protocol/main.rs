//! vhost-sound, as a driver sees it.

mod common;
mod controls;
mod hosts;
mod jacks;
mod recovery;
mod streams;
