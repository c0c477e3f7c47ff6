//! vhost-usb's devices in a stock Debian under vmm-frontend, in a guest that is a host.

use std::time::Duration;

use lab::{Error, Host, Kernel, Shell, usbtest};

const MINUTE: Duration = Duration::from_secs(60);

/// Loads the drivers, waits for the stick's disk, and makes a file system on it.
const FIND: &str = "
modprobe -a ehci-pci usb-storage sd_mod || exit 1
for i in $(seq 300); do
    disk=$(ls /sys/bus/usb/devices/?-1/*/host*/target*/*/block 2>/dev/null) && break
    sleep 0.1
done
[ -b /dev/$disk ] || { dmesg | tail -30; exit 1; }
cat /sys/bus/usb/devices/?-1/speed /sys/bus/usb/devices/?-1/product
mkfs.ext4 -q /dev/$disk && mount /dev/$disk /mnt";

/// Uses the disk, verifies what it reads, and tells how often the device was reset.
const LOAD: &str = "
fio --name=verify --directory=/mnt --size=8M --rw=randrw --bs=4k-64k --iodepth=4 \
    --ioengine=libaio --direct=1 --verify=crc32c --verify_backlog=64 --verify_fatal=1 \
    --time_based --runtime=$SECONDS_OF_LOAD >&2 || exit 1
dmesg | grep -E 'I/O error|EXT4-fs error|USB disconnect' && exit 1
disk=$(findmnt -no SOURCE /mnt)
umount /mnt && fsck.ext4 -fn $disk >&2 || exit 1
dmesg | grep -c 'reset high-speed'";

/// Verified load on the stick for so long, while its process is killed so often: the guest resets the
/// device, and goes on.
fn goes_on(seconds: u32, kills: u32) -> Result<(), Error> {
    Host::test(|| {
        let host = Host::boot(|builder| builder)?;
        host.guest().run("truncate -s 64M /tmp/stick.img")?.stdout_if_ok()?;
        let stick = "--usb storage,file=/tmp/stick.img";
        let guest = host.boot_vmm_guest(Kernel::Backports, "", stick)?;
        let found = guest.run_within(5 * MINUTE, FIND)?.stdout_if_ok()?;
        assert_eq!(found, "480\nStorage\n");
        let pause = f64::from(seconds) / f64::from(kills + 1);
        let kill = format!("for i in $(seq {kills}); do sleep {pause}; pkill -9 vhost-usb; done");
        let killer = host.guest().start(&kill)?;
        let load = LOAD.replace("$SECONDS_OF_LOAD", &seconds.to_string());
        let resets = guest.run_within(20 * MINUTE, &load)?.stdout_if_ok()?;
        killer.wait(host.guest(), MINUTE)?.stdout_if_ok()?;
        let resets: u32 = resets.trim().parse().unwrap_or_else(|_| panic!("{resets}"));
        assert!((1..=kills * 3).contains(&resets), "{resets} resets after {kills} kills");
        Ok(())
    })
}

#[test]
fn a_guest_goes_on_when_the_process_is_killed() -> Result<(), Error> {
    goes_on(30, 3)
}

#[test]
#[ignore = "minutes: cargo lab soak"]
fn a_guest_goes_on_when_the_process_is_killed_20_times() -> Result<(), Error> {
    goes_on(200, 20)
}

/// Where devices are plugged in: storage; a hub with a keyboard, a hub with a mouse, a tablet that is
/// full-speed; a full-speed keyboard alone; a serial port; a microphone.
const EVERYTHING: &str = "--usb storage,file=/tmp/stick.img --usb hub,port=2 --usb kbd,port=2.1 \
    --usb hub,port=2.2 --usb mouse,port=2.2.1 --usb tablet,port=2.3,speed=full --usb kbd,port=3,speed=full \
    --usb serial,port=4,pty=/run/usb-serial --usb gadget-zero,port=5 --usb audio,port=6,capture=mic \
    --usb-control /run/usb.ctl";

/// What `lsusb -t` is to say, each device by its way, driver and speed.
const TREE: &str = r"
modprobe -a ehci-pci uhci-hcd usb-storage usbhid hid-generic evdev cdc-acm snd-usb-audio || exit 1
for i in $(seq 300); do
    [ $(lsusb | grep -vc 'Linux Foundation') = 10 ] && [ $(ls /dev/input/event* | wc -l) -ge 4 ] && break
    sleep 0.2
done
lsusb -t
grep -E 'ehci|uhci' /proc/interrupts";

/// Has evtest write down what all input devices tell.
const READ_EVENTS: &str = r"
for event in /dev/input/event*; do
    setsid evtest $event </dev/null >/tmp/${event##*/} 2>&1 &
done
sleep 2";

/// Types a key, moves and clicks the mouse, and puts the tablet's pointer somewhere.
const SEND_EVENTS: &str = r#"
exec python3 - <<'END'
import json, socket
stream = socket.socket(socket.AF_UNIX)
stream.settimeout(100)
stream.connect("/run/usb.ctl")

def qmp(command, **arguments):
    stream.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
    said = b""
    while b'"return"' not in said:
        more = stream.recv(4096)
        assert more and b'"error"' not in more, said + more
        said += more

def send(*events):
    qmp("input-send-event", events=[{"type": kind, "data": data} for kind, data in events])

qmp("qmp_capabilities")
for down in [True, False]:
    send(("key", {"down": down, "key": {"type": "qcode", "data": "q"}}))
send(("rel", {"axis": "x", "value": 17}), ("rel", {"axis": "y", "value": -4}))
send(("abs", {"axis": "x", "value": 12345}), ("abs", {"axis": "y", "value": 54}))
send(("btn", {"down": True, "button": "right"}))
send(("btn", {"down": False, "button": "right"}))
END"#;

const EVENTS: &str = "sleep 5; pkill evtest; cat /tmp/event* | grep -E '^Event: time .*(KEY|BTN|REL|ABS)_' \
    | sed 's/.*(\\([A-Z_]*\\)), value/\\1/'";

/// The host's end of the serial port answers the first line. It is opened in a process that leads no session,
/// whose terminal it would become; so is the guest's.
const ANSWER: &str = "(exec 3<>/run/usb-serial; timeout 100 head -n 1 <&3; echo down >&3) | cat";

/// The guest speaks until it is answered: nobody may have been there.
const SPEAK: &str = "
(exec 3<>/dev/ttyACM0
stty raw -echo <&3
for i in $(seq 60); do
    echo up >&3
    read -r -t 1 line <&3 && echo $line && break
done) | cat";

#[test]
fn every_kind_is_found_where_it_is_plugged_in_and_used() -> Result<(), Error> {
    every_kind_is_used(Kernel::Backports)
}

#[test]
fn every_kind_is_found_and_used_by_linux_6_1_too() -> Result<(), Error> {
    every_kind_is_used(Kernel::Stable)
}

fn every_kind_is_used(kernel: Kernel) -> Result<(), Error> {
    Host::test(|| {
        let host = Host::boot(|builder| builder)?;
        host.guest().run("truncate -s 64M /tmp/stick.img")?.stdout_if_ok()?;
        let guest = host.boot_vmm_guest(kernel, "", EVERYTHING)?;
        let tree = guest.run_within(10 * MINUTE, TREE)?.stdout_if_ok()?;
        eprintln!("{tree}");
        for (port, driver, speed) in [
            ("Port 1", "usb-storage", "480M"),
            ("Port 2", "hub", "480M"),
            ("Port 2", "hub", "480M"),
            ("Port 1", "usbhid", "480M"),
            ("Port 3", "usbhid", "12M"),
            ("Port 1", "usbhid", "12M"),
            ("Port 4", "cdc_acm", "480M"),
            ("Port 6", "snd-usb-audio", "480M"),
        ] {
            let is_it = |line: &&str| {
                line.contains(port)
                    && line.contains(&format!("Driver={driver}"))
                    && line.ends_with(speed)
            };
            assert!(tree.lines().any(|line| is_it(&line)), "{port} {driver} {speed}: {tree}");
        }
        assert!(tree.contains("MSI"), "{tree}");
        for _ in 0..2 {
            let answer = host.guest().start(ANSWER)?;
            assert_eq!(guest.run(SPEAK)?.stdout_if_ok()?, "down\n");
            assert_eq!(answer.wait(host.guest(), 2 * MINUTE)?.stdout_if_ok()?, "up\n");
        }
        guest.run(READ_EVENTS)?.stdout_if_ok()?;
        host.guest().run(SEND_EVENTS)?.stdout_if_ok()?;
        let events = guest.run(EVENTS)?.stdout();
        eprintln!("{events}");
        let wanted = [
            "KEY_Q 1",
            "KEY_Q 0",
            "REL_X 17",
            "REL_Y -4",
            "ABS_X 12345",
            "ABS_Y 54",
            "BTN_RIGHT 1",
            "BTN_RIGHT 0",
        ];
        for event in wanted {
            assert!(events.lines().any(|line| line == event), "{event}: {events}");
        }
        guest.run("(sleep 1; echo b >/proc/sysrq-trigger) >/dev/null 2>&1 &")?;
        guest.wait_reboot()?;
        let again = guest.run_within(10 * MINUTE, TREE)?.stdout_if_ok()?;
        assert_eq!(again.matches("usbhid").count(), tree.matches("usbhid").count(), "{again}");
        Ok(())
    })
}

/// Waits for the disk of the stick that is in this port, by the way that its name in sysfs tells.
const WAIT_DISK: &str = "
for i in $(seq 300); do
    disk=$(ls /sys/bus/usb/devices/?-$PORT/?-$PORT:1.0/host*/target*/*/block 2>/dev/null) && break
    sleep 0.1
done
[ -b /dev/$disk ] || { dmesg | tail -30; exit 1; }
";

/// Reads until that fails, which is to take no longer than a moment once the stick is pulled out.
const READ_ON: &str = "
(while dd if=/dev/$disk of=/dev/null bs=64k iflag=direct status=none; do :; done
touch /run/failed) >/dev/null 2>&1 &
";

const WAIT_GONE: &str = "
for i in $(seq 300); do
    [ -e /run/failed ] && [ ! -e /sys/bus/usb/devices/?-$PORT ] && rm /run/failed && exit
    sleep 0.1
done
dmesg | tail -30; exit 1
";

const SUM: &str = "md5sum </dev/$disk";

#[test]
fn devices_come_and_go_while_they_are_in_use() -> Result<(), Error> {
    Host::test(|| {
        let host = Host::boot(|builder| builder)?;
        let image = "head -c 8M /dev/urandom >/tmp/stick.img && md5sum </tmp/stick.img";
        let sum = host.guest().run(image)?.stdout_if_ok()?;
        let arguments = "--usb hub,port=2 --usb-control /run/usb.ctl";
        let guest = host.boot_vmm_guest(Kernel::Backports, "", arguments)?;
        let ctl = |words: &str| {
            let ctl = format!("/job/vhost-usb ctl --control /run/usb.ctl {words}");
            host.guest().run(&ctl)?.stdout_if_ok()
        };
        let in_guest = |port: &str, script: &str| {
            guest.run_within(2 * MINUTE, &script.replace("$PORT", port))?.stdout_if_ok()
        };
        in_guest("", "modprobe -a ehci-pci uhci-hcd usb-storage sd_mod usbhid")?;
        for (port, text) in [("1", "1"), ("2.3", "2.3"), ("3", "3,speed=full")] {
            let stick = format!("storage,file=/tmp/stick.img,port={text}");
            assert_eq!(ctl(&format!("add {stick}"))?, format!("{port}\n"));
            // A full-speed one is in a companion's port: the second of its two ones.
            let seen = if port == "3" { "1" } else { port };
            let read = format!("{WAIT_DISK}{SUM}; {READ_ON}");
            assert_eq!(in_guest(seen, &read)?, sum, "{port}");
            ctl(&format!("remove {port}"))?;
            in_guest(seen, WAIT_GONE)?;
        }
        // A restarted process has what was plugged in.
        ctl("add storage,file=/tmp/stick.img,port=2.1 kbd")?;
        in_guest("2.1", WAIT_DISK)?;
        let killed = "kill -9 $(pgrep -n vhost-usb)";
        host.guest().run(killed)?.stdout_if_ok()?;
        // The hub has forgotten its ports, so that its devices are found anew.
        let again = format!(
            "for i in $(seq 60); do ({WAIT_DISK}{SUM}) 2>/dev/null && exit; sleep 1; done; \
             dmesg | tail -60; exit 1"
        );
        assert_eq!(in_guest("2.1", &again)?, sum);
        let listed = ctl("list")?;
        assert_eq!(
            listed,
            "PORT  DEVICE\n1     kbd\n2     hub\n2.1   storage,file=/tmp/stick.img\n"
        );
        Ok(())
    })
}

/// Turns the speaker down by 20 dB, and plays a minute of silence.
const PLAY_ON: &str = "
modprobe -a ehci-pci snd-usb-audio || exit 1
for i in $(seq 300); do [ -e /proc/asound/Audio/pcm0p ] && break; sleep 0.2; done
amixer -q -c Audio sset PCM 80 || exit 1
aplay -q -D hw:Audio,0 -t raw -f S16_LE -c 1 -r 8000 -d 600 /dev/zero >/tmp/aplay 2>&1 &";

/// What the file has gained in so many seconds.
const GAINED: &str = "
before=$(stat -c %s /tmp/raw); sleep $SECONDS
echo $(($(stat -c %s /tmp/raw) - before))";

/// The speaker, which nobody has reset, is as loud as it was: a driver that is loaded again asks it.
const AS_LOUD: &str = "
pgrep -x aplay >/dev/null || { cat /tmp/aplay; dmesg | tail; exit 1; }
kill $(pgrep -x aplay); sleep 1
rmmod snd-usb-audio && modprobe snd-usb-audio || exit 1
for i in $(seq 300); do [ -e /proc/asound/Audio/pcm0p ] && break; sleep 0.2; done
amixer -c Audio sget PCM | grep -o '80 .*dB.'
dmesg | grep -cE 'reset (high|full)-speed|USB disconnect'";

#[test]
fn a_guest_plays_on_when_the_process_is_killed() -> Result<(), Error> {
    Host::test(|| {
        let host = Host::boot(|builder| builder)?;
        let speaker = "--usb audio,playback=speaker,backend=raw:/tmp/raw";
        let guest = host.boot_vmm_guest(Kernel::Backports, "", speaker)?;
        guest.run_within(2 * MINUTE, PLAY_ON)?.stdout_if_ok()?;
        let gained = || {
            let gained = host.guest().run(&GAINED.replace("$SECONDS", "5"))?.stdout_if_ok()?;
            Ok::<u32, Error>(gained.trim().parse().unwrap())
        };
        let before = gained()?;
        for _ in 0..2 {
            host.guest().run("kill -9 $(pgrep -n -x vhost-usb); sleep 2")?.stdout_if_ok()?;
        }
        let after = gained()?;
        eprintln!("{before} bytes in five seconds, then {after}");
        assert!(before > 0 && after > before / 5);
        // grep counts none, which is no success.
        let loud = guest.run_within(MINUTE, AS_LOUD)?.stdout();
        assert_eq!(loud, "80 [67%] [-20.00dB]\n0\n");
        Ok(())
    })
}

#[test]
fn the_kernels_usbtest_finds_nothing_wrong() -> Result<(), Error> {
    Host::test(|| {
        let host = Host::boot(|builder| builder)?;
        let guest = host.boot_vmm_guest(Kernel::Backports, "", "--usb gadget-zero")?;
        guest.run("modprobe -a ehci-pci usbtest")?.stdout_if_ok()?;
        let said = guest.run_within(10 * MINUTE, &usbtest::script(20))?.stdout_if_ok()?;
        // Isochronous endpoints are in setting 1, and need a quicker guest than this one; interrupt ones are in
        // setting 2.
        usbtest::check(&said, &[15, 16, 22, 23, 25, 26]);
        Ok(())
    })
}
