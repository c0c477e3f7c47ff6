//! A guest's CD that is an image on a SPICE client's host.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lab::{Error, Guest, Version, make_cd, spawn_listening};
use tempfile::TempDir;

use crate::common::Bench;

const MINUTE: Duration = Duration::from_secs(60);

/// Waits for the CD, mounts it, and reads a file; tells its speed and the file's sum.
const READ: &str = "
modprobe -a ehci-pci usb-storage sr_mod isofs || exit 1
for i in $(seq 300); do
    [ -e /sys/bus/usb/devices/1-1/speed ] && [ -b /dev/sr0 ] &&
        mount -o ro /dev/sr0 /mnt 2>/dev/null && break
    sleep 0.2
done
cat /sys/bus/usb/devices/1-1/speed
md5sum </mnt/data || { dmesg | tail -30; exit 1; }";

/// Reads it without end, past what the kernel has of it, until it can't.
const USE: &str = "
touch /tmp/begun
while dd if=/dev/sr0 of=/dev/null bs=64k iflag=direct status=none; do :; done
echo ended";

/// Waits until it is gone, for the guest and for whoever reads it.
const GONE: &str = "
for i in $(seq 300); do
    [ -e /sys/bus/usb/devices/1-1 ] || { umount /mnt; dmesg | grep -c 'USB disconnect'; exit; }
    sleep 0.2
done
dmesg | tail -30; exit 1";

/// Makes a CD; the sum of the file on it, as `md5sum` tells it.
fn cd(image: &Path) -> Result<String, Error> {
    let folder = TempDir::new().unwrap();
    let data: Vec<u8> =
        (0_u32..2 << 20).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
    fs::write(folder.path().join("data"), data).unwrap();
    make_cd(folder.path(), image, &image.with_extension("log"))?;
    let file = fs::File::open(folder.path().join("data")).unwrap();
    let sum = Command::new("md5sum").stdin(file).output().unwrap();
    Ok(String::from_utf8(sum.stdout).unwrap())
}

#[test]
fn a_clients_cd_is_mounted_goes_while_it_is_used_and_comes_back() -> Result<(), Error> {
    let bench = Bench::new()?;
    let (image, redirect) = (bench.path("cd.iso"), bench.path("redirect"));
    let sum = cd(&image)?;
    let redirect = format!("unix:{}", redirect.display());
    let mut usb = Command::new(lab::program("vhost-usb")?);
    usb.arg("--vfio-user").arg(bench.folder.path()).args(["--controller", "ehci"]);
    usb.arg("--redirect").arg(format!("{redirect},server"));
    let _usb = spawn_listening(usb, &bench.path("0.sock"))?;
    let address = Bench::address();
    let _server = bench.start(&["--port", "5930", "--addr", &address], &[redirect])?;
    let client = || bench.spicy(&["--host", &address, "--port", "5930"], &[&image]);
    let mut first = client();

    let device = format!(
        r#"{{"driver": "vfio-user-pci", "socket": {{"type": "unix", "path": "{}"}}}}"#,
        bench.path("0.sock").display()
    );
    let guest = Guest::builder().qemu(Version::Sid).args(["-device", &device]).boot()?;
    let read = || guest.run_within(3 * MINUTE, READ)?.stdout_if_ok();
    assert_eq!(read()?, format!("480\n{sum}"));

    let usage = guest.start(USE)?;
    guest.run("until [ -e /tmp/begun ]; do sleep 0.1; done; sleep 1")?.stdout_if_ok()?;
    assert_eq!(usage.poll(&guest)?, None);
    first.kill().unwrap();
    assert_eq!(guest.run(GONE)?.stdout_if_ok()?, "1\n");
    assert_eq!(usage.wait(&guest, MINUTE)?.stdout(), "ended\n");

    let _second = client();
    assert_eq!(read()?, format!("480\n{sum}"));
    Ok(())
}
