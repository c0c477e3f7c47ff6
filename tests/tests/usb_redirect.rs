//! USB devices that are elsewhere, in a guest's ports: `usbredirect` has them, gadgets that Linux makes.

use std::time::Duration;

use lab::{Error, Host, Kernel, Shell, Task};

const MINUTE: Duration = Duration::from_secs(60);

/// What lsusb has them by.
const STICK_ID: &str = "1209:0001";
const LINE_ID: &str = "0403:abcd";

/// A stick that is plugged into the host, with random data.
const STICK: &str = "
ip link set lo up
dd if=/dev/urandom of=/tmp/stick.img bs=64k count=32 status=none
modprobe -a dummy_hcd usb_f_mass_storage libcomposite || exit 1
modprobe g_mass_storage file=/tmp/stick.img removable=1 idVendor=0x1209 idProduct=0x0001 || exit 1
for i in $(seq 100); do lsusb -d 1209:0001 && exit 0; sleep 0.1; done
dmesg | tail -20; exit 1";

/// Loads the drivers.
const DRIVERS: &str = "modprobe -a ehci-pci usb-storage sd_mod";

/// Waits for the stick's disk, and reads all of it.
const READ: &str = "
for i in $(seq 600); do
    disk=$(ls /sys/bus/usb/devices/?-PORT/*/host*/target*/*/block 2>/dev/null) && break
    sleep 0.1
done
[ -b /dev/$disk ] || { dmesg | tail -30; exit 1; }
cat /sys/bus/usb/devices/?-PORT/speed
md5sum </dev/$disk";

/// Writes where the reader does not look, and what is to be found there.
const WRITE: &str = "
disk=$(ls /sys/bus/usb/devices/?-1/*/host*/target*/*/block)
dd if=/dev/urandom of=/tmp/new bs=64k count=4 status=none
dd if=/tmp/new of=/dev/$disk bs=64k seek=16 oflag=direct conv=fsync status=none || exit 1
md5sum </tmp/new";

/// Reads without end.
const USE: &str = "
disk=$(ls /sys/bus/usb/devices/?-1/*/host*/target*/*/block)
while dd if=/dev/$disk of=/dev/null bs=64k iflag=direct status=none; do :; done";

/// A serial converter that is plugged in, by its vendor, and else what Linux takes for one if told so.
const LINE: &str = "
ip link set lo up
dd if=/dev/urandom of=/tmp/line bs=64k count=4 status=none
modprobe dummy_hcd && modprobe g_serial use_acm=0 idVendor=0x0403 idProduct=0xabcd || exit 1
for i in $(seq 100); do lsusb -d 0403:abcd && [ -c /dev/ttyGS0 ] && exit 0; sleep 0.1; done
dmesg | tail -20; exit 1";

/// Its other end says a lot once it has been spoken to. It is opened in a process that leads no session, whose
/// terminal it would become; so is the guest's.
const ANSWER: &str = "
(exec 3<>/dev/ttyGS0
stty raw -echo <&3
timeout 100 head -n 1 <&3
cat /tmp/line >&3) | cat";

/// The guest speaks, and listens.
const SPEAK: &str = "
modprobe usbserial vendor=0x0403 product=0xabcd || exit 1
for i in $(seq 300); do [ -c /dev/ttyUSB0 ] && break; sleep 0.1; done
(exec 3<>/dev/ttyUSB0
stty raw -echo <&3
echo hello >&3
timeout 100 head -c 262144 <&3 | md5sum) | cat";

/// Waits until the stick is gone.
const GONE: &str = "
for i in $(seq 300); do [ -e /sys/bus/usb/devices/?-PORT ] || exit 0; sleep 0.1; done
dmesg | tail -30; exit 1";

/// Has `usbredirect` share a device. It never sleeps (0.13), so it is to have what others leave.
fn redirect(host: &Host, device: &str, how: &str) -> Result<Task, Error> {
    host.guest().start(&format!("exec nice -n 19 usbredirect --device {device} {how}"))
}

#[test]
fn a_stick_that_is_elsewhere_is_used_goes_and_comes_back() -> Result<(), Error> {
    Host::test(|| {
        let host = Host::boot(|builder| builder)?;
        host.guest().run(STICK)?.stdout_if_ok()?;
        let sum = host.guest().run("md5sum </tmp/stick.img")?.stdout_if_ok()?;
        let first = redirect(&host, STICK_ID, "--as 127.0.0.1:4000")?;
        let arguments = "--usb-redirect tcp:127.0.0.1:4000 --usb-control /run/usb.ctl";
        let guest = host.boot_vmm_guest(Kernel::Backports, "", arguments)?;
        guest.run(DRIVERS)?.stdout_if_ok()?;
        let (read, gone) = (READ.replace("PORT", "1"), GONE.replace("PORT", "1"));
        let found = guest.run_within(5 * MINUTE, &read)?.stdout_if_ok()?;
        assert_eq!(found, format!("480\n{sum}"));
        let written = guest.run_within(5 * MINUTE, WRITE)?.stdout_if_ok()?;
        let there = "dd if=/tmp/stick.img bs=64k skip=16 count=4 status=none | md5sum";
        assert_eq!(host.guest().run(there)?.stdout_if_ok()?, written);

        // Plugged out while it is in use, and in again.
        guest.run(&format!("({USE}) >/tmp/use 2>&1 &"))?;
        host.guest().run("sleep 2; pkill -9 usbredirect")?;
        first.wait(host.guest(), MINUTE)?;
        guest.run(&gone)?.stdout_if_ok()?;
        let sum = host.guest().run("md5sum </tmp/stick.img")?.stdout_if_ok()?;
        let second = redirect(&host, STICK_ID, "--as 127.0.0.1:4000")?;
        let found = guest.run_within(5 * MINUTE, &read)?.stdout_if_ok()?;
        assert_eq!(found, format!("480\n{sum}"));

        // A port that comes while the guest runs, and waits for whoever connects: its socket outlives the
        // process.
        host.guest().run("pkill -9 usbredirect")?;
        second.wait(host.guest(), MINUTE)?;
        guest.run(&gone)?.stdout_if_ok()?;
        let redirection = "tcp:127.0.0.1:4001,server,port=3";
        let ctl = format!("/job/vhost-usb ctl --control /run/usb.ctl redirect {redirection}");
        assert_eq!(host.guest().run(&ctl)?.stdout_if_ok()?, "3\n");
        host.guest().run("pkill -9 --newest --exact vhost-usb")?;
        let _third = redirect(&host, STICK_ID, "--to 127.0.0.1:4001")?;
        let read = READ.replace("PORT", "3");
        let found = guest.run_within(5 * MINUTE, &read)?.stdout_if_ok()?;
        assert_eq!(found, format!("480\n{sum}"));
        Ok(())
    })
}

#[test]
fn a_serial_converter_that_is_elsewhere_is_spoken_to_and_listened_to() -> Result<(), Error> {
    Host::test(|| {
        let host = Host::boot(|builder| builder)?;
        host.guest().run(LINE)?.stdout_if_ok()?;
        let _task = redirect(&host, LINE_ID, "--as 127.0.0.1:4000")?;
        let arguments = "--usb-redirect tcp:127.0.0.1:4000";
        let guest = host.boot_vmm_guest(Kernel::Backports, "", arguments)?;
        guest.run("modprobe ehci-pci")?.stdout_if_ok()?;
        let answer = host.guest().start(ANSWER)?;
        let heard = guest.run_within(5 * MINUTE, SPEAK)?.stdout_if_ok()?;
        assert_eq!(answer.wait(host.guest(), MINUTE)?.stdout_if_ok()?, "hello\n");
        assert_eq!(host.guest().run("md5sum </tmp/line")?.stdout_if_ok()?, heard);
        Ok(())
    })
}
