//! The machine that guests boot: root filesystem, two kernels with their initrds, and QEMU in three
//! versions.

mod cpio;
mod dpdk;
mod initrd;
mod kernel;
mod packages;
mod passt;
mod qemu;
mod root;
mod spice;
mod usbredir;

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Context;
use crate::host::target;
use crate::{Error, Step, Tool, ensure_tools};

pub use dpdk::Dpdk;
pub use kernel::Kernel;
pub use qemu::{Qemu, Version};
pub use spice::Spice;

const TOOLS: [Tool; 3] = [
    Tool { program: "mmdebstrap", package: "mmdebstrap" },
    Tool { program: "mke2fs", package: "e2fsprogs" },
    Tool { program: "xz", package: "xz-utils" },
];

/// What a guest boots from, built and up to date.
#[derive(Debug, Clone)]
pub struct Machine {
    root: PathBuf,
    initrd: PathBuf,
}

impl Machine {
    /// Where the lab keeps what it builds: `$LAB`, else `lab` in Cargo's target folder.
    pub fn dir() -> PathBuf {
        match env::var_os("LAB") {
            Some(dir) => crate::workspace().join(dir),
            None => target().join("lab"),
        }
    }

    /// Builds what is missing or has another recipe: nothing, most of the time; minutes at first.
    pub fn ensure() -> Result<Machine, Error> {
        let root = Artefact { name: "root", recipe: root::recipe() }.ensure(root::build)?;
        let recipe = format!("{}{}", initrd::recipe(), root::recipe());
        let initrd =
            Artefact { name: "initrd", recipe }.ensure(|dir, _| initrd::build(&root, dir))?;
        Ok(Machine { root, initrd })
    }

    /// A guest's kernel.
    pub fn kernel(&self, kernel: Kernel) -> PathBuf {
        self.root.join(kernel.name()).join("vmlinuz")
    }

    /// Its initrd, which finds the root filesystem by its label on any virtio disk.
    pub fn initrd(&self, kernel: Kernel) -> PathBuf {
        self.initrd.join(kernel.name())
    }

    /// The root filesystem: raw, ext4, sparse. Shared by all guests, so never to be written.
    pub fn root_image(&self) -> PathBuf {
        self.root.join("root.img")
    }

    /// A copy of the root filesystem for a guest to write to, as sparse as the original.
    pub fn copy_root_image(&self, to: &Path) -> Result<(), Error> {
        let mut copy = Command::new("cp");
        copy.arg("--sparse=always").arg(self.root_image()).arg(to);
        let log = Machine::dir().join("copy.log");
        Step::new(format!("copying the root filesystem to {}", to.display()), log).run(copy)
    }

    /// A folder with passt, and its own loader and libraries, unpacked at its first use.
    pub fn passt() -> Result<PathBuf, Error> {
        Artefact { name: "passt", recipe: passt::recipe() }.ensure(passt::build)
    }

    /// DPDK's testpmd, Debian 12's or the newest, unpacked at its first use.
    pub fn dpdk(version: Version) -> Result<Dpdk, Error> {
        let artefact = Artefact { name: dpdk::folder(version), recipe: dpdk::recipe(version) };
        Ok(Dpdk::new(artefact.ensure(|dir, log| dpdk::build(version, dir, log))?))
    }

    /// The library that is usbredir's own parser, unpacked at its first use.
    pub fn usbredir() -> Result<PathBuf, Error> {
        let artefact = Artefact { name: "usbredir", recipe: usbredir::recipe() };
        let libraries = format!("usr/lib/{}-linux-gnu", env::consts::ARCH);
        let folder = artefact.ensure(usbredir::build)?.join(libraries);
        Ok(folder.join("libusbredirparser.so.1"))
    }

    /// SPICE's server library and a client, unpacked at their first use.
    pub fn spice() -> Result<Spice, Error> {
        let artefact = Artefact { name: "spice", recipe: spice::recipe() };
        Spice::start(artefact.ensure(spice::build)?)
    }

    /// One of the versions of QEMU, unpacked at its first use.
    pub fn qemu(version: Version) -> Result<Qemu, Error> {
        let artefact = Artefact { name: version.folder(), recipe: qemu::recipe(version) };
        Ok(Qemu::new(artefact.ensure(|dir, log| qemu::build(version, dir, log))?, version))
    }
}

/// A folder under [`Machine::dir`] that is built again when the text of its recipe changes.
struct Artefact {
    name: &'static str,
    recipe: String,
}

impl Artefact {
    /// `build` fills the folder that it is given, its programs' output goes to the file beside.
    fn ensure(
        &self,
        build: impl FnOnce(&Path, &Path) -> Result<(), Error>,
    ) -> Result<PathBuf, Error> {
        let lab = Machine::dir();
        let folder = lab.join(self.name);
        if self.is_current(&folder) {
            return Ok(folder);
        }
        fs::create_dir_all(&lab).context(|| format!("cannot make the folder {}", lab.display()))?;
        let lock = lab.join(format!("{}.lock", self.name));
        let locking = || format!("cannot lock {}", lock.display());
        let _held = {
            let file = File::create(&lock).context(locking)?;
            file.lock().context(locking)?;
            file
        };
        // Another process may have built it while this one waited for the lock.
        if self.is_current(&folder) {
            return Ok(folder);
        }

        let log = lab.join(format!("{}.log", self.name));
        let _ = fs::remove_file(&log);
        ensure_tools(&TOOLS, &log)?;
        let partial = lab.join(format!("{}.partial", self.name));
        remove_folder(&partial)?;
        fs::create_dir(&partial).context(|| format!("cannot make {}", partial.display()))?;
        build(&partial, &log)?;

        fs::write(partial.join("recipe"), &self.recipe)
            .context(|| format!("cannot write into {}", partial.display()))?;
        // Guests that still run from the old folder keep its files open.
        remove_folder(&folder)?;
        fs::rename(&partial, &folder).context(|| format!("cannot rename {}", partial.display()))?;
        Ok(folder)
    }

    fn is_current(&self, folder: &Path) -> bool {
        fs::read(folder.join("recipe")).is_ok_and(|recipe| recipe == self.recipe.as_bytes())
    }
}

fn remove_folder(folder: &Path) -> Result<(), Error> {
    if !folder.exists() {
        return Ok(());
    }
    fs::remove_dir_all(folder).context(|| format!("cannot remove {}", folder.display()))
}
