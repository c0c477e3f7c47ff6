//! `--net`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use vhost_runtime::arguments::parts;

/// A network card of a process that is started for the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetOption {
    /// vhost-net's option for where frames go, and what it takes.
    backend: (Backend, String),
    /// vhost-net's other options, as they are.
    keys: Vec<(&'static str, String)>,
    control: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backend {
    Tap,
    User,
    Stream,
    Datagram,
}

/// What is said of a card.
pub const NET_KEYS: [&str; 6] = ["mac", "mtu", "queues", "speed", "duplex", "control"];
const BACKENDS: &str = "tap=NAME, user, stream=PATH or stream=HOST:PORT, datagram=PATH";

impl FromStr for NetOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = parts(text).into_iter();
        let first = parts.next().unwrap_or_default();
        let (kind, value) = first.split_once('=').unwrap_or((&first, ""));
        let backend = match kind {
            "tap" => Backend::Tap,
            "user" => Backend::User,
            "stream" => Backend::Stream,
            "datagram" => Backend::Datagram,
            _ => return Err(format!("{first:?}: it must begin with {BACKENDS}")),
        };
        if value.is_empty() && backend != Backend::User {
            return Err(format!("{first:?}: it must begin with {BACKENDS}"));
        }
        let mut option =
            Self { backend: (backend, value.to_owned()), keys: Vec::new(), control: None };
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((&part, ""));
            let Some(key) = NET_KEYS.iter().find(|known| **known == key) else {
                return Err(format!("{key}= is unknown; there are {}", NET_KEYS.join(", ")));
            };
            if value.is_empty() {
                return Err(format!("{key}= has no value"));
            }
            let twice = option.keys.iter().any(|(known, _)| known == key);
            if twice || (*key == "control" && option.control.is_some()) {
                return Err(format!("{key}= is there twice"));
            }
            match *key {
                "control" => option.control = Some(value.into()),
                key => option.keys.push((key, value.to_owned())),
            }
        }
        Ok(option)
    }
}

impl NetOption {
    /// Where control clients connect.
    pub(super) fn control(&self) -> Option<&Path> {
        self.control.as_deref()
    }

    /// What vhost-net is started with, for a machine of so many processors.
    pub(super) fn arguments(&self, processors: u32) -> Vec<OsString> {
        let (backend, value) = &self.backend;
        let mut arguments: Vec<OsString> = match backend {
            Backend::Tap => vec!["--tap".into(), value.into()],
            Backend::User => vec![format!("--user={value}").into()],
            Backend::Stream => vec!["--stream".into(), value.into()],
            Backend::Datagram => vec!["--datagram".into(), value.into()],
        };
        for (key, value) in &self.keys {
            arguments.extend([format!("--{key}").into(), value.into()]);
        }
        if *backend == Backend::Tap && !self.keys.iter().any(|(key, _)| *key == "queues") {
            arguments.extend(["--queues".into(), processors.to_string().into()]);
        }
        if let Some(path) = &self.control {
            arguments.extend(["--control".into(), path.into()]);
        }
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_vhost_nets() {
        let arguments = |text: &str| {
            let option: NetOption = text.parse().unwrap();
            let words = option.arguments(4).into_iter().map(|word| word.into_string().unwrap());
            words.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(arguments("tap=tap0"), "--tap tap0 --queues 4");
        assert_eq!(
            arguments("tap=t,queues=2,mac=2:0:0:0:0:1"),
            "--tap t --queues 2 --mac 2:0:0:0:0:1"
        );
        assert_eq!(arguments("user,control=/c"), "--user= --control /c");
        assert_eq!(arguments("user=-t 2222:22"), "--user=-t 2222:22");
        assert_eq!(arguments("stream=host:1,mtu=9000"), "--stream host:1 --mtu 9000");
        for (wrong, sentence) in [
            (
                "",
                "\"\": it must begin with tap=NAME, user, stream=PATH or stream=HOST:PORT, datagram=PATH",
            ),
            ("tap", "\"tap\": it must begin with"),
            ("bridge=br0", "\"bridge=br0\": it must begin with"),
            ("user,x=1", "x= is unknown; there are mac, mtu, queues, speed, duplex, control"),
            ("user,mtu=", "mtu= has no value"),
            ("user,mtu=1,mtu=2", "mtu= is there twice"),
        ] {
            let error = wrong.parse::<NetOption>().unwrap_err();
            assert!(error.starts_with(sentence), "{wrong}: {error}");
        }
    }
}
