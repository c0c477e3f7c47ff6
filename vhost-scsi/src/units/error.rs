//! What is wrong with a unit's description.

use std::io;
use std::path::PathBuf;

use crate::image::open::OpenError;
use crate::lun::pass_through::PassThroughError;
use crate::scsi::target::Address;

/// What is wrong with a unit's description.
#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    /// No path.
    #[error("{option} {text}: begin with the path of an image, then key=value after commas")]
    NoPath {
        /// Which option.
        option: &'static str,
        /// What was given.
        text: String,
    },
    /// A key that there is not.
    #[error("{option} {text}: there is no {key}=; there is {known}")]
    Key {
        /// Which option.
        option: &'static str,
        /// What was given.
        text: String,
        /// What is not known.
        key: String,
        /// What is.
        known: String,
    },
    /// A value that the key can't have.
    #[error("{option} {text}: {key}={value} is wrong, it must be {expected}")]
    Value {
        /// Which option.
        option: &'static str,
        /// What was given.
        text: String,
        /// Whose value.
        key: String,
        /// The value.
        value: String,
        /// What it may be.
        expected: String,
    },
    /// Its image can't be opened.
    #[error("{option} {error}")]
    Open {
        /// Which option.
        option: &'static str,
        /// Why not.
        error: OpenError,
    },
    /// A folder of images can't be read.
    #[error("{option} {path}: {error}")]
    Folder {
        /// Which option.
        option: &'static str,
        /// Which folder.
        path: PathBuf,
        /// What the host said.
        error: io::Error,
    },
    /// A folder without images.
    #[error("{option} {path}: there is no image in this folder")]
    EmptyFolder {
        /// Which option.
        option: &'static str,
        /// Which folder.
        path: PathBuf,
    },
    /// Its image is locked by another process.
    #[error("{option} {text}: {error}")]
    Lock {
        /// Which option.
        option: &'static str,
        /// What was given.
        text: String,
        /// What the host said.
        error: io::Error,
    },
    /// It can't be passed through.
    #[error("{option} {error}")]
    PassThrough {
        /// Which option.
        option: &'static str,
        /// Why.
        error: PassThroughError,
    },
    /// Its image has no whole number of blocks.
    #[error("{option} {path}: {size} bytes are no whole number of {block} byte blocks")]
    Size {
        /// Which option.
        option: &'static str,
        /// Which image.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// Bytes in a block.
        block: u32,
    },
    /// O_DIRECT takes no such blocks.
    #[error("{option} {path}: cache=none needs block-size={needed} or more there")]
    Alignment {
        /// Which option.
        option: &'static str,
        /// Which image.
        path: PathBuf,
        /// Bytes.
        needed: usize,
    },
    /// Two units at one address.
    #[error("{option} {text}: target={} lun={} is taken, choose another", address.target, address.lun)]
    Taken {
        /// Which option.
        option: &'static str,
        /// What was given.
        text: String,
        /// Where.
        address: Address,
    },
    /// More than 256 targets.
    #[error("{option} {text}: there are no more free targets, choose target= and lun=")]
    Full {
        /// Which option.
        option: &'static str,
        /// What was given.
        text: String,
    },
}
