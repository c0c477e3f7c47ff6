//! The processor models, as QEMU 10.0 defines them: the one place to compare with the manuals.
//!
//! A model is written as the features of its first version, by register, in QEMU's spelling. Each
//! later version is what it changes of the one before. What KVM makes of a model on a given host
//! (x2APIC on, SVM off, …) is not written here but done in [`super::filter`].
//!
//! Left out: processors older than these, VIA's, and what the VMX capability MSRs of each model say.
//! With `+vmx`, which no model has by itself, they are the host's.

use super::cache;
use super::feature::Word::*;
use super::feature::words;
use super::model::{Model, Signature, Vendor, Version};

/// Every model, in the order of their appearance: Intel's, Intel's small cores, AMD's.
pub(super) static MODELS: &[Model] = &[
    QEMU64,
    KVM64,
    CONROE,
    PENRYN,
    NEHALEM,
    WESTMERE,
    SANDYBRIDGE,
    IVYBRIDGE,
    HASWELL,
    BROADWELL,
    SKYLAKE_CLIENT,
    SKYLAKE_SERVER,
    CASCADELAKE_SERVER,
    COOPERLAKE,
    ICELAKE_SERVER,
    SAPPHIRERAPIDS,
    GRANITERAPIDS,
    KNIGHTSMILL,
    DENVERTON,
    SNOWRIDGE,
    SIERRAFOREST,
    CLEARWATERFOREST,
    OPTERON_G1,
    OPTERON_G2,
    OPTERON_G3,
    OPTERON_G4,
    OPTERON_G5,
    EPYC,
    EPYC_ROME,
    EPYC_MILAN,
    EPYC_GENOA,
    DHYANA,
];

/// What nearly every 64-bit processor has in leaf 1's EDX.
const BASE_1_EDX: &str = "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 \
                          clflush mmx fxsr sse sse2";

const QEMU64: Model = Model {
    name: "qemu64",
    vendor: Vendor::Amd,
    signature: Signature { family: 15, model: 107, stepping: 1 },
    level: 0xd,
    xlevel: 0x8000_000a,
    model_id: "QEMU Virtual CPU version 2.5+",
    caches: &cache::LEGACY,
    features: words(&[
        (
            Leaf1Edx,
            "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr \
             sse sse2",
        ),
        (Leaf1Ecx, "pni cx16"),
        (Leaf80000001Edx, "syscall nx lm"),
        (Leaf80000001Ecx, "lahf-lm svm"),
    ]),
    versions: &[],
    bare: 1,
};

const KVM64: Model = Model {
    name: "kvm64",
    vendor: Vendor::Intel,
    signature: Signature { family: 15, model: 6, stepping: 1 },
    level: 0xd,
    xlevel: 0x8000_0008,
    model_id: "Common KVM processor",
    caches: &cache::LEGACY,
    features: words(&[
        (Leaf1Edx, BASE_1_EDX),
        (Leaf1Ecx, "pni cx16"),
        (Leaf80000001Edx, "syscall nx lm"),
    ]),
    versions: &[],
    bare: 1,
};

const CONROE: Model = Model {
    name: "Conroe",
    vendor: Vendor::Intel,
    signature: Signature { family: 6, model: 15, stepping: 3 },
    level: 0xa,
    xlevel: 0x8000_0008,
    model_id: "Intel Celeron_4x0 (Conroe/Merom Class Core 2)",
    caches: &cache::LEGACY,
    features: words(&[
        (Leaf1Edx, BASE_1_EDX),
        (Leaf1Ecx, "pni ssse3"),
        (Leaf80000001Edx, "syscall nx lm"),
        (Leaf80000001Ecx, "lahf-lm"),
    ]),
    versions: &[],
    bare: 1,
};

const PENRYN: Model = Model {
    name: "Penryn",
    vendor: Vendor::Intel,
    signature: Signature { family: 6, model: 23, stepping: 3 },
    level: 0xa,
    xlevel: 0x8000_0008,
    model_id: "Intel Core 2 Duo P9xxx (Penryn Class Core 2)",
    caches: &cache::LEGACY,
    features: words(&[
        (Leaf1Edx, BASE_1_EDX),
        (Leaf1Ecx, "pni ssse3 cx16 sse4.1"),
        (Leaf80000001Edx, "syscall nx lm"),
        (Leaf80000001Ecx, "lahf-lm"),
    ]),
    versions: &[],
    bare: 1,
};

const NEHALEM: Model = Model {
    name: "Nehalem",
    vendor: Vendor::Intel,
    signature: Signature { family: 6, model: 26, stepping: 3 },
    level: 0xb,
    xlevel: 0x8000_0008,
    model_id: "Intel Core i7 9xx (Nehalem Class Core i7)",
    caches: &cache::LEGACY,
    features: words(&[
        (Leaf1Edx, BASE_1_EDX),
        (Leaf1Ecx, "pni ssse3 cx16 sse4.1 sse4.2 popcnt"),
        (Leaf80000001Edx, "syscall nx lm"),
        (Leaf80000001Ecx, "lahf-lm"),
    ]),
    versions: &[Version {
        number: 2,
        alias: Some("Nehalem-IBRS"),
        model_id: Some("Intel Core i7 9xx (Nehalem Core i7, IBRS update)"),
        on: words(&[(Leaf7Edx, "spec-ctrl")]),
        ..Version::SAME
    }],
    bare: 1,
};

const WESTMERE: Model = Model {
    name: "Westmere",
    vendor: Vendor::Intel,
    signature: Signature { family: 6, model: 44, stepping: 1 },
    level: 0xb,
    xlevel: 0x8000_0008,
    model_id: "Westmere E56xx/L56xx/X56xx (Nehalem-C)",
    caches: &cache::LEGACY,
    features: words(&[
        (Leaf1Edx, BASE_1_EDX),
        (Leaf1Ecx, "pni pclmulqdq ssse3 cx16 sse4.1 sse4.2 popcnt aes"),
        (Leaf80000001Edx, "syscall nx lm"),
        (Leaf80000001Ecx, "lahf-lm"),
        (Leaf6Eax, "arat"),
    ]),
    versions: &[Version {
        number: 2,
        alias: Some("Westmere-IBRS"),
        model_id: Some("Westmere E56xx/L56xx/X56xx (IBRS update)"),
        on: words(&[(Leaf7Edx, "spec-ctrl")]),
        ..Version::SAME
    }],
    bare: 1,
};

const SANDYBRIDGE: Model = Model {
    name: "SandyBridge",
    vendor: Vendor::Intel,
    signature: Signature { family: 6, model: 42, stepping: 1 },
    level: 0xd,
    xlevel: 0x8000_0008,
    model_id: "Intel Xeon E312xx (Sandy Bridge)",
    caches: &cache::LEGACY,
    features: words(&[
        (Leaf1Edx, BASE_1_EDX),
        (
            Leaf1Ecx,
            "pni pclmulqdq ssse3 cx16 sse4.1 sse4.2 x2apic popcnt tsc-deadline aes xsave avx",
        ),
        (Leaf80000001Edx, "syscall nx rdtscp lm"),
        (Leaf80000001Ecx, "lahf-lm"),
        (LeafD1Eax, "xsaveopt"),
        (Leaf6Eax, "arat"),
    ]),
    versions: &[Version {
        number: 2,
        alias: Some("SandyBridge-IBRS"),
        model_id: Some("Intel Xeon E312xx (Sandy Bridge, IBRS update)"),
        on: words(&[(Leaf7Edx, "spec-ctrl")]),
        ..Version::SAME
    }],
    bare: 1,
};

const IVYBRIDGE: Model = Model {
    name: "IvyBridge",
    vendor: Vendor::Intel,
    signature: Signature { family: 6, model: 58, stepping: 9 },
    level: 0xd,
    xlevel: 0x8000_0008,
    model_id: "Intel Xeon E3-12xx v2 (Ivy Bridge)",
    caches: &cache::LEGACY,
    features: words(&[
        (Leaf1Edx, BASE_1_EDX),
        (
            Leaf1Ecx,
            "pni pclmulqdq ssse3 cx16 sse4.1 sse4.2 x2apic popcnt tsc-deadline aes xsave avx f16c \
             rdrand",
        ),
        (Leaf7Ebx, "fsgsbase smep erms"),
        (Leaf80000001Edx, "syscall nx rdtscp lm"),
        (Leaf80000001Ecx, "lahf-lm"),
        (LeafD1Eax, "xsaveopt"),
        (Leaf6Eax, "arat"),
    ]),
    versions: &[Version {
        number: 2,
        alias: Some("IvyBridge-IBRS"),
        model_id: Some("Intel Xeon E3-12xx v2 (Ivy Bridge, IBRS)"),
        on: words(&[(Leaf7Edx, "spec-ctrl")]),
        ..Version::SAME
    }],
    bare: 1,
};

const HASWELL: Model = Model {
    name: "Haswell",
    vendor: Vendor::Intel,
    signature: Signature { family: 6, model: 60, stepping: 4 },
    level: 0xd,
    xlevel: 0x8000_0008,
    model_id: "Intel Core Processor (Haswell)",
    caches: &cache::LEGACY,
    features: words(&[
        (Leaf1Edx, BASE_1_EDX),
        (
            Leaf1Ecx,
            "pni pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes \
             xsave avx f16c rdrand",
        ),
        (Leaf7Ebx, "fsgsbase bmi1 hle avx2 smep bmi2 erms invpcid rtm"),
        (Leaf80000001Edx, "syscall nx rdtscp lm"),
        (Leaf80000001Ecx, "lahf-lm abm"),
        (LeafD1Eax, "xsaveopt"),
        (Leaf6Eax, "arat"),
    ]),
    versions: &[
        Version {
            number: 2,
            alias: Some("Haswell-noTSX"),
            signature: Some(Signature { family: 6, model: 60, stepping: 1 }),
            model_id: Some("Intel Core Processor (Haswell, no TSX)"),
            off: words(&[(Leaf7Ebx, "hle rtm")]),
            ..Version::SAME
        },
        Version {
            number: 3,
            alias: Some("Haswell-IBRS"),
            signature: Some(Signature { family: 6, model: 60, stepping: 4 }),
            model_id: Some("Intel Core Processor (Haswell, IBRS)"),
            on: words(&[(Leaf7Ebx, "hle rtm"), (Leaf7Edx, "spec-ctrl")]),
            ..Version::SAME
        },
        Version {
            number: 4,
            alias: Some("Haswell-noTSX-IBRS"),
            signature: Some(Signature { family: 6, model: 60, stepping: 1 }),
            model_id: Some("Intel Core Processor (Haswell, no TSX, IBRS)"),
            off: words(&[(Leaf7Ebx, "hle rtm")]),
            ..Version::SAME
        },
    ],
    bare: 1,
};

const BROADWELL: Model = Model {
    name: "Broadwell",
    vendor: Vendor::Intel,
    signature: Signature { family: 6, model: 61, stepping: 2 },
    level: 0xd,
    xlevel: 0x8000_0008,
    model_id: "Intel Core Processor (Broadwell)",
    caches: &cache::LEGACY,
    features: words(&[
        (Leaf1Edx, BASE_1_EDX),
        (
            Leaf1Ecx,
            "pni pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes \
             xsave avx f16c rdrand",
        ),
        (Leaf7Ebx, "fsgsbase bmi1 hle avx2 smep bmi2 erms invpcid rtm rdseed adx smap"),
        (Leaf80000001Edx, "syscall nx rdtscp lm"),
        (Leaf80000001Ecx, "lahf-lm abm 3dnowprefetch"),
        (LeafD1Eax, "xsaveopt"),
        (Leaf6Eax, "arat"),
    ]),
    versions: &[
        Version {
            number: 2,
            alias: Some("Broadwell-noTSX"),
            model_id: Some("Intel Core Processor (Broadwell, no TSX)"),
            off: words(&[(Leaf7Ebx, "hle rtm")]),
            ..Version::SAME
        },
        Version {
            number: 3,
            alias: Some("Broadwell-IBRS"),
            model_id: Some("Intel Core Processor (Broadwell, IBRS)"),
            on: words(&[(Leaf7Ebx, "hle rtm"), (Leaf7Edx, "spec-ctrl")]),
            ..Version::SAME
        },
        Version {
            number: 4,
            alias: Some("Broadwell-noTSX-IBRS"),
            model_id: Some("Intel Core Processor (Broadwell, no TSX, IBRS)"),
            off: words(&[(Leaf7Ebx, "hle rtm")]),
            ..Version::SAME
        },
    ],
    bare: 1,
};

const SKYLAKE_CLIENT: Model = Model {
    name: "Skylake-Client",
    vendor: Vendor::Intel,
    signature: Signature { family: 6, model: 94, stepping: 3 },
    level: 0xd,
    xlevel: 0x8000_0008,
    model_id: "Intel Core Processor (Skylake)",
    caches: &cache::LEGACY,
    features: words(&[
        (Leaf1Edx, BASE_1_EDX),
        (
            Leaf1Ecx,
            "pni pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes \
             xsave avx f16c rdrand",
        ),
        (Leaf7Ebx, "fsgsbase bmi1 hle avx2 smep bmi2 erms invpcid rtm rdseed adx smap"),
        (Leaf80000001Edx, "syscall nx rdtscp lm"),
        (Leaf80000001Ecx, "lahf-lm abm 3dnowprefetch"),
        (LeafD1Eax, "xsaveopt xsavec xgetbv1"),
        (Leaf6Eax, "arat"),
    ]),
    versions: &[
        Version {
            number: 2,
            alias: Some("Skylake-Client-IBRS"),
            model_id: Some("Intel Core Processor (Skylake, IBRS)"),
            on: words(&[(Leaf7Edx, "spec-ctrl")]),
            ..Version::SAME
        },
        Version {
            number: 3,
            alias: Some("Skylake-Client-noTSX-IBRS"),
            model_id: Some("Intel Core Processor (Skylake, IBRS, no TSX)"),
            off: words(&[(Leaf7Ebx, "hle rtm")]),
            ..Version::SAME
        },
        Version { number: 4, on: words(&[(LeafD1Eax, "xsaves")]), ..Version::SAME },
    ],
    bare: 1,
};

const SKYLAKE_SERVER: Model = Model {
    name: "Skylake-Server",
    vendor: Vendor::Intel,
    signature: Signature { family: 6, model: 85, stepping: 4 },
    level: 0xd,
    xlevel: 0x8000_0008,
    model_id: "Intel Xeon Processor (Skylake)",
    caches: &cache::LEGACY,
    features: words(&[
        (Leaf1Edx, BASE_1_EDX),
        (
            Leaf1Ecx,
            "pni pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes \
             xsave avx f16c rdrand",
        ),
        (
            Leaf7Ebx,
            "fsgsbase bmi1 hle avx2 smep bmi2 erms invpcid rtm avx512f avx512dq rdseed adx smap \
             clflushopt clwb avx512cd avx512bw avx512vl",
        ),
        (Leaf7Ecx, "pku"),
        (Leaf80000001Edx, "syscall nx pdpe1gb rdtscp lm"),
        (Leaf80000001Ecx, "lahf-lm abm 3dnowprefetch"),
        (LeafD1Eax, "xsaveopt xsavec xgetbv1"),
        (Leaf6Eax, "arat"),
    ]),
    versions: &[
        Version {
            number: 2,
            alias: Some("Skylake-Server-IBRS"),
            model_id: Some("Intel Xeon Processor (Skylake, IBRS)"),
            on: words(&[(Leaf7Edx, "spec-ctrl")]),
            off: words(&[(Leaf7Ebx, "clflushopt")]),
            ..Version::SAME
        },
        Version {
            number: 3,
            alias: Some("Skylake-Server-noTSX-IBRS"),
            model_id: Some("Intel Xeon Processor (Skylake, IBRS, no TSX)"),
            off: words(&[(Leaf7Ebx, "hle rtm")]),
            ..Version::SAME
        },
        Version { number: 4, ..Version::SAME },
        Version { number: 5, on: words(&[(LeafD1Eax, "xsaves")]), ..Version::SAME },
    ],
    bare: 1,
};

const CASCADELAKE_SERVER: Model = Model {
    name: "Cascadelake-Server",
    vendor: Vendor::Intel,
    signature: Signature { family: 6, model: 85, stepping: 6 },
    level: 0xd,
    xlevel: 0x8000_0008,
    model_id: "Intel Xeon Processor (Cascadelake)",
    caches: &cache::LEGACY,
    features: words(&[
        (Leaf1Edx, BASE_1_EDX),
        (
            Leaf1Ecx,
            "pni pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes \
             xsave avx f16c rdrand",
        ),
        (
            Leaf7Ebx,
            "fsgsbase bmi1 hle avx2 smep bmi2 erms invpcid rtm avx512f avx512dq rdseed adx smap \
             clflushopt clwb avx512cd avx512bw avx512vl",
        ),
        (Leaf7Ecx, "pku avx512vnni"),
        (Leaf7Edx, "spec-ctrl ssbd"),
        (Leaf80000001Edx, "syscall nx pdpe1gb rdtscp lm"),
        (Leaf80000001Ecx, "lahf-lm abm 3dnowprefetch"),
        (LeafD1Eax, "xsaveopt xsavec xgetbv1"),
        (Leaf6Eax, "arat"),
    ]),
    versions: &[
        Version {
            number: 2,
            on: words(&[
                (Leaf7Edx, "arch-capabilities"),
                (ArchCapabilities, "rdctl-no ibrs-all skip-l1dfl-vmentry mds-no"),
            ]),
            ..Version::SAME
        },
        Version {
            number: 3,
            alias: Some("Cascadelake-Server-noTSX"),
            off: words(&[(Leaf7Ebx, "hle rtm")]),
            ..Version::SAME
        },
        Version { number: 4, ..Version::SAME },
        Version { number: 5, on: words(&[(LeafD1Eax, "xsaves")]), ..Version::SAME },
    ],
    bare: 1,
};

const COOPERLAKE: Model = Model {
    name: "Cooperlake",
    vendor: Vendor::Intel,
    signature: Signature { family: 6, model: 85, stepping: 10 },
    level: 0xd,
    xlevel: 0x8000_0008,
    model_id: "Intel Xeon Processor (Cooperlake)",
    caches: &cache::LEGACY,
    features: words(&[
        (Leaf1Edx, BASE_1_EDX),
        (
            Leaf1Ecx,
            "pni pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes \
             xsave avx f16c rdrand",
        ),
        (
            Leaf7Ebx,
            "fsgsbase bmi1 hle avx2 smep bmi2 erms invpcid rtm avx512f avx512dq rdseed adx smap \
             clflushopt clwb avx512cd avx512bw avx512vl",
        ),
        (Leaf7Ecx, "pku avx512vnni"),
        (Leaf7Edx, "spec-ctrl stibp arch-capabilities ssbd"),
        (Leaf7_1Eax, "avx512-bf16"),
        (Leaf80000001Edx, "syscall nx pdpe1gb rdtscp lm"),
        (Leaf80000001Ecx, "lahf-lm abm 3dnowprefetch"),
        (LeafD1Eax, "xsaveopt xsavec xgetbv1"),
        (Leaf6Eax, "arat"),
        (ArchCapabilities, "rdctl-no ibrs-all skip-l1dfl-vmentry mds-no pschange-mc-no taa-no"),
    ]),
    versions: &[Version { number: 2, on: words(&[(LeafD1Eax, "xsaves")]), ..Version::SAME }],
    bare: 1,
};

const ICELAKE_SERVER: Model = Model {
    name: "Icelake-Server",
    vendor: Vendor::Intel,
    signature: Signature { family: 6, model: 134, stepping: 0 },
    level: 0xd,
    xlevel: 0x8000_0008,
    model_id: "Intel Xeon Processor (Icelake)",
    caches: &cache::LEGACY,
    features: words(&[
        (Leaf1Edx, BASE_1_EDX),
        (
            Leaf1Ecx,
            "pni pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes \
             xsave avx f16c rdrand",
        ),
        (
            Leaf7Ebx,
            "fsgsbase bmi1 hle avx2 smep bmi2 erms invpcid rtm avx512f avx512dq rdseed adx smap \
             clflushopt clwb avx512cd avx512bw avx512vl",
        ),
        (
            Leaf7Ecx,
            "avx512vbmi umip pku avx512vbmi2 gfni vaes vpclmulqdq avx512vnni avx512bitalg \
             avx512-vpopcntdq la57",
        ),
        (Leaf7Edx, "spec-ctrl ssbd"),
        (Leaf80000001Edx, "syscall nx pdpe1gb rdtscp lm"),
        (Leaf80000001Ecx, "lahf-lm abm 3dnowprefetch"),
        (Leaf80000008Ebx, "wbnoinvd"),
        (LeafD1Eax, "xsaveopt xsavec xgetbv1"),
        (Leaf6Eax, "arat"),
    ]),
    versions: &[
        Version {
            number: 2,
            alias: Some("Icelake-Server-noTSX"),
            off: words(&[(Leaf7Ebx, "hle rtm")]),
            ..Version::SAME
        },
        Version {
            number: 3,
            on: words(&[
                (Leaf7Edx, "arch-capabilities"),
                (
                    ArchCapabilities,
                    "rdctl-no ibrs-all skip-l1dfl-vmentry mds-no pschange-mc-no taa-no",
                ),
            ]),
            ..Version::SAME
        },
        Version {
            number: 4,
            signature: Some(Signature { family: 6, model: 106, stepping: 0 }),
            on: words(&[(Leaf7Ebx, "avx512ifma sha-ni"), (Leaf7Ecx, "rdpid"), (Leaf7Edx, "fsrm")]),
            ..Version::SAME
        },
        Version { number: 5, on: words(&[(LeafD1Eax, "xsaves")]), ..Version::SAME },
        Version { number: 6, ..Version::SAME },
        Version { number: 7, on: words(&[(Leaf7Ebx, "hle rtm")]), ..Version::SAME },
    ],
    bare: 1,
};

const SAPPHIRERAPIDS: Model = Model {
    name: "SapphireRapids",
    vendor: Vendor::Intel,
    signature: Signature { family: 6, model: 143, stepping: 4 },
    level: 0x20,
    xlevel: 0x8000_0008,
    model_id: "Intel Xeon Processor (SapphireRapids)",
    caches: &cache::LEGACY,
    features: words(&[
        (Leaf1Edx, BASE_1_EDX),
        (
            Leaf1Ecx,
            "pni pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes \
             xsave avx f16c rdrand",
        ),
        (
            Leaf7Ebx,
            "fsgsbase bmi1 hle avx2 smep bmi2 erms invpcid rtm avx512f avx512dq rdseed adx smap \
             avx512ifma clflushopt clwb avx512cd sha-ni avx512bw avx512vl",
        ),
        (
            Leaf7Ecx,
            "avx512vbmi umip pku avx512vbmi2 gfni vaes vpclmulqdq avx512vnni avx512bitalg \
             avx512-vpopcntdq la57 rdpid bus-lock-detect",
        ),
        (
            Leaf7Edx,
            "fsrm serialize tsx-ldtrk amx-bf16 avx512-fp16 amx-tile amx-int8 spec-ctrl \
             arch-capabilities ssbd",
        ),
        (Leaf7_1Eax, "avx-vnni avx512-bf16 fzrm fsrs fsrc"),
        (Leaf80000001Edx, "syscall nx pdpe1gb rdtscp lm"),
        (Leaf80000001Ecx, "lahf-lm abm 3dnowprefetch"),
        (Leaf80000008Ebx, "wbnoinvd"),
        (LeafD1Eax, "xsaveopt xsavec xgetbv1 xsaves xfd"),
        (Leaf6Eax, "arat"),
        (ArchCapabilities, "rdctl-no ibrs-all skip-l1dfl-vmentry mds-no pschange-mc-no taa-no"),
    ]),
    versions: &[
        Version {
            number: 2,
            on: words(&[(ArchCapabilities, "sbdr-ssdp-no fbsdp-no psdp-no")]),
            ..Version::SAME
        },
        Version {
            number: 3,
            on: words(&[
                (Leaf1Edx, "ss"),
                (Leaf7Ebx, "tsc-adjust"),
                (Leaf7Ecx, "cldemote movdiri movdir64b"),
            ]),
            ..Version::SAME
        },
    ],
    bare: 1,
};

const GRANITERAPIDS: Model = Model {
    name: "GraniteRapids",
    vendor: Vendor::Intel,
    signature: Signature { family: 6, model: 173, stepping: 0 },
    level: 0x20,
    xlevel: 0x8000_0008,
    model_id: "Intel Xeon Processor (GraniteRapids)",
    caches: &cache::LEGACY,
    features: words(&[
        (Leaf1Edx, BASE_1_EDX),
        (
            Leaf1Ecx,
            "pni pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes \
             xsave avx f16c rdrand",
        ),
        (
            Leaf7Ebx,
            "fsgsbase bmi1 hle avx2 smep bmi2 erms invpcid rtm avx512f avx512dq rdseed adx smap \
             avx512ifma clflushopt clwb avx512cd sha-ni avx512bw avx512vl",
        ),
        (
            Leaf7Ecx,
            "avx512vbmi umip pku avx512vbmi2 gfni vaes vpclmulqdq avx512vnni avx512bitalg \
             avx512-vpopcntdq la57 rdpid bus-lock-detect",
        ),
        (
            Leaf7Edx,
            "fsrm serialize tsx-ldtrk amx-bf16 avx512-fp16 amx-tile amx-int8 spec-ctrl \
             arch-capabilities ssbd",
        ),
        (Leaf7_1Eax, "avx-vnni avx512-bf16 fzrm fsrs fsrc amx-fp16"),
        (Leaf80000001Edx, "syscall nx pdpe1gb rdtscp lm"),
        (Leaf80000001Ecx, "lahf-lm abm 3dnowprefetch"),
        (Leaf80000008Ebx, "wbnoinvd"),
        (LeafD1Eax, "xsaveopt xsavec xgetbv1 xsaves xfd"),
        (Leaf6Eax, "arat"),
        (
            ArchCapabilities,
            "rdctl-no ibrs-all skip-l1dfl-vmentry mds-no pschange-mc-no taa-no sbdr-ssdp-no \
             fbsdp-no psdp-no pbrsb-no",
        ),
        (Leaf7_1Edx, "prefetchiti"),
        (Leaf7_2Edx, "mcdt-no"),
    ]),
    versions: &[Version {
        number: 2,
        signature: Some(Signature { family: 6, model: 173, stepping: 1 }),
        avx10_version: 1,
        on: words(&[
            (Leaf1Edx, "ss"),
            (Leaf7Ebx, "tsc-adjust"),
            (Leaf7Ecx, "cldemote movdiri movdir64b"),
            (Leaf7_1Edx, "avx10"),
            (Leaf24Ebx, "avx10-128 avx10-256 avx10-512"),
        ]),
        ..Version::SAME
    }],
    bare: 1,
};

const KNIGHTSMILL: Model = Model {
    name: "KnightsMill",
    vendor: Vendor::Intel,
    signature: Signature { family: 6, model: 133, stepping: 0 },
    level: 0xd,
    xlevel: 0x8000_0008,
    model_id: "Intel Xeon Phi Processor (Knights Mill)",
    caches: &cache::LEGACY,
    features: words(&[
        (Leaf1Edx, BASE_1_EDX),
        (Leaf1Edx, "ss"),
        (
            Leaf1Ecx,
            "pni pclmulqdq ssse3 fma cx16 sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes \
             xsave avx f16c rdrand",
        ),
        (
            Leaf7Ebx,
            "fsgsbase bmi1 avx2 smep bmi2 erms avx512f rdseed adx avx512pf avx512er avx512cd",
        ),
        (Leaf7Ecx, "avx512-vpopcntdq"),
        (Leaf7Edx, "avx512-4vnniw avx512-4fmaps"),
        (Leaf80000001Edx, "syscall nx pdpe1gb rdtscp lm"),
        (Leaf80000001Ecx, "lahf-lm abm 3dnowprefetch"),
        (LeafD1Eax, "xsaveopt"),
        (Leaf6Eax, "arat"),
    ]),
    versions: &[],
    bare: 1,
};

const DENVERTON: Model = Model {
    name: "Denverton",
    vendor: Vendor::Intel,
    signature: Signature { family: 6, model: 95, stepping: 1 },
    level: 0x15,
    xlevel: 0x8000_0008,
    model_id: "Intel Atom Processor (Denverton)",
    caches: &cache::LEGACY,
    features: words(&[
        (Leaf1Edx, BASE_1_EDX),
        (
            Leaf1Ecx,
            "pni pclmulqdq monitor ssse3 cx16 sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes \
             xsave rdrand",
        ),
        (Leaf7Ebx, "fsgsbase smep erms mpx rdseed smap clflushopt sha-ni"),
        (Leaf7Edx, "spec-ctrl arch-capabilities ssbd"),
        (Leaf80000001Edx, "syscall nx pdpe1gb rdtscp lm"),
        (Leaf80000001Ecx, "lahf-lm 3dnowprefetch"),
        (LeafD1Eax, "xsaveopt xsavec xgetbv1"),
        (Leaf6Eax, "arat"),
        (ArchCapabilities, "rdctl-no skip-l1dfl-vmentry"),
    ]),
    versions: &[
        Version {
            number: 2,
            off: words(&[(Leaf1Ecx, "monitor"), (Leaf7Ebx, "mpx")]),
            ..Version::SAME
        },
        Version { number: 3, on: words(&[(LeafD1Eax, "xsaves")]), ..Version::SAME },
    ],
    bare: 1,
};

const SNOWRIDGE: Model = Model {
    name: "Snowridge",
    vendor: Vendor::Intel,
    signature: Signature { family: 6, model: 134, stepping: 1 },
    level: 0x1b,
    xlevel: 0x8000_0008,
    model_id: "Intel Atom Processor (SnowRidge)",
    caches: &cache::LEGACY,
    features: words(&[
        (Leaf1Edx, BASE_1_EDX),
        (
            Leaf1Ecx,
            "pni pclmulqdq monitor ssse3 cx16 sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes \
             xsave rdrand",
        ),
        (Leaf7Ebx, "fsgsbase smep erms mpx rdseed smap clflushopt clwb sha-ni"),
        (Leaf7Ecx, "umip gfni cldemote movdiri movdir64b"),
        (Leaf7Edx, "spec-ctrl arch-capabilities core-capability ssbd"),
        (Leaf80000001Edx, "syscall nx pdpe1gb rdtscp lm"),
        (Leaf80000001Ecx, "lahf-lm 3dnowprefetch"),
        (LeafD1Eax, "xsaveopt xsavec xgetbv1"),
        (Leaf6Eax, "arat"),
        (CoreCapability, "split-lock-detect"),
    ]),
    versions: &[
        Version {
            number: 2,
            model_id: Some("Intel Atom Processor (Snowridge, no MPX)"),
            off: words(&[(Leaf7Ebx, "mpx")]),
            ..Version::SAME
        },
        Version { number: 3, on: words(&[(LeafD1Eax, "xsaves")]), ..Version::SAME },
        Version {
            number: 4,
            off: words(&[(Leaf7Edx, "core-capability"), (CoreCapability, "split-lock-detect")]),
            ..Version::SAME
        },
    ],
    bare: 1,
};

const SIERRAFOREST: Model = Model {
    name: "SierraForest",
    vendor: Vendor::Intel,
    signature: Signature { family: 6, model: 175, stepping: 0 },
    level: 0x23,
    xlevel: 0x8000_0008,
    model_id: "Intel Xeon Processor (SierraForest)",
    caches: &cache::LEGACY,
    features: words(&[
        (Leaf1Edx, BASE_1_EDX),
        (
            Leaf1Ecx,
            "pni pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes \
             xsave avx f16c rdrand",
        ),
        (
            Leaf7Ebx,
            "fsgsbase bmi1 avx2 smep bmi2 erms invpcid rdseed adx smap clflushopt clwb sha-ni",
        ),
        (Leaf7Ecx, "umip pku gfni vaes vpclmulqdq rdpid bus-lock-detect"),
        (Leaf7Edx, "fsrm serialize spec-ctrl arch-capabilities ssbd"),
        (Leaf7_1Eax, "avx-vnni cmpccxadd fsrs avx-ifma"),
        (Leaf80000001Edx, "syscall nx pdpe1gb rdtscp lm"),
        (Leaf80000001Ecx, "lahf-lm abm 3dnowprefetch"),
        (Leaf80000008Ebx, "wbnoinvd"),
        (LeafD1Eax, "xsaveopt xsavec xgetbv1 xsaves"),
        (Leaf6Eax, "arat"),
        (
            ArchCapabilities,
            "rdctl-no ibrs-all skip-l1dfl-vmentry mds-no pschange-mc-no sbdr-ssdp-no fbsdp-no \
             psdp-no pbrsb-no",
        ),
        (Leaf7_1Edx, "avx-vnni-int8 avx-ne-convert"),
        (Leaf7_2Edx, "mcdt-no"),
    ]),
    versions: &[Version {
        number: 2,
        signature: Some(Signature { family: 6, model: 175, stepping: 3 }),
        on: words(&[
            (Leaf1Edx, "ss"),
            (Leaf7Ebx, "tsc-adjust"),
            (Leaf7Ecx, "cldemote movdiri movdir64b"),
            (Leaf7_1Eax, "lam"),
            (ArchCapabilities, "gds-no rfds-no"),
            (Leaf7_2Edx, "intel-psfd ipred-ctrl rrsba-ctrl bhi-ctrl"),
        ]),
        ..Version::SAME
    }],
    bare: 1,
};

const CLEARWATERFOREST: Model = Model {
    name: "ClearwaterForest",
    vendor: Vendor::Intel,
    signature: Signature { family: 6, model: 221, stepping: 0 },
    level: 0x23,
    xlevel: 0x8000_0008,
    model_id: "Intel Xeon Processor (ClearwaterForest)",
    caches: &cache::LEGACY,
    features: words(&[
        (Leaf1Edx, BASE_1_EDX),
        (Leaf1Edx, "ss"),
        (
            Leaf1Ecx,
            "pni pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes \
             xsave avx f16c rdrand",
        ),
        (
            Leaf7Ebx,
            "fsgsbase tsc-adjust bmi1 avx2 smep bmi2 erms invpcid rdseed adx smap clflushopt clwb \
             sha-ni",
        ),
        (
            Leaf7Ecx,
            "umip pku gfni vaes vpclmulqdq rdpid bus-lock-detect cldemote movdiri movdir64b",
        ),
        (Leaf7Edx, "fsrm serialize spec-ctrl arch-capabilities ssbd"),
        (Leaf7_1Eax, "sha512 sm3 sm4 avx-vnni cmpccxadd fsrs avx-ifma lam"),
        (Leaf80000001Edx, "syscall nx pdpe1gb rdtscp lm"),
        (Leaf80000001Ecx, "lahf-lm abm 3dnowprefetch"),
        (Leaf80000008Ebx, "wbnoinvd"),
        (LeafD1Eax, "xsaveopt xsavec xgetbv1 xsaves"),
        (Leaf6Eax, "arat"),
        (
            ArchCapabilities,
            "rdctl-no ibrs-all skip-l1dfl-vmentry mds-no pschange-mc-no sbdr-ssdp-no fbsdp-no \
             psdp-no bhi-no pbrsb-no gds-no rfds-no",
        ),
        (Leaf7_1Edx, "avx-vnni-int8 avx-ne-convert avx-vnni-int16 prefetchiti"),
        (Leaf7_2Edx, "intel-psfd ipred-ctrl rrsba-ctrl ddpd-u bhi-ctrl mcdt-no"),
    ]),
    versions: &[],
    bare: 1,
};

const OPTERON_G1: Model = Model {
    name: "Opteron_G1",
    vendor: Vendor::Amd,
    signature: Signature { family: 15, model: 6, stepping: 1 },
    level: 0x5,
    xlevel: 0x8000_0008,
    model_id: "AMD Opteron 240 (Gen 1 Class Opteron)",
    caches: &cache::LEGACY,
    features: words(&[
        (Leaf1Edx, BASE_1_EDX),
        (Leaf1Ecx, "pni"),
        (Leaf80000001Edx, "syscall nx lm"),
    ]),
    versions: &[],
    bare: 1,
};

const OPTERON_G2: Model = Model {
    name: "Opteron_G2",
    vendor: Vendor::Amd,
    signature: Signature { family: 15, model: 6, stepping: 1 },
    level: 0x5,
    xlevel: 0x8000_0008,
    model_id: "AMD Opteron 22xx (Gen 2 Class Opteron)",
    caches: &cache::LEGACY,
    features: words(&[
        (Leaf1Edx, BASE_1_EDX),
        (Leaf1Ecx, "pni cx16"),
        (Leaf80000001Edx, "syscall nx lm"),
        (Leaf80000001Ecx, "lahf-lm svm"),
    ]),
    versions: &[],
    bare: 1,
};

const OPTERON_G3: Model = Model {
    name: "Opteron_G3",
    vendor: Vendor::Amd,
    signature: Signature { family: 16, model: 2, stepping: 3 },
    level: 0x5,
    xlevel: 0x8000_0008,
    model_id: "AMD Opteron 23xx (Gen 3 Class Opteron)",
    caches: &cache::LEGACY,
    features: words(&[
        (Leaf1Edx, BASE_1_EDX),
        (Leaf1Ecx, "pni monitor cx16 popcnt"),
        (Leaf80000001Edx, "syscall nx rdtscp lm"),
        (Leaf80000001Ecx, "lahf-lm svm abm sse4a misalignsse"),
    ]),
    versions: &[],
    bare: 1,
};

const OPTERON_G4: Model = Model {
    name: "Opteron_G4",
    vendor: Vendor::Amd,
    signature: Signature { family: 21, model: 1, stepping: 2 },
    level: 0xd,
    xlevel: 0x8000_001a,
    model_id: "AMD Opteron 62xx class CPU",
    caches: &cache::LEGACY,
    features: words(&[
        (Leaf1Edx, BASE_1_EDX),
        (Leaf1Ecx, "pni pclmulqdq ssse3 cx16 sse4.1 sse4.2 popcnt aes xsave avx"),
        (Leaf80000001Edx, "syscall nx pdpe1gb rdtscp lm"),
        (Leaf80000001Ecx, "lahf-lm svm abm sse4a misalignsse 3dnowprefetch xop fma4"),
        (Leaf8000000AEdx, "npt nrip-save"),
    ]),
    versions: &[],
    bare: 1,
};

const OPTERON_G5: Model = Model {
    name: "Opteron_G5",
    vendor: Vendor::Amd,
    signature: Signature { family: 21, model: 2, stepping: 0 },
    level: 0xd,
    xlevel: 0x8000_001a,
    model_id: "AMD Opteron 63xx class CPU",
    caches: &cache::LEGACY,
    features: words(&[
        (Leaf1Edx, BASE_1_EDX),
        (Leaf1Ecx, "pni pclmulqdq ssse3 fma cx16 sse4.1 sse4.2 popcnt aes xsave avx f16c"),
        (Leaf80000001Edx, "syscall nx pdpe1gb rdtscp lm"),
        (Leaf80000001Ecx, "lahf-lm svm abm sse4a misalignsse 3dnowprefetch xop fma4 tbm"),
        (Leaf8000000AEdx, "npt nrip-save"),
    ]),
    versions: &[
        // The processor has BMI1, and QEMU's model of it does not: this version is not QEMU's.
        Version { number: 2, on: words(&[(Leaf7Ebx, "bmi1")]), ..Version::SAME },
    ],
    bare: 2,
};

const EPYC: Model = Model {
    name: "EPYC",
    vendor: Vendor::Amd,
    signature: Signature { family: 23, model: 1, stepping: 2 },
    level: 0xd,
    xlevel: 0x8000_001e,
    model_id: "AMD EPYC Processor",
    caches: &cache::EPYC,
    features: words(&[
        (Leaf1Edx, BASE_1_EDX),
        (
            Leaf1Ecx,
            "pni pclmulqdq monitor ssse3 fma cx16 sse4.1 sse4.2 movbe popcnt aes xsave avx f16c \
             rdrand",
        ),
        (Leaf7Ebx, "fsgsbase bmi1 avx2 smep bmi2 rdseed adx smap clflushopt sha-ni"),
        (Leaf80000001Edx, "syscall nx mmxext fxsr-opt pdpe1gb rdtscp lm"),
        (Leaf80000001Ecx, "lahf-lm svm cr8legacy abm sse4a misalignsse 3dnowprefetch osvw topoext"),
        (Leaf8000000AEdx, "npt nrip-save"),
        (LeafD1Eax, "xsaveopt xsavec xgetbv1"),
        (Leaf6Eax, "arat"),
    ]),
    versions: &[
        Version {
            number: 2,
            alias: Some("EPYC-IBPB"),
            model_id: Some("AMD EPYC Processor (with IBPB)"),
            on: words(&[(Leaf80000008Ebx, "ibpb")]),
            ..Version::SAME
        },
        Version {
            number: 3,
            model_id: Some("AMD EPYC Processor"),
            on: words(&[
                (Leaf80000001Ecx, "perfctr-core"),
                (Leaf80000008Ebx, "clzero xsaveerptr"),
                (LeafD1Eax, "xsaves"),
            ]),
            ..Version::SAME
        },
        Version {
            number: 4,
            model_id: Some("AMD EPYC-v4 Processor"),
            caches: Some(&cache::EPYC_V4),
            ..Version::SAME
        },
    ],
    bare: 1,
};

const EPYC_ROME: Model = Model {
    name: "EPYC-Rome",
    vendor: Vendor::Amd,
    signature: Signature { family: 23, model: 49, stepping: 0 },
    level: 0xd,
    xlevel: 0x8000_001e,
    model_id: "AMD EPYC-Rome Processor",
    caches: &cache::EPYC_ROME,
    features: words(&[
        (Leaf1Edx, BASE_1_EDX),
        (
            Leaf1Ecx,
            "pni pclmulqdq monitor ssse3 fma cx16 sse4.1 sse4.2 movbe popcnt aes xsave avx f16c \
             rdrand",
        ),
        (Leaf7Ebx, "fsgsbase bmi1 avx2 smep bmi2 rdseed adx smap clflushopt clwb sha-ni"),
        (Leaf7Ecx, "umip rdpid"),
        (Leaf80000001Edx, "syscall nx mmxext fxsr-opt pdpe1gb rdtscp lm"),
        (
            Leaf80000001Ecx,
            "lahf-lm svm cr8legacy abm sse4a misalignsse 3dnowprefetch osvw topoext perfctr-core",
        ),
        (Leaf80000008Ebx, "clzero xsaveerptr wbnoinvd ibpb amd-stibp"),
        (Leaf8000000AEdx, "npt nrip-save"),
        (LeafD1Eax, "xsaveopt xsavec xgetbv1 xsaves"),
        (Leaf6Eax, "arat"),
    ]),
    versions: &[
        Version { number: 2, on: words(&[(Leaf80000008Ebx, "ibrs amd-ssbd")]), ..Version::SAME },
        Version {
            number: 3,
            model_id: Some("AMD EPYC-Rome-v3 Processor"),
            caches: Some(&cache::EPYC_ROME_V3),
            ..Version::SAME
        },
        Version {
            number: 4,
            model_id: Some("AMD EPYC-Rome-v4 Processor (no XSAVES)"),
            off: words(&[(LeafD1Eax, "xsaves")]),
            ..Version::SAME
        },
    ],
    bare: 1,
};

const EPYC_MILAN: Model = Model {
    name: "EPYC-Milan",
    vendor: Vendor::Amd,
    signature: Signature { family: 25, model: 1, stepping: 1 },
    level: 0xd,
    xlevel: 0x8000_001e,
    model_id: "AMD EPYC-Milan Processor",
    caches: &cache::EPYC_MILAN,
    features: words(&[
        (Leaf1Edx, BASE_1_EDX),
        (
            Leaf1Ecx,
            "pni pclmulqdq monitor ssse3 fma cx16 pcid sse4.1 sse4.2 movbe popcnt aes xsave avx \
             f16c rdrand",
        ),
        (
            Leaf7Ebx,
            "fsgsbase bmi1 avx2 smep bmi2 erms invpcid rdseed adx smap clflushopt clwb sha-ni",
        ),
        (Leaf7Ecx, "umip pku rdpid"),
        (Leaf7Edx, "fsrm"),
        (Leaf80000001Edx, "syscall nx mmxext fxsr-opt pdpe1gb rdtscp lm"),
        (
            Leaf80000001Ecx,
            "lahf-lm svm cr8legacy abm sse4a misalignsse 3dnowprefetch osvw topoext perfctr-core",
        ),
        (Leaf80000008Ebx, "clzero xsaveerptr wbnoinvd ibpb ibrs amd-stibp amd-ssbd"),
        (Leaf8000000AEdx, "npt nrip-save svme-addr-chk"),
        (LeafD1Eax, "xsaveopt xsavec xgetbv1 xsaves"),
        (Leaf6Eax, "arat"),
    ]),
    versions: &[Version {
        number: 2,
        model_id: Some("AMD EPYC-Milan-v2 Processor"),
        caches: Some(&cache::EPYC_MILAN_V2),
        on: words(&[
            (Leaf7Ecx, "vaes vpclmulqdq"),
            (Leaf80000008Ebx, "stibp-always-on amd-psfd"),
            (Leaf80000021Eax, "no-nested-data-bp lfence-always-serializing null-sel-clr-base"),
        ]),
        ..Version::SAME
    }],
    bare: 1,
};

const EPYC_GENOA: Model = Model {
    name: "EPYC-Genoa",
    vendor: Vendor::Amd,
    signature: Signature { family: 25, model: 17, stepping: 0 },
    level: 0xd,
    xlevel: 0x8000_0022,
    model_id: "AMD EPYC-Genoa Processor",
    caches: &cache::EPYC_GENOA,
    features: words(&[
        (Leaf1Edx, BASE_1_EDX),
        (
            Leaf1Ecx,
            "pni pclmulqdq monitor ssse3 fma cx16 pcid sse4.1 sse4.2 movbe popcnt aes xsave avx \
             f16c rdrand",
        ),
        (
            Leaf7Ebx,
            "fsgsbase bmi1 avx2 smep bmi2 erms invpcid avx512f avx512dq rdseed adx smap \
             avx512ifma clflushopt clwb avx512cd sha-ni avx512bw avx512vl",
        ),
        (
            Leaf7Ecx,
            "avx512vbmi umip pku avx512vbmi2 gfni vaes vpclmulqdq avx512vnni avx512bitalg \
             avx512-vpopcntdq la57 rdpid",
        ),
        (Leaf7Edx, "fsrm"),
        (Leaf7_1Eax, "avx512-bf16"),
        (Leaf80000001Edx, "syscall nx mmxext fxsr-opt pdpe1gb rdtscp lm"),
        (
            Leaf80000001Ecx,
            "lahf-lm svm cr8legacy abm sse4a misalignsse 3dnowprefetch osvw topoext perfctr-core",
        ),
        (
            Leaf80000008Ebx,
            "clzero xsaveerptr wbnoinvd ibpb ibrs amd-stibp stibp-always-on amd-ssbd amd-psfd",
        ),
        (
            Leaf80000021Eax,
            "no-nested-data-bp lfence-always-serializing null-sel-clr-base auto-ibrs",
        ),
        (Leaf8000000AEdx, "npt nrip-save vnmi svme-addr-chk"),
        (LeafD1Eax, "xsaveopt xsavec xgetbv1 xsaves"),
        (Leaf6Eax, "arat"),
    ]),
    versions: &[],
    bare: 1,
};

const DHYANA: Model = Model {
    name: "Dhyana",
    vendor: Vendor::Hygon,
    signature: Signature { family: 24, model: 0, stepping: 1 },
    level: 0xd,
    xlevel: 0x8000_001e,
    model_id: "Hygon Dhyana Processor",
    caches: &cache::EPYC,
    features: words(&[
        (Leaf1Edx, BASE_1_EDX),
        (Leaf1Ecx, "pni monitor ssse3 fma cx16 sse4.1 sse4.2 movbe popcnt xsave avx f16c rdrand"),
        (Leaf7Ebx, "fsgsbase bmi1 avx2 smep bmi2 rdseed adx smap clflushopt"),
        (Leaf80000001Edx, "syscall nx mmxext fxsr-opt pdpe1gb rdtscp lm"),
        (Leaf80000001Ecx, "lahf-lm svm cr8legacy abm sse4a misalignsse 3dnowprefetch osvw topoext"),
        (Leaf80000008Ebx, "ibpb"),
        (Leaf8000000AEdx, "npt nrip-save"),
        (LeafD1Eax, "xsaveopt xsavec xgetbv1"),
        (Leaf6Eax, "arat"),
    ]),
    versions: &[Version { number: 2, on: words(&[(LeafD1Eax, "xsaves")]), ..Version::SAME }],
    bare: 1,
};
