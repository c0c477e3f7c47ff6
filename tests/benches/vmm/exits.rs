//! Exits of a guest that reads its disk, for each interrupt that it gets, with and without PV-EOI.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use lab::{Error, Spread};

use super::console::Console;
use super::place::Place;
use super::subject::{Disk, PROMPT, Subject};
use super::turns::in_turns;

pub(crate) const DISKS: [Disk; 2] = [Disk::Scsi, Disk::Blk];
const ROUNDS: usize = 3;
/// Reads of 4 KiB, one at a time.
const READS: u32 = 4000;
const SUBJECTS: [(Subject, &str); 4] = [
    (Subject::VmmFrontend, "host"),
    (Subject::Q35, "host"),
    (Subject::VmmFrontend, "host,-kvm-pv-eoi"),
    (Subject::Q35, "host,-kvm-pv-eoi"),
];

impl Disk {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Disk::Scsi => "exits per interrupt, vhost-scsi",
            Disk::Blk => "exits per interrupt, qemu-storage-daemon's vhost-user-blk",
        }
    }

    fn device(self) -> &'static str {
        match self {
            Disk::Scsi => "/dev/sda",
            Disk::Blk => "/dev/vda",
        }
    }
}

pub(crate) fn report(place: &Place, disk: Disk) -> Result<String, Error> {
    let runs: [Vec<Counts>; SUBJECTS.len()] =
        in_turns(ROUNDS, |index| measure(place, disk, SUBJECTS[index]))?;

    let mut text = format!(
        "{}: {READS} reads of 4 KiB, one at a time; minimum / median / maximum of {ROUNDS}\n",
        disk.title()
    );
    let [exits, eoi, reads] = ["exits / interrupt", "EOI exits / interrupt", "interrupts / read"];
    let _ = writeln!(text, "  {:32}{exits:>24}{eoi:>24}{reads:>24}", "");
    for ((subject, cpu), of) in SUBJECTS.iter().zip(&runs) {
        let name = format!("{}, {cpu}", subject.name());
        let exits = Spread::of(of.iter().map(|run| run.per_interrupt(run.exits)));
        let eoi = Spread::of(of.iter().map(|run| run.per_interrupt(run.eoi_exits)));
        let reads = Spread::of(of.iter().map(|run| run.interrupts / f64::from(READS)));
        let _ = writeln!(text, "  {name:32}{exits:>24}{eoi:>24}{reads:>24}");
    }
    for ((subject, cpu), of) in SUBJECTS.iter().zip(&runs) {
        let Some(run) = of.last() else { continue };
        let mut kinds: Vec<(&String, &f64)> = run.kinds.iter().collect();
        kinds.sort_by(|a, b| b.1.total_cmp(a.1));
        let kinds = kinds
            .iter()
            .take(8)
            .map(|(kind, count)| format!("{kind} {:.2}", run.per_interrupt(**count)));
        let kinds: Vec<String> = kinds.collect();
        let _ = writeln!(text, "  {}, {cpu}, by kind: {}", subject.name(), kinds.join(", "));
    }
    Ok(text)
}

/// What was counted.
struct Counts {
    exits: f64,
    interrupts: f64,
    eoi_exits: f64,
    /// Exits by their reason.
    kinds: BTreeMap<String, f64>,
}

impl Counts {
    fn per_interrupt(&self, count: f64) -> f64 {
        count / self.interrupts
    }
}

fn measure(place: &Place, disk: Disk, (subject, cpu): (Subject, &str)) -> Result<Counts, Error> {
    let (_disk, socket) = disk.start(place)?;

    let mut console = Console::start(subject.command(place, cpu, disk, &socket)?)?;
    console.wait_for(PROMPT)?;
    // The terminal's echo is not to be taken for the answer.
    let device = disk.device();
    console.type_line(&format!(
        "b=/busybox; $b mkdir /proc /sys; $b mount -t proc proc /proc; $b mount -t sysfs sys /sys; \
         $b mount -t devtmpfs dev /dev; for m in $($b cat /modules/order); do $b insmod /modules/$m; \
         done; while [ ! -b {device} ]; do $b sleep 0.1; done; echo there is' 'a disk"
    ))?;
    console.wait_for("there is a disk")?;
    console.type_line(&format!(
        "echo re'a'dy; read x; $b dd if={device} of=/dev/null bs=4096 count={READS} iflag=direct \
         2>/dev/null && echo do'n'e"
    ))?;
    console.wait_for("ready")?;

    let trace = Trace::start()?;
    let before = [counter("exits")?, counter("irq_injections")?];
    console.type_line("")?;
    console.wait_for("done")?;
    let after = [counter("exits")?, counter("irq_injections")?];
    let [exits, interrupts] = [0, 1].map(|which| after[which] - before[which]);
    let eoi_exits = trace.total("kvm_eoi")? - trace.total("kvm_pv_eoi")?;
    Ok(Counts { exits, interrupts, eoi_exits, kinds: trace.kinds()? })
}

/// KVM's own statistics, of all that runs on this host.
pub(crate) fn counter(name: &str) -> Result<f64, Error> {
    let path = format!("/sys/kernel/debug/kvm/{name}");
    let text = read(Path::new(&path))?;
    text.trim()
        .parse()
        .map_err(|_| Error::Protocol { doing: format!("reading {path}"), answer: text })
}

/// Counts kept at KVM's tracepoints.
struct Trace;

/// The tracepoint, and what is counted apart there.
const EVENTS: [(&str, &str); 3] =
    [("kvm_exit", "isa,exit_reason"), ("kvm_eoi", "apicid"), ("kvm_pv_eoi", "apicid")];

impl Trace {
    fn start() -> Result<Trace, Error> {
        let trace = Trace;
        for (event, keys) in EVENTS {
            write(event, &format!("hist:keys={keys}"))?;
        }
        Ok(trace)
    }

    /// How often the tracepoint was passed: `Hits: N`.
    fn total(&self, event: &str) -> Result<f64, Error> {
        let text = self.histogram(event)?;
        let hits = text.lines().find_map(|line| line.trim().strip_prefix("Hits:"));
        let hits = hits.and_then(|hits| hits.trim().parse().ok());
        hits.ok_or(Error::Protocol { doing: format!("reading {event}"), answer: text })
    }

    /// From lines like `{ isa: 2, exit_reason: 120 } hitcount: 34`.
    fn kinds(&self) -> Result<BTreeMap<String, f64>, Error> {
        let text = self.histogram("kvm_exit")?;
        let kinds = text.lines().filter_map(|line| {
            let (kind, count) = line.strip_prefix('{')?.split_once("} hitcount:")?;
            let number = |name: &str| {
                let (_, rest) = kind.split_once(name)?;
                rest.trim_start_matches([':', ' ']).split([',', ' ']).next()?.parse::<u32>().ok()
            };
            let reason = (number("isa")?, number("exit_reason")?);
            Some((named(reason), count.trim().parse().ok()?))
        });
        Ok(kinds.collect())
    }

    fn histogram(&self, event: &str) -> Result<String, Error> {
        read(&event_file(event, "hist"))
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        for (event, keys) in EVENTS {
            // Fails only where it never was.
            let _ = write(event, &format!("!hist:keys={keys}"));
        }
    }
}

/// The names that the processors' manuals have: KVM's `isa` is 1 for VMX, 2 for SVM.
fn named(reason: (u32, u32)) -> String {
    let name = match reason {
        (1, 1) | (2, 0x60) => "external interrupt",
        (1, 7) | (2, 0x64) => "interrupt window",
        (1, 10) | (2, 0x72) => "CPUID",
        (1, 12) | (2, 0x78) => "HLT",
        (1, 30) | (2, 0x7b) => "port I/O",
        (1, 31 | 32) | (2, 0x7c) => "MSR",
        (1, 48) | (2, 0x400) => "nested page fault",
        (1, 49) => "EPT misconfiguration (MMIO)",
        (1, 45) => "virtualized EOI",
        (1, 52) => "preemption timer",
        (1, 56) => "APIC write",
        (isa, reason) => return format!("{} {reason:#x}", if isa == 1 { "VMX" } else { "SVM" }),
    };
    name.into()
}

fn event_file(event: &str, name: &str) -> std::path::PathBuf {
    Path::new("/sys/kernel/debug/tracing/events/kvm").join(event).join(name)
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path)
        .map_err(|source| Error::Io { what: format!("cannot read {}", path.display()), source })
}

fn write(event: &str, trigger: &str) -> Result<(), Error> {
    let path = event_file(event, "trigger");
    fs::write(&path, trigger).map_err(|source| Error::Io {
        what: format!("cannot write \"{trigger}\" to {}", path.display()),
        source,
    })
}
