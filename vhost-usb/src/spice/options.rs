//! The command line of `vhost-usb-spice`.

use std::path::PathBuf;

use clap::{ArgGroup, Parser};
use vhost_runtime::program::Confinement;

/// A SPICE server whose clients redirect USB devices to vhost-usb
#[derive(Debug, Parser)]
#[command(name = "vhost-usb-spice", version, max_term_width = 100)]
#[command(group(ArgGroup::new("where").required(true).multiple(true).args(["port", "unix"])))]
#[command(group(ArgGroup::new("who").required(true).args(["password_file", "disable_ticketing"])))]
pub struct Options {
    /// Listen on this TCP port for SPICE clients
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,

    /// The address, or the name of one, on which that port is
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1", requires = "port")]
    pub addr: String,

    /// Listen on this Unix socket for SPICE clients
    #[arg(long, value_name = "PATH")]
    pub unix: Option<PathBuf>,

    /// Let in who knows the password in the first line of this file
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,

    /// Let in whoever can connect
    #[arg(long)]
    pub disable_ticketing: bool,

    /// A channel for one USB device at a time, and where its vhost-usb waits (--redirect …,server), or with
    /// ,server connects to (--redirect): unix:PATH or tcp:HOST:PORT[,server]
    #[arg(long, value_name = "WHERE[,server]", required = true)]
    pub channel: Vec<String>,

    /// Serve confined, and started again after a crash; or not, in one plain process, to debug
    #[arg(long, value_name = "on|off", value_enum, default_value_t, hide_possible_values = true)]
    pub sandbox: Confinement,

    /// Log more; twice for debugging (or set RUST_LOG)
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parsed(words: &str) -> Result<Options, clap::Error> {
        Options::try_parse_from(words.split(' '))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn help_fits_a_screen() {
        assert!(Options::command().render_help().to_string().lines().count() <= 40);
    }

    #[test]
    fn where_and_who_must_be_said() {
        parsed("x --port 5930 --disable-ticketing --channel unix:a").unwrap();
        parsed("x --unix s --password-file p --channel unix:a --channel tcp:h:1").unwrap();
        parsed("x --unix s --port 1 --addr ::1 --disable-ticketing --channel unix:a").unwrap();
        for wrong in [
            "x --disable-ticketing --channel unix:a",
            "x --port 5930 --channel unix:a",
            "x --port 5930 --disable-ticketing",
            "x --port 0 --disable-ticketing --channel unix:a",
            "x --unix s --addr ::1 --disable-ticketing --channel unix:a",
            "x --port 1 --disable-ticketing --password-file p --channel unix:a",
        ] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
