//! Files and the network, by Landlock.

use std::path::PathBuf;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus,
    PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus,
    Scope,
};

use super::SandboxError;

/// What may be done with what is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read a file, list a folder.
    Read,
    /// Write as well; nothing is created, removed or renamed.
    ReadWrite,
}

impl Access {
    fn rights(self) -> BitFlags<AccessFs> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        match self {
            Self::Read => read,
            Self::ReadWrite => read | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev,
        }
    }
}

/// The newest interface that we know. The kernel takes what it knows of it.
const NEWEST: ABI = ABI::V10;

/// Forbids this thread, and those that it starts, all files but `paths`, all TCP and UDP, abstract
/// sockets and signals to others: as far as the kernel can.
pub(super) fn restrict(paths: &[(PathBuf, Access)]) -> Result<(), SandboxError> {
    let failed = |error| SandboxError::new("Landlock", std::io::Error::other(error));
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(NEWEST)))
        .and_then(|rules| rules.scope(Scope::from_all(NEWEST)))
        .and_then(Ruleset::create)
        .map_err(failed)?;
    let status = allow(rules, paths)?.restrict_self().map_err(failed)?;
    match (status.landlock, status.ruleset) {
        (LandlockStatus::Available { effective_abi, .. }, RulesetStatus::NotEnforced) => {
            log::warn!("Landlock (ABI {effective_abi:?}) restricts nothing here");
        }
        (LandlockStatus::Available { effective_abi, .. }, _) => {
            log::debug!("Landlock restricts files and network (ABI {effective_abi:?})");
        }
        (missing, _) => log::debug!("this kernel has no Landlock: {missing:?}"),
    }
    Ok(())
}

/// A path that is not there, or lies where Landlock knows no paths (a memfd by `/dev/fd/N`), stays
/// forbidden: what fails then says so.
fn allow(
    mut rules: RulesetCreated,
    paths: &[(PathBuf, Access)],
) -> Result<RulesetCreated, SandboxError> {
    for (path, access) in paths {
        match PathFd::new(path) {
            Ok(fd) => {
                rules = rules
                    .add_rule(PathBeneath::new(fd, access.rights()))
                    .map_err(|error| SandboxError::new("Landlock", std::io::Error::other(error)))?;
            }
            Err(error) => log::debug!("the sandbox leaves {} out: {error}", path.display()),
        }
    }
    Ok(rules)
}
