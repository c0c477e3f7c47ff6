//! What control clients can do with the card: look at its streams, plug jacks in and out.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};
use vhost_runtime::control::{Arguments, Commands, ControlError, parse, parse_none};

use crate::virtio::card::Card;

const NAMES: [&str; 2] = ["query-streams", "set-jack"];

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
            _ => {
                let SetJack { stream, plugged } = parse(arguments)?;
                let missing = || ControlError::NotFound(format!("there is no stream {stream}"));
                self.card.plug(&stream, plugged).then(|| json!({})).ok_or_else(missing)
            }
        }
    }
}
