//! A mouse: relative, with 5 buttons and a wheel.

use super::pointer::{Button, Events, Motion, take_byte};
use super::{Hid, Input, Protocol, Reports, Shape};

/// A mouse.
pub type Mouse = Hid<Moves>;
/// Where it is moved.
pub type MouseInput = Input<Moves>;

/// Buttons of a boot report (HID 1.11, B.2).
const BOOT_BUTTONS: u8 = 7;

/// How far it was moved.
#[derive(Clone, Copy, Debug, Default)]
struct Distance {
    x: i32,
    y: i32,
    wheel: i32,
}

impl Distance {
    fn bytes(mut self) -> [u8; 3] {
        [&mut self.x, &mut self.y, &mut self.wheel].map(|sum| take_byte(sum).cast_unsigned())
    }
}

impl Motion for Distance {
    fn add(&mut self, newer: Self) {
        self.x = self.x.saturating_add(newer.x);
        self.y = self.y.saturating_add(newer.y);
        self.wheel = self.wheel.saturating_add(newer.wheel);
    }

    fn take(&mut self) -> (Self, bool) {
        let [x, y, wheel] =
            [&mut self.x, &mut self.y, &mut self.wheel].map(|sum| i32::from(take_byte(sum)));
        (Self { x, y, wheel }, (self.x, self.y, self.wheel) == (0, 0, 0))
    }
}

/// Motions and buttons.
#[derive(Debug, Default)]
pub struct Moves {
    events: Events<Distance>,
}

fn report(buttons: u8, distance: Distance, protocol: Protocol) -> Vec<u8> {
    let [x, y, wheel] = distance.bytes();
    match protocol {
        Protocol::Boot => vec![buttons & BOOT_BUTTONS, x, y],
        Protocol::Report => vec![buttons, x, y, wheel],
    }
}

impl Reports for Moves {
    const SHAPE: Shape = Shape {
        product: "Mouse",
        product_id: 0x0003,
        boot: Some(2),
        report_descriptor: &REPORT,
        max_packet: 4,
        intervals: [10, 7],
    };

    fn take(&mut self, protocol: Protocol) -> Option<Vec<u8>> {
        let (buttons, distance) = self.events.take()?;
        Some(report(buttons, distance.unwrap_or_default(), protocol))
    }

    fn waits(&self) -> bool {
        self.events.waits()
    }

    fn current(&self, protocol: Protocol) -> Vec<u8> {
        report(self.events.buttons(), Distance::default(), protocol)
    }

    fn reset(&mut self) {
        while self.events.take().is_some() {}
    }
}

impl Input<Moves> {
    /// It moves, right and down; its wheel turns, away from the user.
    pub fn motion(&self, dx: i32, dy: i32, wheel: i32) {
        if (dx, dy, wheel) != (0, 0, 0) {
            self.happen(|moves| moves.events.moves(Distance { x: dx, y: dy, wheel }));
        }
    }

    /// A button goes down or up.
    pub fn button(&self, button: Button, pressed: bool) {
        self.happen(|moves| moves.events.button(button, pressed));
    }
}

/// Buttons, X, Y, wheel (as E.10, with more of them).
const REPORT: [u8; 52] = [
    0x05, 0x01, 0x09, 0x02, 0xa1, 0x01, 0x09, 0x01, 0xa1, 0x00, // a mouse, a pointer
    0x05, 0x09, 0x19, 0x01, 0x29, 0x05, // buttons
    0x15, 0x00, 0x25, 0x01, 0x75, 0x01, 0x95, 0x05, 0x81, 0x02, // 5 bits
    0x75, 0x03, 0x95, 0x01, 0x81, 0x01, // 3 constant bits
    0x05, 0x01, 0x09, 0x30, 0x09, 0x31, 0x09, 0x38, // X, Y, wheel
    0x15, 0x81, 0x25, 0x7f, 0x75, 0x08, 0x95, 0x03, 0x81, 0x06, // 3 signed bytes, relative
    0xc0, 0xc0,
];
