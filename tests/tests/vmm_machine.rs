//! The machine that vmm-frontend makes, as tiny guests see it: each is a file of `src/tiny/guests`.

use std::fs;

use lab::tiny::{self, Guest, Machine, with_kvm};
use lab::{Error, Scsi};

/// What a guest says that switches its machine off.
fn serial(guest: Guest, arguments: &[&str]) -> Result<String, Error> {
    Machine::new(guest).args(arguments).serial()
}

#[test]
fn a_guest_prints_and_switches_the_machine_off() -> Result<(), Error> {
    with_kvm(|| {
        assert_eq!(serial(tiny::hello(), &[])?, "hello\n");
        Ok(())
    })
}

#[test]
fn a_reset_loads_the_kernel_again_and_leaves_the_clocks_memory() -> Result<(), Error> {
    with_kvm(|| {
        let starts = "start 00000001, loaded 00000001\n\
                      start 00000002, loaded 00000001\n\
                      start 00000003, loaded 00000001\n";
        assert_eq!(serial(tiny::reboot(), &[])?, starts);
        Ok(())
    })
}

#[test]
fn a_reset_is_the_last_thing_that_a_processor_does() -> Result<(), Error> {
    with_kvm(|| {
        assert_eq!(serial(tiny::reset_ends(), &[])?, "again\n");
        Ok(())
    })
}

/// A guest that can't go on ends the program with code 1, and a report with this reason and these
/// registers.
fn assert_reported(guest: Guest, reason: &str, registers: &[&str]) -> Result<(), Error> {
    let ended = Machine::new(guest).run()?;
    assert_eq!((ended.code, ended.serial.as_str()), (Some(1), ""), "{}", ended.said);
    let report = format!("vmm-frontend: processor 0 stopped: {reason}");
    assert!(ended.said.starts_with(&report), "{}", ended.said);
    for register in registers {
        assert!(ended.said.contains(register), "{register}: {}", ended.said);
    }
    Ok(())
}

#[test]
fn a_triple_fault_is_reported() -> Result<(), Error> {
    // What is in them is lost on AMD's processors: KVM has to reset the virtual one then.
    with_kvm(|| assert_reported(tiny::triple_fault(), "triple fault", &["rbx=", "rip=", "cr0="]))
}

#[test]
fn an_instruction_that_kvm_cannot_emulate_is_reported() -> Result<(), Error> {
    const REASON: &str = "KVM cannot emulate an instruction";
    const EBX: &str = "rbx=0000000087654321";
    with_kvm(|| {
        assert_reported(tiny::no_instruction(), REASON, &[EBX, "rip=00000000d0000000"])?;
        assert_reported(tiny::no_emulation(), REASON, &[EBX, "rax=00000000d0000000"])
    })
}

#[test]
fn where_nobody_answers_all_bits_are_ones() -> Result<(), Error> {
    with_kvm(|| {
        let ones = "000000ff 0000ffff ffffffff\n";
        assert_eq!(serial(tiny::nobody(), &[])?, format!("{ones}{ones}"));
        Ok(())
    })
}

#[test]
fn string_instructions_reach_ports() -> Result<(), Error> {
    with_kvm(|| {
        let all = "abc and so on\n5a5a5a5a 00000000\nffffffff ffffffff\ncba\n";
        assert_eq!(serial(tiny::strings(), &[])?, all);
        Ok(())
    })
}

#[test]
fn timers_count_and_interrupt() -> Result<(), Error> {
    with_kvm(|| {
        let all = "PIT interrupts\nclock interrupts\nPIT output\nPM timer\n";
        assert_eq!(serial(tiny::timers(), &[])?, all);
        Ok(())
    })
}

#[test]
fn a_pvh_kernel_is_told_its_command_line_and_where_memory_is() -> Result<(), Error> {
    with_kvm(|| {
        let machine = Machine::new(tiny::start_info()).memory("4G");
        let said = machine.args(["--append", "one two=3"]).serial()?;
        let (magic, command_line) = ("336ec578", "one two=3");
        let ranges = "0000000000000000 000000000009fc00 00000001\n\
                      000000000009fc00 0000000000060400 00000002\n\
                      0000000000100000 00000000bff00000 00000001\n\
                      00000000e0000000 0000000000100000 00000002\n\
                      00000000feffc000 0000000000004000 00000002\n\
                      0000000100000000 0000000040000000 00000001\n";
        assert_eq!(said, format!("{magic}\n{command_line}\n{ranges}"));
        Ok(())
    })
}

#[test]
fn memory_goes_on_above_4_gib() -> Result<(), Error> {
    with_kvm(|| {
        let said = Machine::new(tiny::memory()).memory("4G").serial()?;
        assert_eq!(said, "22222222 33333333 11111111 ffffffff\n");
        Ok(())
    })
}

#[test]
fn acpi_tables_are_found_and_sum_up_to_zero() -> Result<(), Error> {
    with_kvm(|| {
        let said = serial(tiny::acpi(), &[])?;
        let mut lines = said.lines();
        assert_eq!(lines.next(), Some("RSD PTR  00000000 00000000"), "{said}");
        for signature in ["XSDT", "FACP", "APIC", "MCFG", "DSDT"] {
            let words: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
            assert!(matches!(words[..], [name, _, "00000000"] if name == signature), "{said}");
        }
        assert_eq!(lines.next(), Some("processor 00000000 APIC 00000000"), "{said}");
        Ok(())
    })
}

#[test]
fn every_processor_wakes_up_with_the_apic_id_that_acpi_lists() -> Result<(), Error> {
    with_kvm(|| {
        for (cpus, count) in [("2", 2u32), ("12,sockets=2,cores=3,threads=2", 12), ("64", 64)] {
            let tables = serial(tiny::acpi(), &["--cpus", cpus])?;
            let listed = tables.lines().filter_map(|line| line.strip_prefix("processor "));
            let listed: Vec<&str> = listed.filter_map(|line| line.get(9..)).collect();
            let said = serial(tiny::smp(), &["--cpus", cpus])?;
            let mut lines = said.lines();
            // Each but the first has counted to 1000.
            let counted = format!("count {:08x}", 1000 * (count - 1));
            assert_eq!(lines.next(), Some(counted.as_str()), "{cpus}");
            assert_eq!(lines.collect::<Vec<_>>(), listed, "{cpus}");
            assert_eq!(listed.len() as u32, count, "{cpus}");
        }
        Ok(())
    })
}

/// What a machine's guest says with a SCSI controller in a process of its own.
fn serial_with_scsi(machine: Machine) -> Result<String, Error> {
    let scsi = Scsi::new()?.disk(1 << 20, "")?.start()?;
    let device = format!("type=scsi,socket={}", scsi.socket().display());
    machine.args(["--vhost-user", &device]).serial()
}

fn with_scsi(guest: Guest) -> Result<String, Error> {
    serial_with_scsi(Machine::new(guest))
}

#[test]
fn ports_and_memory_lead_to_the_same_pci_functions() -> Result<(), Error> {
    with_kvm(|| {
        let all = "00000000 ports 00081b36 06000000 memory 00081b36 06000000\n\
                   00000001 ports 10481af4 01000001 memory 10481af4 01000001\n\
                   ffffffff ffffffff ffffffff\n";
        assert_eq!(with_scsi(tiny::pci())?, all);
        Ok(())
    })
}

#[test]
fn a_bar_tells_its_size_and_answers_where_it_is_put() -> Result<(), Error> {
    with_kvm(|| {
        let said = with_scsi(tiny::bars())?;
        let (size, rest) = said.split_once('\n').unwrap_or_default();
        assert_eq!(size, "size 00010000");
        // The device's number of queues, at the old place and at the new one.
        let (queues, nobody) = (rest.get(..8).unwrap_or_default(), "0000ffff");
        assert_ne!(queues, nobody);
        let expected = format!(
            "{queues} {nobody}\nmoved\n{nobody} {queues}\ndisabled\n{nobody} {nobody}\n\
             back\n{queues} {nobody}\n"
        );
        assert_eq!(rest, expected);
        Ok(())
    })
}

#[test]
fn scsi_requests_are_served_with_messages_and_with_the_pin() -> Result<(), Error> {
    with_kvm(|| {
        assert_eq!(with_scsi(tiny::scsi())?, served());
        Ok(())
    })
}

/// What the guest `scsi` says: vendor and product; status and response, requests served, interrupts.
fn served() -> String {
    let served = "VHOST   VIRTUAL DISK    \n00000000 00000003 00000003\n";
    format!("message\n{served}pin\n{served}")
}

/// Huge pages of 2 MiB that nobody else uses, given back in the end.
struct HugePages {
    before: u64,
}

impl HugePages {
    const NUMBER: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    const FREE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";

    fn read(path: &str) -> Option<u64> {
        fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    /// As many as are wanted are free then, and no more. `None`: the host gives no such number.
    fn set_free(wanted: u64) -> Option<HugePages> {
        let before = Self::read(Self::NUMBER)?;
        let pages = HugePages { before };
        let others = before.checked_sub(Self::read(Self::FREE)?)?;
        fs::write(Self::NUMBER, (others + wanted).to_string()).ok()?;
        (Self::read(Self::FREE)? == wanted).then_some(pages)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        fs::write(Self::NUMBER, self.before.to_string()).unwrap();
    }
}

/// 16 MiB of them, which the device's process has too; and too few of them.
#[test]
fn memory_may_be_huge_pages_if_there_are_enough() -> Result<(), Error> {
    with_kvm(|| {
        let Some(pages) = HugePages::set_free(8) else {
            eprintln!("not tested: this host sets no huge pages aside");
            return Ok(());
        };
        let machine = Machine::new(tiny::scsi()).memory("16M,hugepages=2M");
        assert_eq!(serial_with_scsi(machine)?, served());

        let ended = Machine::new(tiny::hello()).memory("18M,hugepages=2M").run()?;
        let enough = HugePages::read(HugePages::NUMBER).unwrap_or(0) + 1;
        let sentence = format!(
            "vmm-frontend: --memory: 9 huge pages of 2M are needed, and the host has 8 free: echo \
             {enough} > {}, or leave out hugepages=2M\n",
            HugePages::NUMBER
        );
        assert_eq!((ended.code, ended.said), (Some(1), sentence));
        drop(pages);
        Ok(())
    })
}
