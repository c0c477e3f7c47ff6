//! The process that starts the one that serves, and starts it again when it was killed.
//!
//! The supervisor forks before anything is opened, so that each serving process opens its units
//! afresh and then enters its sandbox. It holds the listening sockets: connections that come while
//! nobody serves wait there. It also keeps what a serving process would lose by its death
//! ([`Keeper`]).
//!
//! A [broker](crate::broker::Lasting) that is to live as long as the program is looked after, too: it is a
//! child of the supervisor's own, and another takes its place while the serving process goes on.
//!
//! It is in no sandbox itself, which its children would inherit: they have files to open. It reads
//! nothing but a serving process's short messages ([`link`]), and never what is in them.

mod keep;
mod link;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpid, getppid, kill_process,
    kill_process_group, pidfd_open, set_parent_process_death_signal, waitid,
};

pub use keep::{KeepError, Keeper, Kept};
pub use link::Link;

use crate::broker::{Lasting, Process};
use crate::program::{Confinement, ProgramError, Shutdown, Socket};
use keep::Store;
use link::{Notice, SupervisorEnd};

/// What the caller of [`start`] is from now on.
#[derive(Debug)]
pub enum Role {
    /// The process that serves, with its way to the supervisor.
    Serve(Link),
    /// The supervisor, when all is over: the status to exit with.
    Ended(u8),
}

/// Forks. Returns in the serving process, again in each that takes the place of one that was killed,
/// and in the supervisor when the serving process has ended by itself. With the sandbox off, there
/// is no other process. Before any thread is started.
///
/// `sockets` are those of the VMM and of others who may connect: they listen when the serving process
/// is ready, and stay open for the next one. `broker` is looked after, where there is a supervisor.
///
/// # Errors
/// Two sockets have one path. In the supervisor: the serving process was killed too often; a socket
/// can't listen; the host refuses.
pub fn start(
    sockets: &mut [&mut Socket],
    shutdown: &Shutdown,
    confinement: Confinement,
    broker: Option<Lasting>,
) -> Result<Role, ProgramError> {
    Socket::check_apart(sockets)?;
    if confinement == Confinement::Off {
        return Ok(Role::Serve(Link::alone()));
    }
    let mut store = Store::default();
    let mut restarts = Restarts::default();
    let broker = broker.map(Broker::new);
    let mut supervisor = Supervisor { published: false, stopping: None, broker };
    loop {
        let born = Instant::now();
        let (end, child) = match fork()? {
            Forked::Serving(link) => {
                sockets.iter_mut().for_each(|socket| socket.disown());
                return Ok(Role::Serve(link.with(store.into_kept())));
            }
            Forked::Supervisor(end, child) => (end, child),
        };
        // A connection is the serving process's alone: it ends with it.
        let connected = sockets.iter_mut().map(|socket| socket.hand_over()).fold(false, bool::max);
        let watched = supervisor.watch(&child, end, shutdown, sockets, &mut store);
        let signal = match watched {
            Ok(End { status: Status::Exited(code), .. }) => return Ok(Role::Ended(code)),
            Ok(End { status: Status::Killed(signal), attached }) => {
                if supervisor.stopping.is_some() {
                    log::error!(
                        "the serving process was killed by {} before its end",
                        name(signal)
                    );
                    return Ok(Role::Ended(1));
                }
                if connected {
                    return Err(ProgramError::Killed(signal));
                }
                restarts.count(attached, born.elapsed());
                signal
            }
            Err(error) => {
                child.signal(Signal::KILL);
                return Err(error);
            }
        };
        let Some(pause) = restarts.pause() else {
            return Err(ProgramError::Crashes { signal, times: restarts.in_vain });
        };
        log::error!("the serving process was killed by {}, and is started again", name(signal));
        if supervisor.sleep(pause, shutdown)? {
            return Ok(Role::Ended(0));
        }
    }
}

fn name(signal: i32) -> String {
    match signal {
        libc::SIGSYS => String::from("SIGSYS, for a forbidden system call"),
        libc::SIGABRT => String::from("SIGABRT, by itself"),
        libc::SIGSEGV => String::from("SIGSEGV"),
        libc::SIGBUS => String::from("SIGBUS, as where a VMM cuts its memory short"),
        libc::SIGKILL => String::from("SIGKILL"),
        other => format!("signal {other}"),
    }
}

fn host(what: &'static str) -> impl Fn(Errno) -> ProgramError {
    move |error| ProgramError::Host { what, error: error.into() }
}

/// A process, seen from the supervisor.
struct Child {
    pid: Pid,
    fd: OwnedFd,
}

impl Child {
    fn signal(&self, signal: Signal) {
        // It was not waited for: the number is still its own.
        if let Err(error) = kill_process(self.pid, signal) {
            log::debug!("the serving process does not get its signal: {error}");
        }
    }
}

impl From<Process> for Child {
    fn from(broker: Process) -> Self {
        Self { pid: broker.pid, fd: broker.fd }
    }
}

enum Forked {
    Serving(Link),
    Supervisor(SupervisorEnd, Child),
}

fn fork() -> Result<Forked, ProgramError> {
    let refused = host("no process can be started");
    let supervisor = getpid();
    let (ours, theirs) = link::pair().map_err(&refused)?;
    // SAFETY: this process has one thread (the caller's promise), so the child finds every lock free.
    match unsafe { libc::fork() } {
        0 => {
            set_parent_process_death_signal(Some(Signal::KILL)).map_err(&refused)?;
            if getppid() != Some(supervisor) {
                return Err(refused(Errno::SRCH)); // it died before that
            }
            Ok(Forked::Serving(theirs))
        }
        pid => {
            let pid = Pid::from_raw(pid).filter(|_| pid > 0);
            let pid = pid.ok_or_else(|| refused(last_error()))?;
            let fd = pidfd_open(pid, PidfdFlags::empty()).map_err(&refused)?;
            Ok(Forked::Supervisor(ours, Child { pid, fd }))
        }
    }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::AGAIN)
}

/// How a serving process ended.
struct End {
    status: Status,
    /// A VMM was connected to it.
    attached: bool,
}

enum Status {
    Exited(u8),
    Killed(i32),
}

struct Supervisor {
    /// The sockets listen.
    published: bool,
    /// Since when somebody wants the end.
    stopping: Option<Instant>,
    broker: Option<Broker>,
}

impl Supervisor {
    /// Waits for the end of a serving process.
    fn watch(
        &mut self,
        child: &Child,
        end: SupervisorEnd,
        shutdown: &Shutdown,
        sockets: &mut [&mut Socket],
        store: &mut Store,
    ) -> Result<End, ProgramError> {
        let mut end = Some(end);
        let mut attached = false;
        loop {
            let link = end.as_ref().map(SupervisorEnd::as_fd);
            let broker = self.broker.as_ref().filter(|_| self.stopping.is_none());
            let (broker, limit) = broker.map_or((None, None), Broker::awaited);
            let mut ready = wait(shutdown.as_fd(), Some(child.fd.as_fd()), link, broker, limit)?;
            if ready.signal {
                shutdown.take();
                // Who asks once more does not wait for one that does not end.
                let since = *self.stopping.get_or_insert_with(Instant::now);
                let insists = since.elapsed() > AT_ONCE;
                child.signal(if insists { Signal::KILL } else { Signal::TERM });
            }
            if let Some(broker) = self.broker.as_mut().filter(|_| self.stopping.is_none())
                && !broker.look_after(ready.broker)?
            {
                self.broker = None;
            }
            while ready.link
                && let Some(open) = &mut end
            {
                match open.receive(store) {
                    Ok(Some(Notice::Ready)) => {
                        // While it waits: it has nothing to say that would be new.
                        self.publish(sockets).inspect_err(|_| child.signal(Signal::KILL))?;
                        open.answer(true);
                    }
                    Ok(Some(Notice::Attached)) => attached = true,
                    Ok(Some(Notice::Other)) => {}
                    Ok(None) => ready.link = false,
                    Err(_) => end = None, // it has closed it
                }
                // What it said before it died counts, but a flood does not keep signals waiting.
                if !ready.ended {
                    break;
                }
            }
            if ready.ended
                && let Some(status) = reap(child)?
            {
                return Ok(End { status, attached });
            }
        }
    }

    fn publish(&mut self, sockets: &mut [&mut Socket]) -> Result<(), ProgramError> {
        if std::mem::replace(&mut self.published, true) {
            return Ok(());
        }
        sockets.iter_mut().try_for_each(|socket| socket.publish())?;
        tell_systemd();
        Ok(())
    }

    /// `true`: the program is to end.
    fn sleep(&mut self, pause: Duration, shutdown: &Shutdown) -> Result<bool, ProgramError> {
        Ok(wait(shutdown.as_fd(), None, None, None, Some(pause))?.signal)
    }
}

/// The broker, seen from the supervisor.
struct Broker {
    again: Box<dyn FnMut() -> std::io::Result<Process>>,
    /// `None`: there is none now.
    child: Option<Child>,
    /// When it was started, or was to be.
    born: Instant,
    /// How long there is to be none.
    pause: Duration,
    restarts: Restarts,
}

impl Broker {
    fn new(broker: Lasting) -> Self {
        let Lasting { process, again } = broker;
        let (child, restarts) = (Some(Child::from(process)), Restarts::default());
        Self { again, child, born: Instant::now(), pause: Duration::ZERO, restarts }
    }

    /// What tells of its end, or how long to wait before the next is started.
    fn awaited(&self) -> (Option<BorrowedFd<'_>>, Option<Duration>) {
        match &self.child {
            Some(child) => (Some(child.fd.as_fd()), None),
            None => (None, Some(self.pause.saturating_sub(self.born.elapsed()))),
        }
    }

    /// Starts another if it `ended`, or when it is time to. `false`: there is to be none.
    fn look_after(&mut self, ended: bool) -> Result<bool, ProgramError> {
        if ended && let Some(child) = self.child.take() {
            // What it had started goes with it. Its number is still its group's: it was not waited for.
            let _ = kill_process_group(child.pid, Signal::KILL); // it is in there itself
            let Some(Status::Killed(signal)) = reap(&child)? else {
                // The serving process has hung up, and could have another do so each time.
                log::error!(
                    "the broker has ended: what is lost of the host's side does not come again"
                );
                return Ok(false);
            };
            log::error!("the broker was killed by {}, and is started again", name(signal));
            self.is_missing();
        }
        if self.child.is_none() && self.born.elapsed() >= self.pause {
            match (self.again)() {
                Ok(process) => {
                    self.child = Some(process.into());
                    self.born = Instant::now();
                }
                Err(error) => {
                    log::error!("the broker cannot be started: {error}");
                    self.is_missing();
                }
            }
        }
        Ok(true)
    }

    /// The program goes on without one, and there is to be another, however often it dies.
    fn is_missing(&mut self) {
        self.restarts.count(true, self.born.elapsed());
        self.pause = self.restarts.pause().unwrap_or(LONGEST_PAUSE);
        self.born = Instant::now();
    }
}

/// It is ready. Once, and by the process that systemd started: NotifyAccess=main is enough.
pub(crate) fn tell_systemd() {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        log::debug!("systemd is not told: {error}");
    }
}

fn reap(child: &Child) -> Result<Option<Status>, ProgramError> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let status = waitid(WaitId::PidFd(child.fd.as_fd()), options)
        .map_err(host("the serving process's end is unknown"))?;
    Ok(status.map(|status| match status.exit_status() {
        Some(code) => Status::Exited(u8::try_from(code).unwrap_or(1)),
        None => Status::Killed(status.terminating_signal().unwrap_or(libc::SIGKILL)),
    }))
}

/// What there is to do.
#[derive(Default)]
struct Happened {
    signal: bool,
    ended: bool,
    link: bool,
    broker: bool,
}

fn wait(
    signals: BorrowedFd<'_>,
    child: Option<BorrowedFd<'_>>,
    link: Option<BorrowedFd<'_>>,
    broker: Option<BorrowedFd<'_>>,
    limit: Option<Duration>,
) -> Result<Happened, ProgramError> {
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    // Where there is none, the signals once more.
    let all = [Some(signals), child, link, broker].map(|fd| fd.unwrap_or(signals));
    let mut fds = all.each_ref().map(|fd| PollFd::new(fd, PollFlags::IN));
    match poll(&mut fds, limit.as_ref()) {
        Ok(_) => {
            let [signal, ended, message, lost] = fds.map(|fd| !fd.revents().is_empty());
            Ok(Happened {
                signal,
                ended: ended && child.is_some(),
                link: message && link.is_some(),
                broker: lost && broker.is_some(),
            })
        }
        Err(Errno::INTR) => Ok(Happened::default()),
        Err(error) => Err(host("waiting failed")(error)),
    }
}

/// What asks for the end may do so by two signals at once.
const AT_ONCE: Duration = Duration::from_millis(100);
/// A life shorter than this is a short one.
const SHORT: Duration = Duration::from_secs(10);
/// Short lives in a row, none of which saw a VMM, that are enough.
const IN_VAIN: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// When to start another.
#[derive(Default)]
struct Restarts {
    /// Short lives in a row.
    short: u32,
    /// Those without a VMM.
    in_vain: u32,
}

impl Restarts {
    fn count(&mut self, attached: bool, lived: Duration) {
        if lived >= SHORT {
            *self = Self::default();
            return;
        }
        self.short = self.short.saturating_add(1);
        self.in_vain = if attached { 0 } else { self.in_vain.saturating_add(1) };
    }

    /// How long to wait before the next; `None`: there is no sense in another. A guest that has
    /// its disk here waits for it, however often the process dies.
    fn pause(&self) -> Option<Duration> {
        if self.in_vain >= IN_VAIN {
            return None;
        }
        Some(match self.short {
            0 | 1 => Duration::ZERO,
            more => {
                let factor = 1u32.checked_shl(more.saturating_sub(2)).unwrap_or(u32::MAX);
                FIRST_PAUSE.saturating_mul(factor).min(LONGEST_PAUSE)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_at_once_and_the_next_ones_are_not() {
        let mut restarts = Restarts::default();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            restarts.count(true, Duration::from_millis(1));
            pauses.push(restarts.pause().unwrap().as_millis());
        }
        assert_eq!(pauses, [0, 50, 100, 200, 400, 800, 1000, 1000]);
        restarts.count(true, SHORT);
        assert_eq!(restarts.pause(), Some(Duration::ZERO));
    }

    #[test]
    fn five_short_lives_without_a_vmm_are_enough() {
        let mut restarts = Restarts::default();
        for _ in 0..4 {
            restarts.count(false, Duration::from_millis(1));
            assert!(restarts.pause().is_some());
        }
        restarts.count(false, Duration::from_millis(1));
        assert_eq!(restarts.pause(), None);
    }

    /// What a program does in its first life and in its second; the status to exit with.
    fn two_lives() -> u8 {
        let Ok(shutdown) = Shutdown::new() else { return 20 };
        let link = match start(&mut [], &shutdown, Confinement::On, None) {
            Ok(Role::Serve(link)) => link,
            Ok(Role::Ended(code)) => return code,
            Err(_) => return 21,
        };
        let kept = link.kept();
        let Some(entry) = kept.first() else {
            let zero = std::fs::File::open("/dev/zero").unwrap();
            link.keeper().keep("unit", b"a disk", &[zero.as_fd()]).unwrap();
            let _ = kill_process(getpid(), Signal::KILL);
            return 22;
        };
        // It stays kept, and can be kept again.
        let again = link.keeper().keep(&entry.key, &entry.description, &entry.borrowed_fds());
        let is_zero = entry.fds.first().is_some_and(|fd| {
            let mut byte = [1];
            rustix::io::read(fd, &mut byte) == Ok(1) && byte == [0]
        });
        let same = entry.key == "unit" && entry.description == b"a disk";
        if kept.len() == 1 && same && is_zero && again.is_ok() { 7 } else { 23 }
    }

    #[test]
    fn what_is_kept_outlives_a_killed_process() {
        // SAFETY: the child waits for no lock but the heap's, which the C library makes free in it,
        // and ends by _exit, in each of the processes that it becomes.
        let status = unsafe {
            match libc::fork() {
                0 => libc::_exit(two_lives().into()),
                pid => {
                    let mut status = 0;
                    assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
                    libc::WEXITSTATUS(status)
                }
            }
        };
        assert_eq!(status, 7);
    }
}
