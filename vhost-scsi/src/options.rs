//! The command line.

use std::path::PathBuf;

use crate::image::engine::EngineKind;
use crate::scsi::target::{Address, LUNS};
use crate::units::Kind;
use clap::{ArgGroup, Args, Parser, Subcommand};
use vhost_runtime::arguments::size;
use vhost_runtime::program::ProgramArgs;

/// A SCSI controller in a process of its own, for any VMM that speaks vhost-user
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, args_conflicts_with_subcommands = true)]
pub struct Options {
    /// What every device program has.
    #[command(flatten)]
    pub program: ProgramArgs,

    /// Its units.
    #[command(flatten)]
    pub units: UnitArgs,

    /// Request queues that the VMM may use
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = queues)]
    pub num_queues: u16,

    /// What moves the data
    #[arg(long, value_enum, default_value_t)]
    pub aio: EngineKind,

    /// Something else than to serve
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// Units, when the program starts or later.
#[derive(Debug, Args)]
pub struct UnitArgs {
    /// A disk on an image, a block device, or each file in a folder: PATH[,key=value…]
    #[arg(long, value_name = "PATH[,…]")]
    disk: Vec<String>,

    /// A CD or DVD drive with an ISO image, or `empty`: PATH[,key=value…]
    #[arg(long, value_name = "PATH[,…]")]
    cdrom: Vec<String>,

    /// A physical SCSI unit, passed through: /dev/sgN, /dev/sdX, /dev/srN, /dev/stN[,key=value…]
    #[arg(long, value_name = "DEVICE[,…]")]
    passthrough: Vec<String>,
}

impl UnitArgs {
    /// There are physical units among them.
    #[must_use]
    pub fn pass_through(&self) -> bool {
        !self.passthrough.is_empty()
    }

    /// All of them, in the order in which they get addresses.
    pub fn texts(&self) -> impl Iterator<Item = (Kind, &str)> {
        fn of(kind: Kind, texts: &[String]) -> impl Iterator<Item = (Kind, &str)> {
            texts.iter().map(move |text| (kind, text.as_str()))
        }
        of(Kind::Disk, &self.disk)
            .chain(of(Kind::Cdrom, &self.cdrom))
            .chain(of(Kind::PassThrough, &self.passthrough))
    }
}

/// What else the program does.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Look at and change a running controller, by its --control socket
    Ctl(CtlArgs),
}

/// `vhost-scsi ctl`.
#[derive(Debug, Args)]
pub struct CtlArgs {
    /// The running controller's socket
    #[arg(long, value_name = "PATH")]
    pub control: PathBuf,

    /// Print JSON, for scripts
    #[arg(long, global = true)]
    pub json: bool,

    /// What to do
    #[command(subcommand)]
    pub command: CtlCommand,
}

/// What is done to a running controller.
#[derive(Debug, Subcommand)]
pub enum CtlCommand {
    /// List the units
    List,
    /// Show what each unit has done so far
    Stats,
    /// Add units; the guest sees them at once
    #[command(group = ArgGroup::new("unit").args(["disk", "cdrom", "passthrough"]).required(true).multiple(true))]
    Add(UnitArgs),
    /// Take a unit away
    Remove {
        /// Which unit
        #[arg(value_name = "TARGET:LUN", value_parser = address)]
        unit: Address,
    },
    /// Tell the guest of an image's new size, or give it one
    Resize {
        /// Which unit
        #[arg(value_name = "TARGET:LUN", value_parser = address)]
        unit: Address,
        /// The new size in bytes, or with K, M, G or T, of a raw image file
        #[arg(value_parser = size)]
        size: Option<u64>,
        /// It may become smaller, and lose data
        #[arg(long, requires = "size")]
        shrink: bool,
    },
    /// Take the medium out of a CD or DVD drive
    Eject {
        /// Which unit
        #[arg(value_name = "TARGET:LUN", value_parser = address)]
        unit: Address,
        /// Even if the guest has locked the tray
        #[arg(long)]
        force: bool,
    },
    /// Put an ISO image into a CD or DVD drive
    Load {
        /// Which unit
        #[arg(value_name = "TARGET:LUN", value_parser = address)]
        unit: Address,
        /// The image: PATH[,format=…]
        #[arg(value_name = "PATH")]
        medium: String,
        /// Even if the guest has locked the tray
        #[arg(long)]
        force: bool,
    },
}

fn queues(text: &str) -> Result<u16, String> {
    let number = text.parse().ok().filter(|number| (1..=254).contains(number));
    number.ok_or_else(|| String::from("it must be a number from 1 to 254"))
}

fn address(text: &str) -> Result<Address, String> {
    let parsed = text.split_once(':').and_then(|(target, lun)| {
        let lun = lun.parse().ok().filter(|&lun| lun < LUNS)?;
        Some(Address { target: target.parse().ok()?, lun })
    });
    parsed.ok_or_else(|| format!("write it as TARGET:LUN, 0:0 to 255:{}", LUNS - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
        let parse = |words: &str| Options::try_parse_from(words.split(' '));
        assert!(parse("vhost-scsi ctl --control /c add --disk a --disk b").is_ok());
        assert!(parse("vhost-scsi ctl --control /c add").is_err());
        assert!(parse("vhost-scsi ctl --control /c resize 0:0 10G --shrink").is_ok());
        assert!(parse("vhost-scsi ctl --control /c stats --json").is_ok());
        assert!(parse("vhost-scsi --socket-path /s --control /c --disk a").is_ok());
    }

    #[test]
    fn queues_and_addresses() {
        assert_eq!((queues("1"), queues("254")), (Ok(1), Ok(254)));
        for wrong in ["0", "255", "-1", "x", ""] {
            assert!(queues(wrong).is_err(), "{wrong}");
        }
        assert_eq!(address("3:16383"), Ok(Address { target: 3, lun: 16383 }));
        for wrong in ["3", "3:16384", "256:0", "a:b", ":"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
