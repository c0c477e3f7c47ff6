//! The processors that vmm-frontend shows, bit for bit beside those of the same name in QEMU 10.0,
//! as a tiny guest reads them. A host's KVM may add bits of its own (kvm_pvm does), to both alike.

use std::process::Command;

use lab::tiny::{self, Machine, with_kvm};
use lab::{Error, Version, program};
use serde_json::Value;

const SINGLE: &str = "sockets=1,cores=1,threads=1";

/// The models that are not QEMU's of the same name, and what they are there.
const OTHERS: [(&str, &str); 2] = [
    // The processor has BMI1, QEMU's model of it does not.
    ("Opteron_G5", "Opteron_G5,+bmi1"),
    ("Opteron_G5-v2", "Opteron_G5,+bmi1"),
];

/// `--cpu help --json`.
fn definitions() -> Result<Vec<Value>, Error> {
    let doing = || "listing the models".to_owned();
    let output = Command::new(program("vmm-frontend")?).args(["--cpu", "help", "--json"]).output();
    let output = output.map_err(|source| Error::Io { what: doing(), source })?;
    let list: Option<Vec<Value>> = serde_json::from_slice(&output.stdout).ok();
    list.ok_or_else(|| Error::Protocol {
        doing: doing(),
        answer: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// All leaves of CPUID are the same in both.
fn assert_same(model: &str, flags: &str, topology: &str) -> Result<(), Error> {
    let other = OTHERS.iter().find(|(ours, _)| *ours == model);
    let (ours, theirs) = (
        format!("{model}{flags}"),
        format!("{}{flags}", other.map_or(model, |(_, theirs)| theirs)),
    );
    let machine = Machine::new(tiny::cpuid()).args(["--cpu", &ours, "--cpus", topology]);
    let seen = machine.serial()?;
    let arguments = ["-cpu", &theirs, "-smp", topology];
    let expected = tiny::by_qemu(Version::Backports, tiny::cpuid(), &arguments)?;
    assert!(expected.ends_with("end\n"), "{theirs}: {expected}");
    assert_eq!(seen, expected, "{ours} beside QEMU's {theirs}, {topology}");
    Ok(())
}

fn assert_all_the_same(flags: &str) -> Result<(), Error> {
    with_kvm(|| {
        let definitions = definitions()?;
        assert!(definitions.len() > 100, "{} models", definitions.len());
        for model in &definitions {
            assert_same(model["name"].as_str().unwrap_or_default(), flags, SINGLE)?;
        }
        Ok(())
    })
}

#[test]
fn models_are_qemus_where_the_host_lacks_features() -> Result<(), Error> {
    assert_all_the_same("")
}

#[test]
fn models_are_qemus_with_all_their_features() -> Result<(), Error> {
    assert_all_the_same(",x-force-features=on")
}

#[test]
fn topologies_are_qemus() -> Result<(), Error> {
    with_kvm(|| {
        for topology in [
            "sockets=1,cores=4,threads=1",
            "sockets=1,cores=3,threads=2",
            "sockets=2,cores=4,threads=2",
            "sockets=4,cores=1,threads=1",
        ] {
            for model in ["Haswell", "Opteron_G5", "EPYC", "SapphireRapids"] {
                assert_same(model, ",x-force-features=on", topology)?;
            }
        }
        Ok(())
    })
}

#[test]
fn enforce_refuses_and_names_what_is_missing() -> Result<(), Error> {
    with_kvm(|| {
        for model in definitions()? {
            let name = model["name"].as_str().unwrap_or_default();
            let missing = model["unavailable-features"].as_array().cloned().unwrap_or_default();
            let cpu = format!("{name},enforce");
            let ended = Machine::new(tiny::hello()).args(["--cpu", &cpu]).run()?;
            if missing.is_empty() {
                assert_eq!((ended.code, ended.serial.as_str()), (Some(0), "hello\n"), "{name}");
                continue;
            }
            assert_eq!(
                (ended.code, ended.serial.as_str()),
                (Some(1), ""),
                "{name}: {}",
                ended.said
            );
            for feature in missing {
                let feature = feature.as_str().unwrap_or_default();
                assert!(ended.said.contains(feature), "{name}, {feature}: {}", ended.said);
            }
        }
        Ok(())
    })
}
