//! What a stream's jack is said to be: the configuration default of an HD Audio pin (HDA 1.0a, 7.3.3.31), as
//! QEMU's HDA codecs have it, and its capabilities (7.3.4.9).

use std::fmt;
use std::str::FromStr;

/// Which way samples go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the guest (VIRTIO_SND_D_OUTPUT).
    Playback,
    /// To the guest (VIRTIO_SND_D_INPUT).
    Capture,
}

impl Direction {
    /// Its number.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Playback => 0,
            Self::Capture => 1,
        }
    }
}

/// What is plugged into the jack, or what is built in behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Port {
    /// "Line Out".
    LineOut,
    /// "Speaker".
    Speaker,
    /// "Headphone".
    Headphone,
    /// "SPDIF Out", as ALSA says.
    SpdifOut,
    /// "Digital Out".
    DigitalOut,
    /// "Line".
    LineIn,
    /// "Mic".
    Mic,
    /// "CD".
    Cd,
    /// "Aux".
    Aux,
    /// "SPDIF In".
    SpdifIn,
    /// "Digital In".
    DigitalIn,
}

/// Each with its name here, its default device (HDA, table 109), and which way it goes.
const PORTS: [(Port, &str, u32, Direction); 11] = [
    (Port::LineOut, "line-out", 0x0, Direction::Playback),
    (Port::Speaker, "speaker", 0x1, Direction::Playback),
    (Port::Headphone, "headphone", 0x2, Direction::Playback),
    (Port::SpdifOut, "spdif-out", 0x4, Direction::Playback),
    (Port::DigitalOut, "digital-out", 0x5, Direction::Playback),
    (Port::LineIn, "line-in", 0x8, Direction::Capture),
    (Port::Mic, "mic", 0xa, Direction::Capture),
    (Port::Cd, "cd", 0x3, Direction::Capture),
    (Port::Aux, "aux", 0x9, Direction::Capture),
    (Port::SpdifIn, "spdif-in", 0xc, Direction::Capture),
    (Port::DigitalIn, "digital-in", 0xd, Direction::Capture),
];

/// Bits 15:12 of a configuration default, the color; and 7:4, which pins belong together.
const GREEN: u32 = 0x4010;
const RED: u32 = 0x5020;
/// A pin's capabilities: it is an output, or an input.
const OUTPUT: u32 = 0x10;
const INPUT: u32 = 0x20;

impl Port {
    fn entry(self) -> (&'static str, u32, Direction) {
        let found = PORTS.iter().find(|(port, ..)| *port == self);
        found.map_or(("line-out", 0, Direction::Playback), |(_, name, device, way)| {
            (*name, *device, *way)
        })
    }

    /// Which way its samples go.
    #[must_use]
    pub fn direction(self) -> Direction {
        self.entry().2
    }

    /// The configuration default of its pin: an external jack (bits 31:30), the number `sequence` of those that
    /// belong together.
    #[must_use]
    pub fn configuration_default(self, sequence: u32) -> u32 {
        let (_, device, direction) = self.entry();
        let group = match direction {
            Direction::Playback => GREEN,
            Direction::Capture => RED,
        };
        device << 20 | group | sequence & 0xf
    }

    /// The capabilities of its pin.
    #[must_use]
    pub fn capabilities(self) -> u32 {
        match self.direction() {
            Direction::Playback => OUTPUT,
            Direction::Capture => INPUT,
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.entry().0)
    }
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = PORTS.iter().find(|(_, name, ..)| *name == text);
        found.map(|(port, ..)| *port).ok_or_else(|| {
            let names = PORTS.map(|(_, name, ..)| name).join(", ");
            format!("there is no jack {text}: {names}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_those_of_qemus_codecs() {
        for (port, default, capabilities) in [
            (Port::LineOut, 0x0000_4010, 0x10),
            (Port::Speaker, 0x0010_4010, 0x10),
            (Port::LineIn, 0x0080_5020, 0x20),
            (Port::Mic, 0x00a0_5020, 0x20),
        ] {
            assert_eq!(
                (port.configuration_default(0), port.capabilities()),
                (default, capabilities)
            );
        }
        for (port, name, ..) in PORTS {
            assert_eq!((name.parse(), port.to_string().as_str()), (Ok(port), name));
        }
        assert!("microphone".parse::<Port>().is_err());
    }
}
