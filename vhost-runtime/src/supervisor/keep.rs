//! What a serving process has the supervisor keep, to be found by the one that takes its place.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use super::link::{self, ServingEnd};

/// Entries that are kept at most.
pub(super) const ENTRIES: usize = 16_384;
/// Bytes of one description.
pub(super) const DESCRIPTION: usize = 64 << 10;
/// Bytes of all descriptions.
const DESCRIPTIONS: usize = 64 << 20;
/// Bytes of a key.
pub(super) const KEY: usize = 255;
/// Descriptors of one entry.
pub(super) const FDS: usize = 64;

/// Something that was kept.
#[derive(Debug)]
pub struct Kept {
    /// Its name.
    pub key: String,
    /// What it is, in the words of who kept it.
    pub description: Vec<u8>,
    /// Its open files.
    pub fds: Vec<OwnedFd>,
}

/// Why something is not kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// More than 255 bytes of key, 64 KiB of description or 64 descriptors.
    #[error("it is too large to outlive a crash")]
    TooLarge,
    /// More than 16,384 entries or 64 MiB of descriptions, or no descriptors left.
    #[error("the supervisor has no more room for it")]
    Full,
    /// The supervisor does not answer.
    #[error("the supervisor does not answer: {0}")]
    Lost(#[from] io::Error),
}

/// Has the supervisor keep what a restarted process could not open by its arguments alone.
///
/// A process that a guest has taken over can keep whatever it likes. So nothing in a description may
/// be opened by name by the process that gets it back, which is in no sandbox yet: all access is by
/// the descriptors, and a description that makes no sense is dropped.
///
/// By default there is no supervisor, and nothing is kept.
#[derive(Clone, Debug, Default)]
pub struct Keeper {
    /// `None`: there is no supervisor, and none that would take this process's place.
    pub(super) link: Option<Arc<Mutex<ServingEnd>>>,
}

impl Keeper {
    /// Keeps this, in place of what was kept under the same key.
    ///
    /// # Errors
    /// See [`KeepError`]; what was kept under the key is lost then.
    pub fn keep(
        &self,
        key: &str,
        description: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), KeepError> {
        if key.len() > KEY || description.len() > DESCRIPTION || fds.len() > FDS {
            return Err(KeepError::TooLarge);
        }
        self.ask(&link::keep(key, description), fds)
    }

    /// It is needed no more; nothing happens if it was not there.
    ///
    /// # Errors
    /// [`KeepError::Lost`].
    pub fn forget(&self, key: &str) -> Result<(), KeepError> {
        self.ask(&link::forget(key), &[])
    }

    fn ask(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), KeepError> {
        let Some(link) = &self.link else { return Ok(()) };
        let link = link.lock().unwrap_or_else(PoisonError::into_inner);
        if link.ask(message, fds)? { Ok(()) } else { Err(KeepError::Full) }
    }
}

/// The supervisor's side.
#[derive(Debug, Default)]
pub(super) struct Store {
    entries: BTreeMap<String, (Box<[u8]>, Vec<OwnedFd>)>,
    bytes: usize,
}

impl Store {
    /// `false`: there is no room.
    pub(super) fn keep(&mut self, key: &str, description: &[u8], fds: Vec<OwnedFd>) -> bool {
        self.forget(key);
        let bytes = self.bytes.saturating_add(description.len());
        if self.entries.len() >= ENTRIES || bytes > DESCRIPTIONS {
            return false;
        }
        self.bytes = bytes;
        self.entries.insert(key.to_owned(), (description.into(), fds));
        true
    }

    pub(super) fn forget(&mut self, key: &str) {
        if let Some((description, _)) = self.entries.remove(key) {
            self.bytes = self.bytes.saturating_sub(description.len());
        }
    }

    /// In a process that was forked, the entries are its own: nothing has to be sent.
    pub(super) fn into_kept(self) -> Vec<Kept> {
        let entries = self.entries.into_iter();
        entries
            .map(|(key, (description, fds))| Kept { key, description: description.into(), fds })
            .collect()
    }
}

impl Kept {
    /// Its open files, to be kept again, say.
    pub fn borrowed_fds(&self) -> Vec<BorrowedFd<'_>> {
        self.fds.iter().map(AsFd::as_fd).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_an_end_to_what_is_kept() {
        let mut store = Store::default();
        for number in 0..ENTRIES {
            assert!(store.keep(&number.to_string(), b"x", Vec::new()));
        }
        assert!(!store.keep("more", b"x", Vec::new()));
        assert!(store.keep("7", b"in place of another", Vec::new()));
        store.forget("8");
        assert!(store.keep("more", b"x", Vec::new()));
    }

    #[test]
    fn there_is_an_end_to_its_bytes() {
        let mut store = Store::default();
        let large = vec![0; DESCRIPTION];
        let fit = DESCRIPTIONS / DESCRIPTION;
        assert!((0..fit).all(|number| store.keep(&number.to_string(), &large, Vec::new())));
        assert!(!store.keep("more", &large, Vec::new()));
        store.forget("0");
        assert!(store.keep("more", &large, Vec::new()));
        assert_eq!(store.into_kept().len(), fit);
    }
}
