//! Pseudo-terminals of the host's, and links by which they are found.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fcntl_setfl, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

/// Why a link can't be made.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// What is there is not a link.
    #[error("there is a file that is not a symbolic link, remove it or choose another path")]
    NotALink,
    /// The host refuses.
    #[error("the link cannot be made there: {0}")]
    Host(#[from] io::Error),
}

/// A new one: its master, which does not block, and the name of its other end, which is raw and which
/// nobody has open.
///
/// # Errors
/// The host has none.
pub fn new() -> io::Result<(OwnedFd, PathBuf)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let path = Path::new(OsStr::from_bytes(name.to_bytes())).to_owned();
    // It is as a serial line until its user wants it otherwise. Who has opened and closed it has
    // made it one that nobody has open, which is not so at first.
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let user = open(&path, flags, Mode::empty())?;
    let mut modes = tcgetattr(&user)?;
    modes.make_raw();
    tcsetattr(&user, OptionalActions::Now, &modes)?;
    fcntl_setfl(&master, OFlags::RDWR | OFlags::NONBLOCK)?;
    Ok((master, path))
}

/// Makes a symbolic link, or one that was left behind new.
///
/// # Errors
/// See [`LinkError`].
pub fn link(path: &Path, to: &Path) -> Result<(), LinkError> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.is_symlink() => return Err(LinkError::NotALink),
        Ok(_) => std::fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    Ok(symlink(to, path)?)
}
