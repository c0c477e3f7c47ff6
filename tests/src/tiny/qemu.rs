//! Running tiny guests by QEMU, beside which ours is measured.

use tempfile::TempDir;

use super::Guest;
use super::run::{run, write};
use crate::error::Context;
use crate::{Error, Machine, Version};

/// Runs a guest as the ROM of QEMU's q35, on KVM, until it resets its machine; gives what it said.
///
/// # Errors
/// QEMU can't be started, or refuses the arguments.
pub fn by_qemu(version: Version, guest: Guest, arguments: &[&str]) -> Result<String, Error> {
    let folder = TempDir::new().context(|| "cannot make a temporary folder".into())?;
    let rom = folder.path().join(guest.name);
    write(&rom, &guest.rom())?;
    let mut command = Machine::qemu(version)?.system();
    command.args(["-machine", "q35", "-accel", "kvm", "-m", "16M", "-display", "none"]);
    command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-serial", "stdio"]);
    command.arg("-bios").arg(rom).args(arguments);
    let ended = run(command, guest.name)?;
    match ended.code {
        Some(0) => Ok(ended.serial),
        _ => Err(Error::Protocol {
            doing: format!("running the guest {} by QEMU", guest.name),
            answer: format!("{}{}", ended.serial, ended.said),
        }),
    }
}
