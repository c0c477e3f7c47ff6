//! The process that starts the machine's device processes, and starts them again when they end.
//!
//! It is forked before the machine does anything, so it stays outside its sandbox, and it ends what it
//! has started, and tidies up, when the machine is gone, however that went. Each device process gets
//! a listening socket that only the launcher keeps: who connects while nobody serves, waits there.

use std::ffi::OsString;
use std::fs::{FileType, Metadata};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsRawFd;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, getppid, kill_process, pidfd_open,
    set_parent_process_death_signal, setpgid,
};
use vhost_runtime::program::{ProgramError, Shutdown, private_folder};

/// Why device processes can't be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A program is not there.
    #[error(
        "{0} is neither beside this program nor in PATH: install it, or attach a running one by --vhost-user"
    )]
    NoProgram(&'static str),
    /// Device processes can't be reached there.
    #[error("no socket can be made at {path}: {source}; XDG_RUNTIME_DIR or TMPDIR says where")]
    Socket {
        /// Where.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The host refuses.
    #[error("{what}: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// What the host said.
        source: io::Error,
    },
    /// What every program needs.
    #[error(transparent)]
    Program(#[from] ProgramError),
}

fn host(what: &'static str) -> impl Fn(io::Error) -> LaunchError {
    move |source| LaunchError::Host { what, source }
}

/// A device program, and its arguments but the socket.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// What the machine keeps of the launcher: device processes end when it is dropped.
#[derive(Debug)]
pub struct Launcher {
    life: UnixStream,
    sockets: Vec<Served>,
}

/// A program by its name, and where it is to be connected to.
pub type Served = (&'static str, PathBuf);

impl Launcher {
    /// Forks it. Before any thread is started. What is made at `places`, sockets and links, it removes
    /// in the end, unless somebody else uses it then.
    ///
    /// # Errors
    /// See [`LaunchError`].
    pub fn start(programs: &[Program], places: Vec<PathBuf>) -> Result<Self, LaunchError> {
        let found = programs.iter().map(|program| find(program.name));
        let found = found.collect::<Result<Vec<_>, _>>()?;
        let (life, machines) = UnixStream::pair().map_err(host("no socket can be had"))?;
        life.set_read_timeout(Some(SOON_TOLD)).map_err(host("a socket can't be used"))?;
        let folder =
            private_folder("vmm-frontend").map_err(host("no folder for sockets can be made"))?;
        let tidy = |_: &LaunchError| {
            // It is empty, or has sockets that nobody was told of.
            let _ = std::fs::remove_dir_all(&folder);
        };
        let (devices, sockets) = listen(&folder, programs, found).inspect_err(tidy)?;
        let places: Vec<Place> = places.into_iter().map(Place::new).collect();
        let machine = getpid();
        // SAFETY: this process has one thread (the caller's promise), so the child finds every lock free.
        match unsafe { libc::fork() } {
            0 => {
                drop(life);
                let code = match serve(devices, machines, machine) {
                    Ok(()) => 0,
                    Err(error) => {
                        eprintln!("vmm-frontend: device processes are started no more: {error}");
                        1
                    }
                };
                // They may be gone already.
                let _ = std::fs::remove_dir_all(&folder);
                places.iter().for_each(Place::tidy);
                std::process::exit(code)
            }
            pid if pid > 0 => Ok(Self { life, sockets }),
            _ => {
                Err(host("no process can be started")(io::Error::last_os_error())).inspect_err(tidy)
            }
        }
    }

    /// Where each program is to be connected to, in order.
    #[must_use]
    pub fn sockets(&self) -> &[Served] {
        &self.sockets
    }

    /// All device processes serve now: one that fails from now on is started again.
    ///
    /// # Errors
    /// The launcher is gone.
    pub fn all_serve(&mut self) -> Result<(), LaunchError> {
        self.life.write_all(&[SERVED]).map_err(host("the launcher of device processes is gone"))
    }

    /// Whether a program did not want to serve. It has said why.
    pub fn has_refused(&mut self) -> bool {
        let mut said = [0];
        matches!(self.life.read(&mut said), Ok(1)) && said == [REFUSED]
    }
}

/// What the machine says when it has reached all device processes.
const SERVED: u8 = b's';
/// What it is told when one ended before, and not by a signal.
const REFUSED: u8 = b'r';
/// How long after its connection's end the launcher may take to see that a process has ended.
const SOON_TOLD: Duration = Duration::from_secs(1);

/// A socket in the folder for each program.
fn listen(
    folder: &Path,
    programs: &[Program],
    found: Vec<PathBuf>,
) -> Result<(Vec<Device>, Vec<Served>), LaunchError> {
    let mut devices = Vec::new();
    let mut sockets = Vec::new();
    for (number, (program, path)) in programs.iter().zip(found).enumerate() {
        let socket = folder.join(format!("{}-{number}.sock", program.name));
        let failed = |source| LaunchError::Socket { path: socket.clone(), source };
        let listener = Some(UnixListener::bind(&socket).map_err(failed)?.into());
        sockets.push((program.name, socket));
        let program = program.clone();
        devices.push(Device {
            program,
            path,
            listener,
            child: None,
            next: None,
            born: Instant::now(),
            failures: 0,
        });
    }
    Ok((devices, sockets))
}

/// A program beside this one, or in PATH.
fn find(name: &'static str) -> Result<PathBuf, LaunchError> {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(name)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|folder| folder.join(name));
    let mut all = beside.into_iter().chain(in_path);
    all.find(|path| path.is_file()).ok_or(LaunchError::NoProgram(name))
}

/// Where the machine may make a socket or a link.
struct Place {
    path: PathBuf,
    /// What was there before.
    before: Option<Identity>,
}

/// A file's device, number, and when it was changed last: a number is given again.
#[derive(PartialEq, Eq)]
struct Identity(u64, u64, i64, i64);

impl Place {
    fn new(path: PathBuf) -> Self {
        let before = std::fs::symlink_metadata(&path).ok().as_ref().map(identity);
        Self { path, before }
    }

    /// Removes what the machine has left there.
    fn tidy(&self) {
        let Ok(found) = std::fs::symlink_metadata(&self.path) else { return };
        if self.before != Some(identity(&found)) && is_stale(&self.path, found.file_type()) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(found: &Metadata) -> Identity {
    Identity(found.dev(), found.ino(), found.ctime(), found.ctime_nsec())
}

/// A socket on which nobody listens, or a link to what is not there.
fn is_stale(path: &Path, kind: FileType) -> bool {
    if kind.is_symlink() {
        return !path.exists();
    }
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    kind.is_socket() && UnixStream::connect(path).is_err_and(refused)
}

/// A device process, and those that take its place.
struct Device {
    program: Program,
    path: PathBuf,
    /// `None`: it is given up.
    listener: Option<OwnedFd>,
    child: Option<(Child, OwnedFd)>,
    /// When it is started again.
    next: Option<Instant>,
    /// When it was started.
    born: Instant,
    /// Ends in a row that came soon.
    failures: u32,
}

/// What has become of a device process.
#[derive(PartialEq, Eq)]
enum Looked {
    /// It serves, or will again.
    Fine,
    /// It did not want to serve, and has said why.
    Refused,
}

/// How long a process must have served for its end to be no failure.
const SOON: Duration = Duration::from_secs(10);
/// How long it is waited before another start, after the first failure and at most.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(2);
/// How long processes have to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// The launcher's life.
fn serve(mut devices: Vec<Device>, mut life: UnixStream, machine: Pid) -> Result<(), LaunchError> {
    // The terminal's Ctrl-C is for the machine.
    let _ = setpgid(None, None);
    // Before the machine's end is a signal: it may end at once, and there is something to tidy up.
    let shutdown = Shutdown::new()?;
    set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|error| host("the machine cannot be watched")(error.into()))?;
    let process = pidfd_open(machine, PidfdFlags::empty());
    if getppid() != Some(machine) {
        return Ok(());
    }
    let process = process.map_err(|error| host("the machine cannot be watched")(error.into()))?;
    let mut served = false;
    devices.iter_mut().for_each(|device| device.start());
    loop {
        let next = devices.iter().filter_map(|device| device.next).min();
        let wait = next.map(|next| next.saturating_duration_since(Instant::now()));
        let wait = wait.and_then(|wait| Timespec::try_from(wait).ok());
        let mut fds = vec![
            PollFd::from_borrowed_fd(shutdown.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(life.as_fd(), PollFlags::IN),
        ];
        let children = devices.iter().filter_map(|device| device.child.as_ref());
        fds.extend(children.map(|(_, fd)| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)));
        match poll(&mut fds, wait.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(host("waiting failed")(error.into())),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready.first() == Some(&true) {
            break;
        }
        if ready.get(1) == Some(&true) {
            let mut said = [0];
            match life.read(&mut said) {
                Ok(1) => served = true,
                _ => break,
            }
        }
        for device in &mut devices {
            if device.look(served) == Looked::Refused {
                // The machine may be gone.
                let _ = life.write_all(&[REFUSED]);
            }
        }
    }
    let limit = Instant::now() + PATIENCE;
    end(devices, limit);
    // It closes its end of the connection before it closes the sockets that are to be removed.
    await_end(&process, limit);
    Ok(())
}

impl Device {
    fn start(&mut self) {
        self.next = None;
        let Some(listener) = &self.listener else { return };
        let number = listener.as_raw_fd();
        let mut command = Command::new(&self.path);
        command.arg("--fd").arg(number.to_string()).args(&self.program.arguments);
        command.process_group(0);
        let launcher = getpid();
        let prepare = move || {
            // SAFETY: the launcher keeps it open as long as it starts this program.
            let listener = unsafe { rustix::fd::BorrowedFd::borrow_raw(number) };
            fcntl_setfd(listener, FdFlags::empty())?;
            set_parent_process_death_signal(Some(Signal::TERM))?;
            match getppid() == Some(launcher) {
                true => Ok(()),
                false => Err(io::ErrorKind::BrokenPipe.into()),
            }
        };
        // SAFETY: it makes system calls alone.
        unsafe { command.pre_exec(prepare) };
        let started = command.spawn().and_then(|child| {
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            let pid = pid.ok_or(io::ErrorKind::InvalidData)?;
            Ok((child, pidfd_open(pid, PidfdFlags::empty())?))
        });
        match started {
            Ok(child) => {
                self.child = Some(child);
                self.born = Instant::now();
            }
            Err(error) => {
                eprintln!("vmm-frontend: {}: {error}", self.path.display());
                self.fail();
            }
        }
    }

    /// Sees whether it has ended, and whether it is time to start it.
    fn look(&mut self, served: bool) -> Looked {
        if let Some((child, _)) = &mut self.child
            && let Ok(Some(status)) = child.try_wait()
        {
            self.child = None;
            let name = self.program.name;
            if !served && status.code().is_some_and(|code| code != 0) {
                // Who is connected, or will, gets to know that nobody is there.
                self.listener = None;
                return Looked::Refused;
            }
            eprintln!("vmm-frontend: {name} ended ({}), and is started again", text(status));
            if self.born.elapsed() > SOON {
                self.failures = 0;
            }
            self.fail();
        }
        if self.next.is_some_and(|next| Instant::now() >= next) {
            self.start();
        }
        Looked::Fine
    }

    fn fail(&mut self) {
        let pause = PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        self.next = Some(Instant::now() + pause);
    }

    fn signal(&self, signal: Signal) {
        if let Some((child, _)) = &self.child
            && let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw)
        {
            // It was not waited for: the number is still its own.
            let _ = kill_process(pid, signal);
        }
    }
}

fn text(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("signal {signal}"),
        (None, code) => format!("exit status {}", code.unwrap_or(0)),
    }
}

/// Ends all that runs, by force if need be, and closes the listening sockets: if the machine goes on,
/// it is not to wait there for an answer.
fn end(mut devices: Vec<Device>, limit: Instant) {
    devices.iter().for_each(|device| device.signal(Signal::TERM));
    for device in &mut devices {
        if let Some((_, fd)) = &device.child {
            await_end(fd, limit);
        }
        device.signal(Signal::KILL);
        if let Some((child, _)) = &mut device.child {
            let _ = child.wait();
        }
    }
}

/// Waits until a process has ended, or a time has come.
fn await_end(process: &OwnedFd, limit: Instant) {
    let wait = Timespec::try_from(limit.saturating_duration_since(Instant::now())).ok();
    let _ = poll(&mut [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)], wait.as_ref());
}
