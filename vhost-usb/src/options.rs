//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use vhost_runtime::program::ProgramArgs;

use crate::controller::host::Kind;

/// USB host controllers in a process of their own, with what is plugged into them
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, args_conflicts_with_subcommands = true)]
pub struct Options {
    /// What every device program has.
    #[command(flatten)]
    pub program: ProgramArgs,

    /// Listen for a VMM that speaks vfio-user, on a Unix socket in this folder for each PCI function:
    /// 7.sock for EHCI, 0.sock to 2.sock for its companions; 0.sock for a controller alone
    #[arg(long, value_name = "DIR", conflicts_with_all = ["socket_path", "fd"])]
    pub vfio_user: Option<PathBuf>,

    /// Which controllers there are
    #[arg(long, value_enum, value_name = "WHICH", default_value_t)]
    pub controller: Kind,

    /// A device, in the next free port or one of its own: KIND[,port=N[.N…]][,key=value…]. Kinds are
    /// storage,file=PATH, kbd, mouse, tablet, hub, serial,pty=LINK, serial,unix=PATH,
    /// audio,playback=JACK,backend=…,capture=JACK,backend=…, host,match=WHICH and gadget-zero
    #[arg(long, value_name = "KIND[,…]")]
    pub device: Vec<String>,

    /// A device of this host's, by libusb, now or whenever it is plugged in: VENDOR:PRODUCT, BUS.ADDRESS,
    /// BUS-PORT[.PORT…] or class=CLASS, and port=N; the same as --device host,match=…
    #[arg(long, value_name = "WHICH[,…]")]
    pub host: Vec<String>,

    /// A port for a USB device that is elsewhere, by usbredir:
    /// unix:PATH or tcp:HOST:PORT[,server][,filter=RULES][,port=N[.N…]]
    #[arg(long, value_name = "WHERE[,…]")]
    pub redirect: Vec<String>,

    /// Something else than to serve
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

impl Options {
    /// All devices.
    #[must_use]
    pub fn devices(&self) -> Vec<String> {
        let hosts = self.host.iter().map(|which| format!("host,match={which}"));
        self.device.iter().cloned().chain(hosts).collect()
    }
}

/// What the program can do besides serving.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Look at and change what is plugged in, by a running process's --control socket
    Ctl(CtlArgs),
}

/// `vhost-usb ctl`.
#[derive(Debug, Args)]
pub struct CtlArgs {
    /// The running process's socket
    #[arg(long, value_name = "PATH")]
    pub control: PathBuf,

    /// Print JSON, for scripts
    #[arg(long, global = true)]
    pub json: bool,

    /// What to do
    #[command(subcommand)]
    pub command: CtlCommand,
}

/// What is done to a running process's devices.
#[derive(Debug, Subcommand)]
pub enum CtlCommand {
    /// List what is plugged in
    List,
    /// Plug devices in, as --device has them; prints their ports
    Add {
        /// The devices
        #[arg(required = true, value_name = "KIND[,…]")]
        devices: Vec<String>,
    },
    /// Plug in a port for a USB device that is elsewhere, as --redirect has it; prints where. What this
    /// connects to is not connected to again when it ends
    Redirect {
        /// Where the device's host is, or is waited for
        #[arg(value_name = "WHERE[,…]")]
        redirection: String,
    },
    /// Take a device out, and with a hub all that is behind it
    Remove {
        /// Where it is
        #[arg(value_name = "PORT")]
        port: String,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }
}
