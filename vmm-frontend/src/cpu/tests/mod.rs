//! The models, and what becomes of them on a host.

mod expansion;
mod leaves;
mod models;
mod options;

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

use super::Cpu;
use super::filter::{Missing, Platform};
use super::host::{Capabilities, Host, Native};
use super::selection::Selection;
use super::topology::Topology;

/// A host's KVM_GET_SUPPORTED_CPUID, as lines of leaf, subleaf, EAX, EBX, ECX, EDX.
struct Table(Vec<(u32, u32, [u32; 4])>);

const ALL: u32 = u32::MAX;

impl Table {
    /// A processor that has every feature there is.
    fn with_all(vendor: &[u8; 12]) -> Table {
        let word = |at: usize| u32::from_le_bytes(*vendor[at..].first_chunk().unwrap());
        let vendor = |highest| [highest, word(0), word(8), word(4)];
        let state = [
            (0, [0x602ff, 0x2b00, 0x2b00, 0]),
            (1, [ALL, 0, 0, 0]),
            (2, [0x100, 0x240, 0, 0]),
            (3, [0x40, 0x3c0, 0, 0]),
            (4, [0x40, 0x400, 0, 0]),
            (5, [0x40, 0x440, 0, 0]),
            (6, [0x200, 0x480, 0, 0]),
            (7, [0x400, 0x680, 0, 0]),
            (9, [8, 0xa80, 0, 0]),
            (17, [0x40, 0xac0, 2, 0]),
            (18, [0x2000, 0xb00, 6, 0]),
        ];
        let mut table = vec![
            (0, 0, vendor(0x24)),
            (1, 0, [0x806f8, 0, ALL, ALL]),
            (6, 0, [4, 0, 0, 0]),
            (7, 0, [2, ALL, ALL, ALL]),
            (7, 1, [ALL, 0, 0, ALL]),
            (7, 2, [0, 0, 0, ALL]),
            (0x24, 0, [0, 0x70002, 0, 0]),
            (0x4000_0001, 0, [ALL, 0, 0, ALL]),
            (0x8000_0000, 0, vendor(0x8000_0022)),
            (0x8000_0001, 0, [0, 0, ALL, ALL]),
            (0x8000_0007, 0, [0, ALL, 0, ALL]),
            (0x8000_0008, 0, [0x3030, ALL, 0, 0]),
            (0x8000_000a, 0, [1, 8, 0, ALL]),
            (0x8000_0021, 0, [ALL, 0, 0, 0]),
            (0x8000_0022, 0, [ALL, 0, 0, 0]),
        ];
        table.extend(state.map(|(subleaf, registers)| (0xd, subleaf, registers)));
        Table(table)
    }

    fn intel() -> Table {
        Table::with_all(b"GenuineIntel")
    }

    fn amd() -> Table {
        Table::with_all(b"AuthenticAMD")
    }

    /// The same without bits of a register: 0 for EAX to 3 for EDX.
    fn without(mut self, leaf: u32, subleaf: u32, register: usize, bits: u32) -> Table {
        let line = self.0.iter_mut().find(|line| (line.0, line.1) == (leaf, subleaf)).unwrap();
        line.2[register] &= !bits;
        self
    }

    fn host(&self) -> Host {
        let entry = |(function, index, [eax, ebx, ecx, edx]): &(u32, u32, [u32; 4])| {
            let (function, index) = (*function, *index);
            let [eax, ebx, ecx, edx] = [*eax, *ebx, *ecx, *edx];
            kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
        };
        let entries: Vec<_> = self.0.iter().map(entry).collect();
        let capabilities = Capabilities {
            tsc_deadline: true,
            feature_msrs: vec![(0x10a, u64::MAX), (0xcf, u64::MAX)],
            tsc_khz: Some(2_000_000),
            native: Native {
                brand: *b"A processor of this host                        ",
                leaf_7: (0, 0, 0, 0),
            },
        };
        Host::new(&CpuId::from_entries(&entries).unwrap(), capabilities)
    }
}

fn cpu(option: &str, topology: (u32, u32, u32), host: &Host) -> (Cpu, Vec<Missing>) {
    let selection: Selection = option.parse().unwrap();
    let topology = Topology::new(topology.0, topology.1, topology.2).unwrap();
    Cpu::new(&selection, topology, Platform::Kvm, host)
}

/// A single processor, on a host that has everything.
fn single(option: &str, table: Table) -> Cpu {
    cpu(option, (1, 1, 1), &table.host()).0
}

/// The four registers of a leaf.
fn leaf(cpu: &Cpu, processor: u32, leaf: u32, subleaf: u32) -> [u32; 4] {
    let entries = cpu.entries(processor).unwrap();
    let mut found = entries.as_slice().iter();
    let found = found.find(|entry| (entry.function, entry.index) == (leaf, subleaf));
    found.map_or([0; 4], |entry| [entry.eax, entry.ebx, entry.ecx, entry.edx])
}

fn said(missing: &[Missing]) -> Vec<String> {
    missing.iter().map(Missing::to_string).collect()
}
