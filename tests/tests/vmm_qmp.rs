//! vmm-frontend's QMP socket, driven by the `qemu.qmp` package: `vmm_qmp.py` is the client.

use std::path::Path;
use std::thread;

use lab::tiny::{self, Ended, Machine, with_kvm};
use lab::{Error, Scsi, python, workspace};
use tempfile::TempDir;

/// Runs a machine of two processors while the client does its `work` with it; a SCSI controller can
/// be added to it.
fn machine(work: &'static str) -> Result<Ended, Error> {
    let folder = TempDir::new().unwrap();
    let scsi = Scsi::new()?.disk(1 << 20, "")?.start()?;
    let socket = folder.path().join("qmp");
    let mut client = python("qemu.qmp==0.0.6")?;
    client.arg(workspace().join("tests/tests/vmm_qmp.py")).arg(work);
    client.arg(&socket).arg(scsi.socket());
    let machine = Machine::new(tiny::button()).args(["--cpus", "2,cores=2"]).args(qmp(&socket));
    thread::scope(|scope| {
        let runs = scope.spawn(|| machine.run());
        let output = client.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        runs.join().unwrap()
    })
}

fn qmp(socket: &Path) -> [String; 2] {
    [String::from("--qmp"), socket.display().to_string()]
}

#[test]
fn a_client_of_qemus_drives_every_command() -> Result<(), Error> {
    with_kvm(|| {
        let ended = machine("all")?;
        // It was reset once, and then its power button was pressed.
        let said = (ended.code, ended.serial.as_str());
        assert_eq!(said, (Some(0), "start\nstart\nbutton\n"), "{}", ended.said);
        Ok(())
    })
}

#[test]
fn a_client_of_qemus_ends_the_machine() -> Result<(), Error> {
    with_kvm(|| {
        let ended = machine("quit")?;
        assert_eq!((ended.code, ended.said.as_str()), (Some(0), ""));
        Ok(())
    })
}
