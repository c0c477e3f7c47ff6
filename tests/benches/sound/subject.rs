//! What is measured.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lab::driver::sound::Sound;
use lab::pipewire::PipeWire;
use lab::{Error, Machine, children, program, spawn_listening};

use crate::load::{self, Run};

/// Who plays.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Subject {
    Ours,
    Theirs,
}

/// To what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Null,
    PipeWire,
    /// With as much latency as the other one has by default: PipeWire's own quantum.
    LatePipeWire,
    /// ALSA's default device, which is PipeWire here, too.
    Alsa,
}

impl Backend {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Backend::Null => "null",
            Backend::PipeWire => "pipewire",
            Backend::LatePipeWire => "pipewire, latency=43",
            Backend::Alsa => "alsa",
        }
    }

    /// The stream of ours, and what theirs is started with.
    fn arguments(self) -> (&'static str, &'static str) {
        match self {
            Backend::Null => ("speaker,backend=null", "null"),
            Backend::PipeWire => ("speaker,backend=pipewire", "pipewire"),
            Backend::LatePipeWire => ("speaker,backend=pipewire,latency=43", "pipewire"),
            Backend::Alsa => ("speaker,backend=alsa", "alsa"),
        }
    }
}

impl Subject {
    pub(crate) fn play(
        self,
        backend: Backend,
        pipewire: &PipeWire,
        period: Duration,
        time: Duration,
    ) -> Result<Run, Error> {
        let folder = tempfile::tempdir();
        let failed = |source| Error::Io { what: String::from("cannot make a folder"), source };
        let folder = folder.map_err(failed)?;
        let socket = folder.path().join("s");
        let command = match self {
            Subject::Ours => {
                program("vhost-sound-pipewire")?;
                program("vhost-sound-alsa")?;
                let mut command = pipewire.command(program("vhost-sound")?);
                command.arg("--socket-path").arg(&socket);
                command.args(["--playback", backend.arguments().0]);
                command
            }
            Subject::Theirs => {
                let mut command = pipewire.command(published()?);
                command.arg("--socket").arg(&socket).args(["--backend", backend.arguments().1]);
                command
            }
        };
        let process = spawn_listening(command, &socket)?;
        let mut sound = Sound::connect(&socket)?;
        load::play(&mut sound, period, time, || processor(process.id()))
    }
}

/// The crate as it is on the registry.
fn published() -> Result<PathBuf, Error> {
    const VERSION: &str = "0.3.0";
    let root = Machine::dir().join("peers");
    let binary = root.join("bin/vhost-device-sound");
    if !binary.exists() {
        lab::ensure_libraries()?;
        let mut install: Command = lab::cargo();
        install.args(["install", "--quiet", "--locked", "--version", VERSION, "--root"]);
        install.arg(&root).arg("vhost-device-sound");
        install.args(["--no-default-features", "--features", "alsa-backend,pw-backend"]);
        let log = Machine::dir().join("bench.log");
        lab::Step::new(format!("building vhost-device-sound {VERSION}"), log).run(install)?;
    }
    Ok(binary)
}

/// The time that a process and all that it has started have spent.
fn processor(process: u32) -> Result<Duration, Error> {
    let path = format!("/proc/{process}/schedstat");
    let failed = |source| Error::Io { what: format!("cannot read {path}"), source };
    let mut spent = Duration::ZERO;
    for thread in fs::read_dir(format!("/proc/{process}/task")).map_err(failed)?.flatten() {
        // A thread that has just ended is not there any more.
        let text = read(&thread.path().join("schedstat"));
        let time = text.split_whitespace().next().and_then(|time| time.parse().ok());
        spent += Duration::from_nanos(time.unwrap_or(0));
    }
    for (child, _) in children(process) {
        spent += processor(child)?;
    }
    Ok(spent)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
