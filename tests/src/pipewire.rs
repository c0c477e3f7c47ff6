//! PipeWire, as a user's session has it, with a sink that plays to nobody.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::error::Context;
use crate::{Error, Machine, Process, Tool, ensure_tools, spawn, spawn_listening};

const TOOLS: [Tool; 5] = [
    Tool { program: "pipewire", package: "pipewire" },
    Tool { program: "pw-cat", package: "pipewire-bin" },
    Tool { program: "/etc/alsa/conf.d/50-pipewire.conf", package: "pipewire-alsa" },
    Tool { program: "wireplumber", package: "wireplumber" },
    Tool { program: "amixer", package: "alsa-utils" },
];

/// The sink's name.
pub const SINK: &str = "speakers";

/// The least that a server has: no device, no bus, and one sink.
const SERVER: &str = r#"
context.properties = {
    core.daemon = true
    core.name = pipewire-0
    support.dbus = false
    mem.allow-mlock = false
    default.clock.rate = 48000
    default.clock.quantum = 1024
    default.clock.min-quantum = 32
}
context.spa-libs = {
    audio.convert.* = audioconvert/libspa-audioconvert
    support.* = support/libspa-support
}
context.modules = [
    { name = libpipewire-module-protocol-native }
    { name = libpipewire-module-client-node }
    { name = libpipewire-module-adapter }
    { name = libpipewire-module-metadata }
    { name = libpipewire-module-spa-node-factory }
    { name = libpipewire-module-link-factory }
    { name = libpipewire-module-session-manager }
    { name = libpipewire-module-access }
]
context.objects = [
    { factory = adapter args = {
        factory.name = support.null-audio-sink
        node.name = speakers
        media.class = Audio/Sink
        audio.position = "FL,FR"
        object.linger = true
    } }
]
"#;

/// Whatever asks for a bus, or for devices.
const MANAGER: &str = r#"
alsa_monitor.enabled = false
v4l2_monitor.enabled = false
if libcamera_monitor then libcamera_monitor.enabled = false end
default_access.properties["enable-flatpak-portal"] = false
"#;

/// A running PipeWire of its own.
#[derive(Debug)]
pub struct PipeWire {
    home: TempDir,
    /// The server, and what makes links.
    processes: Vec<Process>,
}

impl PipeWire {
    /// Starts one; it has linked nothing yet.
    pub fn start() -> Result<PipeWire, Error> {
        ensure_tools(&TOOLS, &Machine::dir().join("pipewire.log"))?;
        let home = tempfile::Builder::new().prefix("lab-").tempdir();
        let home = home.context(|| "cannot make a temporary folder".into())?;
        for (file, text) in [
            ("pipewire/pipewire.conf", SERVER),
            ("wireplumber/main.lua.d/80-lab.lua", MANAGER),
            ("wireplumber/bluetooth.lua.d/80-lab.lua", "bluez_monitor.enabled = false\n"),
        ] {
            let path = home.path().join(file);
            let folder = path.parent().unwrap_or(home.path());
            fs::create_dir_all(folder)
                .and_then(|()| fs::write(&path, text))
                .context(|| format!("cannot write {}", path.display()))?;
        }
        let mut this = PipeWire { home, processes: Vec::new() };
        this.restart()?;
        Ok(this)
    }

    /// Ends it.
    pub fn stop(&mut self) {
        self.processes.clear();
    }

    /// Starts it again.
    pub fn restart(&mut self) -> Result<(), Error> {
        let server =
            spawn_listening(self.command("pipewire"), &self.home.path().join("pipewire-0"))?;
        let manager = spawn(self.command("wireplumber"));
        let manager = manager.context(|| "cannot start wireplumber".into())?;
        self.processes = vec![manager, server];
        self.wait_until("a default sink", |listed| listed.contains("default.audio.sink"))
    }

    /// The command that starts a program of this user's session.
    pub fn command(&self, program: impl Into<PathBuf>) -> Command {
        let mut command = Command::new(program.into());
        for folder in ["HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_STATE_HOME"] {
            command.env(folder, self.home.path());
        }
        command
    }

    /// Waits until what it says of all that there is shows this.
    pub fn wait_until(&self, what: &str, is_there: impl Fn(&str) -> bool) -> Result<(), Error> {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let output = self.command("pw-dump").output();
            let output = output.context(|| "cannot start pw-dump".into())?;
            if is_there(&String::from_utf8_lossy(&output.stdout)) {
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(Error::driver::<String>("PipeWire")(format!("there is not {what}")));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}
