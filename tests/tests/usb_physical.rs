//! Devices of the host's in a guest's guest, by libusb: the host is a guest whose VMM has them.

use std::time::Duration;

use lab::{Error, Host, Kernel, Shell};
use serde_json::json;

const MINUTE: Duration = Duration::from_secs(60);

/// Waits for a stick with this sum of what is on it.
const READ: &str = "
while [ $SECONDS -lt 120 ]; do
    for disk in $(ls -d /sys/bus/usb/devices/?-*/?-*:1.0/host*/target*/*/block/* 2>/dev/null); do
        [ $(md5sum </dev/${disk##*/} | cut -d' ' -f1) = $SUM ] && exit
    done
    sleep 0.5
done 2>/dev/null
lsusb -t; dmesg | tail -40; exit 1";

/// Waits for a device that is not the guest's.
const THERE: &str = "
while [ $SECONDS -lt 120 ]; do lsusb -d $ID && sleep 3 && exit 0; sleep 0.5; done
lsusb; dmesg | tail -30; exit 1";

const GONE: &str = "
while [ $SECONDS -lt 120 ]; do lsusb | grep -q $ID || exit 0; sleep 0.5; done
lsusb; dmesg | tail -30; exit 1";

/// The host's drivers have both again.
const BACK: &str = "
for i in $(seq 100); do
    ls -d /sys/bus/usb/devices/1-1/1-1:1.0/host* && ls -d /sys/bus/usb/devices/1-2/1-2:1.0/0003:* && exit
    sleep 0.2
done
lsusb -t; dmesg | tail -20; exit 1";

const STICK: &str = "46f4:0001";
const TABLET: &str = "0627:0001";

#[test]
fn a_guest_has_the_hosts_devices_as_they_come_and_go() -> Result<(), Error> {
    Host::test(|| {
        let image = tempfile::NamedTempFile::new()
            .map_err(|source| Error::Io { what: "cannot make a file".into(), source })?;
        lab::make(image.path(), 4 << 20)?;
        let drive = format!("driver=file,node-name=stick,filename={}", image.path().display());
        let host = Host::boot(|builder| {
            let builder =
                builder.args(["-device", "usb-ehci,id=usb", "-device", "qemu-xhci,id=fast"]);
            let builder = builder.args(["-device", "usb-tablet,bus=usb.0,port=2"]);
            let builder = builder.args(["-blockdev".to_owned(), drive.clone()]);
            builder.args(["-device", "usb-storage,bus=usb.0,port=1,drive=stick,id=plugged"])
        })?;
        let in_host = |script: &str| host.guest().run_within(2 * MINUTE, script)?.stdout_if_ok();
        let write = "modprobe -a ehci-pci usb-storage sd_mod usbhid hid-generic
            for i in $(seq 100); do disk=$(ls -d /sys/bus/usb/devices/1-1/1-1:1.0/host*/target*/*/block/*) && break; sleep 0.2; done
            head -c 4M /dev/urandom >/dev/${disk##*/} && sync && md5sum </dev/${disk##*/} | cut -d' ' -f1";
        let sum = in_host(write)?;
        let read = READ.replace("$SUM", sum.trim());

        let devices = format!("--usb host,match={STICK} --usb host,match=1-2");
        let guest = host.boot_vmm_guest(Kernel::Backports, "", &devices)?;
        let in_guest = |script: &str| guest.run_within(5 * MINUTE, script)?.stdout_if_ok();
        in_guest("modprobe -a ehci-pci uhci-hcd usb-storage sd_mod usbhid hid-generic evdev")?;
        in_guest(&read)?;
        let listed = in_guest("lsusb; grep -c Tablet /proc/bus/input/devices")?;
        assert!(
            listed.contains(STICK) && listed.contains(TABLET) && listed.ends_with("\n1\n"),
            "{listed}"
        );
        in_host("lsusb -t | grep -q usbfs")?;

        // Another process has the devices, and the guest goes on.
        in_host("kill -9 $(pgrep -n -x vhost-usb)")?;
        std::thread::sleep(Duration::from_secs(1));
        in_guest(&read)?;

        // It has them even if the one before gives them back late.
        in_host("pkill -STOP -x usb-broker; kill -9 $(pgrep -n -x vhost-usb)")?;
        std::thread::sleep(Duration::from_secs(1));
        in_host("pkill -CONT -x usb-broker")?;
        in_guest(&read)?;
        in_guest("! dmesg | grep 'USB disconnect'")?;

        // It is plugged out of the host, and in again.
        let plug_out = || host.guest().qmp("device_del", json!({ "id": "plugged" }));
        let plug_in = |bus| {
            let stick = json!({ "driver": "usb-storage", "id": "plugged", "bus": bus, "port": "1", "drive": "stick" });
            host.guest().qmp("device_add", stick)
        };
        plug_out()?;
        in_guest(&GONE.replace("$ID", STICK))?;
        plug_in("usb.0")?;
        in_guest(&read)?;

        // Into a port that makes it too fast: it is left out until it is plugged into another.
        plug_out()?;
        in_guest(&GONE.replace("$ID", STICK))?;
        in_host("modprobe xhci-pci")?;
        plug_in("fast.0")?;
        in_host(&THERE.replace("$ID", STICK))?;
        in_guest(&GONE.replace("$ID", STICK))?;
        plug_out()?;
        in_host(&GONE.replace("$ID", STICK))?;
        plug_in("usb.0")?;
        in_guest(&read)?;
        std::thread::sleep(Duration::from_secs(2));
        in_guest(&read)?;

        // The host has them back, however the guest's end comes.
        in_host("pkill -9 vmm-frontend; pkill -9 -x vhost-usb; true")?;
        in_host(BACK)?;
        Ok(())
    })
}
