//! What a processor model consists of, and how models are named.

use super::cache::Caches;
use super::feature::Words;
use super::models::MODELS;

/// Who made a processor, as CPUID leaf 0 says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    /// Intel.
    Intel,
    /// AMD.
    Amd,
    /// Hygon, whose processors are AMD's Zen.
    Hygon,
    /// Any other, of which nothing particular is known.
    Other([u8; 12]),
}

impl Vendor {
    /// The vendor of that name.
    pub fn new(name: [u8; 12]) -> Vendor {
        let known = [Vendor::Intel, Vendor::Amd, Vendor::Hygon];
        let found = known.into_iter().find(|vendor| vendor.name() == name);
        found.unwrap_or(Vendor::Other(name))
    }

    /// Its name: twelve characters.
    pub fn name(self) -> [u8; 12] {
        match self {
            Vendor::Intel => *b"GenuineIntel",
            Vendor::Amd => *b"AuthenticAMD",
            Vendor::Hygon => *b"HygonGenuine",
            Vendor::Other(name) => name,
        }
    }
}

/// Family, model and stepping, the extended fields counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    /// Family.
    pub family: u32,
    /// Model.
    pub model: u32,
    /// Stepping.
    pub stepping: u32,
}

impl Signature {
    /// As leaf 1's EAX has it.
    pub fn from_eax(eax: u32) -> Signature {
        let family = (eax >> 8 & 0xf).saturating_add(eax >> 20 & 0xff);
        Signature { family, model: eax >> 4 & 0xf | eax >> 12 & 0xf0, stepping: eax & 0xf }
    }

    /// As leaf 1's EAX has it: a family above 15 takes the extended field.
    pub fn eax(self) -> u32 {
        let extended = self.family.saturating_sub(0xf);
        (self.model >> 4 & 0xf) << 16
            | extended << 20
            | self.family.min(0xf) << 8
            | (self.model & 0xf) << 4
            | self.stepping & 0xf
    }
}

/// A named processor with all its versions.
#[derive(Debug)]
pub struct Model {
    /// Its name without a version.
    pub name: &'static str,
    /// Who made it.
    pub vendor: Vendor,
    /// Family, model and stepping.
    pub signature: Signature,
    /// The highest basic leaf.
    pub level: u32,
    /// The highest extended leaf.
    pub xlevel: u32,
    /// The brand string.
    pub model_id: &'static str,
    /// Its caches.
    pub caches: &'static Caches,
    /// The features of version 1.
    pub features: Words,
    /// Version 2 and on, each as what it changes of the one before.
    pub versions: &'static [Version],
    /// The version that the name without a version means.
    pub bare: u32,
}

/// What a later version of a model changes.
#[derive(Debug)]
pub struct Version {
    /// Its number.
    pub number: u32,
    /// Another name for it.
    pub alias: Option<&'static str>,
    /// Family, model and stepping, where they changed.
    pub signature: Option<Signature>,
    /// The brand string, where it changed.
    pub model_id: Option<&'static str>,
    /// The caches, where they changed.
    pub caches: Option<&'static Caches>,
    /// The version of AVX10 that it has from here on.
    pub avx10_version: u32,
    /// Features that it has more.
    pub on: Words,
    /// Features that it has no longer.
    pub off: Words,
}

impl Version {
    /// One that changes nothing.
    pub const SAME: Version = Version {
        number: 0,
        alias: None,
        signature: None,
        model_id: None,
        caches: None,
        avx10_version: 0,
        on: Words::NONE,
        off: Words::NONE,
    };
}

/// One version of a model.
#[derive(Debug, Clone, Copy)]
pub struct Versioned {
    /// The model.
    pub model: &'static Model,
    /// The version's number.
    pub number: u32,
}

impl Versioned {
    /// Its full name, which is what a migration compares.
    pub fn name(&self) -> String {
        format!("{}-v{}", self.model.name, self.number)
    }

    /// Its features.
    pub fn features(&self) -> Words {
        let change = |words: Words, version: &Version| words.or(&version.on).without(&version.off);
        self.changes().fold(self.model.features, change)
    }

    /// Its family, model and stepping.
    pub fn signature(&self) -> Signature {
        self.changes()
            .filter_map(|version| version.signature)
            .last()
            .unwrap_or(self.model.signature)
    }

    /// Its brand string.
    pub fn model_id(&self) -> &'static str {
        self.changes().filter_map(|version| version.model_id).last().unwrap_or(self.model.model_id)
    }

    /// Its caches.
    pub fn caches(&self) -> &'static Caches {
        self.changes().filter_map(|version| version.caches).last().unwrap_or(self.model.caches)
    }

    /// The version of AVX10 that it has; 0 for none.
    pub fn avx10_version(&self) -> u32 {
        self.changes().map(|version| version.avx10_version).max().unwrap_or(0)
    }

    fn changes(&self) -> impl Iterator<Item = &'static Version> {
        let number = self.number;
        self.model.versions.iter().take_while(move |version| version.number <= number)
    }
}

/// A name that a model goes by.
#[derive(Debug, Clone)]
pub struct Name {
    /// The name.
    pub name: String,
    /// What it stands for.
    pub model: Versioned,
    /// Whether it is another name of a versioned one.
    pub alias: bool,
}

/// Every name of every model: without a version, with each version, and the aliases.
pub fn names() -> impl Iterator<Item = Name> {
    MODELS.iter().flat_map(|model| {
        let version = |number| Versioned { model, number };
        let bare = Name { name: model.name.into(), model: version(model.bare), alias: true };
        let numbers = std::iter::once(1).chain(model.versions.iter().map(|later| later.number));
        let full = numbers.map(move |number| {
            let model = version(number);
            Name { name: model.name(), model, alias: false }
        });
        let alias = move |later: &Version| {
            let model = version(later.number);
            later.alias.map(|name| Name { name: name.into(), model, alias: true })
        };
        std::iter::once(bare).chain(full).chain(model.versions.iter().filter_map(alias))
    })
}

/// The model of that name.
pub fn find(name: &str) -> Option<Versioned> {
    names().find(|known| known.name == name).map(|known| known.model)
}
