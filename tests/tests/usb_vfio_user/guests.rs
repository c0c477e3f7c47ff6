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

/// Finds the card, and what there is to play, half a second of it.
const SOUND: &str = "
modprobe -a ehci-pci uhci-hcd snd-usb-audio || exit 1
for i in $(seq 300); do [ -e /proc/asound/Audio/pcm0c ] && break; sleep 0.2; done
seq 200000 | head -c 96000 >/tmp/played
amixer -c Audio scontents";

const PLAY: &str = "aplay -q -D hw:Audio,0 -t raw -f S16_LE -c 2 -r 48000 /tmp/played";

/// Hears half a second of a tone, whose waves are whole in 2205 frames: whether they are as one has to follow the
/// other.
const HEAR: &str = "
arecord -q -D hw:Audio,0 -t raw -f S16_LE -c 1 -r 44100 -s 22050 /tmp/heard || exit 1
python3 - <<'END'
import array
heard = array.array('h', open('/tmp/heard', 'rb').read())
print(len(heard), min(heard), max(heard), heard[2205:] == heard[:-2205])
END";

/// A guest that has no processor for a while brings packets too late, and they are lost; a controller or a device
/// that loses them does so each time.
const TRIES: usize = 20;

/// Bytes of a packet of what is played.
const PACKET: usize = 192;

/// What was played has come in whole packets and in order, but for silence and for packets that were lost; whether
/// none was.
fn is_whole(played: &[u8], came: &[u8]) -> bool {
    let sound = came.chunks(PACKET).filter(|packet| packet.iter().any(|byte| *byte != 0));
    let mut left = played.chunks(PACKET);
    let mut lost = 0;
    for packet in sound {
        let found = left.position(|next| next == packet);
        lost += found.unwrap_or_else(|| panic!("{packet:?} was not played then"));
    }
    lost + left.len() == 0
}

/// A guest plays to a file with such a header, sample by sample, and hears a tone.
fn is_heard(speed: &str, kind: &str, header: usize) -> Result<(), Error> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("played");
    let audio = format!(
        "audio,port=2,speed={speed},playback=speaker,backend={kind}:{},capture=mic,backend=tone",
        file.display()
    );
    let bench = Bench::new(&["--device", &audio], |_| {});
    let guest = Guest::builder().qemu(Version::Sid).args(bench.devices(&FUNCTIONS)).boot()?;
    let found = guest.run_within(MINUTE, SOUND)?.stdout_if_ok()?;
    for control in ["'PCM'", "'Mic'", "Playback 120 [100%] [0.00dB] [on]"] {
        assert!(found.contains(control), "{control}: {found}");
    }
    let mut played: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    played.truncate(96_000);
    let mut before = header;
    let plays = (0..TRIES).any(|_| {
        let said = guest.run_within(MINUTE, PLAY).and_then(|output| output.stdout_if_ok());
        let all = fs::read(&file).unwrap();
        let came = all.get(std::mem::replace(&mut before, all.len().max(header))..);
        let came = came.unwrap_or_default();
        eprintln!("{said:?}, {} bytes", came.len());
        is_whole(played.as_bytes(), came)
    });
    assert!(plays);
    let hears = (0..TRIES).any(|_| {
        let said = guest.run_within(MINUTE, HEAR).and_then(|output| output.stdout_if_ok());
        eprintln!("{said:?}");
        said.is_ok_and(|said| said == "22050 -3277 3277 True\n")
    });
    assert!(hears);
    Ok(())
}

#[test]
fn a_guest_of_qemus_plays_and_hears_at_high_speed() -> Result<(), Error> {
    is_heard("high", "raw", 0)
}

#[test]
fn a_guest_of_qemus_plays_and_hears_at_full_speed() -> Result<(), Error> {
    is_heard("full", "wav", 68)
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
