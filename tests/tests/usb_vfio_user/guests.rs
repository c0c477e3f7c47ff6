//! Guests and firmware under QEMU.

use std::fs;
use std::io::Write;
use std::time::Duration;

use lab::{Error, Guest, Kernel, Machine, Version, spawn, usbtest};

use crate::common::{Bench, FUNCTIONS, within};

const MINUTE: Duration = Duration::from_secs(60);

/// Finds the stick and a keyboard, uses the stick, and tells how interrupts came.
const USE: &str = r"
modprobe -a ehci-pci uhci-hcd usb-storage usbhid sd_mod || exit 1
for i in $(seq 300); do
    [ -b /dev/sda ] && lsusb -t | grep -q usbhid && break
    sleep 0.2
done
lsusb -t
lspci -nn -s 5
head -c 17 /dev/sda; echo
fio --name=verify --filename=/dev/sda --size=8M --rw=randrw --bs=4k-64k --iodepth=4 --ioengine=libaio \
    --direct=1 --verify=crc32c --verify_backlog=64 --verify_fatal=1 >&2 || exit 1
dmesg | grep -E 'I/O error|USB disconnect|nobody cared' && exit 1
grep -E 'ehci|uhci' /proc/interrupts";

/// A guest of QEMU's finds and uses what is plugged in.
fn is_used(kernel: Kernel, append: &str, interrupts: &str) -> Result<(), Error> {
    let bench = Bench::new(&["--device", "kbd,port=2,speed=full"], |stick| {
        fs::File::options()
            .write(true)
            .open(stick)
            .unwrap()
            .write_all(b"read from a stick")
            .unwrap();
    });
    let guest = Guest::builder().qemu(Version::Sid).kernel(kernel).append(append);
    let guest = guest.args(bench.devices(&FUNCTIONS)).boot()?;
    let found = guest.run_within(5 * MINUTE, USE)?.stdout_if_ok()?;
    eprintln!("{found}");
    let has = |words: &[&str]| found.lines().any(|line| words.iter().all(|it| line.contains(it)));
    for line in [
        &["Port 1", "Driver=usb-storage", "480M"][..],
        &["Port 2", "Driver=usbhid", "12M"],
        &["00:05.7", "[8086:293a]"],
        &["00:05.0", "[8086:2934]"],
        &["00:05.2", "[8086:2936]"],
        &["read from a stick"],
        &["ehci_hcd", interrupts],
        &["uhci_hcd", interrupts],
    ] {
        assert!(has(line), "{line:?}: {found}");
    }
    Ok(())
}

#[test]
fn a_guest_of_qemus_uses_a_stick_and_is_interrupted_by_messages() -> Result<(), Error> {
    is_used(Kernel::Backports, "", "PCI-MSI")
}

#[test]
fn a_guest_of_qemus_uses_a_stick_and_is_interrupted_by_pins() -> Result<(), Error> {
    is_used(Kernel::Stable, "pci=nomsi", "IO-APIC")
}

#[test]
fn the_kernels_usbtest_finds_nothing_wrong() -> Result<(), Error> {
    let bench = Bench::new(&["--device", "gadget-zero,port=2"], |_| {});
    let guest = Guest::builder().qemu(Version::Sid).args(bench.devices(&FUNCTIONS)).boot()?;
    // Setting 1 has isochronous endpoints, 2 has interrupt ones.
    for (alternate, unsupported) in
        [(0, &[15, 16, 22, 23, 25, 26][..]), (1, &[25, 26]), (2, &[15, 16, 22, 23])]
    {
        let load = format!("rmmod usbtest; modprobe -a ehci-pci; modprobe usbtest alt={alternate}");
        guest.run(&load)?.stdout_if_ok()?;
        let said = guest.run_within(5 * MINUTE, &usbtest::script(30))?.stdout_if_ok()?;
        usbtest::check(&said, unsupported);
    }
    Ok(())
}

/// Writes a text to the first serial port, and stops.
fn boot_sector(text: &str) -> Vec<u8> {
    let code =
        b"\xfa\x31\xc0\x8e\xd8\xbe\x16\x7c\xba\xf8\x03\xac\x84\xc0\x74\x03\xee\xeb\xf8\xf4\xeb\xfd";
    let mut sector = [code, text.as_bytes()].concat();
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    sector
}

/// SeaBIOS moves the stick's queue heads below 1 MiB, and has QEMU take that memory away and give it back.
fn is_booted(arguments: &[&str], functions: &[u8]) -> Result<(), Error> {
    let bench = Bench::new(arguments, |stick| {
        let mut stick = fs::File::options().write(true).open(stick).unwrap();
        stick.write_all(&boot_sector("booted from a stick")).unwrap();
    });
    let console = bench.folder.path().join("console");
    let mut qemu = Machine::qemu(Version::Sid)?.system();
    qemu.args(["-nodefaults", "-display", "none", "-accel", "tcg", "-m", "256M"]);
    qemu.args(["-object", "memory-backend-memfd,id=ram,size=256M,share=on"]);
    qemu.args(["-machine", "q35,memory-backend=ram"]).args(bench.devices(functions));
    qemu.arg("-serial").arg(format!("file:{}", console.display()));
    let _qemu = spawn(qemu).unwrap();
    let booted = || fs::read_to_string(&console).is_ok_and(|text| text == "booted from a stick");
    assert!(within(2 * MINUTE, booted), "{:?}", fs::read_to_string(&console));
    Ok(())
}

#[test]
fn firmware_boots_from_a_stick() -> Result<(), Error> {
    is_booted(&[], &FUNCTIONS)
}

#[test]
fn firmware_boots_from_a_stick_of_ehci_alone() -> Result<(), Error> {
    is_booted(&["--controller", "ehci"], &[0])
}
