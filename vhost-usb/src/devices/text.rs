//! The text of a device: its kind, its port, and what its kind makes of the rest.

use std::fmt;

use vhost_runtime::arguments;

use super::DeviceError;
use super::kinds::{KINDS, keys};

/// Where a device is: a root port, and ports of hubs behind it, all counted from 0.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path {
    root: usize,
    hubs: Vec<usize>,
}

impl Path {
    pub(super) fn root_port(root: usize) -> Self {
        Self { root, hubs: Vec::new() }
    }

    /// As [`Display`](fmt::Display) writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let number = |part: &str| part.parse::<usize>().ok()?.checked_sub(1);
        let mut numbers = text.split('.').map(number);
        let root = numbers.next()??;
        let hubs = numbers.collect::<Option<Vec<_>>>()?;
        Some(Self { root, hubs })
    }

    pub(super) fn root(&self) -> usize {
        self.root
    }

    /// The port of the last hub, or the root port.
    pub(super) fn last(&self) -> usize {
        self.hubs.last().copied().unwrap_or(self.root)
    }

    /// Where the hub is that it is plugged into.
    pub(super) fn parent(&self) -> Option<Self> {
        let (_, hubs) = self.hubs.split_last()?;
        Some(Self { root: self.root, hubs: hubs.to_vec() })
    }

    /// It is this one, or behind a hub that is here.
    #[must_use]
    pub fn leads_to(&self, other: &Self) -> bool {
        self.root == other.root && other.hubs.starts_with(&self.hubs)
    }

    /// Ports on the way, the root port too.
    pub(super) fn tiers(&self) -> usize {
        self.hubs.len().saturating_add(1)
    }
}

/// Counted from 1, as Linux does.
impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.root.saturating_add(1))?;
        self.hubs.iter().try_for_each(|port| write!(f, ".{}", port.saturating_add(1)))
    }
}

/// What a port has to be.
pub(super) const PORT: &str = "a port's number, as 2, or 2.1 behind a hub";

/// A device's text.
#[derive(Debug)]
pub(super) struct Text {
    /// As the user wrote it.
    pub(super) whole: String,
    pub(super) kind: String,
    pub(super) port: Option<Path>,
    pairs: Vec<(String, String)>,
}

impl Text {
    pub(super) fn parse(text: &str) -> Result<Self, DeviceError> {
        let whole = text.to_owned();
        let mut parts = arguments::parts(text).into_iter();
        let kind = parts.next().unwrap_or_default();
        if !KINDS.contains(&kind.as_str()) {
            return Err(DeviceError::Kind(whole));
        }
        let mut port = None;
        let mut pairs = Vec::new();
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((&part, "on"));
            match key {
                "port" => {
                    let wrong = || DeviceError::Value(whole.clone(), "port", PORT);
                    port = Some(Path::parse(value).ok_or_else(wrong)?);
                }
                key => pairs.push((key.to_owned(), value.to_owned())),
            }
        }
        // A unit's keys are its own to judge.
        if let Some(known) = keys(&kind) {
            let is_known = |key: &str| known.split(", ").any(|known| known == key);
            if let Some((key, _)) = pairs.iter().find(|(key, _)| !is_known(key)) {
                return Err(DeviceError::Key(whole, key.clone(), known));
            }
        }
        Ok(Self { whole, kind, port, pairs })
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        let found = self.pairs.iter().find(|(known, _)| known == key);
        found.map(|(_, value)| value.as_str())
    }

    /// All keys but its port's, with their values, in order.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// What it is, wherever it is plugged in.
    pub(super) fn portless(&self) -> String {
        let pairs = self.pairs(&[], false);
        let comma = if pairs.is_empty() { "" } else { "," };
        format!("{}{comma}{pairs}", self.kind)
    }

    /// The pairs whose keys are among these, or all others, as they are written.
    pub(super) fn pairs(&self, keys: &[&str], among: bool) -> String {
        let pairs = self.pairs.iter().filter(|(key, _)| keys.contains(&key.as_str()) == among);
        let pair = |(key, value): &(String, String)| format!("{key}={}", value.replace(',', ",,"));
        pairs.map(pair).collect::<Vec<_>>().join(",")
    }
}
