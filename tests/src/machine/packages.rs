//! Where Debian's packages come from.

use std::path::Path;
use std::process::Command;

use super::Version;

/// Prefers the backported kernel and QEMU, where both suites have them.
pub(super) const PIN: &str = "Package: linux-image-* linux-base* qemu-* seabios ipxe-qemu\\n\
                   Pin: release n=bookworm-backports\\nPin-Priority: 900\\n";

/// What mmdebstrap does with the packages.
#[derive(Debug, Clone, Copy)]
pub(super) enum Variant {
    /// Unpack them, and nothing more.
    Extract,
    /// Install them into a system that works.
    Minbase,
}

/// An mmdebstrap, with more `options`, that fills the folder `target` with `packages` from the
/// suites that have one version of QEMU.
pub(super) fn mmdebstrap(
    variant: Variant,
    version: Version,
    packages: &[&str],
    target: &Path,
    options: &[&str],
) -> Command {
    let mut command = Command::new("mmdebstrap");
    command.arg(match variant {
        Variant::Extract => "--variant=extract",
        Variant::Minbase => "--variant=minbase",
    });
    command.arg(format!("--include={}", packages.join(",")));
    command.arg("--format=directory");
    command.arg("--aptopt=APT::Install-Recommends \"false\"");
    // A mirror's copy of sid may be older than its "valid until".
    command.arg("--aptopt=Acquire::Check-Valid-Until \"false\"");
    if let Version::Backports = version {
        let pin = "\"$1\"/etc/apt/preferences.d/lab";
        command.arg(format!("--setup-hook=printf '{PIN}' >{pin}"));
    }
    command.args(options);
    let suites: &[&str] = match version {
        Version::Bookworm => &["bookworm"],
        Version::Backports => &["bookworm", "bookworm-backports"],
        Version::Sid => &["sid"],
    };
    command.arg(suites[0]).arg(target);
    // Without one, mmdebstrap knows where Debian is, but not its backports.
    if let Some(mirror) = mirror() {
        command.args(suites.iter().map(|suite| format!("deb {mirror} {suite} main")));
    }
    command
}

/// The command that starts a program with the loader and the libraries that are unpacked in a folder.
pub(super) fn unpacked(dir: &Path, program: &Path) -> Command {
    let lib = |prefix: &str| dir.join(prefix).join("lib/x86_64-linux-gnu");
    // libc is in /lib before sid, in /usr/lib from then on.
    let libs = [lib(""), lib("usr"), lib("usr").join("pulseaudio")];
    let mut loaders = libs.iter().map(|dir| dir.join("ld-linux-x86-64.so.2"));
    let loader = loaders.find(|path| path.is_file()).unwrap_or_default();
    let path: Vec<_> = libs.iter().map(|dir| dir.as_os_str()).collect();

    let mut command = Command::new(loader);
    command.arg("--library-path").arg(path.join(":".as_ref())).arg(program);
    command
}

/// The mirror that this host is set up with.
fn mirror() -> Option<String> {
    let listed = Command::new("apt-get")
        .args(["indextargets", "--format", "$(CODENAME) $(COMPONENT) $(REPO_URI)"])
        .arg("Created-By: Packages")
        .output();
    let text = listed.map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let debian = text.lines().find_map(|line| line.strip_prefix("bookworm main "));
    debian.map(str::to_owned)
}
