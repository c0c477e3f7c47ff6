//! Where the programs and files are: on this host, or in the lab's guest.

use std::path::PathBuf;
use std::process::Command;

use lab::{Error, Kernel, Machine, Version, program};

/// The name of this program in the lab's guest.
pub(crate) const PROGRAM: &str = "vmm-bench";
/// The word that tells this program that it is there.
pub(crate) const IN_THE_LAB: &str = "--in-the-lab";

pub(crate) struct Place {
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
    pub(crate) vmm_frontend: PathBuf,
    pub(crate) vhost_scsi: PathBuf,
    /// The image of a root filesystem.
    pub(crate) root: PathBuf,
    /// For sockets and the disk.
    pub(crate) folder: PathBuf,
    here: bool,
}

impl Place {
    pub(crate) fn here() -> Result<Place, Error> {
        let machine = Machine::ensure()?;
        let folder = Machine::dir().join("bench");
        let failed =
            |source| Error::Io { what: format!("cannot make {}", folder.display()), source };
        std::fs::create_dir_all(&folder).map_err(failed)?;
        Ok(Place {
            kernel: machine.kernel(Kernel::Backports),
            initrd: machine.initrd(Kernel::Backports),
            vmm_frontend: program("vmm-frontend")?,
            vhost_scsi: program("vhost-scsi")?,
            root: machine.root_image(),
            folder,
            here: true,
        })
    }

    /// What the lab's guest has of the host that it is.
    pub(crate) fn in_the_lab() -> Place {
        let shared = |name: &str| PathBuf::from("/job").join(name);
        Place {
            kernel: shared("vmlinuz-linux-6.12"),
            initrd: shared("initrd-linux-6.12"),
            vmm_frontend: shared("vmm-frontend"),
            vhost_scsi: shared("vhost-scsi"),
            root: PathBuf::from("/dev/vdb"),
            folder: PathBuf::from("/tmp"),
            here: false,
        }
    }

    pub(crate) fn qemu(&self) -> Result<Command, Error> {
        Ok(match self.here {
            true => Machine::qemu(Version::Backports)?.system(),
            false => Command::new("qemu-system-x86_64"),
        })
    }

    pub(crate) fn storage_daemon(&self) -> Result<Command, Error> {
        Ok(match self.here {
            true => Machine::qemu(Version::Backports)?.program("qemu-storage-daemon"),
            false => Command::new("qemu-storage-daemon"),
        })
    }
}
