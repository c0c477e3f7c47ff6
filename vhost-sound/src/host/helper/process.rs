//! Helpers as processes: they are tried first, so that what is missing is told before a guest comes, and started by a
//! broker, which starts again what ends. A helper lives as long as the program, however often the serving process is
//! started again.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, set_parent_process_death_signal};
use vhost_runtime::broker::{self, Channel, Lasting, Process};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::far::{BELL, RING, VERSION, WAKE};
use super::near::Near;
use super::ring::Ring;
use crate::card::format::Format;
use crate::card::port::Direction;

/// Whose library a helper has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ALSA's.
    Alsa,
    /// PipeWire's.
    PipeWire,
}

impl Kind {
    fn program(self) -> &'static str {
        match self {
            Self::Alsa => "vhost-sound-alsa",
            Self::PipeWire => "vhost-sound-pipewire",
        }
    }
}

impl Kind {
    /// It knows of such samples; whether a device can have them is another matter.
    #[must_use]
    pub fn has(self, format: Format) -> bool {
        use Format::{
            DsdU8, DsdU16, DsdU32, Iec958Subframe, ImaAdpcm, S18_3, S20, S20_3, U18_3, U20, U20_3,
        };
        let is_rare = matches!(
            format,
            ImaAdpcm
                | S18_3
                | U18_3
                | S20_3
                | U20_3
                | S20
                | U20
                | DsdU8
                | DsdU16
                | DsdU32
                | Iec958Subframe
        );
        self == Self::Alsa || !is_rare
    }
}

/// What a helper is to play to, or record from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Whose it is.
    pub kind: Kind,
    /// Which way samples go.
    pub direction: Direction,
    /// What the host calls it; without, what it prefers.
    pub target: Option<String>,
    /// What the stream is called.
    pub name: String,
    /// How far the listener may be.
    pub latency: Duration,
    /// The element of ALSA's mixer that is as loud as it.
    pub mixer: Option<String>,
}

/// Why there is no helper.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// It is not installed.
    #[error("{0} is not installed, neither beside this program nor in PATH")]
    Missing(&'static str),
    /// It can't have what it is to.
    #[error("{0}")]
    Refused(String),
    /// The host refuses.
    #[error("{0} cannot be started: {1}")]
    Start(&'static str, io::Error),
}

/// How long one may try.
const LONGEST: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
/// How long one that ends too soon stays away, each time that it does.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(5),
];
/// One that has lived so long has done its work.
const WELL: Duration = Duration::from_secs(10);

/// All helpers of the program.
#[derive(Debug, Default)]
pub struct Helpers(Vec<Helper>);

/// A helper, and what it shares with the card.
#[derive(Debug)]
struct Helper {
    program: PathBuf,
    arguments: Vec<OsString>,
    name: String,
    fds: [OwnedFd; 3],
    child: Option<Child>,
    born: Instant,
    /// How often it ended too soon.
    failures: usize,
}

impl Helpers {
    /// One more, which is tried. It is not started yet.
    ///
    /// # Errors
    /// See [`HelperError`].
    pub fn add(&mut self, wanted: &Wanted) -> Result<Near, HelperError> {
        let name = wanted.kind.program();
        let failed = |error| HelperError::Start(name, error);
        let program = find(name).ok_or(HelperError::Missing(name))?;
        let arguments = arguments(wanted);
        match check(&program, &arguments).map_err(failed)? {
            Some(tried) if tried.status.success() => {}
            Some(tried) => return Err(HelperError::Refused(reason(name, &tried))),
            None => return Err(HelperError::Refused(format!("{name}: it does not answer"))),
        }
        let (ring, memory) = Ring::create(wanted.direction).map_err(failed)?;
        let event = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(failed);
        let (wake, bell) = (event()?, event()?);
        let copy = |event: &EventFd| -> Result<OwnedFd, HelperError> {
            // SAFETY: it is open while the event is borrowed.
            let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(event.as_raw_fd()) };
            fd.try_clone_to_owned().map_err(failed)
        };
        let fds = [memory, copy(&wake)?, copy(&bell)?];
        let (name, born) = (wanted.name.clone(), Instant::now());
        self.0.push(Helper { program, arguments, name, fds, child: None, born, failures: 0 });
        let has_levels = wanted.kind == Kind::PipeWire || wanted.mixer.is_some();
        Ok(Near::new(ring, wake, bell, has_levels))
    }

    /// Starts them, if there are any, by a broker. Before any thread is started. They end when the last process has
    /// ended that has the channel.
    ///
    /// # Errors
    /// The host refuses.
    pub fn start(self) -> io::Result<Option<(Lasting, Channel)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let (ours, channel) = Channel::pair()?;
        let mut broker = Broker { helpers: self.0, channel: ours };
        let process = broker.start()?;
        let again = Box::new(move || broker.start());
        Ok(Some((Lasting { process, again }, channel)))
    }
}

/// Has a helper see whether it can be had. `None`: it took too long.
fn check(program: &Path, arguments: &[OsString]) -> io::Result<Option<Output>> {
    let mut command = Command::new(program);
    command.args(arguments).arg("--check");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // SAFETY: it makes a system call alone.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
    let mut child = command.spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let ended = pidfd_open(pid, PidfdFlags::empty())?;
        if poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&LONGEST))? == 0 {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
    }
    child.wait_with_output().map(Some)
}

fn arguments(wanted: &Wanted) -> Vec<OsString> {
    let mut arguments = vec![format!("--of={VERSION}"), format!("--name={}", wanted.name)];
    arguments.push(format!("--latency={}", wanted.latency.as_micros()));
    arguments.extend(wanted.target.as_ref().map(|target| format!("--target={target}")));
    arguments.extend(wanted.mixer.as_ref().map(|element| format!("--mixer={element}")));
    if wanted.direction == Direction::Capture {
        arguments.push(String::from("--capture"));
    }
    arguments.into_iter().map(OsString::from).collect()
}

/// Where a program is: beside this one, or in PATH.
fn find(name: &str) -> Option<PathBuf> {
    let own = env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent).map(Path::to_path_buf);
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders = beside.into_iter().chain(env::split_paths(&path));
    folders.find_map(|folder| Some(folder.join(name)).filter(|file| file.is_file()))
}

/// What a helper, or the loader that missed a library, said last.
fn reason(name: &str, tried: &Output) -> String {
    let said = String::from_utf8_lossy(&tried.stderr);
    let said = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it did not say why");
    format!("{name}: {}", said.trim_start_matches(name).trim_start_matches(':').trim())
}

/// What starts helpers, in a process of its own. Whoever starts it has the same.
struct Broker {
    helpers: Vec<Helper>,
    channel: Channel,
}

impl Broker {
    fn start(&mut self) -> io::Result<Process> {
        let fds = self.helpers.iter().flat_map(|helper| &helper.fds).map(AsRawFd::as_raw_fd);
        let kept: Vec<RawFd> = fds.chain([self.channel.as_fd().as_raw_fd()]).collect();
        broker::start(c"sound-broker", &kept, || self.run())
    }

    /// Starts all, and again what ends, until nobody is there any more whom they would be of use to.
    fn run(&mut self) {
        let _taken = take_places();
        loop {
            let limit = self.helpers.iter_mut().filter_map(Helper::look_after).min();
            if self.wait(limit) {
                break;
            }
        }
        for child in self.helpers.iter_mut().filter_map(|helper| helper.child.as_mut()) {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Waits until a helper ends, or as long as it says. `true`: the channel is closed.
    fn wait(&self, limit: Option<Duration>) -> bool {
        let children = self.helpers.iter().filter_map(|helper| helper.child.as_ref());
        let pids = children.filter_map(|child| Pid::from_raw(i32::try_from(child.id()).ok()?));
        let fds: Vec<OwnedFd> =
            pids.filter_map(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()).collect();
        // Its end alone: nothing that a process says there means anything.
        let channel = PollFd::new(&self.channel, PollFlags::empty());
        let mut polled: Vec<PollFd<'_>> = vec![channel];
        polled.extend(fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let limit = limit.map(|limit| Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        });
        if poll(&mut polled, limit.as_ref()).is_err() {
            return false;
        }
        polled.first().is_some_and(|channel| !channel.revents().is_empty())
    }
}

impl Helper {
    /// Starts it when it is time to. Returns how long that is from now, if it does not run.
    fn look_after(&mut self) -> Option<Duration> {
        if let Some(child) = &mut self.child {
            let Ok(Some(status)) = child.try_wait() else { return None };
            let program = self.program.file_name().unwrap_or_default().display();
            log::error!("{}: {program} has ended ({status}), and is started again", self.name);
            self.failures =
                if self.born.elapsed() >= WELL { 0 } else { self.failures.saturating_add(1) };
            (self.child, self.born) = (None, Instant::now());
        }
        let pause = match self.failures.checked_sub(1) {
            Some(last) => PAUSES.get(last).or(PAUSES.last()).copied().unwrap_or_default(),
            None => Duration::ZERO,
        };
        let left = pause.saturating_sub(self.born.elapsed());
        if !left.is_zero() {
            return Some(left);
        }
        self.born = Instant::now();
        match self.spawn() {
            Ok(child) => {
                self.child = Some(child);
                None
            }
            Err(error) => {
                log::error!("{}: {} cannot be started: {error}", self.name, self.program.display());
                self.failures = self.failures.saturating_add(1);
                Some(pause.max(Duration::from_secs(1)))
            }
        }
    }

    fn spawn(&self) -> io::Result<Child> {
        let fds = self.fds.each_ref().map(AsRawFd::as_raw_fd);
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null());
        // SAFETY: it makes system calls alone.
        unsafe {
            command.pre_exec(move || {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                place(fds)
            });
        }
        command.spawn()
    }
}

/// Has the descriptors that a helper is to have in use: what is opened to start one must be none of them.
fn take_places() -> Vec<File> {
    let mut taken = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        let is_above = file.as_raw_fd() > BELL;
        taken.push(file);
        if is_above {
            break;
        }
    }
    taken
}

/// Makes these descriptors the ones that a helper has.
fn place(fds: [RawFd; 3]) -> io::Result<()> {
    /// Above all that are wanted.
    const FREE: RawFd = 16;
    let mut high = [-1; 3];
    for (place, fd) in high.iter_mut().zip(fds) {
        // SAFETY: a system call with integers, which returns a descriptor of this process.
        *place = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, FREE) };
    }
    for (fd, wanted) in high.into_iter().zip([RING, WAKE, BELL]) {
        // SAFETY: as above; what was `wanted` before is of no use to the program that is started.
        if unsafe { libc::dup2(fd, wanted) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
