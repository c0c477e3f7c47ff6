//! What is wrong with options together.

use std::collections::HashSet;
use std::path::PathBuf;

use super::{Options, SoundOption};
use crate::console::Spec;

/// Options that cannot be meant so.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// Nothing is listed.
    #[error("--json: write it with --cpu help, which it prints for scripts")]
    NothingToList,
    /// A guest could not tell them apart.
    #[error("--port {0}: there are two of that name, give each its own")]
    SameName(String),
    /// Each would undo what the other does.
    #[error("{0} {path}: another option has the same path, give each its own", path = .1.display())]
    SamePath(&'static str, PathBuf),
    /// There is no card.
    #[error("--sound controls: there is no stream, give playback=JACK or capture=JACK as well")]
    NoStream,
    /// It says nothing more.
    #[error("--sound controls: it is there twice, give it once")]
    TwoControls,
}

impl Options {
    /// Sees whether the options can be meant together.
    ///
    /// # Errors
    /// See [`Conflict`].
    pub fn check(&self) -> Result<(), Conflict> {
        if self.json && self.cpu != "help" {
            return Err(Conflict::NothingToList);
        }
        if !self.sound.is_empty() && self.sound.iter().all(|it| *it == SoundOption::Controls) {
            return Err(Conflict::NoStream);
        }
        if self.sound.iter().filter(|it| **it == SoundOption::Controls).count() > 1 {
            return Err(Conflict::TwoControls);
        }
        let mut names = HashSet::new();
        if let Some(port) = self.port.iter().find(|port| !names.insert(&port.name)) {
            return Err(Conflict::SameName(port.name.clone()));
        }
        let consoles = self.consoles().filter_map(|(option, spec)| match spec {
            // Such as /dev/null.
            Spec::File(path) if path.exists() && !path.is_file() => None,
            Spec::File(path) | Spec::Unix(path) | Spec::Pty(Some(path)) | Spec::Device(path) => {
                Some((option, path))
            }
            Spec::Pty(None) | Spec::Stdio | Spec::Null | Spec::Off => None,
        });
        let mut paths = HashSet::new();
        let controls = [
            ("--qmp", &self.qmp),
            ("--usb-control", &self.usb_control),
            ("--sound-control", &self.sound_control),
        ];
        let controls =
            controls.into_iter().filter_map(|(option, path)| Some((option, path.as_ref()?)));
        let cards = self.net.iter().filter_map(|card| Some(("--net control", card.control()?)));
        let controls = controls.map(|(option, path)| (option, path.as_path()));
        let consoles = consoles.map(|(option, path)| (option, path.as_path()));
        let mut all = consoles.chain(controls).chain(cards);
        match all.find(|(_, path)| !paths.insert(*path)) {
            Some((option, path)) => Err(Conflict::SamePath(option, path.to_owned())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn said(words: &str) -> String {
        let words = ["vmm-frontend"].into_iter().chain(words.split(' '));
        let checked = Options::try_parse_from(words).unwrap().check();
        checked.map_or_else(|conflict| conflict.to_string(), |()| String::new())
    }

    #[test]
    fn what_cannot_be_meant_together_is_said() {
        let path = "s: another option has the same path, give each its own";
        for (words, sentence) in [
            ("--json --cpu help", ""),
            ("--json", "--json: write it with --cpu help, which it prints for scripts"),
            ("--port a=null --port b=null", ""),
            (
                "--port a=null --port a=pty",
                "--port a: there are two of that name, give each its own",
            ),
            ("--serial file:/dev/null --console file:/dev/null", ""),
            ("--serial pty --console pty", ""),
            ("--serial file:s --console file:s", &format!("--console {path}")),
            ("--serial pty:s --port a=pty:s", &format!("--port {path}")),
            ("--serial unix:s --qmp s", &format!("--qmp {path}")),
            ("--usb kbd --qmp s --usb-control s", &format!("--usb-control {path}")),
            ("--sound controls --sound playback=speaker", ""),
            (
                "--sound controls",
                "--sound controls: there is no stream, give playback=JACK or capture=JACK as well",
            ),
            (
                "--sound controls --sound playback=speaker --sound controls",
                "--sound controls: it is there twice, give it once",
            ),
            ("--net user,control=s --net user,control=s", &format!("--net control {path}")),
        ] {
            assert_eq!(said(words), sentence, "{words}");
        }
        let name = format!("--port={}=null", "n".repeat(256));
        let error = Options::try_parse_from(["vmm-frontend", &name]).unwrap_err().to_string();
        assert!(error.contains("a name has up to 255 bytes, this one has 256"), "{error}");
    }
}
