//! CDs.

use std::path::Path;
use std::process::Command;

use crate::{Error, Step, Tool, ensure_tools};

const XORRISO: Tool = Tool { program: "xorriso", package: "xorriso" };

/// Makes the image of a CD with what is in a folder.
pub fn make_cd(folder: &Path, image: &Path, log: &Path) -> Result<(), Error> {
    ensure_tools(&[XORRISO], log)?;
    let mut make = Command::new(XORRISO.program);
    make.args(["-as", "mkisofs", "-J", "-r", "-V", "LAB", "-o"]).arg(image).arg(folder);
    Step::new("making a CD", log).run(make)
}
