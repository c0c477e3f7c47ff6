//! usbredir's own parser, to compare with.

use std::path::Path;

use super::Version;
use super::packages::{Variant, mmdebstrap};
use crate::{Error, Step};

const PACKAGES: [&str; 1] = ["libusbredirparser1"];

pub(super) fn recipe() -> String {
    format!("{PACKAGES:?}")
}

/// Unpacks it.
pub(super) fn build(dir: &Path, log: &Path) -> Result<(), Error> {
    let unpack = mmdebstrap(Variant::Extract, Version::Bookworm, &PACKAGES, dir, &[]);
    Step::new("unpacking usbredir's parser", log).run(unpack)
}
