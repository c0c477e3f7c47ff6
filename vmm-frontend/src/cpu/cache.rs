//! The caches of the models, and how CPUID tells of them.

use super::topology::Topology;

/// What a cache holds. The value is leaf 4's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data = 1,
    Instruction = 2,
    Unified = 3,
}

/// Who shares a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shared {
    /// The threads of a core.
    Core,
    /// All of a socket.
    Socket,
}

/// A cache. All have one partition, and one line per tag.
#[derive(Debug, Clone, Copy)]
struct Cache {
    kind: Kind,
    level: u32,
    kib: u32,
    ways: u32,
    shared: Shared,
    /// Leaf 4's EAX bit 8: it needs no initialization by software.
    self_initializing: bool,
    /// Leaf 4's EDX.
    properties: u32,
}

/// Leaf 4's EDX: WBINVD does not reach the caches below it of others that share it.
const NO_INVALIDATE: u32 = 1 << 0;
const INCLUSIVE: u32 = 1 << 1;
const COMPLEX_INDEXING: u32 = 1 << 2;

const LINE: u32 = 64;

impl Cache {
    const fn first(kind: Kind, kib: u32, ways: u32) -> Cache {
        Cache {
            kind,
            level: 1,
            kib,
            ways,
            shared: Shared::Core,
            self_initializing: true,
            properties: NO_INVALIDATE,
        }
    }

    const fn second(kib: u32, ways: u32) -> Cache {
        let first = Cache::first(Kind::Unified, kib, ways);
        Cache { level: 2, self_initializing: false, properties: 0, ..first }
    }

    const fn third(kib: u32, properties: u32) -> Cache {
        let first = Cache::first(Kind::Unified, kib, 16);
        Cache { level: 3, shared: Shared::Socket, properties, ..first }
    }

    /// As a subleaf of AMD's leaf 8000001D has it; Intel's leaf 4 has the number of cores besides.
    fn deterministic(&self, topology: Topology) -> [u32; 4] {
        let sharing = match self.shared {
            Shared::Core => topology.core_shift(),
            Shared::Socket => topology.socket_shift(),
        };
        let eax = self.kind as u32
            | self.level << 5
            | u32::from(self.self_initializing) << 8
            | highest(sharing) << 14;
        let ebx = self.ways.saturating_sub(1) << 22 | LINE.saturating_sub(1);
        let way = self.ways.saturating_mul(LINE);
        let sets = self.kib.saturating_mul(1024).checked_div(way).unwrap_or(0);
        [eax, ebx, sets.saturating_sub(1), self.properties]
    }

    /// Its descriptor in leaf 2, SDM volume 2A, table 3-12: FF is for one that has none.
    fn descriptor(&self) -> u32 {
        match (self.level, self.kind, self.kib, self.ways) {
            (1, Kind::Data, 32, 8) => 0x2c,
            (1, Kind::Instruction, 32, 8) => 0x30,
            (2, _, 512, 8) => 0x80,
            (2, _, 1024, 8) => 0x87,
            (2, _, 2048, 8) => 0x7d,
            (3, _, 8192, 16) => 0x4b,
            (3, _, 16384, 16) => 0x4d,
            _ => 0xff,
        }
    }

    /// Lines per tag and line size, as AMD's leaves 80000005 and 80000006 have them.
    const TAG: u32 = 1 << 8 | LINE;

    fn amd_first(&self) -> u32 {
        self.kib << 24 | self.ways << 16 | Cache::TAG
    }

    fn amd_second(&self) -> u32 {
        self.kib << 16 | amd_ways(self.ways) << 12 | Cache::TAG
    }

    fn amd_third(&self) -> u32 {
        self.kib.checked_div(512).unwrap_or(0) << 18 | amd_ways(self.ways) << 12 | Cache::TAG
    }
}

/// The highest number that so many bits can have.
fn highest(bits: u32) -> u32 {
    1u32.checked_shl(bits).unwrap_or(0).wrapping_sub(1)
}

/// Associativity as leaf 80000006 encodes it: APM volume 3, table E-4.
fn amd_ways(ways: u32) -> u32 {
    match ways {
        0..=2 => ways,
        4 => 4,
        8 => 6,
        16 => 8,
        _ => 0,
    }
}

/// A core's caches, as one of the ways to tell of them has it.
#[derive(Debug, Clone, Copy)]
struct Core {
    data: Cache,
    instruction: Cache,
    second: Cache,
    third: Cache,
}

/// The caches of a model.
#[derive(Debug)]
pub struct Caches {
    /// As leaf 2 has them.
    descriptors: Core,
    /// As leaf 4 has them.
    deterministic: Core,
    /// As AMD's leaves have them.
    amd: Core,
}

impl Caches {
    /// Leaf 2.
    pub(super) fn leaf_2(&self) -> [u32; 4] {
        let core = &self.descriptors;
        let edx = core.data.descriptor() << 16
            | core.instruction.descriptor() << 8
            | core.second.descriptor();
        // AL: one call of leaf 2 tells all.
        [1, 0, core.third.descriptor(), edx]
    }

    /// The subleaves of leaf 4.
    pub(super) fn leaf_4(&self, topology: Topology) -> [[u32; 4]; 4] {
        let core = &self.deterministic;
        let cores = topology.socket_shift().saturating_sub(topology.core_shift());
        [core.data, core.instruction, core.second, core.third].map(|cache| {
            let [eax, ebx, ecx, edx] = cache.deterministic(topology);
            [eax | highest(cores) << 26, ebx, ecx, edx]
        })
    }

    /// Leaf 80000005: first-level caches, and TLBs of 255 entries.
    pub(super) fn leaf_80000005(&self) -> [u32; 4] {
        const TLB: u32 = 0x01ff_01ff;
        [TLB, TLB, self.amd.data.amd_first(), self.amd.instruction.amd_first()]
    }

    /// Leaf 80000006: the other caches, and four-way TLBs of 512 entries for pages of 4 KiB.
    pub(super) fn leaf_80000006(&self) -> [u32; 4] {
        [0, 0x4200_4200, self.amd.second.amd_second(), self.amd.third.amd_third()]
    }

    /// The subleaves of leaf 8000001D.
    pub(super) fn leaf_8000001d(&self, topology: Topology) -> [[u32; 4]; 4] {
        let core = &self.amd;
        [core.data, core.instruction, core.second, core.third].map(|cache| {
            let [eax, ebx, ecx, edx] = cache.deterministic(topology);
            // The indexing of a cache is not AMD's to tell.
            [eax, ebx, ecx, edx & (NO_INVALIDATE | INCLUSIVE)]
        })
    }
}

const LEGACY_CORE: Core = Core {
    data: Cache::first(Kind::Data, 32, 8),
    instruction: Cache::first(Kind::Instruction, 32, 8),
    second: Cache { level: 2, ..Cache::first(Kind::Unified, 4096, 16) },
    third: Cache::third(16384, INCLUSIVE | COMPLEX_INDEXING),
};

/// The caches of a model that names none: not those of any processor, and each way to tell of them
/// tells something else. It is what guests have always been shown.
pub(super) static LEGACY: Caches = Caches {
    descriptors: Core { second: Cache::second(2048, 8), ..LEGACY_CORE },
    deterministic: LEGACY_CORE,
    amd: Core {
        data: Cache::first(Kind::Data, 64, 2),
        instruction: Cache::first(Kind::Instruction, 64, 2),
        second: Cache::second(512, 16),
        ..LEGACY_CORE
    },
};

/// A Zen core's caches: its instruction cache, second level and third level.
const fn zen(instruction: Cache, second: u32, third: Cache) -> Caches {
    let core = Core {
        data: Cache::first(Kind::Data, 32, 8),
        instruction,
        second: Cache::second(second, 8),
        third,
    };
    Caches { descriptors: core, deterministic: core, amd: core }
}

const INSTRUCTION_64K: Cache = Cache::first(Kind::Instruction, 64, 4);
const INSTRUCTION_32K: Cache = Cache::first(Kind::Instruction, 32, 8);

// Complex indexing was said of the first versions and taken back in later ones.
pub(super) static EPYC: Caches =
    zen(INSTRUCTION_64K, 512, Cache::third(8192, INCLUSIVE | COMPLEX_INDEXING));
pub(super) static EPYC_V4: Caches = zen(INSTRUCTION_64K, 512, Cache::third(8192, INCLUSIVE));
pub(super) static EPYC_ROME: Caches =
    zen(INSTRUCTION_32K, 512, Cache::third(16384, INCLUSIVE | COMPLEX_INDEXING));
pub(super) static EPYC_ROME_V3: Caches = zen(INSTRUCTION_32K, 512, Cache::third(16384, INCLUSIVE));
pub(super) static EPYC_MILAN: Caches =
    zen(INSTRUCTION_32K, 512, Cache::third(32768, INCLUSIVE | COMPLEX_INDEXING));
pub(super) static EPYC_MILAN_V2: Caches = zen(INSTRUCTION_32K, 512, Cache::third(32768, INCLUSIVE));
pub(super) static EPYC_GENOA: Caches = zen(INSTRUCTION_32K, 1024, Cache::third(32768, INCLUSIVE));
