//! An element of a card's mixer that is as loud as the stream: what the guest sets is the hardware's, and what is
//! changed there the guest is told.

use alsa::mixer::{Mixer, Selem, SelemChannelId, SelemId};
use alsa::poll::{Descriptors, pollfd};
use vhost_sound::card::CHANNELS;
use vhost_sound::card::control::{LOUDEST, Level};
use vhost_sound::card::port::Direction;
use vhost_sound::host::helper::far::{Far, Levels, Options};

use crate::Failure;
use crate::device::{self, DeviceError};

/// What a mixer has: volumes as the hardware counts, and whether there is sound.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Setting {
    volumes: Vec<i64>,
    is_on: bool,
}

/// The stream's volume: that of an element, if the options name one.
pub(crate) struct Volume<'a> {
    options: &'a Options,
    far: &'a Far,
    element: Option<Element>,
    /// It is not there, and that was logged.
    is_missing: bool,
}

/// An element, and how loud it is to be.
struct Element {
    mixer: Mixer,
    id: SelemId,
    direction: Direction,
    levels: Levels,
    /// What both sides know of.
    known: Option<Setting>,
}

/// Opens the mixer that has the element which the options name.
fn open(options: &Options, element: &str) -> Result<(Mixer, SelemId), DeviceError> {
    let id = SelemId::new(element, 0);
    let mut others = Vec::new();
    for card in device::cards(options) {
        // A device that is no hardware may have no mixer.
        let Ok(mixer) = Mixer::new(&card, true) else { continue };
        if mixer.find_selem(&id).is_some_and(|it| has_volume(&it, options.direction())) {
            return Ok((mixer, id));
        }
        let elements = mixer.iter().filter_map(Selem::new);
        let elements = elements.filter(|it| has_volume(it, options.direction()));
        others.extend(elements.filter_map(|it| it.get_id().get_name().map(str::to_owned).ok()));
    }
    let way = match options.direction() {
        Direction::Playback => "played to",
        Direction::Capture => "recorded from",
    };
    let others = if others.is_empty() { String::from("no other") } else { others.join(", ") };
    Err(DeviceError::Element(element.to_owned(), way, others))
}

fn has_volume(element: &Selem<'_>, direction: Direction) -> bool {
    match direction {
        Direction::Playback => element.has_playback_volume(),
        Direction::Capture => element.has_capture_volume(),
    }
}

/// Sees whether the element is there.
pub(crate) fn check(options: &Options) -> Result<(), DeviceError> {
    options.mixer.as_deref().map_or(Ok(()), |element| open(options, element).map(drop))
}

/// A number of a range as one of another.
fn scale(value: i64, from: (i64, i64), to: (i64, i64)) -> i64 {
    let wide = |(least, most): (i64, i64)| i128::from(most).saturating_sub(least.into()).max(0);
    let above = i128::from(value).saturating_sub(from.0.into()).clamp(0, wide(from));
    let scaled = above.saturating_mul(wide(to)).saturating_add(wide(from) / 2);
    let scaled = scaled.checked_div(wide(from)).unwrap_or(0).saturating_add(to.0.into());
    i64::try_from(scaled).unwrap_or(to.0)
}

/// The range of a level's volumes.
const LEVELS: (i64, i64) = (0, LOUDEST as i64);

impl<'a> Volume<'a> {
    pub(crate) fn new(options: &'a Options, far: &'a Far) -> Self {
        Self { options, far, element: None, is_missing: false }
    }

    /// There is one, but it can't be had.
    pub(crate) fn is_missing(&self) -> bool {
        self.options.mixer.is_some() && self.element.is_none()
    }

    /// Has the element, if it can be had now.
    pub(crate) fn open(&mut self) {
        let Some(name) = self.options.mixer.as_ref().filter(|_| self.element.is_none()) else {
            return;
        };
        match Element::open(self.options, name, self.far) {
            Ok(element) => (self.element, self.is_missing) = (Some(element), false),
            Err(error) => {
                if !std::mem::replace(&mut self.is_missing, true) {
                    log::error!("{}: {error}", self.options.name);
                }
            }
        }
    }

    /// Makes it as loud as the guest wants it, and tells what others have made of it.
    pub(crate) fn follow(&mut self) {
        if let Some(element) = &mut self.element
            && let Err(error) = element.follow()
        {
            // It may come back with its card.
            let name = self.options.mixer.as_deref().unwrap_or_default();
            log::error!("{}: mixer={name}: {error}", self.options.name);
            self.element = None;
        }
    }

    /// What becomes readable when others have changed it.
    pub(crate) fn descriptors(&self) -> alsa::Result<Vec<pollfd>> {
        self.element.as_ref().map_or(Ok(Vec::new()), |element| element.mixer.get())
    }
}

impl Element {
    fn open(options: &Options, name: &str, far: &Far) -> Result<Self, Failure> {
        let (mixer, id) = open(options, name)?;
        let (direction, levels) = (options.direction(), far.levels()?);
        Ok(Self { mixer, id, direction, levels, known: None })
    }

    fn follow(&mut self) -> alsa::Result<()> {
        self.mixer.handle_events()?;
        let gone = || alsa::Error::new("snd_mixer_find_selem", libc::ENODEV);
        let element = self.mixer.find_selem(&self.id).ok_or_else(gone)?;
        let hardware = Hardware { element, direction: self.direction };
        if let Some(level) = self.levels.wanted() {
            hardware.set(&level)?;
            // Not told: it may say less than what it was set from.
            self.known = Some(hardware.setting()?);
        }
        let setting = hardware.setting()?;
        if self.known.as_ref() != Some(&setting) {
            let level = hardware.level(&setting, self.known.as_ref(), self.levels.known());
            self.levels.tell(level);
            self.known = Some(setting);
        }
        Ok(())
    }
}

/// An element as it is now, one way of it.
struct Hardware<'a> {
    element: Selem<'a>,
    direction: Direction,
}

impl Hardware<'_> {
    fn range(&self) -> (i64, i64) {
        match self.direction {
            Direction::Playback => self.element.get_playback_volume_range(),
            Direction::Capture => self.element.get_capture_volume_range(),
        }
    }

    /// The channels that it has, of those that a stream may have.
    fn channels(&self) -> impl Iterator<Item = (usize, SelemChannelId)> {
        let all = SelemChannelId::all().iter().copied().take(CHANNELS.into()).enumerate();
        all.filter(|(_, channel)| match self.direction {
            Direction::Playback => self.element.has_playback_channel(*channel),
            Direction::Capture => self.element.has_capture_channel(*channel),
        })
    }

    fn setting(&self) -> alsa::Result<Setting> {
        let mut setting = Setting { volumes: Vec::new(), is_on: false };
        for (_, channel) in self.channels() {
            let (volume, is_on) = match self.direction {
                Direction::Playback => (
                    self.element.get_playback_volume(channel)?,
                    !self.element.has_playback_switch()
                        || self.element.get_playback_switch(channel)? != 0,
                ),
                Direction::Capture => (
                    self.element.get_capture_volume(channel)?,
                    !self.element.has_capture_switch()
                        || self.element.get_capture_switch(channel)? != 0,
                ),
            };
            setting.volumes.push(volume);
            setting.is_on |= is_on;
        }
        Ok(setting)
    }

    /// Makes it so loud.
    fn set(&self, level: &Level) -> alsa::Result<()> {
        let has_switch = match self.direction {
            Direction::Playback => self.element.has_playback_switch(),
            Direction::Capture => self.element.has_capture_switch(),
        };
        for (place, channel) in self.channels() {
            // What can't be switched off can be made as quiet as it goes.
            let is_silent = !level.is_on && !has_switch;
            let volume = level.volumes.get(place).copied().filter(|_| !is_silent).unwrap_or(0);
            let volume = scale(volume.into(), LEVELS, self.range());
            match self.direction {
                Direction::Playback => self.element.set_playback_volume(channel, volume)?,
                Direction::Capture => self.element.set_capture_volume(channel, volume)?,
            }
        }
        match self.direction {
            Direction::Playback if has_switch => {
                self.element.set_playback_switch_all(level.is_on.into())
            }
            Direction::Capture if has_switch => {
                self.element.set_capture_switch_all(level.is_on.into())
            }
            _ => Ok(()),
        }
    }

    /// How loud that is. What is as it was `before` is as loud as it was, and a channel that the hardware has not is as
    /// its first one.
    fn level(&self, setting: &Setting, before: Option<&Setting>, known: Level) -> Level {
        let volume = |raw: i64| u8::try_from(scale(raw, self.range(), LEVELS)).unwrap_or(0);
        let mut level = Level { is_on: setting.is_on, ..known };
        if before.is_some_and(|before| before.volumes == setting.volumes) {
            return level;
        }
        if let Some(first) = setting.volumes.first() {
            level = level.with_volume(volume(*first));
        }
        for ((place, _), raw) in self.channels().zip(&setting.volumes) {
            if let Some(place) = level.volumes.get_mut(place) {
                *place = volume(*raw);
            }
        }
        level
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_scaled() {
        for (level, raw) in [(0, -5), (100, 26), (50, 11), (1, -5), (2, -4)] {
            assert_eq!(scale(level, LEVELS, (-5, 26)), raw, "{level}");
        }
        assert_eq!((scale(26, (-5, 26), LEVELS), scale(11, (-5, 26), LEVELS)), (100, 52));
        assert_eq!((scale(99, (-5, 26), LEVELS), scale(7, (7, 7), LEVELS)), (100, 0));
        assert_eq!(scale(i64::MAX, (i64::MIN, i64::MAX), LEVELS), 100);
    }
}
