//! The life of a stream (virtio 1.3, 5.14.6.6.1): which command may follow which.

use super::params::Params;

/// Where a stream is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Nothing is set.
    #[default]
    Idle,
    /// Its parameters are set.
    Set(Params),
    /// What it needs of the host is there.
    Prepared(Params),
    /// It runs.
    Running(Params),
    /// It stands still, and may run again.
    Stopped(Params),
    /// What it had of the host is given back.
    Released(Params),
}

/// What a driver has it do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// PCM_SET_PARAMS.
    Set(Params),
    /// PCM_PREPARE.
    Prepare,
    /// PCM_START.
    Start,
    /// PCM_STOP.
    Stop,
    /// PCM_RELEASE.
    Release,
}

impl State {
    /// Where a command leads from here. `None`: it may not be given here.
    #[must_use]
    pub fn after(self, command: Command) -> Option<Self> {
        use Command::{Prepare, Release, Set, Start, Stop};
        match (self, command) {
            (Self::Idle | Self::Set(_) | Self::Prepared(_) | Self::Released(_), Set(params)) => {
                Some(Self::Set(params))
            }
            (Self::Set(params) | Self::Prepared(params) | Self::Released(params), Prepare) => {
                Some(Self::Prepared(params))
            }
            (Self::Prepared(params) | Self::Stopped(params), Start) => Some(Self::Running(params)),
            (Self::Running(params), Stop) => Some(Self::Stopped(params)),
            (Self::Prepared(params) | Self::Stopped(params), Release) => {
                Some(Self::Released(params))
            }
            _ => None,
        }
    }

    /// What is set, if something is.
    #[must_use]
    pub fn params(&self) -> Option<&Params> {
        match self {
            Self::Idle => None,
            Self::Set(params)
            | Self::Prepared(params)
            | Self::Running(params)
            | Self::Stopped(params)
            | Self::Released(params) => Some(params),
        }
    }

    /// Buffers may be given for it.
    #[must_use]
    pub fn takes_buffers(&self) -> bool {
        matches!(self, Self::Prepared(_) | Self::Running(_) | Self::Stopped(_))
    }
}
