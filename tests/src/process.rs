//! Processes that can't outlive the test that started them.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::Error;
use crate::error::Context;

/// A running program, killed when this is dropped, and by the kernel when this process ends.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits until it ends.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }

    /// Waits until it ends; `None` if it still runs after `limit`.
    pub fn wait_within(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let end = Instant::now() + limit;
        loop {
            match self.child.try_wait()? {
                Some(status) => return Ok(Some(status)),
                None if Instant::now() >= end => return Ok(None),
                None => thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Sends a signal (`libc::SIGTERM`, say).
    pub fn signal(&mut self, signal: i32) -> io::Result<()> {
        if self.child.try_wait()?.is_some() {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        let pid = libc::pid_t::try_from(self.child.id()).map_err(io::Error::other)?;
        // SAFETY: kill(2) takes two integers and touches no memory of ours; the child has not been
        // waited for (see above), so the id is still its own.
        match unsafe { libc::kill(pid, signal) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Kills it (SIGKILL) and waits for its end, and for that of the process that it supervises,
    /// which the kernel kills with it: until then that one still listens.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        let serving = serving(self.id());
        self.child.kill()?;
        let status = self.child.wait()?;
        if let Some(serving) = serving {
            let end = Instant::now() + Duration::from_secs(10);
            while Path::new(&format!("/proc/{serving}")).exists() && Instant::now() < end {
                thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(status)
    }

    /// The pipes that the command asked for.
    pub fn pipes(&mut self) -> &mut Child {
        &mut self.child
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.kill();
    }
}

/// KiB of a process's memory, by their name in `/proc/PID/status`; `None` if it has none.
pub fn memory(process: u32, name: &str) -> Result<Option<u64>, Error> {
    let path = format!("/proc/{process}/status");
    let status = fs::read_to_string(&path).context(|| format!("cannot read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line.and_then(|line| line.split_whitespace().next()?.parse().ok()))
}

/// The processes that a process has started, and what they are called.
pub fn children(process: u32) -> Vec<(u32, String)> {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
    let children = children.unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    let name = |child| fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
    children.map(|child: u32| (child, name(child).trim_end().to_owned())).collect()
}

/// The process that serves for a program of ours whose supervisor has this id; `None` if none does,
/// or if the program was started without a supervisor.
pub fn serving(supervisor: u32) -> Option<u32> {
    let mut children = children(supervisor).into_iter();
    children.find(|(_, name)| !name.ends_with("broker")).map(|(child, _)| child)
}

/// A program to start, and whom to tell.
type Request = (Command, Sender<io::Result<Child>>);

/// Starts a program that dies with this process.
///
/// PR_SET_PDEATHSIG fires when the parent's *thread* ends, and a test is a thread: one thread that
/// never ends therefore starts them all, so that tests can share what one of them started.
pub fn spawn(mut command: Command) -> io::Result<Process> {
    static KEEPER: OnceLock<Sender<Request>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (sender, requests) = channel::<Request>();
        thread::spawn(move || {
            for (mut command, answer) in requests {
                // Whoever asked waits for the answer.
                let _: Result<_, _> = answer.send(command.spawn());
            }
        });
        sender
    });

    let parent = std::process::id();
    // SAFETY: the closure runs between fork and exec and calls only prctl(2) and getppid(2), both
    // async-signal-safe, and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the prctl.
            match u32::try_from(libc::getppid()) {
                Ok(now) if now == parent => Ok(()),
                _ => Err(io::Error::from_raw_os_error(libc::ESRCH)),
            }
        });
    }
    let (sender, answer) = channel();
    keeper.send((command, sender)).map_err(io::Error::other)?;
    let child = answer.recv().map_err(io::Error::other)??;
    Ok(Process { child })
}

/// How long a program may take to listen on its socket.
const LISTEN: Duration = Duration::from_secs(20);

/// Starts a program, and waits until it listens on `socket` (spelled as the
/// program is told it).
pub fn spawn_listening(command: Command, socket: &Path) -> Result<Process, Error> {
    let name = command.get_program().to_string_lossy().into_owned();
    let failed = || format!("{name} does not listen on {}", socket.display());
    let mut process = spawn(command).context(failed)?;
    let end = Instant::now() + LISTEN;
    while !is_listening(process.id(), socket) {
        if let Some(status) = process.try_wait().context(failed)? {
            return Err(io::Error::other(format!("it ended ({status})"))).context(failed);
        }
        if Instant::now() >= end {
            return Err(io::Error::from(ErrorKind::TimedOut)).context(failed);
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(process)
}

/// Asks the kernel, for a connection made only to find out would be taken for the VMM's. Each network has its own
/// sockets: the program may be in another than this process, or have left this one since.
fn is_listening(process: u32, socket: &Path) -> bool {
    let path = socket.to_string_lossy();
    [format!("/proc/{process}/net/unix"), "/proc/net/unix".into()].iter().any(|list| {
        // "Num RefCount Protocol Flags Type St Inode Path": the flag is SO_ACCEPTCON. There is no list of a process that
        // has ended.
        let sockets = fs::read(list).unwrap_or_default();
        String::from_utf8_lossy(&sockets).lines().any(|line| {
            let mut words = line.split_whitespace();
            words.nth(3) == Some("00010000") && words.nth(3) == Some(path.as_ref())
        })
    })
}
