//! A tablet: a mouse that says where it is, so that a guest's pointer stays with its user's.

use super::pointer::{Button, Events, Motion, take_byte};
use super::{Hid, Input, Protocol, Reports, Shape};

/// A tablet.
pub type Tablet = Hid<Positions>;
/// Where its pen is put.
pub type TabletInput = Input<Positions>;

/// The right and lower edges.
pub const EDGE: u16 = 0x7fff;

/// Where it was put last, and how far its wheel has turned.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    at: Option<(u16, u16)>,
    wheel: i32,
}

impl Motion for Place {
    fn add(&mut self, newer: Self) {
        self.at = newer.at.or(self.at);
        self.wheel = self.wheel.saturating_add(newer.wheel);
    }

    fn take(&mut self) -> (Self, bool) {
        let part = Self { at: self.at.take(), wheel: i32::from(take_byte(&mut self.wheel)) };
        (part, self.wheel == 0)
    }
}

/// Positions and buttons.
#[derive(Debug, Default)]
pub struct Positions {
    events: Events<Place>,
    /// As reported.
    at: (u16, u16),
}

impl Positions {
    fn report(&self, mut wheel: i32) -> Vec<u8> {
        let mut report = vec![self.events.buttons()];
        report.extend(self.at.0.to_le_bytes());
        report.extend(self.at.1.to_le_bytes());
        report.push(take_byte(&mut wheel).cast_unsigned());
        report
    }
}

impl Reports for Positions {
    const SHAPE: Shape = Shape {
        product: "Tablet",
        product_id: 0x0004,
        boot: None,
        report_descriptor: &REPORT,
        max_packet: 8,
        intervals: [4, 5],
    };

    fn take(&mut self, _protocol: Protocol) -> Option<Vec<u8>> {
        let (_, place) = self.events.take()?;
        let place = place.unwrap_or_default();
        self.at = place.at.unwrap_or(self.at);
        Some(self.report(place.wheel))
    }

    fn waits(&self) -> bool {
        self.events.waits()
    }

    fn current(&self, _protocol: Protocol) -> Vec<u8> {
        self.report(0)
    }

    fn reset(&mut self) {
        while self.take(Protocol::Report).is_some() {}
    }
}

impl Input<Positions> {
    /// It is put there, from 0 to [`EDGE`].
    pub fn position(&self, x: u16, y: u16) {
        let at = Some((x.min(EDGE), y.min(EDGE)));
        self.happen(|positions| positions.events.moves(Place { at, wheel: 0 }));
    }

    /// Its wheel turns, away from the user.
    pub fn wheel(&self, wheel: i32) {
        if wheel != 0 {
            self.happen(|positions| positions.events.moves(Place { at: None, wheel }));
        }
    }

    /// A button goes down or up.
    pub fn button(&self, button: Button, pressed: bool) {
        self.happen(|positions| positions.events.button(button, pressed));
    }
}

/// Buttons, X, Y, wheel.
const REPORT: [u8; 72] = [
    0x05, 0x01, 0x09, 0x02, 0xa1, 0x01, 0x09, 0x01, 0xa1, 0x00, // a mouse, a pointer
    0x05, 0x09, 0x19, 0x01, 0x29, 0x05, // buttons
    0x15, 0x00, 0x25, 0x01, 0x75, 0x01, 0x95, 0x05, 0x81, 0x02, // 5 bits
    0x75, 0x03, 0x95, 0x01, 0x81, 0x01, // 3 constant bits
    0x05, 0x01, 0x09, 0x30, 0x09, 0x31, // X, Y
    0x15, 0x00, 0x26, 0xff, 0x7f, 0x35, 0x00, 0x46, 0xff, 0x7f, // 0 to 32767, in any unit
    0x75, 0x10, 0x95, 0x02, 0x81, 0x02, // 2 words, absolute
    0x09, 0x38, 0x15, 0x81, 0x25, 0x7f, 0x35, 0x00, 0x45, 0x00, // wheel
    0x75, 0x08, 0x95, 0x01, 0x81, 0x06, // a signed byte, relative
    0xc0, 0xc0,
];
