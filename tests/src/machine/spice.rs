//! SPICE: the server's library, a client, and a display that takes no X server.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::Version;
use super::packages::{Variant, mmdebstrap, unpacked};
use crate::error::Context;
use crate::{Error, Process, Step, spawn_listening};

/// The last one has GTK's broadwayd.
const PACKAGES: [&str; 3] = ["libspice-server1", "spice-client-gtk", "libgtk-3-bin"];

/// The display's number; its socket has the next one.
const DISPLAY: &str = ":0";
const SOCKET: &str = "broadway1.socket";

pub(super) fn recipe() -> String {
    format!("{PACKAGES:?}")
}

/// Unpacks them, with all that they need.
pub(super) fn build(dir: &Path, log: &Path) -> Result<(), Error> {
    let unpack = mmdebstrap(Variant::Extract, Version::Bookworm, &PACKAGES, dir, &[]);
    Step::new("unpacking SPICE", log).run(unpack)
}

/// The packages, unpacked, and a display for clients.
#[derive(Debug)]
pub struct Spice {
    dir: PathBuf,
    /// What clients find in place of a user's folders.
    home: TempDir,
    _display: Process,
}

impl Spice {
    pub(super) fn start(dir: PathBuf) -> Result<Spice, Error> {
        let home = tempfile::Builder::new().prefix("lab-").tempdir();
        let home = home.context(|| "cannot make a temporary folder".into())?;
        let mut display = unpacked(&dir, &dir.join("usr/bin/broadwayd"));
        display.env("XDG_RUNTIME_DIR", home.path());
        display.arg("--unixsocket").arg(home.path().join("browser")).arg(DISPLAY);
        // It is an abstract one, which the kernel tells so.
        let socket = format!("@{}", home.path().join(SOCKET).display());
        let display = spawn_listening(display, Path::new(&socket))?;
        Ok(Spice { dir, home, _display: display })
    }

    /// The command that starts a program which finds the server's library.
    pub fn server(&self, program: &Path) -> Command {
        unpacked(&self.dir, program)
    }

    /// The command that starts the client.
    pub fn spicy(&self) -> Command {
        let mut command = unpacked(&self.dir, &self.dir.join("usr/bin/spicy"));
        for folder in ["HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"] {
            command.env(folder, self.home.path());
        }
        command.env("GDK_BACKEND", "broadway").env("BROADWAY_DISPLAY", DISPLAY);
        // No session bus, and nobody who could start one.
        command.env("GIO_USE_VFS", "local").env("GSETTINGS_BACKEND", "memory");
        command.env("NO_AT_BRIDGE", "1").env("DBUS_SESSION_BUS_ADDRESS", "disabled:");
        command
    }
}
