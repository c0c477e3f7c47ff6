//! What of each stream can be changed at any time: its volume and its switch, and the elements of a mixer that
//! show them (virtio 1.3, 5.14.6.10).

use serde::{Deserialize, Serialize};

use super::port::{Direction, Port};
use super::{CHANNELS, StreamConfig};

/// Channels of a stream at most.
pub const PLACES: usize = CHANNELS as usize;
/// The loudest volume, which changes nothing: a step is a per cent of it.
pub const LOUDEST: u8 = 100;
/// How far a step goes, in hundredths of a decibel.
pub const STEP: u16 = 60;
/// Where the steps begin, in hundredths of a decibel. The lowest volume itself is silent.
pub const LOWEST: i32 = -6000;

/// How loud a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Level {
    /// Of each channel, 0 to [`LOUDEST`].
    pub volumes: [u8; PLACES],
    /// Whether it is heard at all.
    pub is_on: bool,
}

impl Default for Level {
    /// As if there were none.
    fn default() -> Self {
        Self { volumes: [LOUDEST; PLACES], is_on: true }
    }
}

impl Level {
    /// The same volume for all channels.
    #[must_use]
    pub fn with_volume(self, volume: u8) -> Self {
        Self { volumes: [volume.min(LOUDEST); PLACES], ..self }
    }

    /// What each channel's samples are multiplied with, 0 to 1.
    #[must_use]
    pub fn factors(&self) -> [f64; PLACES] {
        self.volumes.map(|volume| match volume {
            0 => 0.0,
            LOUDEST.. => 1.0,
            _ => {
                let decibels = f64::from(LOWEST) + f64::from(STEP) * f64::from(volume);
                10f64.powf(decibels / 2000.0)
            }
        })
    }

    /// The volume that is next to a factor: of what is louder than as it is, the loudest.
    #[must_use]
    pub fn volume(factor: f64) -> u8 {
        // Not a number is silent, too.
        let steps = match factor > 0.0 {
            true => (2000.0 * factor.log10() - f64::from(LOWEST)) / f64::from(STEP),
            false => 0.0,
        };
        steps.round().clamp(0.0, f64::from(LOUDEST)) as u8
    }

    /// Whether it can be: what another process says may be anything.
    #[must_use]
    pub fn is_possible(&self) -> bool {
        self.volumes.iter().all(|volume| *volume <= LOUDEST)
    }
}

/// What an element shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// A number for each channel, 0 to [`LOUDEST`].
    Volume,
    /// 1 or 0 for all of them: on or off.
    Switch,
}

/// An element of the card's mixer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// Which stream's, by its place.
    pub stream: usize,
    /// Which way that goes.
    pub direction: Direction,
    /// What it shows.
    pub quantity: Quantity,
    /// As ALSA names elements, by which it knows what belongs together.
    pub name: String,
    /// Which one of that name.
    pub index: u32,
    /// How many values it has.
    pub count: usize,
}

/// The elements of these streams.
#[must_use]
pub fn elements(streams: &[StreamConfig]) -> Vec<Element> {
    let mut elements: Vec<Element> = Vec::new();
    for (stream, config) in streams.iter().enumerate() {
        let direction = config.direction();
        let is_first = !elements.iter().any(|element| element.direction == direction);
        let (source, way) = match direction {
            Direction::Playback if is_first => ("Master", "Playback"),
            Direction::Playback => (source(config.port), "Playback"),
            Direction::Capture => (source(config.port), "Capture"),
        };
        for (quantity, suffix, count) in [
            (Quantity::Volume, "Volume", config.channels.1.into()),
            (Quantity::Switch, "Switch", 1),
        ] {
            let name = format!("{source} {way} {suffix}");
            let same = elements.iter().filter(|element| element.name == name).count();
            let index = u32::try_from(same).unwrap_or(u32::MAX);
            elements.push(Element { stream, direction, quantity, name, index, count });
        }
    }
    elements
}

/// What ALSA calls it.
fn source(port: Port) -> &'static str {
    match port {
        Port::LineOut => "Line Out",
        Port::Speaker => "Speaker",
        Port::Headphone => "Headphone",
        Port::SpdifOut | Port::SpdifIn => "IEC958",
        Port::DigitalOut | Port::DigitalIn => "Digital",
        Port::LineIn => "Line",
        Port::Mic => "Mic",
        Port::Cd => "CD",
        Port::Aux => "Aux",
    }
}

impl Element {
    /// What it shows of a level.
    pub fn read(&self, level: &Level) -> impl Iterator<Item = u32> + use<> {
        let values = match self.quantity {
            Quantity::Volume => level.volumes.map(u32::from),
            Quantity::Switch => [level.is_on.into(); PLACES],
        };
        values.into_iter().take(self.count)
    }

    /// A level with these values instead. `None`: there are not enough of them, or one can't be.
    #[must_use]
    pub fn write(&self, mut level: Level, values: &[u32]) -> Option<Level> {
        let values = values.get(..self.count)?;
        match self.quantity {
            Quantity::Volume => {
                for (volume, value) in level.volumes.iter_mut().zip(values) {
                    *volume = u8::try_from(*value).ok().filter(|value| *value <= LOUDEST)?;
                }
            }
            Quantity::Switch => {
                level.is_on = match values {
                    [0] => false,
                    [1] => true,
                    _ => return None,
                }
            }
        }
        Some(level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::card::format::Format;

    fn streams(ports: &[Port]) -> Vec<StreamConfig> {
        let stream = |port: &Port| StreamConfig {
            name: port.to_string(),
            port: *port,
            formats: vec![Format::S16],
            rates: vec!["48000".parse().unwrap()],
            channels: (1, 2),
        };
        ports.iter().map(stream).collect()
    }

    #[test]
    fn every_step_is_louder_and_the_last_is_one() {
        let factor = |volume| Level::default().with_volume(volume).factors()[0];
        assert_eq!((factor(0), factor(LOUDEST)), (0.0, 1.0));
        assert!((0..LOUDEST).all(|volume| factor(volume) < factor(volume + 1)));
        assert!((20.0 * factor(90).log10() + 6.0).abs() < 0.001);
        assert!((0..=LOUDEST).all(|volume| Level::volume(factor(volume)) == volume));
        let odd = [f64::NAN, -1.0, f64::INFINITY, 1e-9].map(Level::volume);
        assert_eq!(odd, [0, 0, LOUDEST, 0]);
    }

    #[test]
    fn elements_are_named_as_alsa_groups_them() {
        let ports = [Port::Headphone, Port::Headphone, Port::Headphone, Port::Mic, Port::LineIn];
        let elements = elements(&streams(&ports));
        let names: Vec<(&str, u32)> =
            elements.iter().map(|element| (element.name.as_str(), element.index)).collect();
        let expected = [
            ("Master Playback Volume", 0),
            ("Master Playback Switch", 0),
            ("Headphone Playback Volume", 0),
            ("Headphone Playback Switch", 0),
            ("Headphone Playback Volume", 1),
            ("Headphone Playback Switch", 1),
            ("Mic Capture Volume", 0),
            ("Mic Capture Switch", 0),
            ("Line Capture Volume", 0),
            ("Line Capture Switch", 0),
        ];
        assert_eq!(names, expected);
        assert!(elements.iter().all(|element| element.name.len() < 44), "what a name may have");
    }

    #[test]
    fn what_is_written_is_read_and_what_cannot_be_is_refused() {
        let elements = elements(&streams(&[Port::Mic]));
        let [volume, switch] = elements.as_slice() else { panic!("{elements:?}") };
        let level = volume.write(Level::default(), &[0, 100, 7]).unwrap();
        assert_eq!(volume.read(&level).collect::<Vec<_>>(), [0, 100]);
        let level = switch.write(level, &[0, 9]).unwrap();
        assert_eq!(switch.read(&level).collect::<Vec<_>>(), [0]);
        assert_eq!((&level.volumes[..3], level.is_on), (&[0, 100, 100][..], false));
        for values in [&[][..], &[1], &[101, 0], &[0, 256], &[0, u32::MAX]] {
            assert_eq!(volume.write(level, values), None, "{values:?}");
        }
        for values in [&[][..], &[2], &[u32::MAX]] {
            assert_eq!(switch.write(level, values), None, "{values:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_accepted_can_be_and_is_read(
            values in proptest::collection::vec(0u32..300, 0..9),
            small in proptest::collection::vec(0u32..=100, 0..9),
        ) {
            for values in [values, small.iter().map(|value| value % 3).collect(), small] {
                for element in elements(&streams(&[Port::Speaker, Port::Mic])) {
                    let most = if element.quantity == Quantity::Volume { 100 } else { 1 };
                    let asked = values.get(..element.count);
                    let can_be = asked.is_some_and(|asked| asked.iter().all(|it| *it <= most));
                    let written = element.write(Level::default(), &values);
                    assert_eq!(written.is_some(), can_be, "{values:?}");
                    if let (Some(level), Some(asked)) = (written, asked) {
                        assert!(level.is_possible());
                        assert!(element.read(&level).eq(asked.iter().copied()));
                    }
                }
            }
        }
    }
}
