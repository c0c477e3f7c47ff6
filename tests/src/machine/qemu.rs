//! QEMU in three versions, each unpacked into a folder and run there by its own loader, so that it
//! needs nothing of the host, changes nothing on it, and shares its sockets and files.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::packages::{PIN, Variant, mmdebstrap, unpacked};
use crate::{Error, Step};

/// A version of QEMU, by the Debian suite that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// QEMU 7.2, Debian 12's own.
    Bookworm,
    /// QEMU 10.0, Debian 12's backport.
    Backports,
    /// The newest QEMU.
    Sid,
}

impl Version {
    /// All of them.
    pub const ALL: [Version; 3] = [Version::Bookworm, Version::Backports, Version::Sid];

    pub(super) fn folder(self) -> &'static str {
        match self {
            Version::Bookworm => "qemu-bookworm",
            Version::Backports => "qemu-backports",
            Version::Sid => "qemu-sid",
        }
    }
}

const PACKAGES: [&str; 2] = ["qemu-system-x86", "qemu-utils"];

pub(super) fn recipe(version: Version) -> String {
    format!("{version:?} {PACKAGES:?} {PIN}")
}

pub(super) fn build(version: Version, dir: &Path, log: &Path) -> Result<(), Error> {
    let unpack = mmdebstrap(Variant::Extract, version, &PACKAGES, dir, &[]);
    Step::new(format!("unpacking {}", version.folder()), log).run(unpack)
}

/// An unpacked QEMU.
#[derive(Debug, Clone)]
pub struct Qemu {
    dir: PathBuf,
    version: Version,
}

impl Qemu {
    pub(super) fn new(dir: PathBuf, version: Version) -> Qemu {
        Qemu { dir, version }
    }

    /// Which version it is.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The command that starts the machine emulator, with no more arguments than it needs to find
    /// its own files.
    pub fn system(&self) -> Command {
        let mut command = self.program("qemu-system-x86_64");
        for data in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
            command.arg("-L").arg(self.dir.join(data));
        }
        command
    }

    /// The command that starts one of its programs: `qemu-img`, `qemu-storage-daemon`.
    pub fn program(&self, name: &str) -> Command {
        let mut command = unpacked(&self.dir, &self.dir.join("usr/bin").join(name));
        command.env("QEMU_MODULE_DIR", self.dir.join("usr/lib/x86_64-linux-gnu/qemu"));
        command
    }
}
