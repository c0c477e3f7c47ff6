//! A guest of vmm-frontend's ends its interrupts without leaving for it, where that is not switched
//! off: a stock kernel says so, and KVM counts it.

use std::time::Duration;

use lab::{Error, Host, Kernel, Shell, net};

/// What KVM counted while the guest used its disk, or its network.
#[derive(Debug)]
struct Counts {
    interrupts: u64,
    /// Ends of interrupts that were exits.
    exits: u64,
    /// Ends of interrupts that were none.
    saved: u64,
}

impl Counts {
    fn per_interrupt(&self, count: u64) -> f64 {
        count as f64 / self.interrupts as f64
    }
}

const EVENTS: [&str; 3] = ["kvm_apic_accept_irq", "kvm_eoi", "kvm_pv_eoi"];

/// Reads of 4 KiB, one at a time: each is an interrupt.
const READ: &str = "dd if=/dev/$(ls /sys/class/scsi_device/*:0:0:0/device/block) of=/dev/null \
    bs=4096 count=1000 iflag=direct status=none";

const ALL_EXITS: &str = "cat /sys/kernel/debug/kvm/exits";

/// Boots a guest with the processor and these arguments, and has it run a script, or two.
fn measure(
    host: &Host,
    cpu: &str,
    arguments: &str,
    prepare: &str,
    load: &str,
) -> Result<(bool, Counts), Error> {
    let guest = host.boot_vmm_guest(Kernel::Backports, "", &format!("--cpu {cpu} {arguments}"))?;
    let said = guest.run("dmesg")?.stdout_if_ok()?;
    let in_use = said.contains("eoi() replaced with kvm_guest_apic_eoi_write()");
    guest.run(prepare)?.stdout_if_ok()?;

    let events = |script: &str| {
        let script = format!(
            "cd /sys/kernel/debug/tracing/events/kvm && for event in {}; do {script} || exit 1; done",
            EVENTS.join(" ")
        );
        host.guest().run(&script)?.stdout_if_ok()
    };
    let number = |said: String| said.trim().parse::<u64>().unwrap_or_else(|_| panic!("{said}"));
    let all_exits = || Ok::<u64, Error>(number(host.guest().run(ALL_EXITS)?.stdout_if_ok()?));
    events("echo hist:keys=apicid >$event/trigger")?;
    let before = all_exits()?;
    guest.run_within(Duration::from_secs(300), load)?.stdout_if_ok()?;
    let all_exits = all_exits()? - before;
    let hits = events("sed -n 's/ *Hits: //p' $event/hist")?;
    events("echo '!hist:keys=apicid' >$event/trigger")?;

    let hits: Vec<u64> = hits.split_whitespace().map(|hits| hits.parse().unwrap()).collect();
    let [interrupts, eois, saved] = hits[..] else { panic!("{hits:?}") };
    // One that is saved is one of all.
    let counts = Counts { interrupts, exits: eois - saved, saved };
    eprintln!(
        "--cpu {cpu} {arguments}: {interrupts} interrupts, for each {:.3} exits, {:.3} by its end",
        counts.per_interrupt(all_exits),
        counts.per_interrupt(counts.exits),
    );
    Ok((in_use, counts))
}

#[test]
fn pv_eoi_saves_exits_and_can_be_switched_off() -> Result<(), Error> {
    Host::test(|| {
        let host = Host::boot(|builder| builder)?;

        let (in_use, counts) = measure(&host, "host", "", "", READ)?;
        assert!(in_use);
        assert!(counts.interrupts >= 1000, "{counts:?}");
        // An end is an exit where another interrupt waits for it, which is so more often the slower
        // the machine is that the test has: nine in ten are saved on a quiet one.
        assert!(counts.saved > counts.exits, "{counts:?}");

        let (in_use, counts) = measure(&host, "host,-kvm-pv-eoi", "", "", READ)?;
        assert!(!in_use);
        assert!(counts.interrupts >= 1000, "{counts:?}");
        assert_eq!(counts.saved, 0, "{counts:?}");
        assert!(counts.exits >= 1000, "{counts:?}");
        Ok(())
    })
}

/// Both ways to the host, for so long that it is many interrupts.
const TALK: &str = "
for direction in '' --reverse; do
    iperf3 --client 192.0.2.1 --time 4 $direction || exit 1
done";

#[test]
fn pv_eoi_saves_exits_of_a_network_card() -> Result<(), Error> {
    const TAP: &str =
        "ip tuntap add tap0 mode tap multi_queue vnet_hdr && ip link set tap0 master lan0 up";
    const ADDRESS: &str =
        "modprobe virtio_net && ip link set eth0 up && ip addr add 192.0.2.40/24 dev eth0";
    Host::test(|| {
        let host = Host::boot(|builder| builder)?;
        net::make_lan(&host)?;
        host.guest().run(TAP)?.stdout_if_ok()?;
        let measure = |cpu| measure(&host, cpu, "--net tap=tap0", ADDRESS, TALK);

        let (in_use, with) = measure("host")?;
        assert!(in_use);
        let (in_use, without) = measure("host,-kvm-pv-eoi")?;
        assert!(!in_use);
        assert_eq!(without.saved, 0, "{without:?}");
        let [with, without] = [with, without].map(|counts| counts.per_interrupt(counts.exits));
        // A receive queue's interrupts end without. A transmit queue's come together with them, so that an end has
        // to be an exit: two in five are.
        assert!(with < 0.65 * without, "{with} {without}");
        Ok(())
    })
}
