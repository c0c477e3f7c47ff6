//! passt, which gives a guest its host's network: from sid, since Debian 12's has no vhost-user.

use std::path::Path;

use super::Version;
use super::packages::{Variant, mmdebstrap};
use crate::{Error, Step};

const PACKAGES: [&str; 1] = ["passt"];

pub(super) fn recipe() -> String {
    format!("{PACKAGES:?}")
}

/// Unpacks it, with all that it needs.
pub(super) fn build(dir: &Path, log: &Path) -> Result<(), Error> {
    let unpack = mmdebstrap(Variant::Extract, Version::Sid, &PACKAGES, dir, &[]);
    Step::new("unpacking passt", log).run(unpack)
}
