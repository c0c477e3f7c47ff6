//! The leaves of CPUID, as QEMU fills them for KVM.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use vmm_sys_util::fam;

use super::feature::{
    AMX_TILE, AVX, AVX10, AVX512_OR_10, INVTSC, LA57, LM, MPX, PERFMON_V2, PKU, Place, SVM, Word,
    Words, XSAVE,
};
use super::filter::Platform;
use super::host::Host;
use super::model::Vendor;
use super::{Component, Cpu, Levels};

/// A leaf, and each of its subleaves where it has any.
enum Leaf {
    Plain([u32; 4]),
    Indexed(Vec<(u32, [u32; 4])>),
}

impl Cpu {
    /// What KVM_SET_CPUID2 takes for a virtual processor. OSXSAVE, OSPKE and what depends on XCR0
    /// change while the guest runs: KVM sees to them.
    pub fn entries(&self, processor: u32) -> Result<CpuId, fam::Error> {
        let mut entries = Vec::new();
        for number in leaves(self.platform, self.levels) {
            let (flags, list) = match self.leaf(number, processor) {
                Leaf::Plain(registers) => (0, vec![(0, registers)]),
                Leaf::Indexed(list) => (KVM_CPUID_FLAG_SIGNIFCANT_INDEX, list),
            };
            // KVM answers zeros for a leaf that is missing. Yet leaf 7 is there even if it is empty,
            // as QEMU has it: some KVM (kvm_pvm) puts bits of its own into leaves that are there.
            let kept = |index| number == 7 && index <= self.levels.subleaf_7;
            let told = list.into_iter();
            let told = told.filter(|(index, registers)| kept(*index) || *registers != [0; 4]);
            entries.extend(told.map(|(index, [eax, ebx, ecx, edx])| kvm_cpuid_entry2 {
                function: number,
                index,
                flags,
                eax,
                ebx,
                ecx,
                edx,
                ..Default::default()
            }));
        }
        CpuId::from_entries(&entries)
    }

    fn leaf(&self, number: u32, processor: u32) -> Leaf {
        let word = |word| self.features.get(word);
        let apic_id = self.topology.apic_id(processor);
        Leaf::Plain(match number {
            0 => self.vendor_leaf(self.levels.basic),
            1 => [self.signature.eax(), self.ebx_1(apic_id), self.ecx_1(), word(Word::Leaf1Edx)],
            2 if self.is_amd() => [0; 4],
            2 => self.caches.leaf_2(),
            4 if self.is_amd() => [0; 4],
            4 => return indexed(self.caches.leaf_4(self.topology)),
            // MWAIT extensions are told of, and interrupts end it; the line's size is not known.
            5 => [0, 0, 0b11, 0],
            6 => [word(Word::Leaf6Eax), 0, 0, 0],
            7 => return indexed(self.leaf_7()),
            0xa => self.counters.map_or([0; 4], |[counters, _]| counters),
            0xb => return indexed(self.leaf_b(apic_id)),
            0xd => return Leaf::Indexed(self.leaf_d()),
            0x1d if self.features.meets(&AMX_TILE) => return indexed([[1, 0, 0, 0], TILE_PALETTE]),
            0x1e if self.features.meets(&AMX_TILE) => return indexed([[0, TILE_MULTIPLY, 0, 0]]),
            0x24 if self.features.meets(&AVX10) => {
                return indexed([[0, word(Word::Leaf24Ebx) | self.avx10_version, 0, 0]]);
            }
            0x4000_0000 => hypervisor(self.platform, self.tells_frequency()),
            0x4000_0001 => [word(Word::KvmFeatures), 0, 0, word(Word::KvmHints)],
            0x4000_0010 => self.frequencies(),
            0x8000_0000 => self.vendor_leaf(self.levels.extended),
            0x8000_0001 => {
                [self.signature.eax(), 0, word(Word::Leaf80000001Ecx), word(Word::Leaf80000001Edx)]
            }
            0x8000_0002 => self.brand_leaf(0),
            0x8000_0003 => self.brand_leaf(1),
            0x8000_0004 => self.brand_leaf(2),
            0x8000_0005 => self.caches.leaf_80000005(),
            0x8000_0006 => self.caches.leaf_80000006(),
            0x8000_0007 => [0, word(Word::Leaf80000007Ebx), 0, word(Word::Leaf80000007Edx)],
            0x8000_0008 => self.leaf_80000008(),
            // SVM revision 1, with 16 address space ids.
            0x8000_000a if self.features.meets(&SVM) => [1, 16, 0, word(Word::Leaf8000000AEdx)],
            0x8000_001d => return indexed(self.caches.leaf_8000001d(self.topology)),
            0x8000_001e => [
                apic_id,
                self.topology.threads().saturating_sub(1) << 8 | self.topology.core(processor),
                self.topology.socket(processor),
                0,
            ],
            0x8000_0021 => [word(Word::Leaf80000021Eax), 0, 0, 0],
            0x8000_0022 => self.leaf_80000022(),
            _ => [0; 4],
        })
    }

    fn is_amd(&self) -> bool {
        self.vendor == Vendor::Amd
    }

    /// Leaves 0 and 80000000: the highest leaf of the range, and the vendor.
    fn vendor_leaf(&self, highest: u32) -> [u32; 4] {
        let [ebx, edx, ecx] = registers(&self.vendor.name());
        [highest, ebx, ecx, edx]
    }

    fn ebx_1(&self, apic_id: u32) -> u32 {
        let threads = match self.topology.per_socket() {
            1 => 0,
            threads => threads,
        };
        // CLFLUSH's line, in quadwords.
        apic_id << 24 | threads << 16 | 8 << 8
    }

    fn ecx_1(&self) -> u32 {
        const PDCM: u32 = 1 << 15;
        let ecx = self.features.get(Word::Leaf1Ecx);
        if self.counters.is_some() { ecx } else { ecx & !PDCM }
    }

    fn leaf_7(&self) -> [[u32; 4]; 3] {
        let word = |word| self.features.get(word);
        let first = [
            self.levels.subleaf_7,
            word(Word::Leaf7Ebx),
            word(Word::Leaf7Ecx),
            word(Word::Leaf7Edx),
        ];
        let second = [word(Word::Leaf7_1Eax), 0, 0, word(Word::Leaf7_1Edx)];
        let third = [0, 0, 0, word(Word::Leaf7_2Edx)];
        match self.levels.subleaf_7 {
            0 => [first, [0; 4], [0; 4]],
            1 => [first, second, [0; 4]],
            _ => [first, second, third],
        }
    }

    /// Leaf B: SDM volume 2A, table 3-8. The last subleaf ends it with a type of 0.
    fn leaf_b(&self, apic_id: u32) -> [[u32; 4]; 3] {
        const SMT: u32 = 1 << 8;
        const CORE: u32 = 2 << 8;
        let topology = self.topology;
        [
            [topology.core_shift(), topology.threads(), SMT, apic_id],
            [topology.socket_shift(), topology.per_socket(), CORE | 1, apic_id],
            [0, 0, 2, apic_id],
        ]
    }

    /// Leaf D: SDM volume 1, 13.2.
    fn leaf_d(&self) -> Vec<(u32, [u32; 4])> {
        if !self.features.meets(&XSAVE) {
            return Vec::new();
        }
        let legacy = 512u32.saturating_add(64);
        let ends = self.state.iter().map(|one| one.offset.saturating_add(one.size));
        let standard = ends.fold(legacy, u32::max);
        let sizes = self.state.iter().map(|one| one.size);
        let compacted = sizes.fold(legacy, u32::saturating_add);
        // x87 and SSE state are always there.
        let xcr0 = self.state.iter().fold(0b11, |bits, one| bits | bit(one.number));
        let mut list = vec![(0, [xcr0, standard, standard, 0])];
        let extensions = self.features.get(Word::LeafD1Eax);
        // Without extensions there is no compacted form whose size could be told.
        if extensions != 0 {
            list.push((1, [extensions, compacted, 0, 0]));
        }
        list.extend(
            self.state.iter().map(|one| (one.number, [one.size, one.offset, one.flags, 0])),
        );
        list
    }

    /// Whether leaf 40000010 tells the TSC's frequency: only if that never changes.
    fn tells_frequency(&self) -> bool {
        self.features.meets(&INVTSC) && self.tsc_khz.is_some()
    }

    /// Leaf 40000010: the frequencies of the TSC and of the APIC's bus, in kHz.
    fn frequencies(&self) -> [u32; 4] {
        const APIC_BUS: u32 = 1_000_000;
        match self.tsc_khz {
            Some(tsc) if self.tells_frequency() => [tsc, APIC_BUS, 0, 0],
            _ => [0; 4],
        }
    }

    fn brand_leaf(&self, part: usize) -> [u32; 4] {
        let part = self.brand.chunks_exact(16).nth(part);
        part.and_then(|part| part.first_chunk::<16>()).map_or([0; 4], registers)
    }

    fn leaf_80000008(&self) -> [u32; 4] {
        let mut eax = self.address_bits;
        if self.features.meets(&LM) {
            let linear = if self.features.meets(&LA57) { 57 } else { 48 };
            eax |= linear << 8 | self.guest_address_bits << 16;
        }
        let ecx = match self.topology.per_socket() {
            1 => 0,
            threads => self.topology.socket_shift() << 12 | threads.saturating_sub(1),
        };
        [eax, self.features.get(Word::Leaf80000008Ebx), ecx, 0]
    }

    /// Leaf 80000022: counters of version 2, and how many.
    fn leaf_80000022(&self) -> [u32; 4] {
        match self.counters {
            Some([_, [_, counters, ..]]) if self.features.meets(&PERFMON_V2) => {
                [1, counters & 0xf, 0, 0]
            }
            _ => [0; 4],
        }
    }
}

/// Palette 1 of AMX: 8 tiles of 16 rows of 64 bytes, 8 KiB in all.
const TILE_PALETTE: [u32; 4] = [0x400 << 16 | 0x2000, 8 << 16 | 0x40, 0x10, 0];
/// The largest tiles that are multiplied: 16 rows, of 64 bytes.
const TILE_MULTIPLY: u32 = 0x40 << 8 | 0x10;

/// The leaves that there are.
fn leaves(platform: Platform, levels: Levels) -> impl Iterator<Item = u32> {
    let hypervisor = match platform {
        Platform::Kvm => [0x4000_0000, 0x4000_0001, 0x4000_0010],
    };
    let extended = 0x8000_0000..=levels.extended;
    hypervisor.into_iter().chain(0..=levels.basic).chain(extended)
}

/// The first hypervisor leaf: who it is, and the highest leaf that it has.
fn hypervisor(platform: Platform, tells_frequency: bool) -> [u32; 4] {
    let (name, highest) = match platform {
        Platform::Kvm => (b"KVMKVMKVM\0\0\0", if tells_frequency { 0x10 } else { 1 }),
    };
    let [ebx, ecx, edx] = registers(name);
    [0x4000_0000 | highest, ebx, ecx, edx]
}

fn indexed<const N: usize>(list: [[u32; 4]; N]) -> Leaf {
    Leaf::Indexed((0..).zip(list).collect())
}

/// A text as the registers that carry it.
fn registers<const BYTES: usize, const COUNT: usize>(text: &[u8; BYTES]) -> [u32; COUNT] {
    let mut registers = [0; COUNT];
    let words = text.as_chunks::<4>().0;
    registers.iter_mut().zip(words).for_each(|(to, from)| *to = u32::from_le_bytes(*from));
    registers
}

fn bit(number: u32) -> u32 {
    1u32.checked_shl(number).unwrap_or(0)
}

/// The highest leaves: those of the model, or more if a feature is told of in a higher one.
pub(super) fn levels((mut basic, mut extended): (u32, u32), features: &Words) -> Levels {
    let mut subleaf_7 = 0;
    for word in Word::all() {
        let Place::Cpuid { leaf, subleaf, .. } = word.place() else { continue };
        if features.get(word) == 0 || raises_nothing(word) {
            continue;
        }
        match leaf >> 28 {
            0 => basic = basic.max(leaf),
            8 => extended = extended.max(leaf),
            _ => {}
        }
        if leaf == 7 {
            subleaf_7 = subleaf_7.max(subleaf);
        }
    }
    if features.meets(&SVM) {
        extended = extended.max(0x8000_000a);
    }
    Levels { basic, subleaf_7, extended }
}

/// Words that a guest may not see for the lack of a leaf, as QEMU has it.
fn raises_nothing(word: Word) -> bool {
    matches!(word, Word::Leaf7Edx | Word::Leaf80000007Ebx | Word::Leaf80000022Eax)
}

/// The components of state beyond x87 and SSE that features bring, as the host lays them out.
pub(super) fn components(features: &Words, host: &Host) -> Vec<Component> {
    if !features.meets(&XSAVE) {
        return Vec::new();
    }
    let [supported, ..] = host.leaf(0xd, 0);
    let brought = COMPONENTS.iter().filter(|(_, by)| features.meets(by));
    let known = brought.filter(|(number, _)| supported & bit(*number) != 0);
    let laid_out = known.map(|(number, _)| {
        let [size, offset, flags, _] = host.leaf(0xd, *number);
        Component { number: *number, size, offset, flags: flags & 0b110 }
    });
    laid_out.filter(|component| component.size != 0).collect()
}

/// Each component's bit in XCR0, and the features any of which brings it.
const COMPONENTS: [(u32, Words); 9] = [
    (2, AVX),
    (3, MPX),
    (4, MPX),
    (5, AVX512_OR_10),
    (6, AVX512_OR_10),
    (7, AVX512_OR_10),
    (9, PKU),
    (17, AMX_TILE),
    (18, AMX_TILE),
];
