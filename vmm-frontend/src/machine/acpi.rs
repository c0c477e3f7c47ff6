//! The ACPI tables: full ACPI hardware (PM1, GPE, FACS), since a guest's suspend to RAM needs it.
//!
//! ACPI is always on: there is no SMI command port, so a guest finds SCI_EN set (ACPI 6.5, 4.8.2.5).

mod hotplug;

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name,
    Package, PackageBuilder, ResourceTemplate, Scope, ZERO,
};
use acpi_tables::facs::FACS;
use acpi_tables::fadt::FADTBuilder;
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, gas};

use super::layout::{self, pm};
use super::linked::Linked;

const OEM: [u8; 6] = *b"VHOSTU";
const TABLE: [u8; 8] = *b"VMMFRONT";
const REVISION: u32 = 1;
/// Bytes of a table's header (5.2.6).
const HEADER: u32 = 36;

/// What the tables tell of the machine.
#[derive(Clone, Debug)]
pub struct Description<'a> {
    /// The APIC id of each CPU; all are below 255.
    pub cpus: &'a [u8],
    /// Addresses for BARs of more than 32 bits, from and to (the first address behind).
    pub pci_above: (u64, u64),
}

/// All tables. `None`: there are far too many.
#[must_use]
pub fn tables(machine: &Description<'_>) -> Option<Linked> {
    let mut linked = Linked::new();
    let dsdt = linked.add(&dsdt(machine).bytes(), &[])?;
    let facs = linked.add_raw(&FACS::new().bytes())?;
    // FIRMWARE_CTRL, DSDT and X_DSDT.
    let fadt = linked.add(&fadt(dsdt, facs).bytes(), &[(36, 4), (40, 4), (140, 8)])?;
    let madt = linked.add(&madt(machine.cpus).bytes(), &[])?;
    let mut mcfg = MCFG::new(OEM, TABLE, REVISION);
    mcfg.add_ecam(layout::ECAM, 0, 0, layout::LAST_BUS);
    let mcfg = linked.add(&mcfg.bytes(), &[])?;
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    let mut entries = Vec::new();
    for (table, place) in [fadt, madt, mcfg].into_iter().zip((HEADER..).step_by(8)) {
        xsdt.add_entry(table.into());
        entries.push((place, 8));
    }
    let xsdt = linked.add(&xsdt.bytes(), &entries)?;
    linked.set_rsdp(&Rsdp::new(OEM, xsdt.into()).bytes())?;
    Some(linked)
}

/// Fixed hardware (5.2.9).
fn fadt(dsdt: u32, facs: u32) -> impl Aml {
    const WBINVD: u32 = 1 << 0;
    const PROC_C1: u32 = 1 << 2;
    const SLP_BUTTON_IS_NOT_FIXED: u32 = 1 << 5;
    const RTC_S4: u32 = 1 << 7;
    const TMR_VAL_EXT: u32 = 1 << 8;
    const RESET_REG_SUP: u32 = 1 << 10;
    const LEGACY_DEVICES: u16 = 1 << 0;
    const NO_VGA: u16 = 1 << 2;

    let mut fadt =
        FADTBuilder::new(OEM, TABLE, REVISION).dsdt_64(dsdt.into()).firmware_ctrl_32(facs);
    fadt.dsdt = dsdt.into();
    fadt.sci_int = u16::from(pm::SCI).into();
    fadt.pm1a_evt_blk = u32::from(pm::EVENT).into();
    fadt.pm1_evt_len = 4;
    fadt.pm1a_cnt_blk = u32::from(pm::CONTROL).into();
    fadt.pm1_cnt_len = 2;
    fadt.pm_tmr_blk = u32::from(pm::TIMER).into();
    fadt.pm_tmr_len = 4;
    fadt.gpe0_blk = u32::from(pm::GPE0).into();
    fadt.gpe0_blk_len = pm::GPE0_LEN;
    // Latencies beyond these say that C2 and C3 are not there.
    fadt.p_lvl2_lat = 101.into();
    fadt.p_lvl3_lat = 1001.into();
    fadt.century = 0x32;
    fadt.iapc_boot_arch = (LEGACY_DEVICES | NO_VGA).into();
    fadt.flags =
        (WBINVD | PROC_C1 | SLP_BUTTON_IS_NOT_FIXED | RTC_S4 | TMR_VAL_EXT | RESET_REG_SUP).into();
    fadt.reset_reg = gas::GAS::new(
        gas::AddressSpace::SystemIo,
        8,
        0,
        gas::AccessSize::ByteAccess,
        layout::RESET.into(),
    );
    fadt.reset_value = layout::RESET_VALUE;
    fadt.finalize()
}

/// Interrupt controllers (5.2.12). Written by hand: the crate's has neither flags nor overrides.
fn madt(cpus: &[u8]) -> Sdt {
    const PCAT_COMPAT: u32 = 1;
    const ACTIVE_HIGH_LEVEL: u16 = 0b1101;

    let mut madt = Sdt::new(*b"APIC", HEADER, 5, OEM, TABLE, REVISION);
    madt.append_slice(&layout::LOCAL_APIC.to_le_bytes());
    madt.append_slice(&PCAT_COMPAT.to_le_bytes());
    for (uid, &id) in (0..).zip(cpus) {
        let enabled = [1, 0, 0, 0];
        madt.append_slice(&[0, 8, uid, id]);
        madt.append_slice(&enabled);
    }
    let io_apic_id = 0;
    madt.append_slice(&[1, 12, io_apic_id, 0]);
    madt.append_slice(&layout::IO_APIC.to_le_bytes());
    madt.append_slice(&0u32.to_le_bytes());
    // The PIT is wired to input 2; the SCI is level-triggered, active high as KVM's lines are.
    for (source, input, flags) in [(0u8, 2u32, 0), (pm::SCI, pm::SCI.into(), ACTIVE_HIGH_LEVEL)] {
        madt.append_slice(&[2, 10, 0, source]);
        madt.append_slice(&input.to_le_bytes());
        madt.append_slice(&flags.to_le_bytes());
    }
    // LINT1 of every CPU is the NMI.
    madt.append_slice(&[4, 6, 0xff, 0, 0, 1]);
    madt
}

fn dsdt(machine: &Description<'_>) -> Sdt {
    let serial = Device::new(
        "COM1".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &ZERO),
            &resources(layout::SERIAL, 8, layout::SERIAL_IRQ),
        ],
    )
    .bytes();
    let clock = Device::new(
        "RTC_".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0B00")),
            &resources(layout::RTC, 2, layout::RTC_IRQ),
        ],
    )
    .bytes();
    let sleep = Name::new("\\_S5_".into(), &Package::new(vec![&pm::S5, &pm::S5, &ZERO, &ZERO]));

    let mut dsdt = Sdt::new(*b"DSDT", HEADER, 2, OEM, TABLE, REVISION);
    for part in
        [sleep.bytes(), scope(&pci(machine)), scope(&serial), scope(&clock), hotplug::hotplug()]
    {
        dsdt.append_slice(&part);
    }
    dsdt
}

/// What a device of the ISA bus has: ports, and an edge-triggered interrupt of its own (6.2.2).
fn resources(port: u16, ports: u8, irq: u8) -> Name {
    let ports = IO::new(port, port, 1, ports);
    let interrupt = Interrupt::new(true, true, false, false, irq.into());
    Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ports, &interrupt]))
}

fn scope(children: &[u8]) -> Vec<u8> {
    Scope::raw("\\_SB_".into(), children.to_vec())
}

/// The host bridge, and the board's own device, which keeps the ECAM's addresses and the ports for
/// hotplug from others.
fn pci(machine: &Description<'_>) -> Vec<u8> {
    let above = machine.pci_above;
    let not_cacheable = AddressSpaceCacheable::NotCacheable;
    let address = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let below = |(start, end): (u64, u64)| {
        let (first, last) = (address(start), address(end - 1));
        AddressSpace::new_memory(not_cacheable, true, first, last, None)
    };
    let bridge = Device::new(
        "PCI0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_SEG".into(), &ZERO),
            &Name::new("_BBN".into(), &ZERO),
            &Name::new("_PRT".into(), &routing()),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &AddressSpace::new_bus_number(0u16, layout::LAST_BUS.into()),
                    &IO::new(layout::PCI_CONFIG, layout::PCI_CONFIG, 1, 8),
                    &AddressSpace::new_io(0u16, layout::PCI_CONFIG - 1, None),
                    &AddressSpace::new_io(layout::PCI_CONFIG + 8, 0xffff, None),
                    &below(layout::PCI),
                    &below(layout::PCI_HIGH),
                    &AddressSpace::new_memory(not_cacheable, true, above.0, above.1 - 1, None),
                ]),
            ),
        ],
    )
    .bytes();
    let ecam = (address(layout::ECAM), address(layout::ECAM_SIZE));
    let board = Device::new(
        "MBRD".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0C02")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &Memory32Fixed::new(true, ecam.0, ecam.1),
                    &IO::new(
                        layout::hotplug::PORT,
                        layout::hotplug::PORT,
                        1,
                        layout::hotplug::SIZE,
                    ),
                ]),
            ),
        ],
    )
    .bytes();
    [bridge, board].concat()
}

/// Each pin of each slot of bus 0 (6.2.13): the pins of neighbours go to different inputs.
fn routing() -> PackageBuilder {
    let mut table = PackageBuilder::new();
    for slot in 0..32u32 {
        for pin in 0..4u8 {
            let input = intx(slot, pin);
            let device = slot << 16 | 0xffff;
            table.add_element(&Package::new(vec![&device, &pin, &ZERO, &input]));
        }
    }
    table
}

/// The I/O APIC's input for a pin (0: INTA#) of a slot of bus 0.
#[must_use]
pub fn intx(slot: u32, pin: u8) -> u32 {
    let [first, ..] = layout::INTX;
    let count = layout::INTX.len() as u32;
    first + (slot + u32::from(pin)) % count
}

trait Bytes: Aml {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.to_aml_bytes(&mut bytes);
        bytes
    }
}

impl<T: Aml> Bytes for T {}

#[cfg(test)]
mod tests {
    use super::*;

    fn described() -> Vec<u8> {
        let cpus: Vec<u8> = (0..64).collect();
        let machine = Description { cpus: &cpus, pci_above: (1 << 39, 1 << 40) };
        tables(&machine).unwrap().placed(layout::TABLES).unwrap()
    }

    /// The table at a physical address.
    fn at(tables: &[u8], address: u64) -> &[u8] {
        let table = &tables[usize::try_from(address - layout::TABLES).unwrap()..];
        let length = u32::from_le_bytes(table[4..8].try_into().unwrap());
        &table[..usize::try_from(length).unwrap()]
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn every_table_is_found_and_sums_up_to_zero() {
        let tables = described();
        assert_eq!(&tables[..8], b"RSD PTR ");
        assert_eq!((sum(&tables[..20]), sum(&tables[..36])), (0, 0));
        let xsdt = at(&tables, u64::from_le_bytes(tables[24..32].try_into().unwrap()));
        assert_eq!((&xsdt[..4], sum(xsdt)), (&b"XSDT"[..], 0));
        let found = xsdt[36..].chunks(8).map(|entry| {
            let table = at(&tables, u64::from_le_bytes(entry.try_into().unwrap()));
            assert_eq!(sum(table), 0);
            String::from_utf8_lossy(&table[..4]).into_owned()
        });
        assert_eq!(found.collect::<Vec<_>>(), ["FACP", "APIC", "MCFG"]);
    }

    #[test]
    fn every_slot_but_the_bridges_can_be_ejected() {
        let tables = described();
        let has = |name: &[u8]| tables.windows(name.len()).filter(|part| *part == name).count();
        assert_eq!((has(b"_EJ0"), has(b"_SUN"), has(b"_E02")), (31, 31, 1));
        assert_eq!((has(b"S00_"), has(b"S1F_")), (0, 3), "a device, and twice told of");
    }

    #[test]
    fn pins_of_neighbours_go_to_different_inputs() {
        assert_eq!([intx(0, 0), intx(0, 3), intx(1, 0), intx(7, 1)], [16, 19, 17, 16]);
    }
}
