//! The command line.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use vhost_runtime::arguments::parts;
use vhost_runtime::program::ProgramArgs;

use crate::frame::Mac;
use crate::host::place::Place;
use crate::virtio::features::Off;

/// A network card in a process of its own, for any VMM that speaks vhost-user
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
#[command(group = ArgGroup::new("backend").args(["tap", "tap_fd", "stream", "datagram", "user", "switch"])
    .required(true))]
pub struct Options {
    /// What every device program has.
    #[command(flatten)]
    pub program: ProgramArgs,

    /// Where frames go.
    #[command(flatten)]
    pub backend: BackendArgs,

    /// The card.
    #[command(flatten)]
    pub card: CardArgs,

    /// Something else than to serve
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// Where frames go.
#[derive(Debug, Args)]
pub struct BackendArgs {
    /// To this TAP or macvtap interface, which is made if it is not there
    #[arg(long, value_name = "NAME")]
    pub tap: Option<String>,

    /// To the interface that is open as these descriptors, one for each pair of queues
    // A negative number is a wrong value, here and below, and not an option that nobody knows.
    #[arg(long, value_name = "N[,N…]", value_delimiter = ',', num_args = 1..=64,
        allow_negative_numbers = true)]
    pub tap_fd: Vec<RawFd>,

    /// To a peer of a stream: QEMU, passt, gvproxy
    #[arg(long, value_name = "PATH|HOST:PORT")]
    pub stream: Option<Place>,

    /// To a peer of datagrams: gvproxy, vfkit's
    #[arg(long, value_name = "PATH")]
    pub datagram: Option<PathBuf>,

    /// To the host's own network, by passt, which is started with these arguments; takes no privilege
    #[arg(long, value_name = "ARGUMENTS", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub user: Option<String>,

    /// To the other guests of this switch; each has a socket of its own: PATH[,mac=MAC]
    #[arg(long, value_name = "PATH[,…]", conflicts_with_all = ["socket_path", "fd", "mac"])]
    pub switch: Vec<SwitchPort>,
}

/// The card.
#[derive(Debug, Args)]
pub struct CardArgs {
    /// Its address; without it, one that stays the same from start to start
    #[arg(long)]
    pub mac: Option<Mac>,

    /// The longest packet that the network carries, in bytes, which the guest is told
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true,
        value_parser = clap::value_parser!(u16).range(68..))]
    pub mtu: Option<u16>,

    /// Pairs of queues at most, of which an interface may have one alone [default: the host's processors]
    #[arg(long, value_name = "N", allow_negative_numbers = true,
        value_parser = clap::value_parser!(u16).range(1..=64))]
    pub queues: Option<u16>,

    /// The speed in Mbit/s that the guest is told
    #[arg(long, value_name = "N", allow_negative_numbers = true,
        value_parser = clap::value_parser!(u32).range(0..=0x7fff_ffff))]
    pub speed: Option<u32>,

    /// The same of both directions
    #[arg(long, value_enum, default_value_t, requires = "speed")]
    pub duplex: Duplex,

    /// Features by QEMU's names, to switch off: csum=off,mq=off
    #[arg(long, value_name = "NAME=off[,…]")]
    pub features: Option<Off>,
}

/// Whether frames go both ways at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Duplex {
    /// One way at a time.
    Half,
    /// Both.
    #[default]
    Full,
}

/// A port of a switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchPort {
    /// Where its guest's VMM connects.
    pub path: PathBuf,
    /// The address of its card.
    pub mac: Option<Mac>,
}

impl FromStr for SwitchPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = parts(text).into_iter();
        let path = parts.next().filter(|path| !path.is_empty());
        let mut port = Self { path: path.ok_or("its path is missing")?.into(), mac: None };
        for part in parts {
            match part.split_once('=') {
                Some(("mac", _)) if port.mac.is_some() => {
                    return Err(format!("{part}: there is one address already"));
                }
                Some(("mac", mac)) => port.mac = Some(mac.parse()?),
                _ => return Err(format!("{part} is not known: mac=")),
            }
        }
        Ok(port)
    }
}

/// What else the program does.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Look at and change running cards, by their --control socket
    Ctl(CtlArgs),
}

/// `vhost-net ctl`.
#[derive(Debug, Args)]
pub struct CtlArgs {
    /// The running program's socket
    #[arg(long, value_name = "PATH")]
    pub control: PathBuf,

    /// Print JSON, for scripts
    #[arg(long, global = true)]
    pub json: bool,

    /// What to do
    #[command(subcommand)]
    pub command: CtlCommand,
}

/// What is done to running cards.
#[derive(Debug, Subcommand)]
pub enum CtlCommand {
    /// List the cards
    List,
    /// Show what each queue has done so far
    Stats,
    /// Plug the cable in or out
    Link {
        /// Which
        #[arg(value_enum)]
        state: LinkState,
        /// The card; needed if there are several
        #[arg(long)]
        card: Option<String>,
    },
    /// Have the guest tell the network where it is
    Announce {
        /// The card; needed if there are several
        #[arg(long)]
        card: Option<String>,
    },
}

/// The cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LinkState {
    /// Plugged in.
    Up,
    /// Not.
    Down,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(words: &str) -> Result<Options, clap::Error> {
        Options::try_parse_from(words.split(' '))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
        for right in [
            "vhost-net --socket-path /s --tap tap0 --queues 4 --features csum=off,mq=off",
            "vhost-net --socket-path /s --tap-fd 3,4",
            "vhost-net --socket-path /s --stream host:5000",
            "vhost-net --socket-path /s --user",
            "vhost-net --socket-path /s --user=-t --mtu 9000",
            "vhost-net --switch /a --switch /b,mac=52:54:00:00:00:01",
            "vhost-net ctl --control /c link down",
            "vhost-net ctl --control /c stats --json",
        ] {
            parse(right).unwrap_or_else(|error| panic!("{right}: {error}"));
        }
        for wrong in [
            "vhost-net --socket-path /s",
            "vhost-net --socket-path /s --tap a --user",
            "vhost-net --socket-path /s --switch /a",
            "vhost-net --socket-path /s --tap a --queues 65",
            "vhost-net --socket-path /s --tap a --mtu 67",
            "vhost-net --socket-path /s --stream host:65536",
            "vhost-net --socket-path /s --tap a --mac 01:00:00:00:00:00",
            "vhost-net --switch /a,speed=1",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
