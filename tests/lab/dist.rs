//! `cargo lab dist`: everything that a package has, as a tree that is copied to `/`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use clap_complete::Shell;
use lab::{Error, program, workspace};
use vhost_scsi::manual;

/// The files of a package that are written by hand, and where they go.
const FILES: [(&str, &str); 3] = [
    ("vhost-scsi/dist/50-vhost-scsi.json", "usr/share/qemu/vhost-user"),
    ("vhost-scsi/dist/vhost-scsi@.service", "usr/lib/systemd/system"),
    ("vhost-scsi/dist/vhost-scsi@.socket", "usr/lib/systemd/system"),
];

/// Makes the tree in `dist` of Cargo's target folder, and returns where that is.
pub(crate) fn run() -> Result<PathBuf, Error> {
    let binary = program("vhost-scsi")?;
    let folder = binary.parent().and_then(Path::parent).unwrap_or(&binary).join("dist");
    let make = || {
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        let place = |path: &str| {
            let place = folder.join(path);
            place.parent().map_or(Ok(()), fs::create_dir_all)?;
            Ok::<_, std::io::Error>(place)
        };
        fs::copy(&binary, place("usr/bin/vhost-scsi")?)?;
        for (from, to) in FILES {
            let name = Path::new(from).file_name().unwrap_or_default();
            fs::copy(workspace().join(from), place(&format!("{to}/{}", name.display()))?)?;
        }
        manual::man_page(&mut File::create(place("usr/share/man/man1/vhost-scsi.1")?)?)?;
        for (shell, path) in [
            (Shell::Bash, "usr/share/bash-completion/completions/vhost-scsi"),
            (Shell::Zsh, "usr/share/zsh/vendor-completions/_vhost-scsi"),
            (Shell::Fish, "usr/share/fish/vendor_completions.d/vhost-scsi.fish"),
        ] {
            manual::completions(shell, &mut File::create(place(path)?)?);
        }
        Ok(())
    };
    make().map_err(|source| Error::Io {
        what: format!("cannot fill {}", folder.display()),
        source,
    })?;
    Ok(folder)
}
