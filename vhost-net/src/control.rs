//! What control clients can do with the cards: look, count, plug the cable in and out.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};
use vhost_runtime::control::{Arguments, Commands, ControlError, parse, parse_none};

use crate::virtio::card::Card;

const NAMES: [&str; 4] = ["query-cards", "query-stats", "set-link", "announce-self"];

/// The program's cards.
#[derive(Debug)]
pub struct Manager {
    cards: Vec<Arc<Card>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetLink {
    card: Option<String>,
    up: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    card: Option<String>,
}

impl Manager {
    /// Of these cards.
    #[must_use]
    pub fn new(cards: Vec<Arc<Card>>) -> Self {
        Self { cards }
    }

    fn card(&self, name: Option<&str>) -> Result<&Card, ControlError> {
        match (name, self.cards.as_slice()) {
            (None, [only]) => Ok(only),
            (None, _) => Err(ControlError::Message(String::from("say which card (card)"))),
            (Some(name), cards) => {
                let found = cards.iter().find(|card| card.settings().name == name);
                let missing = || ControlError::NotFound(format!("there is no card {name}"));
                found.map(Arc::as_ref).ok_or_else(missing)
            }
        }
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
            "query-cards" => {
                parse_none(&arguments)?;
                Ok(self.cards.iter().map(|card| card.describe()).collect())
            }
            "query-stats" => {
                parse_none(&arguments)?;
                Ok(self.cards.iter().map(|card| card.count()).collect())
            }
            "set-link" => {
                let SetLink { card, up } = parse(arguments)?;
                self.card(card.as_deref())?.plug(up);
                Ok(json!({}))
            }
            "announce-self" => {
                let Which { card } = parse(arguments)?;
                if !self.card(card.as_deref())?.announce() {
                    return Err(ControlError::failed("the guest's driver does not do that"));
                }
                Ok(json!({}))
            }
            _ => Err(ControlError::CommandNotFound(name.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_a_command_does_not_take_are_refused() {
        let manager = Manager::new(Vec::new());
        for name in NAMES {
            let arguments = Arguments::from_iter([(String::from("speed"), json!(1))]);
            let refused = manager.execute(name, arguments, Vec::new()).unwrap_err().to_string();
            assert!(refused.contains("speed"), "{name}: {refused}");
        }
    }
}
