//! The processors that vmm-frontend shows, bit for bit beside those of the same name in QEMU 10.0,
//! as a tiny guest reads them. A host's KVM may add bits of its own (kvm_pvm does), to both alike.

use std::fs;
use std::process::Command;
use std::time::Duration;

use lab::tiny::{self, Machine, with_kvm};
use lab::{Error, Host, Version, program};
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
    let expected = match tiny::by_qemu(Version::Backports, tiny::cpuid(), &arguments) {
        // A KVM without MSRs that the model has: QEMU aborts, so that there is nothing to compare.
        Err(Error::Protocol { answer, .. }) if answer.contains("failed to set MSR") => {
            let plain = ["Haswell", "Opteron"].iter().any(|name| model.starts_with(name));
            assert!(!plain, "{theirs}: {answer}");
            eprintln!("not compared, for QEMU cannot set its MSRs here: {theirs}");
            return Ok(());
        }
        result => result?,
    };
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

/// Runs each of these processors by both VMMs in a guest of the lab, whose KVM is an unmodified
/// kernel's; `script` defines `ours` and `theirs`, which take a model. Gives what each printed.
fn in_the_lab(
    script: &str,
    models: &[(String, String)],
    check: impl Fn(&str, &str, &str),
) -> Result<(), Error> {
    Host::test(|| {
        let host = Host::boot(|builder| builder)?;
        let folder = tempfile::TempDir::new().unwrap();
        for (name, bytes) in
            [("cpuid.elf", tiny::cpuid().kernel()), ("cpuid.rom", tiny::cpuid().rom())]
        {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            host.share(&path, name)?;
        }
        for (ours, theirs) in models {
            let run = |name: &str, model: &str| {
                let script = format!("{script}\n{name} {model}");
                host.guest().run_within(Duration::from_secs(600), &script)?.stdout_if_ok()
            };
            check(ours, &run("ours", ours)?, &run("theirs", theirs)?);
        }
        Ok(())
    })
}

/// A model, and QEMU's that is the same.
fn pair(model: &str) -> (String, String) {
    let other = OTHERS.iter().find(|(ours, _)| *ours == model);
    (model.to_owned(), other.map_or(model, |(_, theirs)| theirs).to_owned())
}

/// The tiny guest.
const TINY: &str = "
ours() {
    /job/vmm-frontend --kernel /job/cpuid.elf --memory 16M --rng off --cpu $1 --cpus 1,cores=1 </dev/null 2>/dev/null
}
theirs() {
    qemu-system-x86_64 -machine q35 -accel kvm -m 16M -display none -nodefaults -no-user-config -no-reboot \
        -serial stdio -bios /job/cpuid.rom -cpu $1 -smp 1 </dev/null 2>/dev/null
}";

fn are_the_same_in_the_lab(models: &[(String, String)]) -> Result<(), Error> {
    in_the_lab(TINY, models, |model, ours, theirs| {
        assert!(theirs.ends_with("end\n"), "{model}: {theirs}");
        assert_eq!(ours, theirs, "{model}");
    })
}

#[test]
fn models_are_qemus_as_a_stock_kernels_kvm_filters_them() -> Result<(), Error> {
    let names =
        ["Haswell", "Haswell-noTSX", "Opteron_G4", "Opteron_G5", "Opteron_G5-v1", "EPYC", "host"];
    are_the_same_in_the_lab(&names.map(pair))
}

#[test]
#[ignore = "takes 15 minutes: cargo lab soak"]
fn all_models_are_qemus_as_a_stock_kernels_kvm_filters_them() -> Result<(), Error> {
    let definitions = definitions()?;
    let names = definitions.iter().filter_map(|model| model["name"].as_str());
    are_the_same_in_the_lab(&names.map(pair).collect::<Vec<_>>())
}

/// Stock Linux, with a shell on its serial console, which is told to run `cpuid`.
const STOCK: &str = r#"
append="console=ttyS0 panic=-1 quiet lab.shell"
run() {
    rm -f /tmp/typed && mkfifo /tmp/typed
    : >/tmp/said
    timeout 300 "$@" </tmp/typed >/tmp/said &
    exec 4>/tmp/typed
    until grep -q '# $' /tmp/said; do sleep 0.5; kill -0 $! || return; done
    echo 'stty -echo; cpuid --raw --one-cpu; exit' >&4
    wait $!
    exec 4>&-
    grep -o '0x[0-9a-f]* 0x[0-9a-f]*: eax=.*' /tmp/said | tr -d '\r'
}
ours() {
    run /job/vmm-frontend --kernel /job/vmlinuz-linux-6.12 --initrd /job/initrd-linux-6.12 \
        --append "$append" --memory 512M --disk /dev/vdb --cpu "$1"
}
theirs() {
    run qemu-system-x86_64 -machine q35 -accel kvm -m 512M -display none -nodefaults -no-user-config \
        -no-reboot -serial stdio -kernel /job/vmlinuz-linux-6.12 -initrd /job/initrd-linux-6.12 \
        -append "$append" -drive file=/dev/vdb,format=raw,if=virtio,snapshot=on -cpu "$1"
}"#;

#[test]
fn a_stock_guest_reads_what_it_reads_in_qemu() -> Result<(), Error> {
    in_the_lab(STOCK, &["Haswell", "Opteron_G5"].map(pair), |model, ours, theirs| {
        assert!(theirs.lines().count() > 10, "{model}: {theirs}");
        assert_eq!(ours, theirs, "{model}");
    })
}
