//! The escape key of a terminal in raw mode: Ctrl-A, as QEMU has it.

/// Ctrl-A.
const KEY: u8 = 0x01;

/// What Ctrl-A h says.
pub(super) const HELP: &str = "\n\
    Ctrl-A h  this help\n\
    Ctrl-A x  quit: the machine is turned off at once\n\
    Ctrl-A b  send a break condition\n\
    Ctrl-A Ctrl-A, or Ctrl-A a  send Ctrl-A\n";

/// What the user types means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// A byte for the guest.
    Byte(u8),
    /// A break condition for the guest.
    Break,
    /// Help is wanted.
    Help,
    /// The machine is to end.
    Quit,
    /// Nothing, or nothing yet.
    Nothing,
}

/// Where the user is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Escape {
    /// The escape key was the last.
    pressed: bool,
}

impl Escape {
    pub(super) fn typed(&mut self, byte: u8) -> Typed {
        if !std::mem::take(&mut self.pressed) {
            self.pressed = byte == KEY;
            return if self.pressed { Typed::Nothing } else { Typed::Byte(byte) };
        }
        match byte {
            KEY | b'a' => Typed::Byte(KEY),
            b'b' => Typed::Break,
            b'h' | b'?' => Typed::Help,
            b'x' => Typed::Quit,
            _ => Typed::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_key_makes_the_next_one_a_command() {
        let mut escape = Escape::default();
        let typed = b"x\x01a\x01\x01\x01bh\x01h\x01zx\x01x".map(|byte| escape.typed(byte));
        let typed: Vec<_> = typed.into_iter().filter(|typed| *typed != Typed::Nothing).collect();
        let expected = [
            Typed::Byte(b'x'),
            Typed::Byte(KEY),
            Typed::Byte(KEY),
            Typed::Break,
            Typed::Byte(b'h'),
            Typed::Help,
            Typed::Byte(b'x'),
            Typed::Quit,
        ];
        assert_eq!(typed, expected);
    }
}
