//! A SCSI controller in a process of its own.
//!
//! Read it in this order:
//! - [`scsi`]: the SCSI target, free of any transport: CDB and data in, data and status out;
//! - [`lun`]: what can stand behind a logical unit number: disk, CD/DVD, a physical unit passed through;
//! - [`image`]: what a disk or a CD stores to, and the engines that move its data;
//! - [`virtio`]: the virtio-scsi device over it;
//! - [`units`], [`control`]: units as the command line and control clients name them;
//! - [`options`], [`manual`]: the program's command line, and what its manual says besides;
//! - [`confinement`]: what its sandbox lets it do.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

pub mod confinement;
pub mod control;
pub mod image;
pub mod lun;
pub mod manual;
pub mod options;
pub mod scsi;
pub mod units;
pub mod virtio;
