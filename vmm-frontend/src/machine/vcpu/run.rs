//! The threads of virtual processors, which run, pause and end together.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use kvm_ioctls::{VcpuExit, VcpuFd};
use rustix::thread::gettid;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use super::{Report, Vcpu, exit};
use crate::boot::Entry;
use crate::confinement::{self, Role};
use crate::lock::lock;
use crate::machine::bus::Bus;
use crate::machine::vm::VmError;

/// Where a guest's accesses go.
#[derive(Debug, Default)]
pub struct Buses {
    /// Ports.
    pub ports: Bus,
    /// What is not memory.
    pub memory: Bus,
}

/// Keeps processors out of the guest, from when it asks for a reset or switches the machine off: what
/// comes after that in its memory is not to be executed.
#[derive(Clone, Debug, Default)]
pub struct Brake(Arc<AtomicBool>);

impl Brake {
    /// No processor enters the guest any more, until all are reset.
    pub fn put_on(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn take_off(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    fn is_on(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// A processor's last word.
pub type Ended = Report;

/// What the processors are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    Run,
    Pause,
    End,
}

#[derive(Debug)]
struct State {
    goal: Goal,
    /// Processors that may be in the guest, or in a device of ours.
    running: usize,
}

/// What the threads share.
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    buses: Arc<Buses>,
    brake: Brake,
    ended: Mutex<Sender<Ended>>,
}

/// All processors, each on a thread of its own.
pub struct Runner {
    shared: Arc<Shared>,
    threads: Vec<Thread>,
}

struct Thread {
    handle: Option<JoinHandle<()>>,
    vcpu: Arc<Mutex<Vcpu>>,
    immediate_exit: ImmediateExit,
    /// The host's number for the thread.
    id: i32,
}

/// A processor's flag that makes it leave KVM, or not enter it.
#[derive(Clone, Copy)]
struct ImmediateExit(NonNull<AtomicU8>);

// SAFETY: it points at a byte that is only accessed atomically, by us and by the kernel.
unsafe impl Send for ImmediateExit {}
// SAFETY: as above.
unsafe impl Sync for ImmediateExit {}

impl ImmediateExit {
    fn of(vcpu: &mut VcpuFd) -> Self {
        Self(NonNull::from(&mut vcpu.get_kvm_run().immediate_exit).cast())
    }

    fn set(self, value: u8) {
        // SAFETY: the page is mapped as long as the `VcpuFd` lives, which a `Thread` keeps.
        unsafe { self.0.as_ref() }.store(value, Ordering::SeqCst);
    }
}

impl std::fmt::Debug for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner").field("processors", &self.threads.len()).finish_non_exhaustive()
    }
}

/// The signal that makes a thread leave KVM.
fn kick_signal() -> i32 {
    SIGRTMIN()
}

extern "C" fn nothing(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

impl Runner {
    /// Gives each a thread; they wait until [`resume`](Self::resume). One that can't go on tells
    /// `ended` why.
    ///
    /// # Errors
    /// A thread can't be had.
    pub fn new(
        vcpus: Vec<Vcpu>,
        buses: Arc<Buses>,
        brake: Brake,
        ended: Sender<Ended>,
    ) -> io::Result<Self> {
        register_signal_handler(kick_signal(), nothing).map_err(io::Error::from)?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State { goal: Goal::Pause, running: 0 }),
            changed: Condvar::new(),
            buses,
            brake,
            ended: Mutex::new(ended),
        });
        let mut runner = Self { shared, threads: Vec::with_capacity(vcpus.len()) };
        for mut vcpu in vcpus {
            let immediate_exit = ImmediateExit::of(&mut vcpu.fd);
            let name = format!("vcpu{}", vcpu.index);
            let vcpu = Arc::new(Mutex::new(vcpu));
            let (own, shared) = (Arc::clone(&vcpu), Arc::clone(&runner.shared));
            let (tell, told) = mpsc::channel();
            let run = move || {
                confinement::restrict(Role::Processor);
                let _ = tell.send(gettid().as_raw_nonzero().get());
                shared.serve(&own, immediate_exit);
            };
            let handle = Some(thread::Builder::new().name(name).spawn(run)?);
            // It can only not be told by a thread that has panicked.
            let id = told.recv().unwrap_or(0);
            runner.threads.push(Thread { handle, vcpu, immediate_exit, id });
        }
        Ok(runner)
    }

    /// The host's numbers for their threads, in order.
    pub fn thread_ids(&self) -> impl Iterator<Item = i32> + '_ {
        self.threads.iter().map(|thread| thread.id)
    }

    /// Lets all go on.
    pub fn resume(&self) {
        let mut state = self.shared.state();
        if state.goal == Goal::Pause {
            state.goal = Goal::Run;
            self.shared.changed.notify_all();
        }
    }

    /// Stops all; none is in the guest, or in a device of ours, when this returns.
    pub fn pause(&self) {
        self.stop(Goal::Pause);
    }

    fn stop(&self, goal: Goal) {
        let mut state = self.shared.state();
        if state.goal != Goal::End {
            state.goal = goal;
        }
        self.shared.changed.notify_all();
        self.kick();
        while state.running > 0 {
            state = self.shared.wait(state);
        }
    }

    fn kick(&self) {
        for thread in &self.threads {
            thread.immediate_exit.set(1);
            if let Some(handle) = &thread.handle {
                // It fails for a thread that has ended, which is what it should do.
                let _ = handle.kill(kick_signal());
            }
        }
    }

    /// Resets all of them while they are paused; the first starts at `entry`.
    ///
    /// # Errors
    /// See [`VmError`].
    pub fn reset(&self, entry: Option<Entry>) -> Result<(), VmError> {
        for thread in &self.threads {
            lock(&thread.vcpu).reset(entry)?;
        }
        self.shared.brake.take_off();
        Ok(())
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.stop(Goal::End);
        for thread in &mut self.threads {
            if let Some(handle) = thread.handle.take() {
                // One that panicked has said so.
                let _ = handle.join();
            }
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// A processor's thread.
    fn serve(&self, vcpu: &Mutex<Vcpu>, immediate_exit: ImmediateExit) {
        while self.begin() {
            let result = self.run(&mut lock(vcpu), immediate_exit);
            let mut state = self.state();
            state.running = state.running.saturating_sub(1);
            self.changed.notify_all();
            if let Err(report) = result {
                // Nobody listens any more only if the machine ends.
                let _ = lock(&self.ended).send(report);
                while state.goal == Goal::Run {
                    state = self.wait(state);
                }
            }
        }
    }

    /// Waits until processors may run; `false`: they are to end.
    fn begin(&self) -> bool {
        let mut state = self.state();
        loop {
            match state.goal {
                Goal::Run if !self.brake.is_on() => {
                    state.running = state.running.saturating_add(1);
                    return true;
                }
                Goal::End => return false,
                Goal::Run | Goal::Pause => state = self.wait(state),
            }
        }
    }

    /// Runs until another goal is set.
    fn run(&self, vcpu: &mut Vcpu, immediate_exit: ImmediateExit) -> Result<(), Report> {
        let (index, page) = (vcpu.index, vcpu.page);
        loop {
            // KVM still has to finish the access, without going on in the guest.
            if self.brake.is_on() {
                immediate_exit.set(1);
            }
            let reason = match vcpu.fd.run() {
                Ok(VcpuExit::IoIn(..) | VcpuExit::IoOut(..)) => {
                    // SAFETY: that is the exit reason, and the page is that large.
                    unsafe { exit::port(vcpu.fd.get_kvm_run(), page, &self.buses) };
                    continue;
                }
                Ok(VcpuExit::MmioRead(address, data)) => {
                    self.buses.memory.read(address, data);
                    continue;
                }
                Ok(VcpuExit::MmioWrite(address, data)) => {
                    self.buses.memory.write(address, data);
                    continue;
                }
                Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => continue,
                Ok(VcpuExit::Shutdown) => String::from("triple fault"),
                Ok(VcpuExit::InternalError) => internal_error(&mut vcpu.fd),
                Ok(VcpuExit::FailEntry(reason, _)) => {
                    format!("the processor refuses the guest's state (reason {reason:#x})")
                }
                Ok(other) => format!("KVM exit {other:?}, which nothing here asks for"),
                Err(error) => match error.errno() {
                    libc::EINTR | libc::EAGAIN => {
                        // First: a goal that is set from now on sets it again.
                        immediate_exit.set(0);
                        if self.state().goal != Goal::Run || self.brake.is_on() {
                            return Ok(());
                        }
                        continue;
                    }
                    _ => format!("KVM_RUN: {error}"),
                },
            };
            return Err(Report::new(index, reason, &vcpu.fd));
        }
    }
}

/// What KVM_EXIT_INTERNAL_ERROR says.
fn internal_error(vcpu: &mut VcpuFd) -> String {
    // SAFETY: the exit reason says that this member is the one that was written.
    let internal = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal };
    let what = match internal.suberror {
        1 => "KVM cannot emulate an instruction",
        2 => "an exception came while another was delivered",
        3 => "KVM could not deliver an event",
        _ => "KVM failed",
    };
    let count = usize::try_from(internal.ndata).unwrap_or(0);
    let data: Vec<String> =
        internal.data.iter().take(count).map(|word| format!("{word:#x}")).collect();
    format!("{what} (internal error {}: {})", internal.suberror, data.join(" "))
}
