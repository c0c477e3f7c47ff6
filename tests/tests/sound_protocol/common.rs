//! A card in a process of its own, and a driver of it.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use lab::driver::sound::{OK, Sound};
use lab::{Error, Process, children, program, serving, spawn_listening};
use tempfile::TempDir;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// Two channels of S16, at 48,000 frames a second; and what a period of 5 ms of that takes.
pub(crate) const CD: [u8; 3] = [2, 5, 7];
pub(crate) const PERIOD: u32 = 960;
/// 80 ms.
pub(crate) const LONG: u32 = 16 * PERIOD;
pub(crate) const PREPARE: u32 = 0x102;
pub(crate) const RELEASE: u32 = 0x103;
pub(crate) const START: u32 = 0x104;
pub(crate) const STOP: u32 = 0x105;
/// VIRTIO_SND_EVT_PCM_XRUN.
pub(crate) const XRUN: u32 = 0x1101;

pub(crate) struct Card {
    pub(crate) folder: TempDir,
    pub(crate) process: Process,
}

impl Card {
    pub(crate) fn start(arguments: &str) -> Result<Card, Error> {
        Self::start_by(Command::new(program("vhost-sound")?), arguments)
    }

    pub(crate) fn start_by(mut command: Command, arguments: &str) -> Result<Card, Error> {
        let folder = tempfile::tempdir().unwrap();
        let text = arguments.replace("FOLDER", &folder.path().display().to_string());
        command.arg("--socket-path").arg(folder.path().join("s")).args(text.split_whitespace());
        command.arg("--control").arg(folder.path().join("c"));
        let process = spawn_listening(command, &folder.path().join("s"))?;
        Ok(Card { folder, process })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn connect(&self) -> Result<Sound, Error> {
        Sound::connect(&self.path("s"))
    }

    /// Kills the process that serves.
    pub(crate) fn kill(&self) {
        let pid = libc::pid_t::try_from(serving(self.process.id()).unwrap()).unwrap();
        // SAFETY: kill(2) takes two integers.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
    }

    /// Lets the process that serves have files of any length.
    pub(crate) fn lift_limits(&self) {
        let pid = serving(self.process.id()).unwrap().to_string();
        let done = Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited"]).status();
        assert!(done.unwrap().success());
    }

    /// Kills what has the host's sound system's library, and waits for the one that takes its place.
    pub(crate) fn replace_helper(&self) {
        let helper = || {
            let brokers = children(self.process.id());
            let (broker, _) = brokers.into_iter().find(|(_, name)| name.ends_with("broker"))?;
            children(broker).into_iter().map(|(pid, _)| pid).next()
        };
        let before = helper().unwrap();
        let pid = libc::pid_t::try_from(before).unwrap();
        // SAFETY: kill(2) takes two integers.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
        let end = Instant::now() + 10 * SECOND;
        while helper().is_none_or(|pid| pid == before) {
            assert!(Instant::now() < end, "no process takes the place");
            std::thread::sleep(SECOND / 100);
        }
    }

    /// Kills it, and waits for the one that takes its place.
    pub(crate) fn replace(&self) {
        let before = serving(self.process.id()).unwrap();
        self.kill();
        let end = Instant::now() + 10 * SECOND;
        while serving(self.process.id()).is_none_or(|pid| pid == before) {
            assert!(Instant::now() < end, "no process takes the place");
            std::thread::sleep(SECOND / 100);
        }
    }
}

/// Why a program does not start: one sentence.
pub(crate) fn refusal(mut command: Command) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.lines().count() == 1, "{error}");
    error
}

pub(crate) fn noise(length: u32) -> Vec<u8> {
    (0..length).map(|byte| (byte.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// Plays it by periods, four of which are under way, and returns how long that took.
pub(crate) fn play(
    sound: &mut Sound,
    stream: u32,
    period: u32,
    samples: &[u8],
) -> Result<Duration, Error> {
    let mut periods = samples.chunks(period as usize);
    for period in periods.by_ref().take(4) {
        sound.play(stream, period)?;
    }
    let begun = Instant::now();
    assert_eq!(sound.words(&[START, stream])?, OK);
    for _ in samples.chunks(period as usize) {
        assert_eq!(sound.played()?.status, OK);
        if let Some(period) = periods.next() {
            sound.play(stream, period)?;
        }
    }
    Ok(begun.elapsed())
}

/// Has a stream ready for samples as [`CD`] has them, in such periods.
pub(crate) fn prepare(sound: &mut Sound, stream: u32, period: u32) -> Result<(), Error> {
    assert_eq!(sound.set(stream, period, CD)?, OK);
    assert_eq!(sound.words(&[PREPARE, stream])?, OK);
    Ok(())
}

/// The same, for a stream that tells of xruns.
pub(crate) fn prepare_to_tell(sound: &mut Sound, stream: u32, period: u32) -> Result<(), Error> {
    const EVT_XRUNS: u32 = 1 << 4;
    let [channels, format, rate] = CD;
    let kind = u32::from_le_bytes([channels, format, rate, 0]);
    let asked = [0x101, stream, 4 * period, period, EVT_XRUNS, kind];
    assert_eq!((sound.words(&asked)?, sound.words(&[PREPARE, stream])?), (OK, OK));
    Ok(())
}

/// Ends a stream that runs.
pub(crate) fn end(sound: &mut Sound, stream: u32) -> Result<(), Error> {
    assert_eq!((sound.words(&[STOP, stream])?, sound.words(&[RELEASE, stream])?), (OK, OK));
    Ok(())
}
