//! A guest with three sticks: on vhost-usb's controller, on QEMU's of the same kind, and on QEMU's xHCI.

use std::collections::HashMap;
use std::process::Command;
use std::time::Duration;

use lab::{Error, Guest, Process, Version, make, program, spawn_listening};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(600);
/// Bytes of each stick.
const SIZE: u64 = 64 << 20;
/// Where ours is, with its companions in the same slot.
const SLOT: u32 = 0x12;
/// EHCI's function, and its companions'.
const FUNCTIONS: [u32; 4] = [7, 0, 1, 2];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bus {
    Ehci,
    Uhci,
}

impl Bus {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Bus::Ehci => "stick on EHCI",
            Bus::Uhci => "stick on UHCI",
        }
    }

    /// MiB that are read in one go, and reads of 4 KiB.
    pub(crate) fn load(self) -> (u32, u32) {
        match self {
            Bus::Ehci => (48, 500),
            Bus::Uhci => (4, 100),
        }
    }
}

/// Whose stick it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Ours,
    Qemu,
    /// QEMU's xHCI, with commands as small as the others'.
    Doorbell,
}

pub(crate) const SUBJECTS: [Subject; 3] = [Subject::Ours, Subject::Qemu, Subject::Doorbell];

impl Subject {
    /// The slot of its controller.
    fn slot(self) -> u32 {
        match self {
            Subject::Ours => SLOT,
            Subject::Qemu => 0x10,
            Subject::Doorbell => 0x11,
        }
    }
}

/// What reading a stick took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// Milliseconds for 1 MiB, in a long read.
    pub(crate) mib: f64,
    /// Milliseconds for 4 KiB, read alone.
    pub(crate) small: f64,
    /// Interrupts for 1 MiB.
    pub(crate) interrupts: f64,
}

/// Milliseconds that our controller's registers cost the guest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    pub(crate) read: f64,
    pub(crate) write: f64,
}

pub(crate) struct Sticks {
    bus: Bus,
    guest: Guest,
    _process: Process,
    _folder: TempDir,
}

/// Waits for all sticks, and names them by their controllers' slots.
const FIND: &str = r#"
modprobe -a ehci-pci uhci-hcd xhci-pci usb-storage sd_mod || exit 1
for slot in 10 11 12; do
    for i in $(seq 300); do
        name=$(ls -d /sys/bus/pci/devices/0000:00:$slot.*/usb*/*-*/*-*:*/host*/target*/*/block/* 2>/dev/null) && break
        sleep 0.1
    done
    [ -n "$name" ] || { echo "no stick in slot $slot" >&2; dmesg | tail -20 >&2; exit 1; }
    ln -s /dev/${name##*/} /run/stick-$slot
    echo 240 >$name/device/max_sectors
done
sleep 2"#;

/// Reads, and tells nanoseconds and interrupts.
const READ: &str = r#"
interrupts() { awk '/hci_hcd/ {n += $2} END {print n}' /proc/interrupts; }
read_all() { dd if=/run/stick-$SLOT of=/dev/null iflag=direct status=none "$@" || exit 1; }
read_all bs=4k count=20
before=$(interrupts) start=$(date +%s%N)
read_all bs=1M count=$MIB
end=$(date +%s%N) after=$(interrupts)
read_all bs=4k count=$SMALL
last=$(date +%s%N)
echo long=$((end - start)) small=$((last - end)) interrupts=$((after - before))"#;

/// Times accesses to EHCI's USBSTS or UHCI's USBSTS, in nanoseconds.
const ACCESS: &str = r#"exec python3 - <<'END'
import mmap, os, time

COUNT = 1000
def timed(action):
    start = time.perf_counter_ns()
    for _ in range(COUNT):
        action()
    return (time.perf_counter_ns() - start) // COUNT

if "$BUS" == "Ehci":
    with open("/sys/bus/pci/devices/0000:00:12.7/resource0", "r+b") as file:
        words = memoryview(mmap.mmap(file.fileno(), 0x400)).cast("I")
    STATUS = 9
    read, write = lambda: words[STATUS], lambda: words.__setitem__(STATUS, 0)
else:
    file = os.open("/sys/bus/pci/devices/0000:00:12.0/resource4", os.O_RDWR)
    STATUS = 2
    read, write = lambda: os.pread(file, 2, STATUS), lambda: os.pwrite(file, b"\0\0", STATUS)
timed(read)
print(f"read={timed(read)} write={timed(write)}")
END"#;

impl Sticks {
    pub(crate) fn boot(bus: Bus) -> Result<Sticks, Error> {
        let failed = |source| Error::Io { what: "cannot make a folder".into(), source };
        let folder = tempfile::tempdir().map_err(failed)?;
        let image = |name: &str| {
            let path = folder.path().join(name);
            make(&path, SIZE).map(|()| path.display().to_string())
        };
        let mut command = Command::new(program("vhost-usb")?);
        let speed = if bus == Bus::Uhci { ",speed=full" } else { "" };
        command.arg(format!("--device=storage,file={}{speed}", image("ours.img")?));
        command.arg("--vfio-user").arg(folder.path());
        let process = spawn_listening(command, &folder.path().join("7.sock"))?;

        // For access to registers that a driver has.
        let mut builder = Guest::builder().qemu(Version::Sid).append("iomem=relaxed");
        let folder_name = folder.path().display();
        for function in FUNCTIONS {
            builder = builder.arg("-device").arg(format!(
                r#"{{"driver": "vfio-user-pci", "addr": "{SLOT:x}.{function}", "multifunction": true,
                    "socket": {{"type": "unix", "path": "{folder_name}/{function}.sock"}}}}"#
            ));
        }
        let controller = if bus == Bus::Ehci { "usb-ehci" } else { "piix3-usb-uhci" };
        for (subject, controller) in [(Subject::Qemu, controller), (Subject::Doorbell, "qemu-xhci")]
        {
            let (slot, file) = (subject.slot(), image(controller)?);
            builder = builder.args([
                "-device",
                &format!("{controller},id=usb-{slot},addr=0x{slot:x}"),
                "-drive",
                &format!("if=none,id=file-{slot},format=raw,file={file}"),
                "-device",
                &format!("usb-storage,bus=usb-{slot}.0,drive=file-{slot}"),
            ]);
        }
        let guest = builder.cpus(1).boot()?;
        guest.run_within(LIMIT, FIND)?.stdout_if_ok()?;
        Ok(Sticks { bus, guest, _process: process, _folder: folder })
    }

    pub(crate) fn measure_access(&self) -> Result<Access, Error> {
        let script = ACCESS.replace("$BUS", &format!("{:?}", self.bus));
        let said = numbers(&self.guest.run_within(LIMIT, &script)?.stdout_if_ok()?);
        let figure = |name: &str| said.get(name).copied().unwrap_or(f64::NAN) / 1e6;
        Ok(Access { read: figure("read"), write: figure("write") })
    }

    /// One run of each subject, in their order.
    pub(crate) fn measure(&self, round: usize) -> Result<[Run; SUBJECTS.len()], Error> {
        let (mib, small) = self.bus.load();
        let mut runs = [Run { mib: f64::NAN, small: f64::NAN, interrupts: f64::NAN }; 3];
        // One that always comes first would be favoured.
        for index in (0..SUBJECTS.len()).map(|turn| (turn + round) % SUBJECTS.len()) {
            let slot = SUBJECTS[index].slot();
            let script = format!("SLOT={slot:x} MIB={mib} SMALL={small}\n{READ}");
            let said = numbers(&self.guest.run_within(LIMIT, &script)?.stdout_if_ok()?);
            let figure = |name: &str| said.get(name).copied().unwrap_or(f64::NAN);
            runs[index] = Run {
                mib: figure("long") / 1e6 / f64::from(mib),
                small: figure("small") / 1e6 / f64::from(small),
                interrupts: figure("interrupts") / f64::from(mib),
            };
        }
        Ok(runs)
    }
}

/// `name=number` words.
fn numbers(text: &str) -> HashMap<String, f64> {
    let words = text.split_whitespace().filter_map(|word| word.split_once('='));
    words.filter_map(|(name, number)| Some((name.into(), number.parse().ok()?))).collect()
}
