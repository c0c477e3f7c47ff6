//! The figures, as they are told.

use std::fmt::Write as _;

use lab::Spread;

use crate::guest::{Access, Bus, Run, SUBJECTS};

/// What a storage command takes of the driver's interrupts: for its wrapper, its data, its status.
const INTERRUPTS: f64 = 3.0;
/// Commands for 1 MiB, of 240 sectors each.
const COMMANDS: f64 = 2048.0 / 240.0;

impl Bus {
    /// Register reads and writes of Linux's driver in an interrupt.
    fn accesses(self) -> (f64, f64) {
        match self {
            // USBSTS, again after it was cleared, and USBCMD.
            Bus::Ehci => (3.0, 1.0),
            // USBSTS, which is cleared; FRNUM as the schedule is looked at.
            Bus::Uhci => (2.0, 1.0),
        }
    }
}

pub(crate) fn of(bus: Bus, access: Access, rounds: &[[Run; SUBJECTS.len()]]) -> String {
    let (mib, small) = bus.load();
    let count = rounds.len();
    let mut text = format!(
        "{} by vfio-user: {mib} MiB in one go, {small} reads of 4 KiB; minimum / median / maximum of {count}\n",
        bus.title()
    );
    let (reads, writes) = bus.accesses();
    let command = INTERRUPTS * (reads * access.read + writes * access.write);
    let _ = writeln!(
        text,
        "  a register takes {:.1} us to read and {:.1} us to write: {command:.2} ms for a command",
        access.read * 1e3,
        access.write * 1e3
    );
    let spread = |figure: &dyn Fn(&[Run; SUBJECTS.len()]) -> f64| {
        Spread::of(rounds.iter().map(figure)).to_string()
    };
    let _ = writeln!(
        text,
        "  {:18}{:>24}{:>24}{:>24}{:>24}{:>24}",
        "", "vhost-usb", "QEMU", "ratio", "bound", "of the bound"
    );
    let rate = |run: &Run| 1e3 / run.mib;
    let bound = |doorbell: &Run| 1e3 / (doorbell.mib + COMMANDS * command);
    let mut line = |title: &str, figures: [String; 5]| {
        let _ = write!(text, "  {title:18}");
        for figure in figures {
            let _ = write!(text, "{figure:>24}");
        }
        text.push('\n');
    };
    line(
        "MiB/s",
        [
            spread(&|[ours, ..]| rate(ours)),
            spread(&|[_, qemu, _]| rate(qemu)),
            spread(&|[ours, qemu, _]| rate(ours) / rate(qemu)),
            spread(&|[.., doorbell]| bound(doorbell)),
            spread(&|[ours, _, doorbell]| rate(ours) / bound(doorbell)),
        ],
    );
    line(
        "ms for 4 KiB",
        [
            spread(&|[ours, ..]| ours.small),
            spread(&|[_, qemu, _]| qemu.small),
            spread(&|[ours, qemu, _]| ours.small / qemu.small),
            spread(&|[.., doorbell]| doorbell.small + command),
            spread(&|[ours, _, doorbell]| (doorbell.small + command) / ours.small),
        ],
    );
    line(
        "interrupts / MiB",
        [
            spread(&|[ours, ..]| ours.interrupts),
            spread(&|[_, qemu, _]| qemu.interrupts),
            spread(&|[ours, qemu, _]| ours.interrupts / qemu.interrupts),
            String::new(),
            String::new(),
        ],
    );
    text
}
