//! CPU features by name: what QEMU calls them, and where the processor reports them.

use super::names::{ALIASES, NAMES};

/// A register of feature bits: of a CPUID leaf, or a model-specific register that a processor has
/// only to report features. In the order in which QEMU checks them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // Each is named after its leaf and register, in hexadecimal.
pub enum Word {
    Leaf1Edx,
    Leaf1Ecx,
    Leaf7Ebx,
    Leaf7Ecx,
    Leaf7Edx,
    Leaf7_1Eax,
    Leaf80000001Edx,
    Leaf80000001Ecx,
    Leaf80000007Ebx,
    Leaf80000007Edx,
    Leaf80000008Ebx,
    Leaf80000021Eax,
    Leaf80000022Eax,
    KvmFeatures,
    KvmHints,
    Leaf8000000AEdx,
    LeafD1Eax,
    Leaf6Eax,
    ArchCapabilities,
    CoreCapability,
    Leaf7_1Edx,
    Leaf7_2Edx,
    Leaf24Ebx,
}

/// A register that CPUID returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// Where a word is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// From CPUID.
    Cpuid {
        /// EAX, the leaf.
        leaf: u32,
        /// ECX, the subleaf.
        subleaf: u32,
        /// The register of the answer.
        register: Register,
    },
    /// From a model-specific register.
    Msr(u32),
}

impl Word {
    pub(super) const COUNT: usize = Word::Leaf24Ebx as usize + 1;

    /// All of them.
    pub fn all() -> impl Iterator<Item = Word> {
        NAMES.iter().map(|(word, _)| *word)
    }

    /// Where it is read.
    pub fn place(self) -> Place {
        use Register::*;
        let (leaf, subleaf, register) = match self {
            Word::Leaf1Edx => (1, 0, Edx),
            Word::Leaf1Ecx => (1, 0, Ecx),
            Word::Leaf7Ebx => (7, 0, Ebx),
            Word::Leaf7Ecx => (7, 0, Ecx),
            Word::Leaf7Edx => (7, 0, Edx),
            Word::Leaf7_1Eax => (7, 1, Eax),
            Word::Leaf7_1Edx => (7, 1, Edx),
            Word::Leaf7_2Edx => (7, 2, Edx),
            Word::Leaf24Ebx => (0x24, 0, Ebx),
            Word::Leaf80000001Edx => (0x8000_0001, 0, Edx),
            Word::Leaf80000001Ecx => (0x8000_0001, 0, Ecx),
            Word::Leaf80000007Ebx => (0x8000_0007, 0, Ebx),
            Word::Leaf80000007Edx => (0x8000_0007, 0, Edx),
            Word::Leaf80000008Ebx => (0x8000_0008, 0, Ebx),
            Word::Leaf80000021Eax => (0x8000_0021, 0, Eax),
            Word::Leaf80000022Eax => (0x8000_0022, 0, Eax),
            Word::KvmFeatures => (0x4000_0001, 0, Eax),
            Word::KvmHints => (0x4000_0001, 0, Edx),
            Word::Leaf8000000AEdx => (0x8000_000a, 0, Edx),
            Word::LeafD1Eax => (0xd, 1, Eax),
            Word::Leaf6Eax => (6, 0, Eax),
            Word::ArchCapabilities => return Place::Msr(0x10a),
            Word::CoreCapability => return Place::Msr(0xcf),
        };
        Place::Cpuid { leaf, subleaf, register }
    }

    /// The features of this word: their bits and names.
    pub fn names(self) -> &'static [(u32, &'static str)] {
        let found = NAMES.iter().find(|(word, _)| *word == self);
        found.map_or(&[], |(_, names)| names)
    }

    /// The bits that have a name. QEMU passes no other through to a guest.
    pub fn named(self) -> u32 {
        self.names().iter().fold(0, |bits, (bit, _)| bits | 1 << bit)
    }

    /// The name of a bit, if it has one.
    pub fn name(self, bit: u32) -> Option<&'static str> {
        let found = self.names().iter().find(|(at, _)| *at == bit);
        found.map(|(_, name)| *name)
    }
}

/// A set of features: the value of each word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Words([u32; Word::COUNT]);

impl Words {
    /// No feature.
    pub const NONE: Words = Words([0; Word::COUNT]);

    /// A word's value.
    pub fn get(&self, word: Word) -> u32 {
        self.0.get(word as usize).copied().unwrap_or(0)
    }

    /// Turns bits of a word on.
    pub fn set(&mut self, word: Word, bits: u32) {
        if let Some(value) = self.0.get_mut(word as usize) {
            *value |= bits;
        }
    }

    /// Turns bits of a word off.
    pub fn clear(&mut self, word: Word, bits: u32) {
        if let Some(value) = self.0.get_mut(word as usize) {
            *value &= !bits;
        }
    }

    /// What is in either set.
    pub fn or(&self, other: &Words) -> Words {
        self.combine(other, |this, that| this | that)
    }

    /// What is in both sets.
    pub fn and(&self, other: &Words) -> Words {
        self.combine(other, |this, that| this & that)
    }

    /// What is in this set and not in the other.
    pub fn without(&self, other: &Words) -> Words {
        self.combine(other, |this, that| this & !that)
    }

    /// Whether the two have anything in common.
    pub fn meets(&self, other: &Words) -> bool {
        self.and(other) != Words::NONE
    }

    /// Whether a feature is on.
    pub fn has(&self, name: &str) -> bool {
        find(name).is_some_and(|feature| self.get(feature.word) & feature.bits == feature.bits)
    }

    /// Each bit that is on, in the order of words and bits.
    pub fn bits(&self) -> impl Iterator<Item = (Word, u32)> {
        let of = move |word| (0..u32::BITS).filter(move |bit| self.get(word) >> bit & 1 == 1);
        Word::all().flat_map(move |word| of(word).map(move |bit| (word, bit)))
    }

    fn combine(&self, other: &Words, with: impl Fn(u32, u32) -> u32) -> Words {
        let mut result = *self;
        for (value, other) in result.0.iter_mut().zip(other.0) {
            *value = with(*value, other);
        }
        result
    }
}

/// A set of features by their names, word by word. It is worked out by the compiler, which refuses
/// a name that the word doesn't have.
#[expect(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
pub(super) const fn words(list: &[(Word, &str)]) -> Words {
    let mut result = Words::NONE;
    let mut entry = 0;
    while entry < list.len() {
        let (word, text) = list[entry];
        let text = text.as_bytes();
        let mut start = 0;
        while start < text.len() {
            let mut end = start;
            while end < text.len() && text[end] != b' ' {
                end += 1;
            }
            result.0[word as usize] |= bits_of(NAMES[word as usize].1, text, start, end);
            start = end + 1;
        }
        entry += 1;
    }
    result
}

/// Every bit of a word.
#[expect(clippy::indexing_slicing)]
pub(super) const fn all_of(word: Word) -> Words {
    let mut result = Words::NONE;
    result.0[word as usize] = u32::MAX;
    result
}

/// The bits that go by the name at `text[start..end]`.
#[expect(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
const fn bits_of(names: &[(u32, &str)], text: &[u8], start: usize, end: usize) -> u32 {
    let mut bits = 0;
    let mut at = 0;
    while at < names.len() {
        let (bit, name) = names[at];
        let name = name.as_bytes();
        let mut same = name.len() == end - start;
        let mut byte = 0;
        while same && byte < name.len() {
            same = name[byte] == text[start + byte];
            byte += 1;
        }
        if same {
            bits |= 1 << bit;
        }
        at += 1;
    }
    assert!(bits != 0, "the word has no feature of that name");
    bits
}

// Those that decide what leaves there are.
pub(super) const XSAVE: Words = words(&[(Word::Leaf1Ecx, "xsave")]);
pub(super) const LM: Words = words(&[(Word::Leaf80000001Edx, "lm")]);
pub(super) const SVM: Words = words(&[(Word::Leaf80000001Ecx, "svm")]);
pub(super) const AVX: Words = words(&[(Word::Leaf1Ecx, "avx")]);
pub(super) const MPX: Words = words(&[(Word::Leaf7Ebx, "mpx")]);
pub(super) const AVX10: Words = words(&[(Word::Leaf7_1Edx, "avx10")]);
pub(super) const AVX512_OR_10: Words =
    words(&[(Word::Leaf7Ebx, "avx512f"), (Word::Leaf7_1Edx, "avx10")]);
pub(super) const PKU: Words = words(&[(Word::Leaf7Ecx, "pku")]);
pub(super) const LA57: Words = words(&[(Word::Leaf7Ecx, "la57")]);
pub(super) const AMX_TILE: Words = words(&[(Word::Leaf7Edx, "amx-tile")]);
pub(super) const INVTSC: Words = words(&[(Word::Leaf80000007Edx, "invtsc")]);
pub(super) const PERFMON_V2: Words = words(&[(Word::Leaf80000022Eax, "perfmon-v2")]);
pub(super) const ARCH_CAPABILITIES: Words = words(&[(Word::Leaf7Edx, "arch-capabilities")]);
pub(super) const CORE_CAPABILITY: Words = words(&[(Word::Leaf7Edx, "core-capability")]);
/// What widens physical addresses to 36 bits where there is no long mode.
pub(super) const PAE_OR_PSE36: Words = words(&[(Word::Leaf1Edx, "pae pse36")]);

/// A feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    /// QEMU's name for it.
    pub name: &'static str,
    /// Where it is reported.
    pub word: Word,
    /// Its bits: one, or two (kvmclock).
    pub bits: u32,
}

/// The feature of that name, which may be an older spelling: `sse3`, `sse4_1`.
pub fn find(name: &str) -> Option<Feature> {
    let name = name.replace('_', "-");
    let alias = ALIASES.iter().find(|(alias, _)| *alias == name);
    let name = alias.map_or(name.as_str(), |(_, name)| name);
    let of = |word: Word| {
        let mut same = word.names().iter().filter(|(_, known)| *known == name).peekable();
        let (_, name) = **same.peek()?;
        Some(Feature { name, word, bits: same.fold(0, |bits, (bit, _)| bits | 1 << bit) })
    };
    Word::all().find_map(of)
}

/// The feature whose name is closest to one that isn't any.
pub fn closest(name: &str) -> &'static str {
    let name = name.replace('_', "-");
    let names = Word::all().flat_map(|word| word.names()).map(|(_, known)| *known);
    names.min_by_key(|known| strsim::damerau_levenshtein(known, &name)).unwrap_or_default()
}
