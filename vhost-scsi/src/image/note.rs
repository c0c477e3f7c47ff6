//! A few bytes kept beside an image, for its unit: an extended attribute of the file, which goes
//! where the file goes, and outlives this process. Block devices and some file systems have none.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{XattrFlags, fgetxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;

const NAME: &str = "user.vhost-scsi.unit";

/// Bytes that a note may have: what any file system with attributes has room for.
pub(super) const MOST: usize = 2048;

/// The note beside an open file.
///
/// # Errors
/// `Unsupported` where there can be none; else what the host said.
pub(super) fn read(file: impl AsFd) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; MOST];
    match fgetxattr(file, NAME, &mut bytes[..]) {
        Ok(length) => {
            bytes.truncate(length);
            Ok(Some(bytes))
        }
        Err(Errno::NODATA) => Ok(None),
        Err(error) => Err(explained(error)),
    }
}

/// Replaces it, or removes it.
///
/// # Errors
/// As [`read`].
pub(super) fn write(file: impl AsFd, note: Option<&[u8]>) -> io::Result<()> {
    let written = match note {
        Some(bytes) => fsetxattr(file, NAME, bytes, XattrFlags::empty()),
        None => fremovexattr(file, NAME),
    };
    match written {
        Ok(()) | Err(Errno::NODATA) => Ok(()),
        Err(error) => Err(explained(error)),
    }
}

/// Block devices answer EPERM: attributes of this kind are for regular files.
fn explained(error: Errno) -> io::Error {
    match error {
        Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM => io::ErrorKind::Unsupported.into(),
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::open::tests::Scratch;

    #[test]
    fn a_note_stays_with_its_file() {
        let scratch = Scratch::new(4096);
        let open = || std::fs::File::options().read(true).write(true).open(scratch.path()).unwrap();
        assert_eq!(read(open()).unwrap(), None);
        write(open(), Some(b"first")).unwrap();
        write(open(), Some(b"second")).unwrap();
        assert_eq!(read(open()).unwrap().unwrap(), b"second");
        write(open(), None).unwrap();
        write(open(), None).unwrap();
        assert_eq!(read(open()).unwrap(), None);
    }

    #[test]
    fn a_device_has_none() {
        let device = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(write(&device, Some(b"x")).unwrap_err().kind(), io::ErrorKind::Unsupported);
    }
}
