//! The life of a stream (virtio 1.3, 5.14.6.6.1): which command may follow which.

use serde::{Deserialize, Serialize};

use super::StreamConfig;
use super::params::{Asked, Params, ParamsError};

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

    /// As another process understands it.
    #[must_use]
    pub fn save(&self) -> Saved {
        let phase = match self {
            Self::Idle => return Saved::Idle,
            Self::Set(_) => Phase::Set,
            Self::Prepared(_) => Phase::Prepared,
            Self::Running(_) => Phase::Running,
            Self::Stopped(_) => Phase::Stopped,
            Self::Released(_) => Phase::Released,
        };
        self.params().map_or(Saved::Idle, |params| Saved::Set { asked: params.asked(), phase })
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

/// A state, as another process gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Saved {
    /// Nothing is set.
    Idle,
    /// Something is.
    Set {
        /// What.
        asked: Asked,
        /// How far it has come.
        phase: Phase,
    },
}

/// How far a stream has come with what is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// See [`State::Set`].
    Set,
    /// See [`State::Prepared`].
    Prepared,
    /// See [`State::Running`].
    Running,
    /// See [`State::Stopped`].
    Stopped,
    /// See [`State::Released`].
    Released,
}

impl Saved {
    /// The state, for a stream that offers `features`.
    ///
    /// # Errors
    /// The stream can't be so.
    pub fn state(&self, stream: &StreamConfig, features: u32) -> Result<State, ParamsError> {
        let Self::Set { asked, phase } = *self else { return Ok(State::Idle) };
        let params = Params::check(asked, stream, features)?;
        Ok(match phase {
            Phase::Set => State::Set(params),
            Phase::Prepared => State::Prepared(params),
            Phase::Running => State::Running(params),
            Phase::Stopped => State::Stopped(params),
            Phase::Released => State::Released(params),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::card::format::Format;
    use crate::card::port::Port;

    fn stream() -> StreamConfig {
        StreamConfig {
            name: String::from("mic"),
            port: Port::Mic,
            formats: vec![Format::S16],
            rates: vec!["48000".parse().unwrap()],
            channels: (1, 1),
        }
    }

    fn params() -> Params {
        let (period_bytes, buffer_bytes) = (960, 1920);
        let asked =
            Asked { buffer_bytes, period_bytes, features: 0, channels: 1, format: 5, rate: 7 };
        Params::check(asked, &stream(), 0).unwrap()
    }

    #[test]
    fn a_stream_lives_as_the_standard_says() {
        use Command::{Prepare, Release, Set, Start, Stop};
        let all = [Set(params()), Prepare, Start, Stop, Release];
        for (state, may) in [
            (State::Idle, &[Set(params())][..]),
            (State::Set(params()), &[Set(params()), Prepare]),
            (State::Prepared(params()), &[Set(params()), Prepare, Start, Release]),
            (State::Running(params()), &[Stop]),
            (State::Stopped(params()), &[Start, Release]),
            (State::Released(params()), &[Set(params()), Prepare]),
        ] {
            for command in all {
                assert_eq!(
                    state.after(command).is_some(),
                    may.contains(&command),
                    "{state:?} {command:?}"
                );
            }
            let saved = serde_json::to_string(&state.save()).unwrap();
            let saved: Saved = serde_json::from_str(&saved).unwrap();
            assert_eq!(saved.state(&stream(), 0), Ok(state), "{saved:?}");
        }
        let other = StreamConfig { channels: (2, 2), ..stream() };
        assert!(State::Set(params()).save().state(&other, 0).is_err());
    }
}
