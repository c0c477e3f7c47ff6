//! The root filesystem: Debian 12 with both kernels, as mmdebstrap installs it.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::Version;
use super::packages::{PIN, Variant, mmdebstrap};
use crate::error::Context;
use crate::{Error, Step};

/// Besides the kernel of [`STABLE_KERNEL`].
const PACKAGES: [&str; 35] = [
    // The backport.
    "linux-image-amd64",
    "busybox-static",
    "kmod",
    "udev",
    "procps",
    "iproute2",
    "pciutils",
    "python3-minimal",
    "strace",
    "cpuid",
    // What a user's guest starts with; ours does if it is told `lab.systemd`.
    "systemd-sysv",
    // SCSI, from the initiator's side.
    "lsscsi",
    "sg3-utils",
    "mt-st",
    "libiscsi-bin",
    "fio",
    "e2fsprogs",
    // USB, likewise.
    "usbutils",
    "evtest",
    "usbredirect",
    // Networks; a DHCP client and a server are in busybox.
    "iperf3",
    "ethtool",
    "iputils-ping",
    // Sound.
    "alsa-utils",
    "pipewire",
    "pipewire-bin",
    "wireplumber",
    // Guests of the guest; libvirt without its services, which would start with what starts services.
    "qemu-system-x86",
    "qemu-utils",
    "seabios",
    "libvirt-daemon",
    "libvirt-clients",
    // Disks that firmware boots from.
    "dosfstools",
    "mtools",
    "syslinux",
];

const OPTIONS: [&str; 8] = [
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    // A third of the kernel's modules, for hardware that QEMU has not.
    "--dpkgopt=path-exclude=/lib/modules/*/kernel/drivers/gpu/*",
    "--dpkgopt=path-exclude=/lib/modules/*/kernel/drivers/net/wireless/*",
    "--dpkgopt=path-exclude=/lib/modules/*/kernel/drivers/media/*",
    // What USB audio shares with cameras.
    "--dpkgopt=path-include=/lib/modules/*/kernel/drivers/media/mc/*",
    // The lab brings its own initrd.
    "--dpkgopt=path-exclude=/etc/kernel/postinst.d/initramfs-tools",
];

/// Debian 12's own kernel, whose package has another name with each update.
const STABLE_KERNEL: &str = r"--include=~n^linux-image-6\.1\.0-[0-9]+-amd64$";

/// The image's size: sparse, with room for what tests write.
const SIZE: &str = "3G";

/// The modules that reach the root filesystem, serve the channel, or bind to SCSI devices, which
/// without udev nothing else would load.
const MODULES: [&str; 9] = [
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "virtio_scsi",
    "sd_mod",
    "sr_mod",
    "sg",
    "st",
    "ext4",
];

pub(super) fn recipe() -> String {
    format!("{PACKAGES:?} {STABLE_KERNEL} {OPTIONS:?} {SIZE} {MODULES:?} {FILES} {PIN}")
}

/// Makes `root.img`, and for each kernel a folder with `vmlinuz` and `modules/` (with `order`, their
/// names in order of loading).
pub(super) fn build(dir: &Path, log: &Path) -> Result<(), Error> {
    let tree = dir.join("tree");
    let mut options = OPTIONS.to_vec();
    options.push(STABLE_KERNEL);
    let install = mmdebstrap(Variant::Minbase, Version::Backports, &PACKAGES, &tree, &options);
    Step::new("installing Debian 12 for the guest", log).run(install)?;

    let mut files = Command::new("bash");
    files.arg("-euc").arg(FILES).arg("bash").arg(&tree).arg(dir).args(MODULES);
    Step::new("taking out kernels and modules", log).run(files)?;

    let mut make = Command::new("mke2fs");
    make.args(["-q", "-F", "-t", "ext4", "-L", "lab-root", "-O", "^has_journal"]);
    make.args(["-E", "root_owner=0:0", "-d"]).arg(&tree).arg(dir.join("root.img")).arg(SIZE);
    // Debian has it in /sbin, which may not be in a user's path.
    make.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    Step::new("making the root filesystem", log).run(make)?;
    fs::remove_dir_all(&tree).context(|| format!("cannot remove {}", tree.display()))
}

/// With the arguments: tree, target, module….
const FILES: &str = r#"
tree=$1 target=$2; shift 2
chroot "$tree" passwd --quiet --delete root
echo lab >"$tree/etc/hostname"
cp "$tree/bin/busybox" "$target/busybox"
for version in $(ls "$tree/lib/modules" | sort -rV); do
    kernel=$target/linux-$(echo "$version" | cut -d . -f 1-2)
    # Of 6.1 Debian may have more than one: the newest is first.
    [ ! -e "$kernel" ] || { rm -r "$tree/lib/modules/$version" "$tree/boot/"*"-$version"; continue; }
    mkdir "$kernel" "$kernel/modules"
    cp "$tree/boot/vmlinuz-$version" "$kernel/vmlinuz"
    for module; do chroot "$tree" modprobe -S "$version" --show-depends "$module"; done |
    while read -r verb file _; do
        name=$(basename "$file" .xz)
        [ "$verb" = insmod ] && [ ! -e "$kernel/modules/$name" ] || continue
        case $file in *.xz) xz -dc "$tree$file" ;; *) cat "$tree$file" ;; esac >"$kernel/modules/$name"
        echo "$name" >>"$kernel/modules/order"
    done
done
"#;
