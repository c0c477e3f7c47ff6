//! `--cpu`, and what is said about features that are missing.

use proptest::prelude::*;

use super::super::help;
use super::super::model;
use super::super::selection::{Selection, Strictness};
use super::*;

fn refused(option: &str) -> String {
    option.parse::<Selection>().unwrap_err().to_string()
}

#[test]
fn an_error_names_the_part_and_what_would_be_right() {
    assert_eq!(
        refused("Hasswell"),
        "--cpu Hasswell: there is no such model; --cpu help lists them"
    );
    assert_eq!(refused(""), "--cpu : there is no such model; --cpu help lists them");
    assert_eq!(
        refused("Haswell,+axv2"),
        "--cpu …,+axv2: there is no such feature; did you mean avx2?"
    );
    assert_eq!(
        refused("Haswell,kvm-pveoi=off"),
        "--cpu …,kvm-pveoi=off: there is no such feature; did you mean kvm-pv-eoi?"
    );
    assert_eq!(refused("Haswell,hle=maybe"), "--cpu …,hle=maybe: must be hle=on or hle=off");
    assert_eq!(
        refused("Haswell,vendor=AMD"),
        "--cpu …,vendor=AMD: must be twelve characters, as in vendor=GenuineIntel"
    );
}

#[test]
fn a_feature_goes_by_each_of_its_spellings() {
    for name in ["sse4.1", "sse4-1", "sse4_1"] {
        assert!(!single(&format!("Haswell,-{name}"), Table::intel()).has("sse4.1"), "{name}");
    }
    assert!(!single("Haswell,sse3=off", Table::intel()).has("pni"));
}

#[test]
fn minus_wins_over_plus_and_plus_over_on_and_off_wherever_they_stand() {
    assert!(!single("Haswell,-hle,+hle,hle=on", Table::intel()).has("hle"));
    assert!(single("Haswell,+tbm,tbm=off", Table::intel()).has("tbm"));
    assert!(single("Haswell,tbm", Table::intel()).has("tbm"));
}

#[test]
fn check_says_in_qemus_words_what_the_host_lacks() {
    let host = Table::intel().without(7, 0, 1, 1 << 4 | 1 << 11).without(1, 0, 2, 1 << 17).host();
    let (cpu, missing) = cpu("Haswell", (1, 1, 1), &host);
    let expected = [
        "host doesn't support requested feature: CPUID.01H:ECX.pcid [bit 17]",
        "host doesn't support requested feature: CPUID.07H:EBX.hle [bit 4]",
        "host doesn't support requested feature: CPUID.07H:EBX.rtm [bit 11]",
    ];
    assert_eq!(said(&missing), expected);
    assert!(!cpu.has("hle"));

    let judge = |option: &str| option.parse::<Selection>().unwrap().judge(&missing);
    assert_eq!(judge("Haswell").unwrap(), expected);
    assert_eq!(judge("Haswell,check=off").unwrap(), [""; 0]);
    assert_eq!(
        judge("Haswell,enforce").unwrap_err().to_string(),
        format!("--cpu …,enforce: {}", expected.join("; "))
    );
}

#[test]
fn a_feature_msr_is_checked_too() {
    let mut table = Table::intel();
    table = table.without(0x8000_0001, 0, 2, 1);
    let (cpu, missing) =
        cpu("Cascadelake-Server-v2,-arch-capabilities,+rdctl-no", (1, 1, 1), &table.host());
    assert_eq!(
        said(&missing),
        [
            "This feature depends on other features that were not requested: MSR(10AH).rdctl-no [bit 0]",
            "host doesn't support requested feature: CPUID.80000001H:ECX.lahf-lm [bit 0]",
        ]
    );
    assert_eq!(cpu.msrs(), []);
    let cpu = single("Cascadelake-Server-v2", Table::intel());
    assert_eq!(cpu.msrs(), [(0x10a, 0x2b)]);
}

#[test]
fn nothing_is_missing_where_nothing_is_asked_for_that_the_host_lacks() {
    let host = Table::intel().without(7, 0, 1, 1 << 4 | 1 << 11).host();
    let selection: Selection = "Haswell,-hle,-rtm,enforce".parse().unwrap();
    assert_eq!(selection.strictness, Strictness::Enforce);
    let (_, missing) = cpu("Haswell,-hle,-rtm,enforce", (1, 1, 1), &host);
    assert_eq!(selection.judge(&missing).unwrap(), [""; 0]);
}

#[test]
fn features_that_are_forced_are_said_to_be_missing_and_given() {
    let host = Table::intel().without(7, 0, 1, 1 << 4).host();
    let (cpu, missing) = cpu("Haswell,x-force-features=on", (1, 1, 1), &host);
    assert_eq!(missing.len(), 1);
    assert!(cpu.has("hle"));
}

#[test]
fn the_table_for_people_says_what_runs_here() {
    let host = Table::intel().without(7, 0, 1, 1 << 4 | 1 << 11).host();
    let text = help::table(&help::definitions(&host));
    let width = "Skylake-Server-noTSX-IBRS".len();
    for (name, what) in [
        ("Haswell", "is Haswell-v1; not here: hle rtm"),
        ("Haswell-v1", "GenuineIntel, Intel Core Processor (Haswell); not here: hle rtm"),
        ("Haswell-v2", "GenuineIntel, Intel Core Processor (Haswell, no TSX); runs here"),
        ("Haswell-noTSX", "is Haswell-v2; runs here"),
        ("Opteron_G5", "is Opteron_G5-v2; runs here"),
        ("host", "all that this host has; runs here"),
    ] {
        let line = format!("{name:width$}  {what}");
        assert!(text.lines().any(|found| found == line), "{line}\nis not in\n{text}");
    }
}

#[test]
fn the_list_for_programs_is_query_cpu_definitions() {
    let host = Table::intel().without(7, 0, 1, 1 << 4 | 1 << 11).host();
    let definitions = serde_json::to_value(help::definitions(&host)).unwrap();
    let find = |name| {
        let mut all = definitions.as_array().unwrap().iter();
        all.find(|one| one["name"] == name).unwrap().clone()
    };
    assert_eq!(
        find("Haswell"),
        serde_json::json!({
            "name": "Haswell",
            "unavailable-features": ["hle", "rtm"],
            "typename": "Haswell-x86_64-cpu",
            "static": false,
            "migration-safe": true,
            "deprecated": false,
            "alias-of": "Haswell-v1",
        })
    );
    assert_eq!(find("host")["migration-safe"], false);
}

proptest! {
    #[test]
    fn any_option_is_taken_or_refused_in_a_sentence_about_cpu(option in ".{0,40}") {
        if let Err(refusal) = option.parse::<Selection>() {
            prop_assert!(refusal.to_string().starts_with("--cpu "));
        }
    }

    #[test]
    fn a_guest_gets_no_feature_that_its_host_lacks(
        (index, register, bits) in (1usize..15, 0usize..4, any::<u32>()),
        at in any::<proptest::sample::Index>(),
    ) {
        let names: Vec<_> = model::names().collect();
        let mut table = Table::amd();
        table.0[index].2[register] &= bits;
        let host = table.host();
        let (cpu, missing) = cpu(&names[at.index(names.len())].name, (1, 2, 1), &host);
        let aliases = if cpu.has("lm") { 0x0183_f3ff } else { ALL };
        let mut left = cpu.features.without(&host.features);
        left.clear(super::super::feature::Word::Leaf80000001Edx, aliases);
        prop_assert_eq!(left.bits().count(), 0);
        for one in missing {
            prop_assert!(!cpu.has(one.name().unwrap_or("avx10")) || one.name() == Some("kvmclock"));
        }
    }
}
