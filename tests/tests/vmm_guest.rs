//! vmm-frontend boots stock Debian, with its root on a disk of vhost-scsi, in a guest that is a host.

use std::path::PathBuf;
use std::time::Duration;

use lab::{Error, Host, Kernel, Machine, Nested, Shell};

const MINUTE: Duration = Duration::from_secs(60);

/// A guest to be booted, on a host that has a disk's file for it.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    kernel: Kernel,
    /// Words for the kernel.
    append: &'a str,
    /// Arguments for the VMM.
    arguments: &'a str,
    /// A device process of somebody else's, which listens on `/run/device.sock`.
    device: Option<Device<'a>>,
}

#[derive(Clone, Copy)]
struct Device<'a> {
    /// A script that goes on.
    serve: &'a str,
    /// What it needs of the lab, and where it is then.
    share: Option<(Folder, &'a str)>,
}

type Folder = fn() -> Result<PathBuf, Error>;

const BACKPORTS: Wanted<'static> =
    Wanted { kernel: Kernel::Backports, append: "", arguments: "", device: None };

impl Wanted<'_> {
    fn test(self, test: impl Fn(&Host, &Nested<'_>) -> Result<(), Error>) -> Result<(), Error> {
        Host::test(|| {
            let host = Host::boot(|builder| builder)?;
            host.guest().run("truncate -s 64M /tmp/data.img")?.stdout_if_ok()?;
            if let Some(device) = self.device {
                if let Some((folder, name)) = device.share {
                    host.share(&folder()?, name)?;
                }
                let serves = host.guest().start(device.serve)?;
                let listens = "for i in $(seq 300); do [ -S /run/device.sock ] && exit; sleep 0.1; done; exit 1";
                if host.guest().run(listens)?.status != 0 {
                    let said = serves.wait(host.guest(), Duration::ZERO)?;
                    panic!("the device does not listen: {}{}", said.stdout(), said.stderr());
                }
            }
            test(&host, &host.boot_vmm_guest(self.kernel, self.append, self.arguments)?)
        })
    }
}

/// Random writes and reads, each block with its own checksum. The disk is the second target, which
/// may be the first that Linux names.
const VERIFY: &str = "
disk=/dev/$(ls /sys/class/scsi_device/*:0:1:0/device/block) || exit 1
mkfs.ext4 -q $disk && mount $disk /mnt && dmesg -C || exit 1
fio --name=verify --directory=/mnt --size=16M --rw=randrw --bs=4k-64k --iodepth=16 \
    --ioengine=libaio --direct=1 --fsync=64 --verify=crc32c --verify_backlog=256 \
    --verify_fatal=1 --time_based --runtime=$SECONDS_OF_LOAD || exit 1
! dmesg | grep -E 'I/O error|Buffer I/O|EXT4-fs error|blk_update_request' || exit 1
umount /mnt && fsck.ext4 -fn $disk";

/// Linux has packed rings where they are offered (VIRTIO_F_RING_PACKED, bit 34).
const PACKED: &str = "
for features in /sys/bus/virtio/drivers/virtio_scsi/virtio*/features; do
    [ $(cut -c35 $features) = 1 ] || { echo \"$features: $(cat $features)\"; exit 1; }
done";

/// Verified load for so long, while the process of the disks is killed so often.
fn load(host: &Host, guest: &Nested<'_>, seconds: u32, kills: u32) -> Result<(), Error> {
    guest.run(PACKED)?.stdout_if_ok()?;
    // Between one and the next the disk is used, or the next would kill what serves nobody.
    let pause = f64::from(seconds) / f64::from(kills + 1);
    let kill = format!("for i in $(seq {kills}); do sleep {pause}; pkill -9 vhost-scsi; done");
    let killer = host.guest().start(&kill)?;
    let script = VERIFY.replace("$SECONDS_OF_LOAD", &seconds.to_string());
    guest.run_within(10 * MINUTE, &script)?.stdout_if_ok()?;
    killer.wait(host.guest(), MINUTE)?.stdout_if_ok()?;
    Ok(())
}

/// Logs in on the guest's serial console, a terminal of the host's, as a person does.
const LOG_IN: &str = r#"
exec 3<>/run/terminal
until_it_says() {
    text=
    while [[ $text != *"$1"* ]]; do
        IFS= read -r -u 3 -N 1 -t 300 one || { echo "no \"$1\" in: $text"; exit 1; }
        text+=$one
    done
}
stty raw -echo <&3
printf '\n' >&3
until_it_says 'login: '
printf 'root\n' >&3
until_it_says '# '
printf 'uname -r; nproc; findmnt -no SOURCE /; ps -o comm= 1; echo e"n"d\n' >&3
until_it_says end
echo "$text"
"#;

/// The login is on the console, as in containers: one on the terminal waits until udev has looked at
/// all devices, which takes minutes in an emulated guest's guest.
const SYSTEMD: &str = "lab.systemd systemd.wants=console-getty.service \
    systemd.mask=serial-getty@ttyS0.service systemd.mask=getty-static.service \
    systemd.mask=systemd-udev-trigger.service";

/// Boots to a login by systemd, logs in there, and uses the disk; then its power button is pressed.
fn log_in_and_use_the_disk(kernel: Kernel, version: &str, cpus: u32) -> Result<(), Error> {
    let arguments =
        format!("--disk /tmp/data.img --cpus {cpus} --serial pty:/run/terminal --qmp /run/vmm.qmp");
    let wanted = Wanted { kernel, append: SYSTEMD, arguments: &arguments, device: None };
    wanted.test(|host, guest| {
        let said = host.guest().run_within(15 * MINUTE, LOG_IN)?.stdout_if_ok()?;
        let words: Vec<&str> = said.split_ascii_whitespace().collect();
        let cpus = cpus.to_string();
        let found = |word: &str| words.contains(&word);
        let disk = words.iter().any(|word| word.starts_with("/dev/sd"));
        assert!(found(&cpus) && found("systemd") && disk, "{said}");
        assert!(words.iter().any(|word| word.starts_with(version)), "{said}");
        load(host, guest, 20, 0)?;
        guest.run(HEED_THE_BUTTON)?.stdout_if_ok()?;
        host.tell(PRESS)?;
        let ended = guest.wait(5 * MINUTE)?;
        assert_eq!(ended.status, 0, "{}", ended.stderr());
        Ok(())
    })
}

/// What logind does, which needs udev.
const HEED_THE_BUTTON: &str = "
modprobe -a button evdev
for i in $(seq 100); do [ -c /dev/input/event0 ] && break; sleep 0.1; done
grep -q 'Power Button' /sys/class/input/event0/device/name || exit 1
setsid sh -c 'head -c 24 /dev/input/event0 && systemctl poweroff' </dev/null >/dev/null 2>&1 &";

/// The power button.
const PRESS: &str = r#"qmp({"execute": "system_powerdown"}, "POWERDOWN")"#;

#[test]
fn linux_6_1_boots_to_a_login() -> Result<(), Error> {
    log_in_and_use_the_disk(Kernel::Stable, "6.1.", 1)
}

#[test]
#[ignore = "takes 3 minutes: cargo lab soak"]
fn linux_6_1_boots_to_a_login_with_four_processors() -> Result<(), Error> {
    log_in_and_use_the_disk(Kernel::Stable, "6.1.", 4)
}

#[test]
#[ignore = "takes 3 minutes: cargo lab soak"]
fn linux_6_12_boots_to_a_login() -> Result<(), Error> {
    log_in_and_use_the_disk(Kernel::Backports, "6.12.", 1)
}

#[test]
fn linux_6_12_boots_to_a_login_with_four_processors() -> Result<(), Error> {
    log_in_and_use_the_disk(Kernel::Backports, "6.12.", 4)
}

fn killed(cpus: u32, seconds: u32, kills: u32) -> Result<(), Error> {
    let arguments = format!("--disk /tmp/data.img --cpus {cpus}");
    Wanted { arguments: &arguments, ..BACKPORTS }.test(|host, guest| {
        load(host, guest, seconds, kills)?;
        guest.run("(sleep 1; echo o >/proc/sysrq-trigger) &")?;
        let said = guest.wait(2 * MINUTE)?;
        assert_eq!(said.status, 0, "{}", said.stderr());
        Ok(())
    })
}

#[test]
fn a_guest_does_not_notice_that_its_device_process_is_killed() -> Result<(), Error> {
    killed(4, 40, 5)
}

#[test]
#[ignore = "takes 5 minutes: cargo lab soak"]
fn nor_that_it_is_killed_twenty_times() -> Result<(), Error> {
    killed(1, 160, 20)
}

/// QEMU's block device, with the data disk.
#[test]
fn qemus_block_device_serves_a_guest() -> Result<(), Error> {
    const SERVE: &str = "exec qemu-storage-daemon \
        --blockdev file,node-name=data,filename=/tmp/data.img --export vhost-user-blk,id=e,\
node-name=data,writable=on,num-queues=2,addr.type=unix,addr.path=/run/device.sock";
    let device = Device { serve: SERVE, share: None };
    let arguments = "--cpus 2 --vhost-user type=blk,socket=/run/device.sock";
    Wanted { arguments, device: Some(device), ..BACKPORTS }.test(|_, guest| {
        let driver = "/sys/bus/virtio/drivers/virtio_blk/virtio*/block";
        let script = VERIFY.replace("/sys/class/scsi_device/*:0:1:0/device/block", driver);
        let script = script.replace("$SECONDS_OF_LOAD", "20");
        guest.run_within(10 * MINUTE, &script)?.stdout_if_ok().map(drop)
    })
}

/// passt, by which the guest reaches a server of its host's: 4 MiB go there and come back.
#[test]
fn passt_connects_a_guest() -> Result<(), Error> {
    const SERVE: &str = r#"
modprobe dummy
ip link add dummy0 type dummy
ip link set dummy0 up
ip addr add 192.0.2.2/24 dev dummy0
ip route add default via 192.0.2.1
python3 - <<'END' &
import socket
server = socket.create_server(("127.0.0.1", 5000))
while True:
    peer, _ = server.accept()
    data = b""
    while len(data) < 4 << 20:
        data += peer.recv(1 << 16)
    peer.sendall(data)
END
install -d -o nobody /run/passt
ln -s /run/passt/sock /run/device.sock
tree=/job/passt
libraries=$tree/usr/lib/x86_64-linux-gnu
exec $libraries/ld-linux-x86-64.so.2 --library-path $libraries $tree/usr/bin/passt \
    --foreground --vhost-user --socket /run/passt/sock
"#;
    const TALK: &str = r#"
modprobe virtio_net || exit 1
card=$(ls /sys/bus/virtio/drivers/virtio_net/virtio*/net)
ip link set $card up && ip addr add 192.0.2.2/24 dev $card && ip route add default via 192.0.2.1
exec python3 - <<'END'
import os, socket
data = os.urandom(4 << 20)
peer = socket.create_connection(("192.0.2.1", 5000), 60)
peer.sendall(data)
back = b""
while len(back) < len(data):
    more = peer.recv(1 << 16)
    assert more, f"{len(back)} bytes came back"
    back += more
assert back == data
print("the same")
END
"#;
    let device = Device { serve: SERVE, share: Some((Machine::passt, "passt")) };
    let arguments = "--vhost-user type=net,socket=/run/device.sock";
    Wanted { arguments, device: Some(device), ..BACKPORTS }.test(|_, guest| {
        assert_eq!(guest.run_within(5 * MINUTE, TALK)?.stdout_if_ok()?, "the same\n");
        Ok(())
    })
}

/// 32 MiB of another controller's disk come and go; then the kernel starts again.
#[test]
fn a_controller_comes_and_goes_and_a_kernel_reboots() -> Result<(), Error> {
    const SERVE: &str = "truncate -s 32M /tmp/more.img && \
        exec /job/vhost-scsi --socket-path /run/device.sock --disk /tmp/more.img";
    const ADD: &str = r#"qmp({"execute": "device_add", "arguments": {
        "driver": "vhost-user-scsi-pci", "id": "more", "socket": "/run/device.sock"}}, '"return"')"#;
    const USE: &str = "
for i in $(seq 300); do disk=$(grep -lx 65536 /sys/block/sd*/size) && break; sleep 0.1; done
disk=/dev/$(basename $(dirname $disk))
head -c 1M /dev/urandom >/tmp/data && dd if=/tmp/data of=$disk oflag=direct bs=64k status=none &&
    dd if=$disk iflag=direct bs=64k count=16 status=none | cmp - /tmp/data";
    const DELETE: &str =
        r#"qmp({"execute": "device_del", "arguments": {"id": "more"}}, "DEVICE_DELETED")"#;
    const GONE: &str = "! grep -lx 65536 /sys/block/sd*/size";

    let device = Device { serve: SERVE, share: None };
    let arguments = "--disk /tmp/data.img --qmp /run/vmm.qmp";
    Wanted { arguments, device: Some(device), ..BACKPORTS }.test(|host, guest| {
        for _ in 0..2 {
            host.tell(ADD)?;
            guest.run(USE)?.stdout_if_ok()?;
            host.tell(DELETE)?;
            guest.run(GONE)?.stdout_if_ok()?;
        }
        guest.run("touch /tmp/before; (sleep 1; echo b >/proc/sysrq-trigger) >/dev/null 2>&1 &")?;
        guest.wait_reboot()?;
        guest
            .run("[ ! -e /tmp/before ] && [ $(ls /sys/block | grep -c ^sd) = 2 ]")?
            .stdout_if_ok()?;
        Ok(())
    })
}

/// SeaBIOS starts SYSLINUX from the first disk, which starts the kernel; the root is on the second.
#[test]
fn a_disk_boots_by_firmware() -> Result<(), Error> {
    const MAKE: &str = "
truncate -s 64M /tmp/boot.img && mkfs.vfat /tmp/boot.img >/dev/null || exit 1
mcopy -i /tmp/boot.img /job/vmlinuz-linux-6.12 ::vmlinuz || exit 1
mcopy -i /tmp/boot.img /job/initrd-linux-6.12 ::initrd || exit 1
mcopy -i /tmp/boot.img - ::syslinux.cfg <<'END' || exit 1
DEFAULT linux
LABEL linux
  LINUX vmlinuz
  INITRD initrd
  APPEND console=ttyS0 panic=-1 quiet by-firmware
END
syslinux --install /tmp/boot.img";
    Host::test(|| {
        let host = Host::boot(|builder| builder)?;
        host.guest().run(MAKE)?.stdout_if_ok()?;
        let guest = host.boot_vmm_disk("--disk /tmp/boot.img --disk /dev/vdb --cpus 2")?;
        let line = guest.run("cat /proc/cmdline")?.stdout_if_ok()?;
        assert!(line.contains("by-firmware"), "{line}");
        // After the firmware's, which are split.
        guest.run(PACKED)?.stdout_if_ok()?;
        guest.run("(sleep 1; echo o >/proc/sysrq-trigger) >/dev/null 2>&1 &")?;
        guest.wait(2 * MINUTE)?;
        Ok(())
    })
}
