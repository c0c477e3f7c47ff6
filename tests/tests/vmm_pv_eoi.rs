//! A guest of vmm-frontend's ends its interrupts without leaving for it, where that is not switched
//! off: a stock kernel says so, and KVM counts it.

use std::time::Duration;

use lab::{Error, Host, Kernel, Shell};

/// What KVM's tracepoints counted while the guest read its disk.
#[derive(Debug)]
struct Counts {
    interrupts: u64,
    /// Ends of interrupts that were exits.
    exits: u64,
    /// Ends of interrupts that were none.
    saved: u64,
}

const EVENTS: [&str; 3] = ["kvm_apic_accept_irq", "kvm_eoi", "kvm_pv_eoi"];

/// Reads of 4 KiB, one at a time: each is an interrupt.
const READ: &str = "dd if=/dev/$(ls /sys/class/scsi_device/*:0:0:0/device/block) of=/dev/null \
    bs=4096 count=1000 iflag=direct status=none";

/// Boots a guest with the processor, and has it read.
fn measure(host: &Host, cpu: &str) -> Result<(bool, Counts), Error> {
    let guest = host.boot_vmm_guest(Kernel::Backports, "", &format!("--cpu {cpu}"))?;
    let said = guest.run("dmesg")?.stdout_if_ok()?;
    let in_use = said.contains("eoi() replaced with kvm_guest_apic_eoi_write()");

    let events = |script: &str| {
        let script = format!(
            "cd /sys/kernel/debug/tracing/events/kvm && for event in {}; do {script} || exit 1; done",
            EVENTS.join(" ")
        );
        host.guest().run(&script)?.stdout_if_ok()
    };
    events("echo hist:keys=apicid >$event/trigger")?;
    guest.run_within(Duration::from_secs(300), READ)?.stdout_if_ok()?;
    let hits = events("sed -n 's/ *Hits: //p' $event/hist")?;
    events("echo '!hist:keys=apicid' >$event/trigger")?;

    let hits: Vec<u64> = hits.split_whitespace().map(|hits| hits.parse().unwrap()).collect();
    let [interrupts, eois, saved] = hits[..] else { panic!("{hits:?}") };
    // One that is saved is one of all.
    Ok((in_use, Counts { interrupts, exits: eois - saved, saved }))
}

#[test]
fn pv_eoi_saves_exits_and_can_be_switched_off() -> Result<(), Error> {
    Host::test(|| {
        let host = Host::boot(|builder| builder)?;

        let (in_use, counts) = measure(&host, "host")?;
        assert!(in_use);
        assert!(counts.interrupts >= 1000, "{counts:?}");
        // An end is an exit where another interrupt waits for it, which is so more often the slower
        // the machine is that the test has: nine in ten are saved on a quiet one.
        assert!(counts.saved > counts.exits, "{counts:?}");

        let (in_use, counts) = measure(&host, "host,-kvm-pv-eoi")?;
        assert!(!in_use);
        assert!(counts.interrupts >= 1000, "{counts:?}");
        assert_eq!(counts.saved, 0, "{counts:?}");
        assert!(counts.exits >= 1000, "{counts:?}");
        Ok(())
    })
}
