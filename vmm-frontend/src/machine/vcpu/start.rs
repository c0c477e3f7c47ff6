//! How the first processor starts in a kernel: its modes, segments and page tables.

use kvm_bindings::{kvm_segment, kvm_sregs};

use crate::boot::Mode;
use crate::machine::layout;

/// Selectors that Linux's protocol names (boot.rst, "32-bit boot protocol").
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;

/// CR0.PE, CR0.PG; CR4.PAE; EFER.LME, EFER.LMA.
const PROTECTION: u64 = 1;
const PAGING: u64 = 1 << 31;
const PAE: u64 = 1 << 5;
const LONG_MODE: u64 = 1 << 8 | 1 << 10;

/// Changes the registers of a processor that was just reset.
pub(super) fn enter(sregs: &mut kvm_sregs, mode: Mode) {
    sregs.cs = flat(CODE, 0xb);
    let data = flat(DATA, 0x3);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    // A busy TSS (Intel SDM 3, 26.3.1.2), which is not in the table: nobody loads it.
    sregs.tr = kvm_segment { type_: 0xb, present: 1, limit: 0x67, ..Default::default() };
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = (size_of_val(&gdt(mode)) - 1) as u16;
    sregs.cr0 |= PROTECTION;
    if mode == Mode::Long {
        (sregs.cs.l, sregs.cs.db) = (1, 0);
        sregs.cr0 |= PAGING;
        sregs.cr3 = layout::PAGE_TABLES;
        sregs.cr4 |= PAE;
        sregs.efer |= LONG_MODE;
    }
}

fn flat(selector: u16, type_: u8) -> kvm_segment {
    kvm_segment {
        selector,
        type_,
        limit: u32::MAX,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}

/// What a kernel that starts so finds in memory: addresses, and tables of 8-byte entries there.
#[must_use]
pub fn tables(mode: Mode) -> Vec<(u64, Vec<u64>)> {
    let mut tables = vec![(layout::GDT, gdt(mode).to_vec())];
    if mode == Mode::Long {
        tables.push((layout::PAGE_TABLES, page_tables()));
    }
    tables
}

/// Flat code and data.
fn gdt(mode: Mode) -> [u64; 4] {
    let code = match mode {
        Mode::Protected => 0x00cf_9b00_0000_ffff,
        Mode::Long => 0x00af_9b00_0000_ffff,
    };
    [0, 0, code, 0x00cf_9300_0000_ffff]
}

/// A table of each upper level, and four of pages of 2 MiB.
fn page_tables() -> Vec<u64> {
    const ENTRIES: u64 = 512;
    const TABLE: u64 = ENTRIES * 8;
    const DIRECTORIES: u64 = 4;
    const WRITABLE: u64 = 0b11;
    const PAGE: u64 = 1 << 7;
    let table = |number: u64| (layout::PAGE_TABLES + number * TABLE) | WRITABLE;
    let mut entries = vec![table(1)];
    entries.resize(ENTRIES as usize, 0);
    entries.extend((0..DIRECTORIES).map(|directory| table(2 + directory)));
    entries.resize(2 * ENTRIES as usize, 0);
    entries.extend((0..DIRECTORIES * ENTRIES).map(|page| page << 21 | PAGE | WRITABLE));
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_4_gib_are_mapped_where_they_are() {
        let tables = page_tables();
        let entry = |table: u64, index: u64| {
            let place = (table & !0xfff) - layout::PAGE_TABLES + index * 8;
            tables[usize::try_from(place / 8).unwrap()]
        };
        for address in [0u64, 0x1f_ffff, 0x20_0000, 0x4000_0000, 0xffff_ffff] {
            let directory = entry(entry(layout::PAGE_TABLES, 0), address >> 30);
            let page = entry(directory, address >> 21 & 511);
            assert_eq!(page & !0x1f_ffff | address & 0x1f_ffff, address);
            assert_eq!(page & 0x83, 0x83);
        }
        assert_eq!(entry(entry(layout::PAGE_TABLES, 0), 4), 0);
        let end = layout::PAGE_TABLES + tables.len() as u64 * 8;
        assert!(end <= layout::COMMAND_LINE);
    }
}
