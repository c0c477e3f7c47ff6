//! System calls, by seccomp.
//!
//! Two filters, of which the kernel takes the stricter answer:
//! - what is not on the list of what serving takes fails with ENOSYS, as on a kernel without that
//!   call: the C library then falls back to an older one (clone3, whose flags a filter can't see, to
//!   clone), and a forgotten call is an error in the log, not a dead process;
//! - what nothing in a device program ever does, but who has taken it over would, kills the process,
//!   and so becomes known: the supervisor says that it was killed by SIGSYS, and starts another.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::SandboxError;

/// A system call that is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Whatever its arguments are.
    Any(c_long),
    /// If argument number `.1`, of 32 bits, is `.2`.
    With(c_long, u8, u32),
    /// If of the bits `.2` of argument number `.1` exactly `.3` are set.
    Masked(c_long, u8, u64, u64),
}

impl Call {
    /// An ioctl, of this request.
    #[must_use]
    pub const fn ioctl(request: u32) -> Self {
        Self::With(libc::SYS_ioctl, 1, request)
    }

    const fn fcntl(command: i32) -> Self {
        Self::With(libc::SYS_fcntl, 1, command.cast_unsigned())
    }

    fn number(self) -> c_long {
        match self {
            Self::Any(number) | Self::With(number, ..) | Self::Masked(number, ..) => number,
        }
    }

    fn condition(self) -> seccompiler::Result<Option<SeccompCondition>> {
        let (argument, length, operator, value) = match self {
            Self::Any(_) => return Ok(None),
            Self::With(_, argument, value) => {
                (argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value.into())
            }
            Self::Masked(_, argument, mask, value) => {
                (argument, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(mask), value)
            }
        };
        Ok(Some(SeccompCondition::new(argument, length, operator, value)?))
    }
}

/// What makes a mapping executable: nothing here ever is.
const EXECUTABLE: u64 = libc::PROT_EXEC as u64;
/// What clone(2) is asked for a thread; and what would be a process or a namespace of its own.
const THREAD: u64 = (libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD) as u64;
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

/// What the runtime itself does: the session, guest memory, workers, logging.
const RUNTIME: &[Call] = &[
    // Files and sockets that are open.
    Call::Any(libc::SYS_read),
    Call::Any(libc::SYS_write),
    Call::Any(libc::SYS_readv),
    Call::Any(libc::SYS_writev),
    Call::Any(libc::SYS_pread64),
    Call::Any(libc::SYS_pwrite64),
    Call::Any(libc::SYS_close),
    Call::Any(libc::SYS_fstat),
    // Also the way to fstat in new C libraries; of other files it tells no more than that they are.
    Call::Any(libc::SYS_newfstatat),
    Call::Any(libc::SYS_statx),
    Call::Any(libc::SYS_lseek),
    Call::Any(libc::SYS_ftruncate),
    Call::fcntl(libc::F_GETFD),
    Call::fcntl(libc::F_SETFD),
    Call::fcntl(libc::F_GETFL),
    Call::fcntl(libc::F_SETFL),
    Call::fcntl(libc::F_DUPFD_CLOEXEC),
    Call::fcntl(libc::F_GET_SEALS),
    Call::fcntl(libc::F_ADD_SEALS),
    Call::ioctl(libc::FIONBIO as u32),
    Call::Any(libc::SYS_accept4),
    Call::Any(libc::SYS_recvmsg),
    Call::Any(libc::SYS_recvfrom),
    Call::Any(libc::SYS_sendmsg),
    Call::Any(libc::SYS_sendto),
    Call::Any(libc::SYS_shutdown),
    Call::Any(libc::SYS_getsockopt),
    Call::Any(libc::SYS_setsockopt),
    Call::Any(libc::SYS_getsockname),
    Call::Any(libc::SYS_getpeername),
    // Events and time.
    #[cfg(target_arch = "x86_64")]
    Call::Any(libc::SYS_poll),
    Call::Any(libc::SYS_ppoll),
    Call::Any(libc::SYS_epoll_create1),
    Call::Any(libc::SYS_epoll_ctl),
    #[cfg(target_arch = "x86_64")]
    Call::Any(libc::SYS_epoll_wait),
    Call::Any(libc::SYS_epoll_pwait),
    Call::Any(libc::SYS_eventfd2),
    Call::Any(libc::SYS_timerfd_create),
    Call::Any(libc::SYS_timerfd_settime),
    Call::Any(libc::SYS_timerfd_gettime),
    Call::Any(libc::SYS_clock_gettime),
    Call::Any(libc::SYS_clock_getres),
    Call::Any(libc::SYS_clock_nanosleep),
    Call::Any(libc::SYS_nanosleep),
    Call::Any(libc::SYS_restart_syscall),
    // Memory.
    Call::Any(libc::SYS_brk),
    Call::Masked(libc::SYS_mmap, 2, EXECUTABLE, 0),
    Call::Masked(libc::SYS_mprotect, 2, EXECUTABLE, 0),
    Call::Any(libc::SYS_munmap),
    Call::Any(libc::SYS_mremap),
    Call::Any(libc::SYS_madvise),
    Call::Any(libc::SYS_memfd_create),
    // Threads.
    Call::Masked(libc::SYS_clone, 0, THREAD | NAMESPACES, THREAD),
    Call::Any(libc::SYS_set_robust_list),
    Call::Any(libc::SYS_rseq),
    Call::Any(libc::SYS_futex),
    Call::Any(libc::SYS_sched_yield),
    Call::Any(libc::SYS_sched_getaffinity),
    Call::With(libc::SYS_prctl, 0, libc::PR_SET_NAME.cast_unsigned()),
    Call::Any(libc::SYS_getpid),
    Call::Any(libc::SYS_gettid),
    Call::Any(libc::SYS_getrandom),
    Call::Any(libc::SYS_rt_sigprocmask),
    Call::Any(libc::SYS_rt_sigaction),
    Call::Any(libc::SYS_rt_sigreturn),
    Call::Any(libc::SYS_sigaltstack),
    Call::Any(libc::SYS_exit),
    Call::Any(libc::SYS_exit_group),
];

/// What kills.
const DEADLY: &[c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_open_by_handle_at,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_personality,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setgroups,
    libc::SYS_capset,
];

/// The filters of a program that makes `calls` besides the runtime's.
pub(super) fn filters(calls: &[Call]) -> Result<[BpfProgram; 2], SandboxError> {
    let deadly = DEADLY.iter().map(|&number| (number, Vec::new())).collect();
    let compile = || -> seccompiler::Result<[BpfProgram; 2]> {
        let missing = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
        let deadly = compile(deadly, SeccompAction::Allow, SeccompAction::KillProcess)?;
        let allowed = rules(RUNTIME.iter().chain(calls))?;
        Ok([compile(allowed, missing, SeccompAction::Allow)?, deadly])
    };
    compile().map_err(|error| SandboxError::new("seccomp", std::io::Error::other(error)))
}

/// A filter that refuses these calls, and leaves all others to the other filters.
pub(super) fn refusing(calls: &[Call]) -> Result<BpfProgram, SandboxError> {
    let missing = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let program =
        rules(calls.iter()).and_then(|calls| compile(calls, SeccompAction::Allow, missing));
    program.map_err(|error| SandboxError::new("seccomp", std::io::Error::other(error)))
}

fn rules<'a>(
    calls: impl Iterator<Item = &'a Call> + Clone,
) -> seccompiler::Result<BTreeMap<c_long, Vec<SeccompRule>>> {
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> = BTreeMap::new();
    for call in calls.clone() {
        let rules = rules.entry(call.number()).or_default();
        if let Some(condition) = call.condition()? {
            rules.push(SeccompRule::new(vec![condition])?);
        }
    }
    // No rule stands for whatever arguments.
    for call in calls.filter(|call| matches!(call, Call::Any(_))) {
        rules.insert(call.number(), Vec::new());
    }
    Ok(rules)
}

fn compile(
    rules: BTreeMap<c_long, Vec<SeccompRule>>,
    mismatch: SeccompAction,
    matched: SeccompAction,
) -> seccompiler::Result<BpfProgram> {
    let arch = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(rules, mismatch, matched, arch)?.try_into()?)
}

/// Installs them for all threads: the list last, for it has no place for installing a filter.
pub(super) fn restrict(filters: &[BpfProgram; 2]) -> Result<(), SandboxError> {
    let failed = |error| SandboxError::new("seccomp", std::io::Error::other(error));
    let [allowed, deadly] = filters;
    seccompiler::apply_filter_all_threads(deadly).map_err(failed)?;
    seccompiler::apply_filter_all_threads(allowed).map_err(failed)
}
