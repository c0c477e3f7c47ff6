//! The clock's registers (Motorola MC146818), without a host: the time is told with every call.
//!
//! A flag of register C is worked out when somebody asks, from the time that it was last worked out:
//! nothing happens in between.

use super::Memory;
use super::calendar::Date;
use crate::machine::timer::{Nanoseconds, SECOND};

/// Registers by their index.
mod index {
    pub(super) const SECONDS: u8 = 0;
    pub(super) const SECONDS_ALARM: u8 = 1;
    pub(super) const MINUTES: u8 = 2;
    pub(super) const MINUTES_ALARM: u8 = 3;
    pub(super) const HOURS: u8 = 4;
    pub(super) const HOURS_ALARM: u8 = 5;
    pub(super) const WEEKDAY: u8 = 6;
    pub(super) const DAY: u8 = 7;
    pub(super) const MONTH: u8 = 8;
    pub(super) const YEAR: u8 = 9;
    pub(super) const A: u8 = 10;
    pub(super) const B: u8 = 11;
    pub(super) const C: u8 = 12;
    pub(super) const D: u8 = 13;
    /// Where the FADT says that the century is.
    pub(super) const CENTURY: u8 = 0x32;
}

/// Register A.
mod a {
    pub(super) const UIP: u8 = 1 << 7;
    /// The divider: a crystal of 32.768 kHz, or held in reset.
    pub(super) const DV: u8 = 0b111 << 4;
    pub(super) const DV_32_KHZ: u8 = 0b010 << 4;
    pub(super) const DV_RESET: u8 = 0b110 << 4;
    pub(super) const RS: u8 = 0b1111;
    pub(super) const RS_1024_HZ: u8 = 0b0110;
}

/// Register B.
mod b {
    pub(super) const SET: u8 = 1 << 7;
    pub(super) const PIE: u8 = 1 << 6;
    pub(super) const AIE: u8 = 1 << 5;
    pub(super) const UIE: u8 = 1 << 4;
    pub(super) const SQWE: u8 = 1 << 3;
    pub(super) const DM_BINARY: u8 = 1 << 2;
    pub(super) const HOURS_24: u8 = 1 << 1;
}

/// Register C: at the places of what enables them in register B.
mod c {
    pub(super) const IRQF: u8 = 1 << 7;
    pub(super) const PF: u8 = 1 << 6;
    pub(super) const AF: u8 = 1 << 5;
    pub(super) const UF: u8 = 1 << 4;
}

/// Register D: valid RAM and time, the battery is good.
const D_VRT: u8 = 1 << 7;

/// UIP is set this long before an update.
const UPDATE_AHEAD: Nanoseconds = 244_000;

/// An hour's bit for the afternoon, if there are twelve.
const PM: u8 = 1 << 7;

/// Alarm bytes from here on match always.
const ANY: u8 = 0xc0;

const BYTES: u8 = 128;

/// The clock and its memory.
#[derive(Debug)]
pub(super) struct Model {
    /// All bytes as they were written. Those of the time hold only while it stands still.
    bytes: [u8; BYTES as usize],
    /// Flags of register C, without IRQF.
    flags: u8,
    /// By how much the clock is ahead of the host's.
    offset: Nanoseconds,
    /// The host's time when the flags were last worked out.
    seen: Nanoseconds,
}

impl Model {
    pub(super) fn new(now: Nanoseconds, memory: Memory) -> Self {
        let bytes = [0; BYTES as usize];
        let mut model = Self { bytes, flags: 0, offset: 0, seen: now };
        model.put(index::A, a::DV_32_KHZ | a::RS_1024_HZ);
        model.put(index::B, b::HOURS_24);
        model.put(index::D, D_VRT);
        for (first, value) in memory.bytes() {
            model.put(first, value);
        }
        model
    }

    /// The machine is reset: interrupts are off, time and memory stay.
    pub(super) fn reset(&mut self, now: Nanoseconds) {
        let _ = self.read(index::C, now);
        let keep = !(b::PIE | b::AIE | b::UIE | b::SQWE);
        self.put(index::B, self.byte(index::B) & keep);
    }

    pub(super) fn read(&mut self, index: u8, now: Nanoseconds) -> u8 {
        match index % BYTES {
            index::A if self.is_updating(now) => self.byte(index::A) | a::UIP,
            index::C => {
                self.work_out(now);
                let value = self.flags | if self.is_high() { c::IRQF } else { 0 };
                self.flags = 0;
                value
            }
            index if is_time(index) && !self.stands_still() => self.fields(now, index),
            index => self.byte(index),
        }
    }

    pub(super) fn write(&mut self, index: u8, value: u8, now: Nanoseconds) {
        self.work_out(now);
        match index % BYTES {
            index::A => self.control(value & !a::UIP, self.byte(index::B), now),
            index::B => {
                // SET clears UIE.
                let value = if value & b::SET == 0 { value } else { value & !b::UIE };
                self.control(self.byte(index::A), value, now);
            }
            index::C | index::D => {}
            index if is_time(index) && !self.stands_still() => {
                self.keep_fields(now);
                self.put(index, value);
                self.set_clock(now, self.clock(now).rem_euclid(SECOND));
            }
            index => self.put(index, value),
        }
    }

    /// Works out which flags are set by now.
    pub(super) fn work_out(&mut self, now: Nanoseconds) {
        let seen = std::mem::replace(&mut self.seen, now);
        // The host's clock may be set back.
        if now <= seen {
            return;
        }
        if let Some(period) = self.period()
            && tick(now, period) != tick(seen, period)
        {
            self.flags |= c::PF;
        }
        if self.stands_still() {
            return;
        }
        let (before, after) = (self.seconds(seen), self.seconds(now));
        if before != after {
            self.flags |= c::UF;
            if self.next_alarm(before).is_some_and(|alarm| alarm <= after) {
                self.flags |= c::AF;
            }
        }
    }

    /// Whether the interrupt line is high, as was last worked out.
    pub(super) fn is_high(&self) -> bool {
        self.flags & self.byte(index::B) & (c::PF | c::AF | c::UF) != 0
    }

    /// When the line next rises: none, if it is high, or nothing is enabled.
    pub(super) fn next_rise(&self, now: Nanoseconds) -> Option<Nanoseconds> {
        if self.is_high() {
            return None;
        }
        let enabled = self.byte(index::B);
        let on = |bit| enabled & bit != 0;
        let periodic = self.period().filter(|_| on(b::PIE)).map(|period| {
            // The first nanosecond of the next tick.
            -((-(tick(now, period) + 1) * period).div_euclid(TICKS))
        });
        let second = self.seconds(now);
        let host = |second: i64| Nanoseconds::from(second) * SECOND - self.offset;
        let goes = !self.stands_still();
        let update = (goes && on(b::UIE)).then(|| host(second.saturating_add(1)));
        let alarm = if goes && on(b::AIE) { self.next_alarm(second).map(host) } else { None };
        [periodic, update, alarm].into_iter().flatten().min()
    }

    /// Changes registers A and B: the time may stop, or go on.
    fn control(&mut self, a: u8, b: u8, now: Nanoseconds) {
        let stood_still = self.stands_still();
        let was_reset = self.divider_is_reset();
        if !stood_still {
            self.keep_fields(now);
        }
        self.put(index::A, a);
        self.put(index::B, b);
        if stood_still && !self.stands_still() {
            // The first update comes half a second after the divider starts.
            let fraction = if was_reset { SECOND / 2 } else { self.clock(now).rem_euclid(SECOND) };
            self.set_clock(now, fraction);
        }
    }

    fn stands_still(&self) -> bool {
        self.byte(index::B) & b::SET != 0 || self.divider_is_reset()
    }

    fn divider_is_reset(&self) -> bool {
        self.byte(index::A) & a::DV >= a::DV_RESET
    }

    fn is_updating(&self, now: Nanoseconds) -> bool {
        let left = SECOND - self.clock(now).rem_euclid(SECOND);
        !self.stands_still() && left <= UPDATE_AHEAD
    }

    /// The clock's time.
    fn clock(&self, now: Nanoseconds) -> Nanoseconds {
        now.saturating_add(self.offset)
    }

    /// Seconds of the clock's time.
    fn seconds(&self, now: Nanoseconds) -> i64 {
        i64::try_from(self.clock(now).div_euclid(SECOND)).unwrap_or(0)
    }

    /// Sets the clock to what the bytes say.
    fn set_clock(&mut self, now: Nanoseconds, fraction: Nanoseconds) {
        let value = |index| i64::from(self.decode(self.byte(index)));
        let date = Date {
            year: value(index::CENTURY) * 100 + value(index::YEAR),
            month: value(index::MONTH),
            day: value(index::DAY),
            weekday: 1,
            hour: i64::from(self.decode_hour(self.byte(index::HOURS))),
            minute: value(index::MINUTES),
            second: value(index::SECONDS),
        };
        self.offset = Nanoseconds::from(date.seconds()) * SECOND + fraction - now;
    }

    /// Has the bytes say what the clock does.
    fn keep_fields(&mut self, now: Nanoseconds) {
        for index in (0..BYTES).filter(|index| is_time(*index)) {
            let value = self.fields(now, index);
            self.put(index, value);
        }
    }

    /// A field of the clock's time.
    fn fields(&self, now: Nanoseconds, index: u8) -> u8 {
        let date = Date::at(self.seconds(now));
        match index {
            index::SECONDS => self.encode(date.second),
            index::MINUTES => self.encode(date.minute),
            index::HOURS => self.encode_hour(date.hour),
            index::WEEKDAY => self.encode(date.weekday),
            index::DAY => self.encode(date.day),
            index::MONTH => self.encode(date.month),
            index::YEAR => self.encode(date.year.rem_euclid(100)),
            _ => self.encode(date.year.div_euclid(100).rem_euclid(100)),
        }
    }

    /// When the alarm is due first after a time: each of its bytes matches, or matches always.
    fn next_alarm(&self, after: i64) -> Option<i64> {
        let field = |index, decode: fn(&Self, u8) -> u8, end: i64| {
            let byte = self.byte(index);
            let value = i64::from(decode(self, byte));
            if byte >= ANY { Some(None) } else { (value < end).then_some(Some(value)) }
        };
        let hour = field(index::HOURS_ALARM, Self::decode_hour, 24)?;
        let minute = field(index::MINUTES_ALARM, Self::decode, 60)?;
        let second = field(index::SECONDS_ALARM, Self::decode, 60)?;
        let differs = |wanted: Option<i64>, is| wanted.is_some_and(|wanted| wanted != is);
        let mut at = after.saturating_add(1);
        loop {
            let of_day = at.rem_euclid(24 * 60 * 60);
            let step = if differs(hour, of_day / 3600) {
                3600
            } else if differs(minute, of_day / 60 % 60) {
                60
            } else if differs(second, of_day % 60) {
                1
            } else {
                return Some(at);
            };
            at = at.checked_add(step - at.rem_euclid(step))?;
        }
    }

    /// Of the periodic interrupt, as [`tick`] has it.
    fn period(&self) -> Option<Nanoseconds> {
        // The first two rates are for other crystals, and repeat two others with ours.
        let shift = match self.byte(index::A) & a::RS {
            0 => return None,
            rate @ (1 | 2) => rate + 6,
            rate => rate - 1,
        };
        (!self.divider_is_reset()).then_some(SECOND << shift)
    }

    fn encode(&self, value: i64) -> u8 {
        let value = u8::try_from(value).unwrap_or(0);
        if self.byte(index::B) & b::DM_BINARY != 0 {
            value
        } else {
            ((value / 10) << 4) | (value % 10)
        }
    }

    fn decode(&self, byte: u8) -> u8 {
        if self.byte(index::B) & b::DM_BINARY != 0 {
            byte
        } else {
            (byte >> 4) * 10 + (byte & 0x0f)
        }
    }

    fn encode_hour(&self, hour: i64) -> u8 {
        if self.byte(index::B) & b::HOURS_24 != 0 {
            return self.encode(hour);
        }
        let of_twelve = self.encode((hour + 11) % 12 + 1);
        if hour < 12 { of_twelve } else { of_twelve | PM }
    }

    fn decode_hour(&self, byte: u8) -> u8 {
        if self.byte(index::B) & b::HOURS_24 != 0 {
            return self.decode(byte);
        }
        let hour = self.decode(byte & !PM) % 12;
        if byte & PM == 0 { hour } else { hour + 12 }
    }

    fn byte(&self, index: u8) -> u8 {
        self.bytes.get(usize::from(index)).copied().unwrap_or(0)
    }

    fn put(&mut self, index: u8, value: u8) {
        if let Some(byte) = self.bytes.get_mut(usize::from(index)) {
            *byte = value;
        }
    }
}

/// The crystal's frequency.
const TICKS: Nanoseconds = 32_768;

/// Number of a period, given as nanoseconds times [`TICKS`].
fn tick(now: Nanoseconds, period: Nanoseconds) -> Nanoseconds {
    (now.saturating_mul(TICKS)).div_euclid(period)
}

fn is_time(index: u8) -> bool {
    use index::{CENTURY, DAY, HOURS, MINUTES, MONTH, SECONDS, WEEKDAY, YEAR};
    [SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY].contains(&index)
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
