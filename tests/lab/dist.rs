//! `cargo lab dist`: everything that a package has, as a tree that is copied to `/`.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use lab::{Error, program, workspace};
use vhost_runtime::manual::{self, Shell};
use vhost_usb::spice;

/// The files of a package that are written by hand, and where they go.
const FILES: [(&str, &str); 10] = [
    ("vhost-net/dist/50-vhost-net.json", "usr/share/qemu/vhost-user"),
    ("vhost-net/dist/vhost-net@.service", "usr/lib/systemd/system"),
    ("vhost-net/dist/vhost-net@.socket", "usr/lib/systemd/system"),
    ("vhost-scsi/dist/50-vhost-scsi.json", "usr/share/qemu/vhost-user"),
    ("vhost-scsi/dist/vhost-scsi@.service", "usr/lib/systemd/system"),
    ("vhost-scsi/dist/vhost-scsi@.socket", "usr/lib/systemd/system"),
    ("vhost-sound/dist/vhost-sound@.service", "usr/lib/systemd/system"),
    ("vhost-sound/dist/vhost-sound@.socket", "usr/lib/systemd/system"),
    ("vhost-usb/dist/vhost-usb@.service", "usr/lib/systemd/system"),
    ("vhost-usb/dist/vhost-usb-spice@.service", "usr/lib/systemd/system"),
];

/// A program's name, its command line, and what its manual says besides.
type Documented = (&'static str, fn() -> Command, &'static str);

const PROGRAMS: [Documented; 8] = [
    ("vhost-net", vhost_net::options::Options::command, vhost_net::manual::SECTIONS),
    ("vhost-scsi", vhost_scsi::options::Options::command, vhost_scsi::manual::SECTIONS),
    ("vhost-sound", vhost_sound::options::Options::command, vhost_sound::manual::SECTIONS),
    ("vhost-sound-alsa", || helper("vhost-sound-alsa"), vhost_sound::manual::HELPER),
    ("vhost-sound-pipewire", || helper("vhost-sound-pipewire"), vhost_sound::manual::HELPER),
    ("vhost-usb", vhost_usb::options::Options::command, vhost_usb::manual::SECTIONS),
    ("vhost-usb-spice", spice::options::Options::command, spice::manual::SECTIONS),
    ("vmm-frontend", vmm_frontend::options::Options::command, vmm_frontend::manual::SECTIONS),
];

fn helper(name: &'static str) -> Command {
    vhost_sound::host::helper::far::Options::command().name(name)
}

/// Makes the tree in `dist` of Cargo's target folder, and returns where that is.
pub(crate) fn run() -> Result<PathBuf, Error> {
    let first = program("vhost-scsi")?;
    let folder = first.parent().and_then(Path::parent).unwrap_or(&first).join("dist");
    let failed = |source| Error::Io { what: format!("cannot fill {}", folder.display()), source };
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(failed)?;
    }
    for documented in PROGRAMS {
        let binary = program(documented.0)?;
        add(documented, &binary, &folder).map_err(failed)?;
    }
    for (from, to) in FILES {
        let name = Path::new(from).file_name().unwrap_or_default();
        let target = place(&folder, &format!("{to}/{}", name.display())).map_err(failed)?;
        fs::copy(workspace().join(from), target).map_err(failed)?;
    }
    Ok(folder)
}

/// A file's place in the tree.
fn place(folder: &Path, path: &str) -> io::Result<PathBuf> {
    let place = folder.join(path);
    place.parent().map_or(Ok(()), fs::create_dir_all)?;
    Ok(place)
}

/// The program, its manual page, and the shells' completions.
fn add((name, command, sections): Documented, binary: &Path, folder: &Path) -> io::Result<()> {
    fs::copy(binary, place(folder, &format!("usr/bin/{name}"))?)?;
    let (command, page) = (command(), format!("usr/share/man/man1/{name}.1"));
    manual::page(&command, sections, &mut File::create(place(folder, &page)?)?)?;
    for (shell, path) in [
        (Shell::Bash, format!("usr/share/bash-completion/completions/{name}")),
        (Shell::Zsh, format!("usr/share/zsh/vendor-completions/_{name}")),
        (Shell::Fish, format!("usr/share/fish/vendor_completions.d/{name}.fish")),
    ] {
        manual::completions(&command, shell, &mut File::create(place(folder, &path)?)?);
    }
    Ok(())
}
