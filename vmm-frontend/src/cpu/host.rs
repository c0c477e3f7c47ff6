//! What this host can give a guest: KVM's own table, and what that table leaves out.

use std::arch::x86_64::{__cpuid, __cpuid_count, CpuidResult};

use kvm_bindings::CpuId;

use super::feature::{Place, Register, Word, Words, words};
use super::model::{Signature, Vendor};
use super::{Msr, text};

/// What the processor itself says, where KVM's table leaves it out.
#[derive(Debug, Clone, Copy)]
pub struct Native {
    /// The brand string.
    pub brand: [u8; 48],
    /// EBX and EDX of leaf 7, EAX of its subleaf 1, and EDX of subleaf 2.
    pub leaf_7: (u32, u32, u32, u32),
}

impl Native {
    /// Of the processor that this runs on.
    pub fn read() -> Native {
        let highest = __cpuid(0).eax;
        let subleaf = |number| {
            let exists = highest >= 7 && (number == 0 || __cpuid_count(7, 0).eax >= number);
            if exists {
                __cpuid_count(7, number)
            } else {
                CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 }
            }
        };
        let brand = [0x8000_0002, 0x8000_0003, 0x8000_0004].map(|leaf| {
            let told = __cpuid(leaf);
            [told.eax, told.ebx, told.ecx, told.edx]
        });
        Native {
            brand: text(brand.into_iter().flatten().flat_map(u32::to_le_bytes)),
            leaf_7: (subleaf(0).ebx, subleaf(0).edx, subleaf(1).eax, subleaf(2).edx),
        }
    }
}

/// What KVM can do besides what KVM_GET_SUPPORTED_CPUID says.
#[derive(Debug, Clone)]
pub struct Capabilities {
    /// KVM_CAP_TSC_DEADLINE_TIMER, with the APIC in the kernel.
    pub tsc_deadline: bool,
    /// Those of [`FEATURE_MSRS`] that KVM has, and their values, by KVM_GET_MSRS on /dev/kvm.
    pub feature_msrs: Vec<Msr>,
    /// The guest's TSC frequency, by KVM_GET_TSC_KHZ, if KVM knows it.
    pub tsc_khz: Option<u32>,
    /// What the processor says itself.
    pub native: Native,
}

/// The MSRs that tell of features: IA32_ARCH_CAPABILITIES and IA32_CORE_CAPABILITIES.
pub const FEATURE_MSRS: [u32; 2] = [0x10a, 0xcf];

/// A host.
#[derive(Debug, Clone)]
pub struct Host {
    table: CpuId,
    pub(super) features: Words,
    pub(super) tsc_khz: Option<u32>,
    pub(super) brand: [u8; 48],
}

/// What KVM leaves out of its table, because it depends on how it is used, or is safe on any host.
const UNDERSTATED: Words = words(&[
    (Word::Leaf1Edx, "mce mtrr mca pat ht"),
    (Word::Leaf1Ecx, "hypervisor"),
    (Word::Leaf6Eax, "arat"),
    (Word::Leaf80000001Ecx, "topoext"),
    (Word::Leaf80000007Ebx, "overflow-recov succor"),
    (Word::KvmHints, "kvm-hint-dedicated"),
]);

/// What needs more of a VMM than a bit in a table: memory for SGX, MSRs for tracing.
const NOT_SERVED: Words = words(&[
    (Word::Leaf7Ebx, "sgx intel-pt"),
    (Word::Leaf7Ecx, "sgxlc"),
    (Word::Leaf7Edx, "arch-lbr"),
]);

/// What makes existing instructions faster, or tells of a fault that the processor hasn't: true of a
/// guest whatever KVM knows of it.
const INHERENT: Words = words(&[
    (Word::Leaf7Ebx, "erms"),
    (Word::Leaf7Edx, "fsrm"),
    (Word::Leaf7_1Eax, "fzrm fsrs fsrc"),
    (Word::Leaf7_2Edx, "mcdt-no"),
]);

const TSC_DEADLINE: Words = words(&[(Word::Leaf1Ecx, "tsc-deadline")]);
const TSX: Words = words(&[(Word::Leaf7Ebx, "hle rtm")]);
const FB_CLEAR: Words = words(&[(Word::ArchCapabilities, "fb-clear")]);
/// Who has all of these has nothing that FB_CLEAR would have to mitigate.
const NOTHING_TO_CLEAR: Words =
    words(&[(Word::ArchCapabilities, "mds-no taa-no sbdr-ssdp-no fbsdp-no psdp-no")]);

impl Host {
    /// The host of which KVM_GET_SUPPORTED_CPUID said `supported`. Permission for AMX must have
    /// been asked for before (ARCH_REQ_XCOMP_GUEST_PERM), or the table is without it.
    pub fn new(supported: &CpuId, capabilities: Capabilities) -> Host {
        let mut host = Host {
            table: supported.clone(),
            features: Words::NONE,
            tsc_khz: capabilities.tsc_khz,
            brand: capabilities.native.brand,
        };
        let mut features = Words::NONE;
        for word in Word::all() {
            let bits = match word.place() {
                Place::Cpuid { leaf, subleaf, register } => {
                    let [eax, ebx, ecx, edx] = host.leaf(leaf, subleaf);
                    match register {
                        Register::Eax => eax,
                        Register::Ebx => ebx,
                        Register::Ecx => ecx,
                        Register::Edx => edx,
                    }
                }
                Place::Msr(number) => {
                    let told = capabilities.feature_msrs.iter().find(|(told, _)| *told == number);
                    // No bit of the upper half has a name.
                    told.and_then(|(_, value)| u32::try_from(value & u64::from(u32::MAX)).ok())
                        .unwrap_or(0)
                }
            };
            features.set(word, bits);
        }
        let mut native = Words::NONE;
        let (ebx, edx, eax_1, edx_2) = capabilities.native.leaf_7;
        native.set(Word::Leaf7Ebx, ebx);
        native.set(Word::Leaf7Edx, edx);
        native.set(Word::Leaf7_1Eax, eax_1);
        native.set(Word::Leaf7_2Edx, edx_2);
        features = features.or(&native.and(&INHERENT)).or(&UNDERSTATED).without(&NOT_SERVED);
        if capabilities.tsc_deadline {
            features = features.or(&TSC_DEADLINE);
        }
        if features.and(&NOTHING_TO_CLEAR) == NOTHING_TO_CLEAR {
            features = features.or(&FB_CLEAR);
        }
        if host.has_broken_tsx() {
            features = features.without(&TSX);
        }
        host.features = features;
        host
    }

    /// The four registers of a leaf; all zero if KVM doesn't have it.
    pub(super) fn leaf(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let mut entries = self.table.as_slice().iter();
        let found = entries.find(|entry| entry.function == leaf && entry.index == subleaf);
        found.map_or([0; 4], |entry| [entry.eax, entry.ebx, entry.ecx, entry.edx])
    }

    /// Who made the host's processor.
    pub(super) fn vendor(&self) -> Vendor {
        let [_, ebx, ecx, edx] = self.leaf(0, 0);
        let mut name = [0; 12];
        let bytes = [ebx, edx, ecx].into_iter().flat_map(u32::to_le_bytes);
        name.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        Vendor::new(name)
    }

    /// The host's family, model and stepping.
    pub(super) fn signature(&self) -> Signature {
        let [eax, ..] = self.leaf(1, 0);
        Signature::from_eax(eax)
    }

    /// The width of a physical address; 0 if KVM doesn't say.
    pub(super) fn address_bits(&self) -> u32 {
        let [eax, ..] = self.leaf(0x8000_0008, 0);
        eax & 0xff
    }

    /// The width of an address that a guest's tables can map, where that is less; otherwise 0.
    pub(super) fn guest_address_bits(&self) -> u32 {
        let [eax, ..] = self.leaf(0x8000_0008, 0);
        eax >> 16 & 0xff
    }

    /// The version of AVX10 that the host has; 0 for none.
    pub(super) fn avx10_version(&self) -> u32 {
        let [_, ebx, ..] = self.leaf(0x24, 0);
        ebx & 0xff
    }

    /// The processors whose TSX fails, erratum HSD136: KVM's table has it all the same.
    fn has_broken_tsx(&self) -> bool {
        let Signature { family, model, stepping } = self.signature();
        let haswell = matches!(model, 60 | 69 | 70) || model == 63 && stepping < 4;
        self.vendor() == Vendor::Intel && family == 6 && haswell
    }
}
