//! A stick's reads, and what it costs that nothing happens, beside QEMU's own controllers: the same
//! guest, the same image.

use std::fmt::Write as _;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use lab::{Error, Spread, make, memory};

use super::console::Console;
use super::exits::counter;
use super::place::Place;
use super::subject::{Disk, PROMPT, Subject};
use super::turns::in_turns;

const ROUNDS: usize = 3;
const SUBJECTS: [Subject; 2] = [Subject::VmmFrontend, Subject::Q35];
/// Tells what it takes to leave the guest and to enter it again, in nanoseconds: for a register in the VMM
/// (the serial port's), and for KVM alone (CPUID). What a system call takes is no part of it.
const EXIT_COSTS: &str = r#"$b chroot /mnt modprobe cpuid; $b chroot /mnt python3 -c '
import os, time
def cost(path, size, place):
    file, start = os.open(path, os.O_RDONLY), time.perf_counter_ns()
    for i in range(300): os.pread(file, size, place)
    return (time.perf_counter_ns() - start) // 300

rest = cost("/dev/zero", 1, 0)
print("vmm=%d;kvm=%d;" % (cost("/dev/port", 1, 0x3fd) - rest, cost("/dev/cpu/0/cpuid", 16, 0) - rest))
'"#;
/// How long it is looked at that nothing happens.
const IDLE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bus {
    Ehci,
    Uhci,
}

pub(crate) const BUSES: [Bus; 2] = [Bus::Ehci, Bus::Uhci];

impl Bus {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Bus::Ehci => "usb stick on EHCI, idle devices",
            Bus::Uhci => "usb stick on UHCI, idle devices",
        }
    }

    /// MiB that are read in one go, and reads of 4 KiB.
    fn load(self) -> (u32, u32) {
        match self {
            Bus::Ehci => (32, 400),
            Bus::Uhci => (2, 50),
        }
    }

    /// The arguments for a stick, a keyboard, a mouse and a tablet.
    fn arguments(self, subject: Subject, image: &str) -> Vec<String> {
        let ours = |device: &str| match self {
            Bus::Ehci => format!("--usb={device}"),
            Bus::Uhci => format!("--usb={device},speed=full"),
        };
        let controller = match self {
            Bus::Ehci => "usb-ehci,id=usb",
            Bus::Uhci => "piix3-usb-uhci,id=usb",
        };
        // With two ports, the rest is behind a hub, which signals at full speed.
        let devices = match self {
            Bus::Ehci => ["usb-kbd", "usb-mouse", "usb-tablet"],
            Bus::Uhci => ["usb-hub,port=2", "usb-kbd,port=2.1", "usb-tablet,port=2.2"],
        };
        match subject {
            Subject::VmmFrontend => {
                [&format!("storage,file={image}"), "kbd", "mouse", "tablet"].map(ours).into()
            }
            _ => {
                let mut words: Vec<String> =
                    ["-name", "debug-threads=on", "-device", controller].map(String::from).into();
                let drive = format!("if=none,id=stick,format=raw,file={image}");
                words.extend(["-drive".into(), drive, "-device".into()]);
                words.push("usb-storage,bus=usb.0,drive=stick".into());
                for device in devices {
                    words.extend(["-device".into(), format!("{device},bus=usb.0")]);
                }
                words
            }
        }
    }
}

struct Run {
    /// MiB in a second.
    rate: f64,
    /// Milliseconds.
    latency: f64,
    /// Milliseconds of that in which the guest was left and entered, whatever for.
    left: f64,
    interrupts: f64,
    exits: f64,
    /// In a second.
    wakeups: f64,
    resident: f64,
}

/// What a read of the stick came to.
struct Load {
    seconds: f64,
    interrupts: f64,
    /// For registers that the VMM has.
    exits: f64,
    /// All exits.
    all: f64,
}

pub(crate) fn report(place: &Place, bus: Bus) -> Result<String, Error> {
    let runs: [Vec<Run>; SUBJECTS.len()] =
        in_turns(ROUNDS, |index| measure(place, bus, SUBJECTS[index]))?;
    let (mib, reads) = bus.load();
    let mut text = format!(
        "{}: {mib} MiB in one go, {reads} reads of 4 KiB; minimum / median / maximum of {ROUNDS}\n",
        bus.title()
    );
    type Figure = fn(&Run) -> f64;
    let figures: [(&str, Figure); 7] = [
        ("MiB/s", |run| run.rate),
        ("ms for 4 KiB", |run| run.latency),
        ("  of these, for exits", |run| run.left),
        ("interrupts / MiB", |run| run.interrupts),
        ("register exits / MiB", |run| run.exits),
        ("idle wake-ups / s", |run| run.wakeups),
        ("MiB resident", |run| run.resident),
    ];
    let [ours, qemu] = &runs;
    let _ = writeln!(text, "  {:24}{:>26}{:>26}{:>26}", "", "vmm-frontend", "QEMU", "ratio");
    for (name, figure) in figures {
        let [one, other] = [ours, qemu].map(|of| Spread::of(of.iter().map(figure)));
        let ratios = ours.iter().zip(qemu).map(|(ours, it)| figure(ours) / figure(it));
        let _ = writeln!(text, "  {name:24}{one:>26}{other:>26}{:>26}", Spread::of(ratios));
    }
    Ok(text)
}

fn measure(place: &Place, bus: Bus, subject: Subject) -> Result<Run, Error> {
    let image = place.folder.join("stick.img");
    make(&image, 64 << 20)?;
    let (_disk, socket) = Disk::Scsi.serve_root(place)?;
    let mut command = subject.command(place, "host", Disk::Scsi, &socket)?;
    command.args(bus.arguments(subject, &image.display().to_string()));

    let mut console = Console::start(command)?;
    console.wait_for(PROMPT)?;
    // The terminal's echo is not to be taken for the answer.
    console.type_line(
        "b=/busybox; $b mkdir /proc /sys /mnt; $b mount -t proc proc /proc; \
         $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev; \
         for m in $($b cat /modules/order); do $b insmod /modules/$m; done; \
         while [ ! -b /dev/sda ]; do $b sleep 0.1; done; $b mount -o ro /dev/sda /mnt; \
         for d in proc sys dev; do $b mount -o bind /$d /mnt/$d; done; \
         $b chroot /mnt modprobe -a ehci-pci uhci-hcd usb-storage sd_mod usbhid hid-generic evdev; \
         while [ ! -b /dev/sdb ]; do $b sleep 0.1; done; $b sleep 5; echo there is' 'a stick",
    )?;
    console.wait_for("there is a stick")?;
    let (mib, reads) = bus.load();
    let interrupts =
        "$b awk '/hci/ {n += $2} END {print \"interrupts=\" n \";\"}' /proc/interrupts";
    let mut read = |size: &str, count: u32| -> Result<Load, Error> {
        console.type_line(&format!(
            "{interrupts}; echo re'a'dy; read x; $b dd if=/dev/sdb of=/dev/null bs={size} \
             count={count} iflag=direct 2>/dev/null && echo do'n'e; {interrupts}"
        ))?;
        let before = console.number("interrupts=")?;
        console.wait_for("ready")?;
        let (exits, all) = (register_exits()?, counter("exits")?);
        let start = Instant::now();
        console.type_line("")?;
        console.wait_for("done")?;
        let seconds = start.elapsed().as_secs_f64();
        let (exits, all) = (register_exits()? - exits, counter("exits")? - all);
        Ok(Load { seconds, interrupts: console.number("interrupts=")? - before, exits, all })
    };
    read("4096", 20)?;
    let long = read("1M", mib)?;
    let small = read("4096", reads)?;
    console.type_line(EXIT_COSTS)?;
    let (of_vmm, of_kvm) = (console.number("vmm=")?, console.number("kvm=")?);
    let left = small.exits * of_vmm + (small.all - small.exits) * of_kvm;
    thread::sleep(Duration::from_secs(5));
    let processes = processes(subject)?;
    let before = wakeups(&processes)?;
    thread::sleep(IDLE);
    let idle = wakeups(&processes)? - before;
    let resident = processes.iter().map(|process| memory(*process, "VmRSS"));
    let resident = resident.sum::<Result<Option<u64>, Error>>()?.unwrap_or(0);
    Ok(Run {
        rate: f64::from(mib) / long.seconds,
        latency: small.seconds * 1000.0 / f64::from(reads),
        left: left / 1e6 / f64::from(reads),
        interrupts: long.interrupts / f64::from(mib),
        exits: long.exits / f64::from(mib),
        wakeups: idle / IDLE.as_secs_f64(),
        resident: resident as f64 / 1024.0,
    })
}

fn register_exits() -> Result<f64, Error> {
    Ok(counter("mmio_exits")? + counter("io_exits")?)
}

/// The processes that have the controllers.
fn processes(subject: Subject) -> Result<Vec<u32>, Error> {
    let wanted = match subject {
        Subject::VmmFrontend => "vhost-usb",
        _ => "qemu-system-x86",
    };
    let failed = |source| Error::Io { what: "cannot list processes".into(), source };
    let entries = fs::read_dir("/proc").map_err(failed)?.flatten();
    let is_wanted = |process: &u32| {
        fs::read_to_string(format!("/proc/{process}/comm")).is_ok_and(|name| name.trim() == wanted)
    };
    Ok(entries.filter_map(|it| it.file_name().to_str()?.parse().ok()).filter(is_wanted).collect())
}

/// How often their threads have gone to sleep so far; processors' threads do for other reasons.
fn wakeups(processes: &[u32]) -> Result<f64, Error> {
    let mut count = 0.0;
    for process in processes {
        let tasks = format!("/proc/{process}/task");
        let failed = |source| Error::Io { what: format!("cannot list {tasks}"), source };
        for task in fs::read_dir(&tasks).map_err(failed)?.flatten() {
            let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            if read("comm").starts_with("CPU ") {
                continue;
            }
            let switches = read("status");
            let switches = switches.lines().find_map(|line| {
                line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse().ok()
            });
            count += switches.unwrap_or(0.0);
        }
    }
    Ok(count)
}
