//! A keyboard: its reports are those of appendix B.1 (HID 1.11), in both protocols.

use std::collections::{BTreeSet, VecDeque};

use super::{Hid, Input, Protocol, Reports, Shape};

/// A keyboard.
pub type Keyboard = Hid<Keys>;
/// Where keys are pressed and released.
pub type KeyboardInput = Input<Keys>;

/// The modifier keys' usages, from Left Control on: a bit for each (HID Usage Tables, 10).
const FIRST_MODIFIER: u8 = 0xe0;
const LAST_MODIFIER: u8 = 0xe7;
/// Usages below it are no keys, but states of the keyboard.
const FIRST_KEY: u8 = 4;
/// More keys are down than a report has room for.
const ERROR_ROLL_OVER: u8 = 1;
/// Keys in a report.
const KEYS: usize = 6;
/// LEDs in the output report: Num Lock, Caps Lock, Scroll Lock, Compose, Kana.
const LEDS: u8 = 0x1f;
/// Changes that wait: then keys can't be pressed, only released.
const MOST: usize = 128;

/// The keys: what was reported, and what has happened since.
#[derive(Debug, Default)]
pub struct Keys {
    modifiers: u8,
    /// Others that are down, as reported, in the order in which they were pressed.
    held: Vec<u8>,
    /// What has happened since: a usage, and whether it went down. There are never more releases than
    /// keys that are down when it begins and presses in it, so that it is bounded though no release is
    /// lost.
    changes: VecDeque<(u8, bool)>,
    /// What is down after all that.
    down: BTreeSet<u8>,
    leds: u8,
}

impl Keys {
    fn change(&mut self, usage: u8, pressed: bool) {
        let changes = if pressed {
            usage >= FIRST_KEY && self.changes.len() < MOST && self.down.insert(usage)
        } else {
            self.down.remove(&usage)
        };
        if changes {
            self.changes.push_back((usage, pressed));
        }
    }

    fn apply(&mut self, usage: u8, pressed: bool) {
        match usage {
            FIRST_MODIFIER..=LAST_MODIFIER => {
                let bit = 1 << usage.saturating_sub(FIRST_MODIFIER);
                self.modifiers = self.modifiers & !bit | if pressed { bit } else { 0 };
            }
            _ if pressed => self.held.push(usage),
            _ => self.held.retain(|held| *held != usage),
        }
    }
}

impl Reports for Keys {
    const SHAPE: Shape = Shape {
        product: "Keyboard",
        product_id: 0x0002,
        boot: Some(1),
        report_descriptor: &REPORT,
        max_packet: 8,
        intervals: [10, 7],
    };

    fn take(&mut self, protocol: Protocol) -> Option<Vec<u8>> {
        let (usage, pressed) = self.changes.pop_front()?;
        self.apply(usage, pressed);
        Some(self.current(protocol))
    }

    fn waits(&self) -> bool {
        !self.changes.is_empty()
    }

    fn current(&self, _protocol: Protocol) -> Vec<u8> {
        let mut report = vec![self.modifiers, 0];
        if self.held.len() > KEYS {
            report.extend([ERROR_ROLL_OVER; KEYS]);
        } else {
            report.extend(&self.held);
            report.resize(KEYS.saturating_add(2), 0);
        }
        report
    }

    fn output(&mut self, report: &[u8]) -> Option<()> {
        self.leds = report.first()? & LEDS;
        Some(())
    }

    fn last_output(&self) -> Option<Vec<u8>> {
        Some(vec![self.leds])
    }

    fn reset(&mut self) {
        while let Some((usage, pressed)) = self.changes.pop_front() {
            self.apply(usage, pressed);
        }
        self.leds = 0;
    }
}

impl Input<Keys> {
    /// A key goes down: its usage in the keyboard page. It is not heard if the guest is far behind.
    pub fn press(&self, usage: u8) {
        self.happen(|keys| keys.change(usage, true));
    }

    /// A key goes up.
    pub fn release(&self, usage: u8) {
        self.happen(|keys| keys.change(usage, false));
    }

    /// Which LEDs the guest has on: Num Lock, Caps Lock, Scroll Lock, Compose, Kana, from bit 0 on.
    pub fn leds(&self) -> u8 {
        self.lock().leds
    }
}

/// Modifiers, a reserved byte, LEDs, keys (E.6).
const REPORT: [u8; 65] = [
    0x05, 0x01, 0x09, 0x06, 0xa1, 0x01, // a keyboard
    0x05, 0x07, 0x19, 0xe0, 0x29, 0xe7, // modifiers: usages of the keyboard page
    0x15, 0x00, 0x25, 0x01, 0x75, 0x01, 0x95, 0x08, 0x81, 0x02, // 8 bits
    0x75, 0x08, 0x95, 0x01, 0x81, 0x01, // a constant byte
    0x05, 0x08, 0x19, 0x01, 0x29, 0x05, // LEDs
    0x75, 0x01, 0x95, 0x05, 0x91, 0x02, // 5 bits, from the host
    0x75, 0x03, 0x95, 0x01, 0x91, 0x01, // 3 constant bits
    0x05, 0x07, 0x19, 0x00, 0x2a, 0xff, 0x00, // keys: usages of the keyboard page
    0x15, 0x00, 0x26, 0xff, 0x00, 0x75, 0x08, 0x95, 0x06, 0x81, 0x00, // 6 bytes, an array
    0xc0,
];
