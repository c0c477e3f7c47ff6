//! Fewer system calls for a thread than for the program.

use seccompiler::BpfProgram;

use super::calls::{self, Call};
use super::{Sandbox, SandboxError};

/// Takes from a thread what only others of the program do: those calls fail with ENOSYS.
#[derive(Clone, Debug)]
pub struct ThreadFilter(BpfProgram);

impl ThreadFilter {
    /// Without these calls.
    ///
    /// # Errors
    /// They make no filter.
    pub fn without(calls: &[Call]) -> Result<Self, SandboxError> {
        calls::refusing(calls).map(Self)
    }

    /// Restricts this thread, and those that it starts, for ever.
    ///
    /// # Errors
    /// The kernel refuses; in a sandbox it does so unless that [allows it](Sandbox::threads).
    pub fn enter(&self) -> Result<(), SandboxError> {
        let failed = |error| SandboxError::new("seccomp", std::io::Error::other(error));
        seccompiler::apply_filter(&self.0).map_err(failed)
    }
}

impl Sandbox {
    /// Its threads take still less, each by a [`ThreadFilter`].
    pub fn threads(&mut self) {
        self.calls([
            Call::With(libc::SYS_prctl, 0, libc::PR_SET_NO_NEW_PRIVS.cast_unsigned()),
            Call::With(libc::SYS_seccomp, 0, libc::SECCOMP_SET_MODE_FILTER),
        ]);
    }
}
