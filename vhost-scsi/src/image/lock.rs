//! Keeps a second writer away from an image: open file description locks on the bytes that QEMU
//! uses for the same purpose, so that each keeps away from the other's.
//!
//! QEMU marks what it does by a shared lock on byte 100 + n, and what it does not want others to do
//! by one on byte 200 + n, for permission n; it then checks that nobody holds the opposite.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

/// QEMU's permissions.
const CONSISTENT_READ: i64 = 0;
const WRITE: i64 = 1;
const RESIZE: i64 = 3;

const USED: i64 = 100;
const UNSHARED: i64 = 200;

/// A file that an image locks while it is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockedFile {
    /// Device and inode.
    file: (u64, u64),
    writes: bool,
}

impl LockedFile {
    /// Both can't be in use at once.
    #[must_use]
    pub fn conflicts(self, other: Self) -> bool {
        self.file == other.file && (self.writes || other.writes)
    }
}

/// An image's lock, free at first.
#[derive(Debug)]
pub(super) struct ImageLock {
    file: File,
    read_only: bool,
    locked: LockedFile,
}

impl ImageLock {
    pub(super) fn new(file: File, read_only: bool) -> io::Result<Self> {
        let found = file.metadata()?;
        // A block device may have several names.
        let id = match found.file_type().is_block_device() {
            true => (0, found.rdev()),
            false => (found.dev(), found.ino()),
        };
        Ok(Self { file, read_only, locked: LockedFile { file: id, writes: !read_only } })
    }

    /// What it is a lock on.
    pub(super) fn locked(&self) -> LockedFile {
        self.locked
    }

    /// What we do, and what nobody else may do meanwhile.
    fn bytes(&self) -> Vec<i64> {
        let mut bytes = vec![USED + CONSISTENT_READ, UNSHARED + WRITE, UNSHARED + RESIZE];
        if !self.read_only {
            bytes.push(USED + WRITE);
        }
        bytes
    }

    /// What another may hold that stands against it.
    fn conflicts(&self) -> Vec<i64> {
        let mut bytes = vec![USED + WRITE, USED + RESIZE, UNSHARED + CONSISTENT_READ];
        if !self.read_only {
            bytes.push(UNSHARED + WRITE);
        }
        bytes
    }

    pub(super) fn take(&self) -> io::Result<()> {
        for byte in self.bytes() {
            self.set(libc::F_RDLCK, byte)?;
        }
        for byte in self.conflicts() {
            if self.is_held_by_another(byte)? {
                self.give_back()?;
                return Err(io::Error::new(
                    io::ErrorKind::ResourceBusy,
                    "another process holds it",
                ));
            }
        }
        Ok(())
    }

    pub(super) fn give_back(&self) -> io::Result<()> {
        self.bytes().into_iter().try_for_each(|byte| self.set(libc::F_UNLCK, byte))
    }

    fn lock(kind: libc::c_int, byte: i64) -> io::Result<libc::flock> {
        // The C library's constants are wider than its fields.
        let short = |constant| libc::c_short::try_from(constant).map_err(io::Error::other);
        Ok(libc::flock {
            l_type: short(kind)?,
            l_whence: short(libc::SEEK_SET)?,
            l_start: byte,
            l_len: 1,
            l_pid: 0,
        })
    }

    fn set(&self, kind: libc::c_int, byte: i64) -> io::Result<()> {
        let lock = Self::lock(kind, byte)?;
        // SAFETY: `lock` outlives the call.
        match unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn is_held_by_another(&self, byte: i64) -> io::Result<bool> {
        let mut lock = Self::lock(libc::F_WRLCK, byte)?;
        // SAFETY: `lock` outlives the call.
        match unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) } {
            0 => Ok(libc::c_int::from(lock.l_type) != libc::F_UNLCK),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::open::tests::Scratch;

    fn lock(scratch: &Scratch, read_only: bool) -> ImageLock {
        let file = File::options().read(true).write(!read_only).open(scratch.path()).unwrap();
        ImageLock::new(file, read_only).unwrap()
    }

    #[test]
    fn one_writer_or_many_readers() {
        let scratch = Scratch::new(4096);
        let writer = lock(&scratch, false);
        writer.take().unwrap();
        assert!(lock(&scratch, false).take().is_err());
        assert!(lock(&scratch, true).take().is_err());
        writer.give_back().unwrap();
        let (one, two) = (lock(&scratch, true), lock(&scratch, true));
        one.take().unwrap();
        two.take().unwrap();
        assert!(lock(&scratch, false).take().is_err());
        drop((one, two));
        lock(&scratch, false).take().unwrap();
    }

    #[test]
    fn qemu_keeps_away_from_our_image() {
        let scratch = Scratch::new(1 << 20);
        let write = |scratch: &Scratch| {
            std::process::Command::new("qemu-io")
                .args(["-f", "raw", "-c", "write 0 512"])
                .arg(scratch.path())
                .output()
                .unwrap()
                .status
                .success()
        };
        let ours = lock(&scratch, false);
        ours.take().unwrap();
        assert!(!write(&scratch));
        ours.give_back().unwrap();
        assert!(write(&scratch));
    }
}
