//! What changes without the driver: something is plugged in, a stream is made louder here or by the host; and who is told.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Card, lock};
use crate::card::control::Level;
use crate::virtio::control;
use crate::virtio::stream::Stream;

/// VIRTIO_SND_EVT_*.
const JACK_CONNECTED: u32 = 0x1000;
pub(super) const JACK_DISCONNECTED: u32 = 0x1001;
pub(super) const CTL_NOTIFY: u32 = 0x1200;
/// Control clients are told of what a guest does with a stream's volume no more often.
pub(in crate::virtio) const PACE: Duration = Duration::from_millis(100);

/// What a driver knows of each stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Told {
    pub(super) jacks: Vec<bool>,
    pub(super) levels: Vec<Level>,
}

impl Card {
    /// Whether something is plugged into each jack, that of a stream at the same place.
    pub(super) fn plugged(&self) -> impl Iterator<Item = bool> {
        self.plugged.iter().map(|plugged| plugged.load(Ordering::Relaxed))
    }

    /// Plugs something into a stream's jack, or out. `false`: there is no such stream.
    pub fn plug(&self, name: &str, plugged: bool) -> bool {
        let found = self.configs.iter().zip(&self.plugged).find(|(it, _)| it.name == name);
        if let Some((_, jack)) = found
            && jack.swap(plugged, Ordering::Relaxed) != plugged
        {
            self.wake();
            self.keep();
        }
        found.is_some()
    }

    /// Has the worker tell the driver what has changed.
    fn wake(&self) {
        if let Err(error) = self.wake.write(1) {
            log::error!("the guest is not told of what has changed: {error}");
        }
    }

    /// Has the streams as loud as their hosts have made them.
    fn follow_hosts(&self) {
        let mut is_louder = false;
        for stream in self.streams().iter_mut() {
            is_louder |= stream.follow_host();
        }
        if is_louder {
            self.announce(Duration::ZERO);
            self.wake();
            self.keep();
        }
    }

    /// Makes a stream so loud, where something is said. `false`: there is no such stream.
    pub fn set_volume(&self, name: &str, volume: Option<u8>, is_on: Option<bool>) -> bool {
        self.follow_hosts();
        let mut streams = self.streams();
        let Some(stream) = streams.iter_mut().find(|stream| stream.config.name == name) else {
            return false;
        };
        let level = stream.level();
        let level = volume.map_or(level, |volume| level.with_volume(volume));
        let level = Level { is_on: is_on.unwrap_or(level.is_on), ..level };
        let changed = stream.level() != level;
        stream.set_level(level);
        drop(streams);
        if changed {
            self.announce(Duration::ZERO);
            self.wake();
            self.keep();
        }
        true
    }

    /// Tells control clients of volumes that have changed, of each stream once in a `pace`. Returns when it is to
    /// be called again.
    pub(in crate::virtio) fn announce(&self, pace: Duration) -> Option<Instant> {
        let (streams, now) = (self.streams(), Instant::now());
        let mut next = None;
        for (stream, (known, at)) in streams.iter().zip(lock(&self.announced).iter_mut()) {
            let level = stream.level();
            if level == *known {
                continue;
            }
            let due = at.and_then(|at| at.checked_add(pace)).filter(|due| *due > now);
            if due.is_some() {
                next = next.into_iter().chain(due).min();
                continue;
            }
            (*known, *at) = (level, Some(now));
            self.clients.send("VOLUME_CHANGED", || {
                let (name, volumes) = (&stream.config.name, control::volumes(stream));
                json!({ "stream": name, "volume": volumes, "muted": !level.is_on })
            });
        }
        next
    }

    /// Something that the driver does not know, and does from now on: an event's code and its data.
    pub(in crate::virtio) fn news(&self) -> Option<(u32, u32)> {
        let streams = self.streams();
        let mut told = lock(&self.told);
        for (number, (plugged, known)) in (0..).zip(self.plugged().zip(&mut told.jacks)) {
            if std::mem::replace(known, plugged) != plugged {
                return Some((if plugged { JACK_CONNECTED } else { JACK_DISCONNECTED }, number));
            }
        }
        let element = self.controls.changed(&mut told.levels, &streams)?;
        Some((CTL_NOTIFY, element))
    }

    /// What control clients are told of it.
    #[must_use]
    pub fn describe(&self) -> Value {
        self.follow_hosts();
        let streams = self.streams();
        let streams = streams.iter().zip(self.plugged()).map(|(stream, plugged)| {
            let Stream { config, .. } = stream;
            json!({
                "stream": config.name,
                "jack": config.port.to_string(),
                "plugged": plugged,
                "running": stream.is_running(),
                "volume": control::volumes(stream),
                "muted": !stream.level().is_on,
            })
        });
        streams.collect()
    }
}
