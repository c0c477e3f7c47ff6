//! The command line, and what it means: each value is checked before anything starts.

mod conflict;
mod cpus;
mod memory;
mod net;
mod sound;
mod vhost_user;

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Parser;
use vhost_runtime::program::Confinement;

use crate::console::{Spec, SpecError};
use crate::launcher::Program;

pub use conflict::Conflict;
pub use cpus::Cpus;
pub use memory::MemoryOption;
pub use net::{NET_KEYS, NetOption};
pub use sound::SoundOption;
pub use vhost_user::{VHOST_USER_KEYS, VhostUserOption};

/// What `--help` and the manual group options by.
mod group {
    pub(super) const BOOT: &str = "What it starts with";
    pub(super) const MACHINE: &str = "Processors and memory";
    pub(super) const DISKS: &str = "Disks, by a vhost-scsi that it starts";
    pub(super) const USB: &str = "USB devices, by a vhost-usb that it starts";
    pub(super) const NET: &str = "Network cards, each by a vhost-net that it starts";
    pub(super) const SOUND: &str = "A sound card, by a vhost-sound that it starts";
    pub(super) const DEVICES: &str = "Other devices";
    pub(super) const CONSOLES: &str = "Consoles";
    pub(super) const CONTROL: &str = "Control";
    pub(super) const PROGRAM: &str = "The program itself";
}

/// A thin virtual machine whose devices are processes of their own
///
/// Boots a Linux kernel, or a disk by its firmware, on KVM. The console is this terminal: Ctrl-A x
/// ends the machine, Ctrl-A h helps.
#[derive(Clone, Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    override_usage = "vmm-frontend --kernel FILE [--initrd FILE] [--append TEXT] [OPTIONS]\n       \
                      vmm-frontend --disk PATH [OPTIONS]\n       \
                      vmm-frontend --cpu help [--json]",
    disable_help_flag = true,
    disable_version_flag = true
)]
pub struct Options {
    /// A kernel: a Linux bzImage, or an ELF file with a PVH entry point
    #[arg(long, value_name = "FILE", help_heading = group::BOOT)]
    pub kernel: Option<PathBuf>,

    /// The initial RAM disk for the kernel
    #[arg(long, value_name = "FILE", requires = "kernel", help_heading = group::BOOT)]
    pub initrd: Option<PathBuf>,

    /// The kernel's command line, such as console=ttyS0
    #[arg(long, value_name = "TEXT", requires = "kernel", default_value = "", hide_default_value = true, help_heading = group::BOOT)]
    pub append: String,

    /// Without a kernel: firmware that boots a disk [default: Debian's SeaBIOS]
    #[arg(long, value_name = "FILE", conflicts_with = "kernel", help_heading = group::BOOT)]
    pub firmware: Option<PathBuf>,

    /// Memory: a number with K, M, G or T, M if it has none; 4M to 1T. On huge pages of the host:
    /// SIZE,hugepages=2M or SIZE,hugepages=1G
    #[arg(long, value_name = "SIZE", default_value = "512M", help_heading = group::MACHINE)]
    pub memory: MemoryOption,

    /// Processors, up to 64: a number, or how they are placed: sockets=N,cores=N,threads=N, where
    /// cores are each socket's and threads each core's
    #[arg(long, value_name = "N", default_value = "1", help_heading = group::MACHINE)]
    pub cpus: Cpus,

    /// A processor model, and features to add or take away: MODEL[,+x][,-x][,check|enforce]; `help`
    /// lists the models
    #[arg(long, value_name = "MODEL", default_value = "host", allow_hyphen_values = true, help_heading = group::MACHINE)]
    pub cpu: String,

    /// With --cpu help: as JSON, for scripts
    #[arg(long, help_heading = group::MACHINE)]
    pub json: bool,

    /// A disk: PATH[,key=value…] as vhost-scsi takes it
    #[arg(long, value_name = "PATH[,…]", help_heading = group::DISKS)]
    pub disk: Vec<String>,

    /// A CD or DVD drive with an ISO image, or `empty`: PATH[,key=value…]
    #[arg(long, value_name = "PATH[,…]", help_heading = group::DISKS)]
    pub cdrom: Vec<String>,

    /// A physical SCSI unit, passed through: /dev/sgN, /dev/sdX, …[,key=value…]
    #[arg(long, value_name = "DEVICE[,…]", help_heading = group::DISKS)]
    pub scsi_passthrough: Vec<String>,

    /// A USB device, in the next port of an EHCI controller: KIND[,key=value…] as vhost-usb's --device
    #[arg(long, value_name = "KIND[,…]", help_heading = group::USB)]
    pub usb: Vec<String>,

    /// A port of that controller for a USB device that is elsewhere: unix:PATH or tcp:HOST:PORT[,key=value…] as
    /// vhost-usb's --redirect
    #[arg(long, value_name = "WHERE[,…]", help_heading = group::USB)]
    pub usb_redirect: Vec<String>,

    /// Listen on this Unix socket for USB devices that come and go, and for what they are told, such as keys
    /// (QMP; vhost-usb ctl)
    #[arg(long, value_name = "PATH", help_heading = group::USB)]
    pub usb_control: Option<PathBuf>,

    /// A network card: tap=NAME, user (by passt), stream=PATH|HOST:PORT or datagram=PATH, [,key=value…] as
    /// vhost-net's options; control=PATH is its --control
    #[arg(long, value_name = "WHERE[,…]", help_heading = group::NET)]
    pub net: Vec<NetOption>,

    /// A stream of a sound card: playback=JACK or capture=JACK[,key=value…] as vhost-sound's options; or controls, for
    /// volumes that the guest can change
    #[arg(long, value_name = "WHICH=JACK[,…]|controls", help_heading = group::SOUND)]
    pub sound: Vec<SoundOption>,

    /// Listen on this Unix socket for what becomes of the sound card's jacks and volumes (QMP; vhost-sound ctl)
    #[arg(long, value_name = "PATH", requires = "sound", help_heading = group::SOUND)]
    pub sound_control: Option<PathBuf>,

    /// A device of a process that runs already: type=scsi|net|blk|sound,socket=PATH[,key=value…], or
    /// type=generic,id=NUMBER,queues=NUMBER,socket=PATH
    #[arg(long, value_name = "type=…,socket=PATH", help_heading = group::DEVICES)]
    pub vhost_user: Vec<VhostUserOption>,

    /// A source of randomness for the guest
    #[arg(long, value_name = "on|off", default_value = "on", action = clap::ArgAction::Set, value_parser = switch, help_heading = group::DEVICES)]
    pub rng: bool,

    /// The serial port: stdio, pty[:LINK], unix:PATH, file:PATH, dev:PATH, null or off
    #[arg(long, value_name = "WHERE", default_value = "stdio", help_heading = group::CONSOLES)]
    pub serial: Spec,

    /// A virtio console, hvc0 in the guest: as --serial
    #[arg(long, value_name = "WHERE", default_value = "off", help_heading = group::CONSOLES)]
    pub console: Spec,

    /// A port that programs in the guest find by its name: NAME=WHERE, as --serial
    #[arg(long, value_name = "NAME=WHERE", help_heading = group::CONSOLES)]
    pub port: Vec<Port>,

    /// Listen on this Unix socket for QMP, QEMU's protocol to control a machine
    #[arg(long, value_name = "PATH", help_heading = group::CONTROL)]
    pub qmp: Option<PathBuf>,

    /// Print at the end how often the processors left the guest, and why
    #[arg(long, help_heading = group::CONTROL)]
    pub stats: bool,

    /// Confine the program; or not, to debug it
    #[arg(long, value_name = "on|off", value_enum, default_value_t, hide_possible_values = true, help_heading = group::PROGRAM)]
    pub sandbox: Confinement,

    /// Log more; twice for debugging (or set RUST_LOG)
    #[arg(short, long, action = clap::ArgAction::Count, help_heading = group::PROGRAM)]
    pub verbose: u8,

    /// Print help (-h: shorter), and exit
    #[arg(short, long, action = clap::ArgAction::Help, help_heading = group::PROGRAM)]
    help: Option<bool>,

    /// Print the version, and exit
    #[arg(short = 'V', long, action = clap::ArgAction::Version, help_heading = group::PROGRAM)]
    version: Option<bool>,
}

impl Options {
    /// Whether there is something that firmware could boot from.
    #[must_use]
    pub fn has_disks(&self) -> bool {
        let units =
            [&self.disk, &self.cdrom, &self.scsi_passthrough, &self.usb, &self.usb_redirect];
        units.iter().any(|units| !units.is_empty()) || !self.vhost_user.is_empty()
    }

    /// The device processes that the machine starts itself.
    #[must_use]
    pub fn programs(&self) -> Vec<Program> {
        let first = self.scsi().into_iter().chain(self.usb());
        let mut programs: Vec<Program> = first.chain(self.cards()).chain(self.sound()).collect();
        if self.sandbox == Confinement::Off {
            for program in &mut programs {
                program.arguments.extend(["--sandbox".into(), "off".into()]);
            }
        }
        programs
    }

    /// One SCSI controller for all units, with a queue for each processor.
    fn scsi(&self) -> Option<Program> {
        let units = [
            ("--disk", &self.disk),
            ("--cdrom", &self.cdrom),
            ("--passthrough", &self.scsi_passthrough),
        ];
        let mut arguments: Vec<OsString> =
            units.iter().flat_map(|(option, texts)| each(option, texts)).collect();
        if arguments.is_empty() {
            return None;
        }
        let queues = self.cpus.0.processors().to_string();
        arguments.extend(["--num-queues".into(), queues.into()]);
        Some(Program { name: VHOST_SCSI, arguments })
    }

    fn usb(&self) -> Option<Program> {
        let mut arguments: Vec<OsString> = each("--device", &self.usb).collect();
        arguments.extend(each("--redirect", &self.usb_redirect));
        // With nothing plugged in so far, perhaps.
        if let Some(path) = &self.usb_control {
            arguments.extend(["--control".into(), path.into()]);
        }
        if arguments.is_empty() {
            return None;
        }
        Some(Program { name: VHOST_USB, arguments })
    }

    fn cards(&self) -> impl Iterator<Item = Program> {
        let processors = self.cpus.0.processors();
        let arguments = self.net.iter().map(move |card| card.arguments(processors));
        arguments.map(|arguments| Program { name: VHOST_NET, arguments })
    }

    /// One sound card for all streams.
    fn sound(&self) -> Option<Program> {
        let streams = self.sound.iter().flat_map(SoundOption::arguments);
        let mut arguments: Vec<OsString> = streams.collect();
        if arguments.is_empty() {
            return None;
        }
        if let Some(path) = &self.sound_control {
            arguments.extend(["--control".into(), path.into()]);
        }
        Some(Program { name: VHOST_SOUND, arguments })
    }

    /// The consoles, each with its option.
    fn consoles(&self) -> impl Iterator<Item = (&'static str, &Spec)> {
        let ports = self.port.iter().map(|port| ("--port", &port.spec));
        [("--serial", &self.serial), ("--console", &self.console)].into_iter().chain(ports)
    }

    /// Where the user wants sockets and links of the machine. Confined, it can't remove them.
    #[must_use]
    pub fn places(&self) -> Vec<PathBuf> {
        let paths = self.consoles().filter_map(|(_, spec)| match spec {
            Spec::Unix(path) | Spec::Pty(Some(path)) => Some(path),
            _ => None,
        });
        paths.chain(&self.qmp).cloned().collect()
    }
}

/// The programs that it starts.
pub const VHOST_SCSI: &str = "vhost-scsi";
/// See [`VHOST_SCSI`].
pub const VHOST_USB: &str = "vhost-usb";

/// See [`VHOST_SCSI`].
pub const VHOST_NET: &str = "vhost-net";

/// See [`VHOST_SCSI`].
pub const VHOST_SOUND: &str = "vhost-sound";

/// An option for each text.
fn each(option: &str, texts: &[String]) -> impl Iterator<Item = OsString> {
    texts.iter().flat_map(move |text| [OsString::from(option), OsString::from(text)])
}

/// A named port of the console device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// What it is connected to.
    pub spec: Spec,
}

impl Port {
    /// Bytes of a name: guests make a file's name of it (NAME_MAX).
    const LONGEST: usize = 255;
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, spec) = text.split_once('=').unwrap_or((text, ""));
        let valid = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
        if name.len() > Self::LONGEST {
            let most = Self::LONGEST;
            return Err(format!("a name has up to {most} bytes, this one has {}", name.len()));
        }
        if !valid || spec.is_empty() {
            return Err(String::from("write NAME=WHERE, as in org.qemu.guest_agent.0=unix:PATH"));
        }
        let spec = spec.parse().map_err(|error: SpecError| error.to_string())?;
        Ok(Self { name: name.to_owned(), spec })
    }
}

fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(String::from("it must be on or off")),
    }
}

/// `key=value` parts, each key once.
pub(crate) struct Pairs<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Pairs<'a> {
    /// Reads them; those of `keys` are known.
    pub(crate) fn parse(text: &'a str, keys: &[&str]) -> Result<Self, String> {
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let Some((key, value)) = part.split_once('=') else {
                return Err(format!("{part:?}: write it as key=value"));
            };
            if !keys.contains(&key) {
                return Err(format!("{key}= is unknown; there are {}", keys.join(", ")));
            }
            if pairs.iter().any(|(known, _)| *known == key) {
                return Err(format!("{key}= is there twice"));
            }
            pairs.push((key, value));
        }
        Ok(Self(pairs))
    }

    /// What a key says.
    pub(crate) fn get(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find(|(known, _)| *known == key).map(|(_, value)| *value)
    }

    /// What a key says, as a number in a range.
    pub(crate) fn number(
        &self,
        key: &str,
        range: std::ops::RangeInclusive<u16>,
    ) -> Result<Option<u16>, String> {
        let Some(text) = self.get(key) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| range.contains(number));
        let wrong = || format!("{key}={text}: it must be {} to {}", range.start(), range.end());
        number.map(Some).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn pairs_are_read_once_each() {
        let pairs = Pairs::parse("a=1,b=x=y", &["a", "b"]).ok().unwrap();
        assert_eq!(
            (pairs.get("a"), pairs.get("b"), pairs.get("c")),
            (Some("1"), Some("x=y"), None)
        );
        assert_eq!(pairs.number("a", 0..=1), Ok(Some(1)));
        assert_eq!(pairs.number("a", 2..=3), Err(String::from("a=1: it must be 2 to 3")));
        for (wrong, sentence) in [
            ("a", "\"a\": write it as key=value"),
            ("c=1", "c= is unknown; there are a, b"),
            ("a=1,a=2", "a= is there twice"),
        ] {
            assert_eq!(Pairs::parse(wrong, &["a", "b"]).err().unwrap(), sentence);
        }
    }
}
