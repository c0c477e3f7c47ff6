//! What a disk or a CD stores to: a raw file, a block device, a qcow2 image.

pub mod engine;
pub mod gate;
mod lock;
mod note;
pub mod open;
pub mod pool;
mod qcow2;
pub mod raw;
mod uring;

pub use lock::LockedFile;

use std::io;
use std::os::fd::BorrowedFd;

/// Whether a stretch of the medium takes space on the host (for GET LBA STATUS).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// `false`: deallocated, reads as zeroes.
    pub mapped: bool,
    /// Length in bytes, at least 1 within the medium.
    pub length: u64,
}

/// What the host can do with the medium, as VPD pages B0h and B2h tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Space can be given back to the host, and reads as zeroes then.
    pub discard: bool,
    /// Granularity of discards in bytes; 1 where it does not matter.
    pub discard_granularity: u64,
    /// Physical block size in bytes: power of two, at least 512.
    pub physical_block: u32,
}

/// A file that is one to one the medium.
#[derive(Clone, Copy, Debug)]
pub struct Direct<'a> {
    /// The file or block device.
    pub fd: BorrowedFd<'a>,
    /// Buffers must begin at a multiple of this and be as long, in bytes; 1 where it does not matter.
    pub alignment: usize,
}

/// A stretch cut into pieces of `most` bytes, but for the last: offset and length of each, in bytes.
pub(crate) fn pieces(offset: u64, length: u64, most: usize) -> impl Iterator<Item = (u64, usize)> {
    let end = offset.saturating_add(length);
    (offset..end).step_by(most.max(1)).map(move |at| {
        let left = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX);
        (at, left.min(most))
    })
}

/// A random-access medium. All methods may block and may be called by several threads at once.
pub trait Image: Send + Sync {
    /// Size in bytes as last read.
    fn len(&self) -> u64;

    /// No bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads the size again after the host changed it, and returns it.
    ///
    /// # Errors
    /// What the host said.
    fn refresh(&self) -> io::Result<u64>;

    /// Makes it this long, in bytes; a new end reads as zeroes.
    ///
    /// # Errors
    /// `Unsupported` where only somebody else can; else what the host said.
    fn resize(&self, size: u64) -> io::Result<()> {
        let _ = size;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Changes nothing on it.
    fn read_only(&self) -> bool;

    /// What the host can do with it.
    fn limits(&self) -> Limits;

    /// Reads all of `buffer` from `offset` (bytes).
    ///
    /// # Errors
    /// What the host said; `UnexpectedEof` past the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `buffer` at `offset` (bytes).
    ///
    /// # Errors
    /// What the host said.
    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<()>;

    /// Makes all completed writes durable, as far as the cache mode promises.
    ///
    /// # Errors
    /// What the host said.
    fn flush(&self) -> io::Result<()>;

    /// Gives the space back to the host; afterwards it reads as zeroes.
    ///
    /// # Errors
    /// What the host said.
    fn discard(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Writes zeroes; `unmap` allows to give the space back.
    ///
    /// # Errors
    /// What the host said.
    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()>;

    /// Whether the stretch that begins at `offset` takes space, and how long it is.
    ///
    /// # Errors
    /// What the host said.
    fn extent(&self, offset: u64) -> io::Result<Extent>;

    /// The file to do asynchronous I/O on, where the medium is one to one a file or block device.
    fn direct(&self) -> Option<Direct<'_>>;

    /// Whether flushes and FUA writes are to reach stable storage (`cache=unsafe` does not want it).
    fn durable(&self) -> bool;

    /// What is kept beside the medium for its unit.
    ///
    /// # Errors
    /// `Unsupported` where nothing can be kept; else what the host said.
    fn note(&self) -> io::Result<Option<Vec<u8>>>;

    /// Keeps it, or removes it.
    ///
    /// # Errors
    /// As [`note`](Self::note).
    fn set_note(&self, note: Option<&[u8]>) -> io::Result<()>;

    /// The files that [`acquire`](Self::acquire) locks.
    fn locked_files(&self) -> Vec<LockedFile> {
        Vec::new()
    }

    /// Takes the lock that keeps a second writer away, and reads what may have changed before
    /// (metadata, size): called when the first ring starts.
    ///
    /// # Errors
    /// Another process holds it.
    fn acquire(&self) -> io::Result<()>;

    /// Flushes and gives the lock back: called when the last ring stopped.
    ///
    /// # Errors
    /// What the host said.
    fn release(&self) -> io::Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_as_long_as_they_may_be_but_for_the_last() {
        let cut = |offset, length, most| pieces(offset, length, most).collect::<Vec<_>>();
        assert_eq!(cut(5, 10, 4), [(5, 4), (9, 4), (13, 2)]);
        assert_eq!(cut(5, 8, 4), [(5, 4), (9, 4)]);
        assert_eq!(cut(5, 0, 4), []);
    }
}
