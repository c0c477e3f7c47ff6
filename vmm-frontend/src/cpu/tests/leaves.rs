//! The leaves that a guest reads.

use super::super::filter::Platform;
use super::*;

#[test]
fn kvm_turns_some_features_of_a_model_on_and_some_off() {
    let cpu = single("Opteron_G3,+ibs", Table::amd());
    for feature in ["x2apic", "hypervisor", "kvmclock", "kvm-pv-eoi", "kvm-steal-time"] {
        assert!(cpu.has(feature), "{feature}");
    }
    for feature in ["svm", "monitor", "acpi", "kvm-msi-ext-dest-id"] {
        assert!(!cpu.has(feature), "{feature}");
    }
    assert!(single("Opteron_G3,+svm", Table::amd()).has("svm"));
}

#[test]
fn the_hypervisor_leaves_are_kvms() {
    let cpu = single("Haswell", Table::intel());
    assert_eq!(leaf(&cpu, 0, 0x4000_0000, 0), [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d]);
    assert_eq!(leaf(&cpu, 0, 0x4000_0001, 0), [0x0100_007b, 0, 0, 0]);
}

#[test]
fn pv_eoi_is_off_when_it_is_turned_off() {
    const PV_EOI: u32 = 1 << 6;
    let features = |option| leaf(&single(option, Table::intel()), 0, 0x4000_0001, 0)[0];
    assert_eq!(features("Haswell") & PV_EOI, PV_EOI);
    assert_eq!(features("Haswell,kvm-pv-eoi=off") & PV_EOI, 0);
    assert_eq!(features("Haswell,-kvm-pv-eoi") & PV_EOI, 0);
    assert_eq!(features("host,-kvm_pv_eoi") & PV_EOI, 0);
}

#[test]
fn a_guest_sees_its_hosts_vendor_unless_told_otherwise() {
    let vendor = |option, table| leaf(&single(option, table), 0, 0, 0);
    assert_eq!(vendor("Haswell", Table::amd()), [0xd, 0x6874_7541, 0x444d_4163, 0x6974_6e65]);
    assert_eq!(
        vendor("Haswell,vendor=GenuineIntel", Table::amd()),
        [0xd, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]
    );
}

#[test]
fn an_amd_guest_finds_bits_of_leaf_1_again_in_leaf_80000001() {
    let edx = |option, table| leaf(&single(option, table), 0, 0x8000_0001, 0)[3];
    assert_eq!(edx("Opteron_G5", Table::amd()), 0x2d93_fbff);
    assert_eq!(edx("Opteron_G5,-apic", Table::amd()), 0x2d93_f9ff);
    assert_eq!(edx("Haswell", Table::intel()), 0x2810_0800);
}

#[test]
fn a_processor_without_extensions_of_xsave_tells_no_compacted_size() {
    assert_eq!(leaf(&single("Opteron_G5", Table::amd()), 0, 0xd, 1), [0; 4]);
    let with_xsaveopt = leaf(&single("Opteron_G5,+xsaveopt", Table::amd()), 0, 0xd, 1);
    assert_eq!(with_xsaveopt, [1, 0x340, 0, 0]);
}

#[test]
fn leaf_7_is_there_even_if_it_is_empty() {
    let there = |option| {
        let entries = single(option, Table::amd()).entries(0).unwrap();
        entries.as_slice().iter().filter(|entry| entry.function == 7).count()
    };
    assert_eq!(there("Opteron_G4"), 1);
    // Its highest leaf is 5.
    assert_eq!(there("Opteron_G1"), 0);
}

#[test]
fn the_brand_string_fills_three_leaves() {
    let cpu = single("Haswell", Table::intel());
    let text = (0x8000_0002..=0x8000_0004).flat_map(|number| leaf(&cpu, 0, number, 0));
    let text: Vec<u8> = text.flat_map(u32::to_le_bytes).collect();
    assert!(text.starts_with(b"Intel Core Processor (Haswell)\0"));
}

#[test]
fn topology_is_told_in_each_place_that_guests_look_at() {
    // Two sockets of three cores of two threads: APIC ids have one bit for the thread, two for the
    // core. The last processor is thread 1 of core 2 of socket 1.
    let (cpu, _) = cpu("Haswell", (2, 3, 2), &Table::intel().host());
    assert_eq!(cpu.apic_id(11), 0b1101);
    assert_eq!(leaf(&cpu, 11, 1, 0)[1], 0x0d06_0800);
    assert!(cpu.has("ht") && !cpu.has("cmp-legacy"));
    assert_eq!(leaf(&cpu, 11, 0xb, 0), [1, 2, 0x100, 13]);
    assert_eq!(leaf(&cpu, 11, 0xb, 1), [3, 6, 0x201, 13]);
    assert_eq!(leaf(&cpu, 11, 0xb, 2), [0, 0, 2, 13]);
    // Leaf 4: numbers for four cores in a socket; two threads share the first cache, eight the last.
    assert_eq!(leaf(&cpu, 11, 4, 0), [0x0c00_4121, 0x01c0_003f, 63, 1]);
    assert_eq!(leaf(&cpu, 11, 4, 3), [0x0c01_c163, 0x03c0_003f, 16383, 6]);
}

#[test]
fn an_amd_guests_topology_is_in_amds_leaves() {
    let (cpu, _) = cpu("EPYC-Milan", (2, 3, 2), &Table::amd().host());
    assert!(cpu.has("ht") && cpu.has("cmp-legacy"));
    assert_eq!(leaf(&cpu, 11, 4, 0), [0; 4]);
    assert_eq!(leaf(&cpu, 11, 0x8000_0008, 0), [0x3028, 0x100_d205, 0x3005, 0]);
    assert_eq!(leaf(&cpu, 11, 0x8000_001e, 0), [13, 0x102, 1, 0]);
    assert_eq!(leaf(&cpu, 11, 0x8000_001d, 3), [0x1_c163, 0x03c0_003f, 32767, 2]);
}

#[test]
fn a_single_processor_has_no_siblings() {
    let cpu = single("Haswell", Table::intel());
    assert_eq!(leaf(&cpu, 0, 1, 0)[1], 0x800);
    assert!(!cpu.has("ht"));
    assert_eq!(leaf(&cpu, 0, 0x8000_0008, 0)[2], 0);
}

#[test]
fn state_components_are_those_of_the_features() {
    let size = |option| leaf(&single(option, Table::intel()), 0, 0xd, 0);
    assert_eq!(size("Haswell"), [7, 0x340, 0x340, 0]);
    assert_eq!(size("Haswell,-avx"), [3, 0x240, 0x240, 0]);
    assert_eq!(size("Haswell,-xsave"), [0; 4]);
    assert_eq!(size("Cascadelake-Server"), [0x2e7, 0xa88, 0xa88, 0]);
    assert_eq!(size("SapphireRapids"), [0x602e7, 0x2b00, 0x2b00, 0]);
    let cpu = single("Haswell", Table::intel());
    assert_eq!(leaf(&cpu, 0, 0xd, 2), [0x100, 0x240, 0, 0]);
    assert_eq!(leaf(&cpu, 0, 0xd, 5), [0; 4]);
}

#[test]
fn a_component_that_the_host_does_not_manage_is_left_out() {
    let cpu = single("Cascadelake-Server", Table::intel().without(0xd, 0, 0, 0xe0));
    assert_eq!(leaf(&cpu, 0, 0xd, 0)[0], 0x207);
}

#[test]
fn a_feature_in_a_higher_leaf_raises_the_highest_leaf() {
    let highest = |option| leaf(&single(option, Table::intel()), 0, 0, 0)[0];
    assert_eq!(highest("Conroe"), 0xa);
    assert_eq!(highest("Conroe,+xsaveopt"), 0xd);
    let cpu = single("Conroe,+svm", Table::intel());
    assert_eq!(leaf(&cpu, 0, 0x8000_0000, 0)[0], 0x8000_000a);
}

#[test]
fn addresses_are_no_wider_than_the_hosts() {
    let bits = |option, table: Table| single(option, table).address_bits();
    assert_eq!(bits("Haswell", Table::intel()), 40);
    assert_eq!(bits("host", Table::intel()), 48);
    let mut narrow = Table::intel();
    narrow.0[11].2[0] = 0x3027;
    assert_eq!(bits("Haswell", narrow), 39);
    assert_eq!(bits("Haswell,-lm", Table::intel()), 36);
}

#[test]
fn an_invariant_tsc_tells_its_frequency() {
    let cpu = single("Haswell,+invtsc", Table::intel());
    assert_eq!(leaf(&cpu, 0, 0x4000_0000, 0)[0], 0x4000_0010);
    assert_eq!(leaf(&cpu, 0, 0x4000_0010, 0), [2_000_000, 1_000_000, 0, 0]);
}

#[test]
fn host_has_what_the_host_has_but_nothing_that_stops_a_migration() {
    let (cpu, missing) = cpu("host", (1, 1, 1), &Table::amd().host());
    assert_eq!(missing, []);
    for feature in ["svm", "avx512f", "kvm-pv-eoi", "x2apic", "tsc-deadline", "amx-tile"] {
        assert!(cpu.has(feature), "{feature}");
    }
    for feature in ["invtsc", "ht", "topoext", "kvm-hint-dedicated", "sgx", "intel-pt", "arch-lbr"]
    {
        assert!(!cpu.has(feature), "{feature}");
    }
    let brand = leaf(&cpu, 0, 0x8000_0002, 0).map(u32::to_le_bytes).concat();
    assert_eq!(brand, b"A processor of t");
}

#[test]
fn a_haswell_hosts_tsx_is_not_passed_on() {
    let mut table = Table::intel();
    table.0[1].2[0] = 0x306c3;
    let (cpu, missing) = cpu("Haswell", (1, 1, 1), &table.host());
    assert!(!cpu.has("hle") && !cpu.has("rtm"));
    assert_eq!(missing.len(), 2);
}

#[test]
fn every_model_fits_what_kvm_takes_for_every_processor() {
    let host = Table::intel().host();
    for known in super::super::model::names() {
        let selection: Selection = known.name.parse().unwrap();
        let topology = Topology::new(2, 16, 2).unwrap();
        let (cpu, _) = Cpu::new(&selection, topology, Platform::Kvm, &host);
        for processor in 0..topology.processors() {
            // KVM took 80 entries before Linux 5.11.
            assert!(cpu.entries(processor).unwrap().as_slice().len() <= 80, "{}", known.name);
        }
    }
}
