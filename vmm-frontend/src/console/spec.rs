//! What an option says that a console is connected to.

use std::path::PathBuf;
use std::str::FromStr;

/// What a console is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// Standard input and output; if they are a terminal, in raw mode with an escape key.
    Stdio,
    /// A file that is written anew.
    File(PathBuf),
    /// A pseudo-terminal, and a symbolic link to it.
    Pty(Option<PathBuf>),
    /// A character device that is there, such as a serial port.
    Device(PathBuf),
    /// A socket that listens for one client after the other.
    Unix(PathBuf),
    /// Nothing: output is lost.
    Null,
    /// There is no such console.
    Off,
}

/// Why what an option says is none. The option is named by whoever parses it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Something else.
    #[error(
        "{0:?} is no console, write stdio, file:PATH, dev:PATH, pty[:LINK], unix:PATH, null or off"
    )]
    Unknown(String),
    /// It needs a path.
    #[error("{0} needs a path, write {0}:PATH")]
    NoPath(&'static str),
    /// The link needs a path.
    #[error("pty: needs a path for the link, write pty:LINK, or pty without a link")]
    NoLink,
    /// It has no path.
    #[error("{0} takes nothing after it, write {0} alone")]
    NothingAfter(&'static str),
}

impl FromStr for Spec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (kind, path) = match text.split_once(':') {
            Some((kind, path)) => (kind, Some(path)),
            None => (text, None),
        };
        let alone = |name, spec| path.map_or(Ok(spec), |_| Err(SpecError::NothingAfter(name)));
        let with_path = |name, spec: fn(PathBuf) -> Self| match path {
            Some(path) if !path.is_empty() => Ok(spec(path.into())),
            _ => Err(SpecError::NoPath(name)),
        };
        match kind {
            "stdio" => alone("stdio", Self::Stdio),
            "null" => alone("null", Self::Null),
            "off" => alone("off", Self::Off),
            "file" => with_path("file", Self::File),
            "dev" => with_path("dev", Self::Device),
            "unix" => with_path("unix", Self::Unix),
            "pty" if path == Some("") => Err(SpecError::NoLink),
            "pty" => Ok(Self::Pty(path.map(PathBuf::from))),
            _ => Err(SpecError::Unknown(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_read_as_it_is_written() {
        let path = PathBuf::from("/run/a:b");
        for (text, spec) in [
            ("stdio", Spec::Stdio),
            ("null", Spec::Null),
            ("off", Spec::Off),
            ("pty", Spec::Pty(None)),
            ("pty:/run/a:b", Spec::Pty(Some(path.clone()))),
            ("file:/run/a:b", Spec::File(path.clone())),
            ("dev:/run/a:b", Spec::Device(path.clone())),
            ("unix:/run/a:b", Spec::Unix(path)),
        ] {
            assert_eq!(text.parse(), Ok(spec));
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_what_would_be_right() {
        for (text, sentence) in [
            ("file", "file needs a path, write file:PATH"),
            ("unix:", "unix needs a path, write unix:PATH"),
            ("pty:", "pty: needs a path for the link, write pty:LINK, or pty without a link"),
            ("stdio:x", "stdio takes nothing after it, write stdio alone"),
            (
                "Stdio",
                "\"Stdio\" is no console, write stdio, file:PATH, dev:PATH, pty[:LINK], unix:PATH, null or off",
            ),
        ] {
            assert_eq!(text.parse::<Spec>().unwrap_err().to_string(), sentence);
        }
    }
}
