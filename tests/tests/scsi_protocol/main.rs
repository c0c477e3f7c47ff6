//! A vhost-scsi process, driven over vhost-user without a guest.

mod common;
mod frontends;
mod full_disk;
mod hostile;
mod media;
mod memory;
mod messages;
mod migration;
mod recovery;
mod rings;
mod tasks;
mod windows;
