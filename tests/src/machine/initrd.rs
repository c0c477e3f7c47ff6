//! The initrd: loads the modules, mounts the root filesystem, and starts the guest's agent on it.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use super::Kernel;
use super::cpio::{self, Entry};
use crate::Error;
use crate::error::Context;

const INIT: &str = include_str!("init.sh");
const START: &str = include_str!("start.sh");
const AGENT: &str = include_str!("agent.sh");

pub(super) fn recipe() -> String {
    format!("{INIT}{START}{AGENT}")
}

/// Makes the file of each kernel in `dir` from what [`super::root::build`] left in `root`.
pub(super) fn build(root: &Path, dir: &Path) -> Result<(), Error> {
    Kernel::ALL.into_iter().try_for_each(|kernel| write(root, kernel, &dir.join(kernel.name())))
}

fn write(root: &Path, kernel: Kernel, path: &Path) -> Result<(), Error> {
    let read = |path: &Path| fs::read(path).context(|| format!("cannot read {}", path.display()));
    let busybox = read(&root.join("busybox"))?;
    let folder = root.join(kernel.name()).join("modules");
    let order = read(&folder.join("order"))?;
    let names = String::from_utf8_lossy(&order);
    let modules = names
        .lines()
        .map(|name| Ok((format!("modules/{name}"), read(&folder.join(name))?)))
        .collect::<Result<Vec<_>, Error>>()?;

    let mut entries = vec![
        Entry::file("init", INIT.as_bytes()),
        Entry::file("start", START.as_bytes()),
        Entry::file("agent", AGENT.as_bytes()),
        Entry::file("busybox", &busybox),
        Entry::folder("modules"),
        Entry::file("modules/order", &order),
    ];
    entries.extend(modules.iter().map(|(name, data)| Entry::file(name, data)));

    // Not compressed: under TCG, unpacking takes longer than reading.
    let write = || {
        let mut file = BufWriter::new(File::create(path)?);
        cpio::write(&entries, &mut file)?;
        file.flush()
    };
    write().context(|| format!("cannot write {}", path.display()))
}
