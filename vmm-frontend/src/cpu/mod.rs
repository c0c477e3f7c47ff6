//! The processor that a guest sees: QEMU's named models, on KVM.
//!
//! Read it in this order:
//! - [`models`]: the models themselves, one table; [`names`]: the features' names, another;
//! - [`feature`], [`model`], [`cache`]: what the tables are written in;
//! - [`selection`]: `--cpu MODEL,+feature,…`;
//! - [`topology`]: sockets, cores, threads and the APIC ids;
//! - [`host`], [`filter`]: what the host can give, and what becomes of a model there;
//! - [`cpuid`]: the leaves that result, for each virtual processor;
//! - [`help`]: the models as a list, for people and for programs;
//! - [`expansion`]: a model, spelled out for programs.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

mod cache;
mod cpuid;
pub mod expansion;
pub mod feature;
pub mod filter;
pub mod help;
pub mod host;
pub mod model;
mod models;
mod names;
pub mod selection;
#[cfg(test)]
mod tests;
pub mod topology;

use feature::{ARCH_CAPABILITIES, AVX10, CORE_CAPABILITY, LM, PAE_OR_PSE36, Word, Words};
use filter::{Features, Missing, NOT_BY_ITSELF, Platform};
use host::Host;
use model::{Signature, Vendor};
use selection::{Processor, Selection};
use topology::Topology;

/// The processor that a guest sees: all that CPUID and the feature MSRs tell of it.
#[derive(Debug, Clone)]
pub struct Cpu {
    platform: Platform,
    topology: Topology,
    features: Words,
    vendor: Vendor,
    signature: Signature,
    brand: [u8; 48],
    caches: &'static cache::Caches,
    levels: Levels,
    avx10_version: u32,
    address_bits: u32,
    guest_address_bits: u32,
    state: Vec<Component>,
    /// The host's monitoring leaves, A and 80000022, if the guest has performance counters.
    counters: Option<[[u32; 4]; 2]>,
    tsc_khz: Option<u32>,
}

/// The highest leaves.
#[derive(Debug, Clone, Copy)]
struct Levels {
    basic: u32,
    /// Of leaf 7.
    subleaf_7: u32,
    extended: u32,
}

/// A component of the state that XSAVE manages, as a subleaf of leaf D describes it.
#[derive(Debug, Clone, Copy)]
struct Component {
    number: u32,
    size: u32,
    offset: u32,
    /// ECX: whether it is aligned in the compacted form, and whether XFD can disable it.
    flags: u32,
}

/// The width of physical addresses that a named model has, unless the host has less.
const ADDRESS_BITS: u32 = 40;

/// The number of a feature MSR, and its value.
pub type Msr = (u32, u64);

impl Cpu {
    /// The processor that was selected, as far as the host has it, and what the host doesn't have.
    pub fn new(
        selection: &Selection,
        topology: Topology,
        platform: Platform,
        host: &Host,
    ) -> (Cpu, Vec<Missing>) {
        let vendor = selection.vendor.unwrap_or_else(|| host.vendor());
        let base = Base::new(selection.processor, vendor, platform, host);
        let mut features = Features::new(base.features, selection.force);
        for (feature, on) in &selection.switches {
            features.switch(*feature, *on);
        }
        let avx10_version = match selection.processor {
            Processor::Host if !features.words.meets(&AVX10) => 0,
            _ => base.avx10_version,
        };
        if topology.per_socket() > 1 {
            features.words = features.words.or(&several_threads(vendor));
        }
        features.settle_dependencies();
        let levels = cpuid::levels(base.levels, &features.words);
        let state = cpuid::components(&features.words, host);
        features.settle_host(host);
        let avx10_version = features.settle_avx10(avx10_version, host);
        features.settle_aliases(vendor);

        let address_bits = match &features.words {
            words if words.meets(&LM) => base.address_bits,
            words if words.meets(&PAE_OR_PSE36) => 36,
            _ => 32,
        };
        let cpu = Cpu {
            platform,
            topology,
            features: features.words,
            vendor,
            signature: base.signature,
            brand: base.brand,
            caches: base.caches,
            levels,
            avx10_version,
            address_bits,
            guest_address_bits: match selection.processor {
                // As QEMU has it: it would change from host to host.
                Processor::Model(_) => 0,
                Processor::Host => host.guest_address_bits().min(address_bits),
            },
            state,
            counters: base.counters,
            tsc_khz: host.tsc_khz,
        };
        (cpu, features.missing)
    }

    /// Whether the guest has a feature, by QEMU's name of it.
    pub fn has(&self, feature: &str) -> bool {
        self.features.has(feature)
    }

    /// The APIC id of a virtual processor.
    pub fn apic_id(&self, processor: u32) -> u32 {
        self.topology.apic_id(processor)
    }

    /// The width of a physical address.
    pub fn address_bits(&self) -> u32 {
        self.address_bits
    }

    /// The feature MSRs that each virtual processor must be given, once its CPUID is set.
    pub fn msrs(&self) -> Vec<Msr> {
        let words =
            [(ARCH_CAPABILITIES, Word::ArchCapabilities), (CORE_CAPABILITY, Word::CoreCapability)];
        let told = words.into_iter().filter(|(feature, _)| self.features.meets(feature));
        told.filter_map(|(_, word)| match word.place() {
            feature::Place::Msr(number) => Some((number, self.features.get(word).into())),
            feature::Place::Cpuid { .. } => None,
        })
        .collect()
    }
}

/// What a processor is before the user's switches and the host's limits.
struct Base {
    features: Words,
    signature: Signature,
    brand: [u8; 48],
    /// The highest basic and extended leaves.
    levels: (u32, u32),
    caches: &'static cache::Caches,
    avx10_version: u32,
    address_bits: u32,
    counters: Option<[[u32; 4]; 2]>,
}

impl Base {
    fn new(processor: Processor, vendor: Vendor, platform: Platform, host: &Host) -> Base {
        match processor {
            Processor::Model(version) => Base {
                features: version.features().without(platform.off()).or(platform.on()),
                signature: version.signature(),
                brand: text(version.model_id().bytes()),
                levels: (version.model.level, version.model.xlevel),
                caches: version.caches(),
                avx10_version: version.avx10_version(),
                address_bits: match host.address_bits() {
                    0 => ADDRESS_BITS,
                    bits => bits.min(ADDRESS_BITS),
                },
                counters: None,
            },
            Processor::Host => Base {
                features: of_host(vendor, host),
                signature: host.signature(),
                brand: host.brand,
                levels: (host.leaf(0, 0)[0], host.leaf(0x8000_0000, 0)[0]),
                caches: &cache::LEGACY,
                avx10_version: host.avx10_version(),
                address_bits: host.address_bits(),
                counters: Some([host.leaf(0xa, 0), host.leaf(0x8000_0022, 0)]),
            },
        }
    }
}

/// What a guest gets of `host`: all that has a name, so that none of it is unknown here.
fn of_host(vendor: Vendor, host: &Host) -> Words {
    let mut named = Words::NONE;
    for word in Word::all() {
        named.set(word, word.named());
    }
    let mut features = host.features.and(&named).without(&NOT_BY_ITSELF);
    if vendor != Vendor::Amd {
        // The recovery from machine checks that leaf 80000007 tells of is AMD's.
        features.clear(Word::Leaf80000007Ebx, u32::MAX);
    }
    features
}

/// What a processor has by having several threads in a package. Linux takes CMP_LEGACY for a sign
/// that its threads are cores, so only processors that follow AMD's ways say it.
fn several_threads(vendor: Vendor) -> Words {
    const ANY: Words = feature::words(&[(Word::Leaf1Edx, "ht")]);
    const NOT_INTEL: Words = feature::words(&[(Word::Leaf80000001Ecx, "cmp-legacy")]);
    if vendor == Vendor::Intel { ANY } else { ANY.or(&NOT_INTEL) }
}

/// A brand string, filled up with zeros.
fn text(bytes: impl Iterator<Item = u8>) -> [u8; 48] {
    let mut text = [0; 48];
    text.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    text
}
