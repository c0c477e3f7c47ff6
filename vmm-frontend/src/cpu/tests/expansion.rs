//! Models spelled out.

use serde_json::{Map, Value, json};

use super::Table;
use crate::cpu::expansion::{Kind, expand};

fn switches(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

#[test]
fn a_model_is_spelled_out_as_nothing_and_what_it_adds() {
    let host = Table::intel().without(7, 0, 1, 1 << 4).host();
    let answer = expand(Kind::Static, "Haswell", &Map::new(), &host).unwrap();
    let model = &answer["model"];
    assert_eq!(model["name"], "base");
    let of = |name: &str| &model["props"][name];
    for (name, value) in [
        ("avx2", json!(true)),
        ("hle", json!(true)), // though this host has it not
        ("avx512f", json!(false)),
        ("sse4.1", json!(true)),
        ("x2apic", json!(true)),
        ("kvm-pv-eoi", json!(true)),
        ("family", json!(6)),
        ("model", json!(60)),
        ("stepping", json!(4)),
        ("vendor", json!("GenuineIntel")),
        ("model-id", json!("Intel Core Processor (Haswell)")),
        ("min-level", json!(13)),
        ("min-xlevel", json!(0x8000_0008_u32)),
    ] {
        assert_eq!(*of(name), value, "{name}");
    }
}

#[test]
fn features_are_switched_first() {
    let host = Table::intel().host();
    let props = switches(json!({ "hle": false, "avx512f": true, "sse4_1": false }));
    let answer = expand(Kind::Full, "Haswell-v1", &props, &host).unwrap();
    let model = &answer["model"];
    assert_eq!((&model["name"], &model["props"]["level"]), (&json!("Haswell-v1"), &json!(13)));
    for (name, on) in [("hle", false), ("avx512f", true), ("sse4.1", false), ("rtm", true)] {
        assert_eq!(model["props"][name], on, "{name}");
    }
}

#[test]
fn the_host_is_what_it_has() {
    let host = Table::amd().without(7, 0, 1, 1 << 5).host();
    let answer = expand(Kind::Full, "host", &Map::new(), &host).unwrap();
    assert_eq!(answer["model"]["props"]["avx2"], false);
    assert_eq!(answer["model"]["props"]["vendor"], "AuthenticAMD");
}

#[test]
fn what_is_none_is_told_as_qemu_does() {
    let host = Table::intel().host();
    let wrong = |name: &str, props| {
        expand(Kind::Full, name, &switches(props), &host).unwrap_err().to_string()
    };
    assert_eq!(wrong("nix", json!({})), "CPU model 'nix' not found");
    assert_eq!(
        wrong("Haswell", json!({ "nix": true })),
        "Property 'Haswell-x86_64-cpu.nix' not found"
    );
    assert_eq!(
        wrong("Haswell", json!({ "hle": 3 })),
        "Invalid parameter type for 'model.props.hle', expected: boolean"
    );
}
