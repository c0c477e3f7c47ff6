//! What control clients can do with the card: look at its streams, plug jacks in and out, make streams louder.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::Error;
use serde_json::{Value, json};
use vhost_runtime::control::{Arguments, Commands, ControlError, parse, parse_none};

use crate::card::control::LOUDEST;
use crate::virtio::card::Card;

const NAMES: [&str; 3] = ["query-streams", "set-jack", "set-volume"];

/// The program's card.
#[derive(Debug)]
pub struct Manager {
    card: Arc<Card>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetJack {
    stream: String,
    plugged: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetVolume {
    stream: String,
    volume: Option<Value>,
    muted: Option<bool>,
}

impl Manager {
    /// Of this card.
    #[must_use]
    pub fn new(card: Arc<Card>) -> Self {
        Self { card }
    }
}

impl Commands for Manager {
    fn names(&self) -> &'static [&'static str] {
        &NAMES
    }

    fn execute(
        &self,
        name: &str,
        arguments: Arguments,
        _fds: Vec<OwnedFd>,
    ) -> Result<Value, ControlError> {
        match name {
            "query-streams" => {
                parse_none(&arguments)?;
                Ok(self.card.describe())
            }
            "set-volume" => {
                let SetVolume { stream, volume, muted } = parse(arguments)?;
                let volume = volume.as_ref().map(percent).transpose()?;
                let is_on = muted.map(|muted| !muted);
                found(&stream, self.card.set_volume(&stream, volume, is_on))
            }
            _ => {
                let SetJack { stream, plugged } = parse(arguments)?;
                found(&stream, self.card.plug(&stream, plugged))
            }
        }
    }
}

/// A volume, which is told in a sentence where it is none.
fn percent(value: &Value) -> Result<u8, serde_json::Error> {
    let volume = value.as_u64().and_then(|volume| u8::try_from(volume).ok());
    let wrong = || serde_json::Error::custom(format!("volume is 0 to {LOUDEST}, not {value}"));
    volume.filter(|volume| *volume <= LOUDEST).ok_or_else(wrong)
}

fn found(stream: &str, is_found: bool) -> Result<Value, ControlError> {
    let missing = || ControlError::NotFound(format!("there is no stream {stream}"));
    is_found.then(|| json!({})).ok_or_else(missing)
}
