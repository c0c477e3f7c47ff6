//! What becomes of a model's features under KVM, on a host, as QEMU has it.

use std::fmt;

use super::feature::{AVX10, Feature, Place, Register, Word, Words, all_of, words};
use super::host::Host;
use super::model::Vendor;

/// What the hypervisor leaves say, and what else depends on whose hypervisor the guest sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// KVM's own.
    Kvm,
}

impl Platform {
    /// What a named model has more under this platform.
    pub(super) fn on(self) -> &'static Words {
        match self {
            Platform::Kvm => &KVM_ON,
        }
    }

    /// What a named model has less.
    pub(super) fn off(self) -> &'static Words {
        match self {
            Platform::Kvm => &KVM_OFF,
        }
    }
}

static KVM_ON: Words = words(&[
    (Word::Leaf1Ecx, "x2apic hypervisor"),
    (
        Word::KvmFeatures,
        "kvmclock kvm-nopiodelay kvm-asyncpf kvm-steal-time kvm-pv-eoi kvmclock-stable-bit",
    ),
]);
static KVM_OFF: Words = words(&[
    (Word::Leaf1Edx, "acpi"),
    (Word::Leaf1Ecx, "monitor"),
    (Word::Leaf80000001Ecx, "svm"),
    (Word::KvmFeatures, "kvm-msi-ext-dest-id"),
]);

/// What a guest gets of `host` only when asked for by name: these need a fitting topology, promise
/// something about the host's load, or stop it from being migrated.
pub(super) static NOT_BY_ITSELF: Words = words(&[
    (Word::Leaf1Edx, "ht"),
    (Word::Leaf80000001Ecx, "topoext"),
    (Word::KvmHints, "kvm-hint-dedicated"),
    (Word::Leaf80000007Edx, "invtsc"),
]);

/// On AMD, leaf 80000001's EDX repeats these bits of leaf 1's: APM volume 3, E.4.2.
const AMD_ALIASES: u32 = 0x0183_f3ff;

/// Features that are nothing without (one of) others.
struct Dependency {
    needs: Words,
    dependent: Words,
}

static DEPENDENCIES: [Dependency; 10] = [
    Dependency {
        needs: words(&[(Word::Leaf7Edx, "arch-capabilities")]),
        dependent: all_of(Word::ArchCapabilities),
    },
    Dependency {
        needs: words(&[(Word::Leaf7Edx, "core-capability")]),
        dependent: all_of(Word::CoreCapability),
    },
    Dependency {
        needs: words(&[(Word::Leaf80000001Ecx, "svm")]),
        dependent: all_of(Word::Leaf8000000AEdx),
    },
    Dependency {
        needs: words(&[(Word::Leaf80000001Edx, "lm")]),
        dependent: words(&[(Word::Leaf7_1Eax, "fred")]),
    },
    Dependency {
        needs: words(&[(Word::Leaf7_1Eax, "lkgs")]),
        dependent: words(&[(Word::Leaf7_1Eax, "fred")]),
    },
    Dependency {
        needs: words(&[(Word::Leaf7_1Eax, "wrmsrns")]),
        dependent: words(&[(Word::Leaf7_1Eax, "fred")]),
    },
    Dependency {
        needs: words(&[(Word::Leaf24Ebx, "avx10-128")]),
        dependent: words(&[(Word::Leaf24Ebx, "avx10-256")]),
    },
    Dependency {
        needs: words(&[(Word::Leaf24Ebx, "avx10-256")]),
        dependent: words(&[(Word::Leaf24Ebx, "avx10-512")]),
    },
    Dependency {
        needs: words(&[(Word::Leaf24Ebx, "avx10-128 avx10-256 avx10-512")]),
        dependent: words(&[(Word::Leaf7_1Edx, "avx10")]),
    },
    Dependency { needs: words(&[(Word::Leaf7_1Edx, "avx10")]), dependent: all_of(Word::Leaf24Ebx) },
];

/// Something that was asked for and is not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// The host doesn't have it.
    Host {
        /// Where the feature is reported.
        word: Word,
        /// Its bit there.
        bit: u32,
    },
    /// It was asked for without another that it depends on.
    Dependency {
        /// Where the feature is reported.
        word: Word,
        /// Its bit there.
        bit: u32,
    },
    /// The host has no AVX10, or an earlier version of it.
    Avx10 {
        /// The version that was asked for.
        wanted: u32,
        /// The version that is given; 0 for none.
        given: u32,
    },
}

impl Missing {
    /// The feature's name.
    pub fn name(&self) -> Option<&'static str> {
        match self {
            Missing::Host { word, bit } | Missing::Dependency { word, bit } => word.name(*bit),
            Missing::Avx10 { .. } => None,
        }
    }
}

/// In QEMU's words, which other programs look for.
impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (why, word, bit) = match self {
            Missing::Host { word, bit } => (UNSUPPORTED, word, bit),
            Missing::Dependency { word, bit } => {
                ("This feature depends on other features that were not requested", word, bit)
            }
            Missing::Avx10 { wanted, given: 0 } => {
                return write!(f, "{UNSUPPORTED}: avx10.{wanted}.");
            }
            Missing::Avx10 { wanted, given } => {
                return write!(f, "{UNSUPPORTED}: avx10.{wanted}. Adjust to avx10.{given}");
            }
        };
        write!(f, "{why}: ")?;
        match word.place() {
            Place::Cpuid { leaf, register, .. } => {
                let register = match register {
                    Register::Eax => "EAX",
                    Register::Ebx => "EBX",
                    Register::Ecx => "ECX",
                    Register::Edx => "EDX",
                };
                write!(f, "CPUID.{leaf:02X}H:{register}")?;
            }
            Place::Msr(number) => write!(f, "MSR({number:X}H)")?,
        }
        if let Some(name) = word.name(*bit) {
            write!(f, ".{name}")?;
        }
        write!(f, " [bit {bit}]")
    }
}

const UNSUPPORTED: &str = "host doesn't support requested feature";

/// Features on their way from a model to a guest.
#[derive(Debug, Clone)]
pub(super) struct Features {
    pub(super) words: Words,
    /// What the user turned on or off by name.
    named: Words,
    pub(super) missing: Vec<Missing>,
    /// Whether what is missing is given all the same.
    force: bool,
}

impl Features {
    pub(super) fn new(words: Words, force: bool) -> Features {
        Features { words, named: Words::NONE, missing: Vec::new(), force }
    }

    /// Turns a feature on or off, as the user said.
    pub(super) fn switch(&mut self, feature: Feature, on: bool) {
        if on {
            self.words.set(feature.word, feature.bits);
        } else {
            self.words.clear(feature.word, feature.bits);
        }
        self.named.set(feature.word, feature.bits);
    }

    /// Takes away what depends on something that is not there.
    pub(super) fn settle_dependencies(&mut self) {
        for Dependency { needs, dependent } in &DEPENDENCIES {
            if self.words.meets(needs) {
                continue;
            }
            let lost = self.words.and(dependent);
            let asked = lost.and(&self.named);
            self.missing.extend(asked.bits().map(|(word, bit)| Missing::Dependency { word, bit }));
            self.words = self.words.without(&lost);
        }
    }

    /// Takes away what the host doesn't have.
    pub(super) fn settle_host(&mut self, host: &Host) {
        let lost = self.words.without(&host.features);
        self.missing.extend(lost.bits().map(|(word, bit)| Missing::Host { word, bit }));
        if !self.force {
            self.words = self.words.and(&host.features);
        }
    }

    /// The version of AVX10 that the guest gets of the one that the model has.
    pub(super) fn settle_avx10(&mut self, wanted: u32, host: &Host) -> u32 {
        let given = if self.words.meets(&AVX10) { wanted.min(host.avx10_version()) } else { 0 };
        if given < wanted {
            self.missing.push(Missing::Avx10 { wanted, given });
        }
        given
    }

    /// Repeats leaf 1's bits where an AMD processor does.
    pub(super) fn settle_aliases(&mut self, vendor: Vendor) {
        if vendor == Vendor::Amd {
            self.words.clear(Word::Leaf80000001Edx, AMD_ALIASES);
            let repeated = self.words.get(Word::Leaf1Edx) & AMD_ALIASES;
            self.words.set(Word::Leaf80000001Edx, repeated);
        }
    }
}
