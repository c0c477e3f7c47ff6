//! DPDK's testpmd, a peer for network devices that needs no guest and no hugepages: Debian 12's and
//! the newest.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Version;
use super::packages::{Variant, mmdebstrap, unpacked};
use crate::{Error, Step};

/// The program; its drivers come with the libraries that it depends on.
const PACKAGES: [&str; 1] = ["dpdk-dev"];

/// The drivers that are of use without hardware. They are given by name, so that the loader finds
/// them: DPDK trusts no file in a folder that others can write to, as one above the lab's may be.
const DRIVERS: [&str; 6] =
    ["bus_vdev", "mempool_ring", "net_virtio", "net_vhost", "net_tap", "net_af_packet"];

/// Debian 12's backports have none of their own.
fn suite(version: Version) -> Version {
    match version {
        Version::Bookworm | Version::Backports => Version::Bookworm,
        Version::Sid => Version::Sid,
    }
}

pub(super) fn folder(version: Version) -> &'static str {
    match suite(version) {
        Version::Sid => "dpdk-sid",
        _ => "dpdk-bookworm",
    }
}

pub(super) fn recipe(version: Version) -> String {
    format!("{:?} {PACKAGES:?}", suite(version))
}

/// Unpacks it, with all that it needs.
pub(super) fn build(version: Version, dir: &Path, log: &Path) -> Result<(), Error> {
    let unpack = mmdebstrap(Variant::Extract, suite(version), &PACKAGES, dir, &[]);
    Step::new(format!("unpacking {}", folder(version)), log).run(unpack)
}

/// An unpacked DPDK.
#[derive(Debug, Clone)]
pub struct Dpdk {
    dir: PathBuf,
}

impl Dpdk {
    pub(super) fn new(dir: PathBuf) -> Dpdk {
        Dpdk { dir }
    }

    /// The command that starts testpmd with the drivers of virtual devices, without arguments.
    pub fn testpmd(&self) -> Command {
        let mut command = unpacked(&self.dir, &self.dir.join("usr/bin/dpdk-testpmd"));
        for driver in DRIVERS {
            command.args(["-d", &format!("librte_{driver}.so")]);
        }
        command
    }
}
