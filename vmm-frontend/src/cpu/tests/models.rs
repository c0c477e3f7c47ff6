//! The table of models.

use std::collections::HashSet;

use super::super::feature::{Word, Words};
use super::super::model::{self, Signature};

fn features(name: &str) -> Words {
    model::find(name).unwrap().features()
}

#[test]
fn haswell_has_all_that_is_promised_of_it() {
    for feature in [
        "avx2", "bmi1", "bmi2", "hle", "rtm", "pcid", "invpcid", "fma", "movbe", "fsgsbase",
        "smep", "erms",
    ] {
        assert!(features("Haswell").has(feature), "{feature}");
    }
}

#[test]
fn opteron_g5_has_all_that_is_promised_of_it() {
    for feature in ["f16c", "tbm", "bmi1", "fma"] {
        assert!(features("Opteron_G5").has(feature), "{feature}");
    }
}

#[test]
fn opteron_g5_is_version_2_and_differs_from_qemus_by_bmi1_alone() {
    assert_eq!(model::find("Opteron_G5").unwrap().name(), "Opteron_G5-v2");
    let more = features("Opteron_G5-v2").without(&features("Opteron_G5-v1"));
    let more: Vec<_> = more.bits().map(|(word, bit)| word.name(bit)).collect();
    assert_eq!(more, [Some("bmi1")]);
    assert_eq!(features("Opteron_G5-v1").get(Word::Leaf7Ebx), 0);
}

/// The words of four models, read from QEMU.
#[test]
fn four_models_have_qemus_words() {
    let haswell = [0x306c4, 0x078b_fbff, 0x77fa_3203, 0xfb9, 0x2810_0800, 0x21];
    let no_tsx = [0x306c1, 0x078b_fbff, 0x77fa_3203, 0x7a9, 0x2810_0800, 0x21];
    let g4 = [0x60_0f12, 0x078b_fbff, 0x1698_2203, 0, 0x2c10_0800, 0x1_09e5];
    let g5 = [0x60_0f20, 0x078b_fbff, 0x3698_3203, 0, 0x2c10_0800, 0x21_09e5];
    let expected = [
        ("Haswell", haswell, 0x8000_0008, "Intel Core Processor (Haswell)"),
        ("Haswell-noTSX", no_tsx, 0x8000_0008, "Intel Core Processor (Haswell, no TSX)"),
        ("Opteron_G4", g4, 0x8000_001a, "AMD Opteron 62xx class CPU"),
        ("Opteron_G5-v1", g5, 0x8000_001a, "AMD Opteron 63xx class CPU"),
    ];
    for (name, words, xlevel, brand) in expected {
        let model = model::find(name).unwrap();
        let word = |word| model.features().get(word);
        let found = [
            model.signature().eax(),
            word(Word::Leaf1Edx),
            // The hypervisor's bit is no processor's.
            word(Word::Leaf1Ecx),
            word(Word::Leaf7Ebx),
            word(Word::Leaf80000001Edx),
            word(Word::Leaf80000001Ecx),
        ];
        assert_eq!(found, words, "{name}");
        assert_eq!((model.model.level, model.model.xlevel), (0xd, xlevel), "{name}");
        assert_eq!(model.model_id(), brand, "{name}");
    }
}

#[test]
fn a_name_without_a_version_and_an_alias_stand_for_a_version() {
    let versioned = |name| model::find(name).map(|model| model.name());
    assert_eq!(versioned("Haswell").as_deref(), Some("Haswell-v1"));
    assert_eq!(versioned("Haswell-noTSX").as_deref(), Some("Haswell-v2"));
    assert_eq!(versioned("Haswell-IBRS").as_deref(), Some("Haswell-v3"));
    assert_eq!(versioned("Haswell-noTSX-IBRS").as_deref(), Some("Haswell-v4"));
    assert_eq!(versioned("EPYC-IBPB").as_deref(), Some("EPYC-v2"));
    assert_eq!(versioned("Icelake-Server-v7").as_deref(), Some("Icelake-Server-v7"));
    assert_eq!(versioned("Haswell-v5"), None);
    assert_eq!(versioned("haswell"), None);
}

#[test]
fn each_version_goes_on_from_the_one_before() {
    let haswell = |name| features(name).has("rtm");
    assert!(haswell("Haswell-v1") && !haswell("Haswell-v2"));
    assert!(haswell("Haswell-v3") && !haswell("Haswell-v4"));
    assert!(features("Haswell-v4").has("spec-ctrl"));
    assert_eq!(model::find("Haswell-v3").unwrap().signature().stepping, 4);
    assert_eq!(model::find("Haswell-v4").unwrap().signature().stepping, 1);
}

#[test]
fn every_name_is_of_one_model_and_every_model_id_fits_its_leaves() {
    let mut seen = HashSet::new();
    for known in model::names() {
        assert!(seen.insert(known.name.clone()), "{} twice", known.name);
        assert!(known.model.model_id().len() <= 48, "{}", known.name);
    }
}

#[test]
fn a_signature_is_the_same_after_a_round_through_eax() {
    for known in model::names() {
        let signature = known.model.signature();
        assert_eq!(Signature::from_eax(signature.eax()), signature, "{}", known.name);
    }
}
