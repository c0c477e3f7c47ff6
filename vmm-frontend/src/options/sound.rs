//! `--sound`.

use std::ffi::OsString;
use std::str::FromStr;

/// A stream of the sound card that is started for the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SoundOption {
    /// vhost-sound's option, and what it takes, as it is.
    option: &'static str,
    stream: String,
}

impl FromStr for SoundOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, stream) = text.split_once('=').unwrap_or((text, ""));
        let option = match kind {
            "playback" => "--playback",
            "capture" => "--capture",
            _ => "",
        };
        if option.is_empty() || stream.is_empty() {
            return Err(format!("{text:?}: it must begin with playback=JACK or capture=JACK"));
        }
        Ok(Self { option, stream: stream.to_owned() })
    }
}

impl SoundOption {
    /// What vhost-sound is started with for it.
    pub(super) fn arguments(&self) -> [OsString; 2] {
        [self.option.into(), self.stream.clone().into()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_vhost_sounds() {
        let option: SoundOption = "playback=speaker,backend=null".parse().unwrap();
        assert_eq!(option.arguments(), ["--playback", "speaker,backend=null"]);
        let option: SoundOption = "capture=mic".parse().unwrap();
        assert_eq!(option.arguments(), ["--capture", "mic"]);
        for wrong in ["", "speaker", "playback", "playback=", "record=mic"] {
            let error = wrong.parse::<SoundOption>().unwrap_err();
            assert!(error.contains("it must begin with playback=JACK"), "{error}");
        }
    }
}
