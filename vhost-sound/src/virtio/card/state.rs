//! What outlives the process: the supervisor keeps it, and another host's process gets it with the guest.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use vhost_runtime::state::StateError;
use vhost_runtime::supervisor::Kept;

use super::changes::Told;
use super::{Card, lock};
use crate::card::control::Level;
use crate::virtio::stream::{Saved, Stream};

/// What is kept by the supervisor is called so.
const KEY: &str = "card";

/// The card, as another process gets it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    streams: Vec<Saved>,
    jacks: Vec<bool>,
    told: Told,
}

impl Card {
    /// What another process needs, of each stream what `save` says.
    pub(super) fn saved(&self, save: fn(&Stream) -> Saved) -> serde_json::Result<Value> {
        let streams = self.streams();
        let told = lock(&self.told).clone();
        let state = State {
            streams: streams.iter().map(save).collect(),
            jacks: self.plugged().collect(),
            told,
        };
        serde_json::to_value(state)
    }

    /// Takes all of another process's state, or nothing.
    pub(super) fn go_on_with(&self, state: Value) -> Result<(), StateError> {
        let (saved, jacks, told): (Vec<Saved>, _, _) = match state {
            // A version that said nothing of jacks, nor of what the driver knows.
            streams @ Value::Array(_) => {
                (serde_json::from_value(streams)?, vec![true; self.configs.len()], None)
            }
            state => {
                let State { streams, jacks, told } = serde_json::from_value(state)?;
                (streams, jacks, Some(told))
            }
        };
        self.check(&saved)?;
        let levels = saved.iter().map(|saved| saved.level).collect();
        let told = told.unwrap_or_else(|| Told { jacks: jacks.clone(), levels });
        let count = self.configs.len();
        if [jacks.len(), told.jacks.len(), told.levels.len()] != [count; 3]
            || !told.levels.iter().all(Level::is_possible)
        {
            return Err(StateError::Mismatch(String::from(
                "what is said of its jacks and volumes cannot be",
            )));
        }
        let mut streams = self.streams();
        for (stream, saved) in streams.iter_mut().zip(&saved) {
            if let Err(error) = stream.restore(saved) {
                log::error!("{error}"); // the host's end of it: others may go on
            }
        }
        for (jack, plugged) in self.plugged.iter().zip(jacks) {
            jack.store(plugged, Ordering::Relaxed);
        }
        *lock(&self.told) = told;
        drop(streams);
        self.announce(Duration::ZERO);
        Ok(())
    }

    /// Whether these streams can be the card's.
    fn check(&self, saved: &[Saved]) -> Result<(), StateError> {
        let own: Vec<&str> = self.configs.iter().map(|config| config.name.as_str()).collect();
        let other: Vec<&str> = saved.iter().map(|saved| saved.name.as_str()).collect();
        if own != other {
            return Err(StateError::Mismatch(format!(
                "the card has the streams {}, and the guest's had {}",
                own.join(", "),
                other.join(", ")
            )));
        }
        let mut both = self.configs.iter().zip(saved);
        both.try_for_each(|(config, saved)| saved.check(config)).map_err(StateError::Mismatch)
    }

    /// Takes what a former process had kept of this card.
    pub fn restore(&self, kept: &[Kept]) {
        let Some(kept) = kept.iter().find(|kept| kept.key == KEY) else { return };
        let done = serde_json::from_slice(&kept.description).map_err(StateError::from);
        match done.and_then(|state| self.go_on_with(state)) {
            Ok(()) => self.doubtful.store(true, Ordering::Relaxed),
            Err(error) => log::error!("what was kept of a former process is of no use: {error}"),
        }
    }

    /// Has the supervisor keep what another process needs to go on, if that is not what it keeps already.
    pub(in crate::virtio) fn keep(&self) {
        let mut kept = lock(&self.kept); // what is newer is kept later
        let text = match self.saved(Stream::keep).and_then(|state| serde_json::to_vec(&state)) {
            Ok(text) if text == *kept => return,
            Ok(text) => text,
            Err(error) => {
                log::error!("a stream will not outlive a crash: {error}");
                return;
            }
        };
        match self.keeper.keep(KEY, &text, &[]) {
            Ok(()) => *kept = text,
            Err(error) => {
                kept.clear();
                log::error!("a stream will not outlive a crash: {error}");
            }
        }
    }
}
