//! Where events for keyboards and pointers come in, in QMP's words (`input-send-event`).

use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;

use super::text::Path;
use crate::device::hid::key_names;
use crate::device::hid::keyboard::KeyboardInput;
use crate::device::hid::mouse::MouseInput;
use crate::device::hid::pointer::Button;
use crate::device::hid::tablet::TabletInput;

/// An event, as QMP's InputEvent has it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", content = "data", rename_all = "lowercase")]
pub enum Event {
    /// A key goes down or up.
    Key {
        /// Which.
        key: Key,
        /// Down.
        down: bool,
    },
    /// A button does.
    Btn {
        /// Which.
        button: Pressed,
        /// Down.
        down: bool,
    },
    /// The mouse moves.
    Rel {
        /// Along which axis.
        axis: Axis,
        /// How far.
        value: i32,
    },
    /// The pointer is somewhere.
    Abs {
        /// On which axis.
        axis: Axis,
        /// Where, from 0 to 32767.
        value: u16,
    },
}

/// A key, by its QKeyCode.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", content = "data", rename_all = "lowercase")]
pub enum Key {
    /// Its name.
    Qcode(String),
}

/// A button, or a turn of the wheel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "they are QMP's InputButton")]
pub enum Pressed {
    Left,
    Middle,
    Right,
    WheelUp,
    WheelDown,
    Side,
    Extra,
}

/// An axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "they are QMP's InputAxis")]
pub enum Axis {
    X,
    Y,
}

/// Why an event goes nowhere.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// There is no such key.
    #[error("there is no key {0}")]
    Key(String),
    /// There is no device for it.
    #[error("no {0} is plugged in")]
    Nobody(&'static str),
}

/// A device's input.
pub(super) enum Input {
    Keyboard(Arc<KeyboardInput>),
    Mouse(Arc<MouseInput>),
    Tablet(Arc<TabletInput>),
}

/// The inputs of all devices; the last one of a kind gets its events.
#[derive(Default)]
pub(super) struct Inputs {
    all: Vec<(Path, Input)>,
    /// Where the tablet's pointer is: events may name one axis alone.
    at: Mutex<(u16, u16)>,
}

impl Pressed {
    /// The button, or how far the wheel turns.
    fn button(self) -> Result<Button, i32> {
        match self {
            Self::Left => Ok(Button::Left),
            Self::Middle => Ok(Button::Middle),
            Self::Right => Ok(Button::Right),
            Self::Side => Ok(Button::Side),
            Self::Extra => Ok(Button::Extra),
            Self::WheelUp => Err(1),
            Self::WheelDown => Err(-1),
        }
    }
}

impl Inputs {
    pub(super) fn add(&mut self, at: Path, input: Input) {
        self.all.push((at, input));
    }

    /// Devices are not there any more.
    pub(super) fn remove(&mut self, are: impl Fn(&Path) -> bool) {
        self.all.retain(|(at, _)| !are(at));
    }

    fn last<T>(&self, pick: impl Fn(&Input) -> Option<&T>) -> Option<&T> {
        self.all.iter().rev().find_map(|(_, input)| pick(input))
    }

    fn keyboard(&self) -> Result<&KeyboardInput, InputError> {
        let found = self.last(|input| match input {
            Input::Keyboard(keyboard) => Some(keyboard),
            _ => None,
        });
        found.map(AsRef::as_ref).ok_or(InputError::Nobody("keyboard"))
    }

    fn mouse(&self) -> Option<&MouseInput> {
        let found = self.last(|input| match input {
            Input::Mouse(mouse) => Some(mouse),
            _ => None,
        });
        found.map(AsRef::as_ref)
    }

    fn tablet(&self) -> Option<&TabletInput> {
        let found = self.last(|input| match input {
            Input::Tablet(tablet) => Some(tablet),
            _ => None,
        });
        found.map(AsRef::as_ref)
    }

    /// Sends events that belong together: all of them, or none if one goes nowhere.
    ///
    /// # Errors
    /// See [`InputError`].
    pub(super) fn send(&self, events: &[Event]) -> Result<(), InputError> {
        events.iter().try_for_each(|event| self.check(event))?;
        let (mut x, mut y) = (None, None);
        let (mut right, mut down) = (0i32, 0i32);
        for event in events {
            match event {
                Event::Abs { axis: Axis::X, value } => x = Some(*value),
                Event::Abs { axis: Axis::Y, value } => y = Some(*value),
                Event::Rel { axis: Axis::X, value } => right = right.saturating_add(*value),
                Event::Rel { axis: Axis::Y, value } => down = down.saturating_add(*value),
                Event::Key { .. } | Event::Btn { .. } => {}
            }
        }
        if let (true, Some(tablet)) = (x.is_some() || y.is_some(), self.tablet()) {
            let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
            *at = (x.unwrap_or(at.0), y.unwrap_or(at.1));
            tablet.position(at.0, at.1);
        }
        if let (true, Some(mouse)) = ((right, down) != (0, 0), self.mouse()) {
            mouse.motion(right, down, 0);
        }
        // A button counts where the pointer is then.
        for event in events {
            match event {
                Event::Key { key: Key::Qcode(name), down } => {
                    if let (Some(usage), Ok(keyboard)) = (key_names::usage(name), self.keyboard()) {
                        if *down { keyboard.press(usage) } else { keyboard.release(usage) }
                    }
                }
                Event::Btn { button, down } => self.press(*button, *down),
                Event::Abs { .. } | Event::Rel { .. } => {}
            }
        }
        Ok(())
    }

    fn check(&self, event: &Event) -> Result<(), InputError> {
        let there = |there: bool, what| if there { Ok(()) } else { Err(InputError::Nobody(what)) };
        match event {
            Event::Key { key: Key::Qcode(name), .. } => {
                key_names::usage(name).ok_or_else(|| InputError::Key(name.clone()))?;
                self.keyboard().map(drop)
            }
            Event::Btn { .. } => {
                there(self.mouse().is_some() || self.tablet().is_some(), "mouse or tablet")
            }
            Event::Rel { .. } => there(self.mouse().is_some(), "mouse"),
            Event::Abs { .. } => there(self.tablet().is_some(), "tablet"),
        }
    }

    /// Presses a button of the pointer that is there: the tablet, if both are, as guests prefer it.
    fn press(&self, button: Pressed, down: bool) {
        match (button.button(), self.tablet(), self.mouse()) {
            (Ok(button), Some(tablet), _) => tablet.button(button, down),
            (Ok(button), None, Some(mouse)) => mouse.button(button, down),
            // A turn is its press.
            (Err(turn), Some(tablet), _) if down => tablet.wheel(turn),
            (Err(turn), None, Some(mouse)) if down => mouse.motion(0, 0, turn),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::hid::keyboard::Keyboard;
    use crate::device::hid::mouse::Mouse;
    use crate::usb::Speed;

    fn events(text: &str) -> Vec<Event> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn events_are_qmps() {
        let written = r#"[
            {"type": "key", "data": {"down": true, "key": {"type": "qcode", "data": "a"}}},
            {"type": "btn", "data": {"down": false, "button": "wheel-up"}},
            {"type": "rel", "data": {"axis": "x", "value": -3}},
            {"type": "abs", "data": {"axis": "y", "value": 20000}}
        ]"#;
        let expected = [
            Event::Key { key: Key::Qcode("a".into()), down: true },
            Event::Btn { button: Pressed::WheelUp, down: false },
            Event::Rel { axis: Axis::X, value: -3 },
            Event::Abs { axis: Axis::Y, value: 20000 },
        ];
        assert_eq!(events(written), expected);
    }

    #[test]
    fn what_nobody_takes_is_said_and_nothing_of_it_is_sent() {
        let keyboard = Keyboard::new(Speed::High).unwrap();
        let mut inputs = Inputs::default();
        inputs.add(Path::root_port(0), Input::Keyboard(keyboard.input()));
        let key = |name: &str| Event::Key { key: Key::Qcode(name.into()), down: true };
        assert_eq!(inputs.send(&[key("a")]), Ok(()));
        assert_eq!(inputs.send(&[key("any")]), Err(InputError::Key("any".into())));
        let motion = [Event::Rel { axis: Axis::X, value: 1 }];
        assert_eq!(inputs.send(&motion), Err(InputError::Nobody("mouse")));
        inputs.add(Path::root_port(1), Input::Mouse(Mouse::new(Speed::High).unwrap().input()));
        assert_eq!(inputs.send(&motion), Ok(()));
        let position = Event::Abs { axis: Axis::X, value: 1 };
        assert_eq!(inputs.send(&[position]), Err(InputError::Nobody("tablet")));
        inputs.remove(|at| *at == Path::root_port(0));
        assert_eq!(inputs.send(&[key("a")]), Err(InputError::Nobody("keyboard")));
        assert_eq!(inputs.send(&motion), Ok(()));
    }
}
