//! Files and the network, by Landlock.

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, NetPort,
    PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};

use super::SandboxError;

/// The newest interface that we know. The kernel takes what it knows of it.
const NEWEST: ABI = ABI::V10;

/// Forbids this thread, and those that it starts, to open any file, all TCP and UDP, abstract
/// sockets and signals to others: as far as the kernel can. It may still connect to Unix sockets, if
/// `connects`, and to these TCP `ports`.
pub(super) fn restrict(connects: bool, ports: &[u16]) -> Result<(), SandboxError> {
    let failed = |error| SandboxError::new("Landlock", std::io::Error::other(error));
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(NEWEST)))
        .and_then(|rules| rules.scope(Scope::from_all(NEWEST)))
        .and_then(Ruleset::create)
        .map_err(failed)?;
    if connects {
        let root = PathFd::new("/");
        let root = root.map_err(|error| SandboxError::new("/", std::io::Error::other(error)))?;
        let rule = PathBeneath::new(root, AccessFs::ResolveUnix);
        rules = rules.add_rule(rule).map_err(failed)?;
    }
    for port in ports {
        rules = rules.add_rule(NetPort::new(*port, AccessNet::ConnectTcp)).map_err(failed)?;
    }
    let status = rules.restrict_self().map_err(failed)?;
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
