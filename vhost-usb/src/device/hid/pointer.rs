//! Motions and buttons in their order: a button counts where the pointer was when it was pressed.

use std::collections::VecDeque;

/// A mouse's button, as QEMU names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Button {
    /// The primary one.
    Left,
    /// The secondary one.
    Right,
    /// The wheel, pressed.
    Middle,
    /// Back.
    Side,
    /// Forward.
    Extra,
}

impl Button {
    /// Its bit in a report.
    #[must_use]
    pub const fn bit(self) -> u8 {
        match self {
            Self::Left => 1,
            Self::Right => 2,
            Self::Middle => 4,
            Self::Side => 8,
            Self::Extra => 16,
        }
    }
}

/// A motion, or several that came one after the other.
pub trait Motion: Copy {
    /// Another follows.
    fn add(&mut self, newer: Self);

    /// Takes what a report has room for. `false`: some is left.
    fn take(&mut self) -> (Self, bool);
}

/// What happens to a pointer.
#[derive(Clone, Copy, Debug)]
enum Event<M> {
    Moves(M),
    /// The buttons that are down now.
    Buttons(u8),
}

/// Events that wait: then the pointer can't move and buttons can't be pressed, only released.
const MOST: usize = 128;

/// What has happened, and was not reported yet. Never more than [`MOST`] and a release of each button.
#[derive(Debug)]
pub struct Events<M> {
    events: VecDeque<Event<M>>,
    /// Buttons that are down after all that.
    down: u8,
    /// Buttons that are down, as reported.
    buttons: u8,
}

impl<M> Default for Events<M> {
    fn default() -> Self {
        Self { events: VecDeque::new(), down: 0, buttons: 0 }
    }
}

impl<M: Motion> Events<M> {
    /// The pointer moves.
    pub fn moves(&mut self, motion: M) {
        let is_full = self.events.len() >= MOST;
        match self.events.back_mut() {
            Some(Event::Moves(last)) => last.add(motion),
            _ if is_full => {}
            _ => self.events.push_back(Event::Moves(motion)),
        }
    }

    /// A button goes down or up.
    pub fn button(&mut self, button: Button, pressed: bool) {
        let down = if pressed { self.down | button.bit() } else { self.down & !button.bit() };
        if down == self.down || (pressed && self.events.len() >= MOST) {
            return;
        }
        self.down = down;
        self.events.push_back(Event::Buttons(down));
    }

    /// Something waits.
    #[must_use]
    pub fn waits(&self) -> bool {
        !self.events.is_empty()
    }

    /// Buttons that are down, as reported.
    #[must_use]
    pub fn buttons(&self) -> u8 {
        self.buttons
    }

    /// Takes the oldest event: buttons, and a motion if it is one.
    pub fn take(&mut self) -> Option<(u8, Option<M>)> {
        match self.events.front_mut()? {
            Event::Buttons(buttons) => {
                self.buttons = *buttons;
                self.events.pop_front();
                Some((self.buttons, None))
            }
            Event::Moves(motion) => {
                let (part, all) = motion.take();
                if all {
                    self.events.pop_front();
                }
                Some((self.buttons, Some(part)))
            }
        }
    }
}

/// Takes from a sum what a report's signed byte has room for.
pub(super) fn take_byte(sum: &mut i32) -> i8 {
    let part = (*sum).clamp(-127, 127);
    *sum = sum.saturating_sub(part);
    i8::try_from(part).unwrap_or(0)
}
