//! The kernels that guests start: unmodified Debian ones, each with an initrd of its own.

/// A kernel of Debian 12.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// Linux 6.1, its own.
    Stable,
    /// Linux 6.12, its backport.
    Backports,
}

impl Kernel {
    /// All of them.
    pub const ALL: [Kernel; 2] = [Kernel::Stable, Kernel::Backports];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kernel::Stable => "linux-6.1",
            Kernel::Backports => "linux-6.12",
        }
    }
}
