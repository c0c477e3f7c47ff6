//! `--sound`.

use std::ffi::OsString;
use std::str::FromStr;

/// What the sound card that is started for the machine has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SoundOption {
    /// A stream.
    Stream {
        /// vhost-sound's option.
        option: &'static str,
        /// What that takes, as it is.
        stream: String,
    },
    /// A volume and a switch for each of them.
    Controls,
}

impl FromStr for SoundOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "controls" {
            return Ok(Self::Controls);
        }
        let (kind, stream) = text.split_once('=').unwrap_or((text, ""));
        let option = match kind {
            "playback" => "--playback",
            "capture" => "--capture",
            _ => "",
        };
        if option.is_empty() || stream.is_empty() {
            return Err(format!(
                "{text:?}: it must begin with playback=JACK or capture=JACK, or be controls"
            ));
        }
        Ok(Self::Stream { option, stream: stream.to_owned() })
    }
}

impl SoundOption {
    /// What vhost-sound is started with for it.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        match self {
            Self::Stream { option, stream } => vec![(*option).into(), stream.into()],
            Self::Controls => vec!["--controls".into()],
        }
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
        let option: SoundOption = "controls".parse().unwrap();
        assert_eq!(option.arguments(), ["--controls"]);
        for wrong in ["", "speaker", "playback", "playback=", "record=mic", "controls="] {
            let error = wrong.parse::<SoundOption>().unwrap_err();
            assert!(error.contains("it must begin with playback=JACK"), "{error}");
        }
    }
}
