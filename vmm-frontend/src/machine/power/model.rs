//! The fixed and general-purpose event registers (ACPI 6.5, 4.8.3 and 4.8.4), without a host: the
//! time is told with every call. Whatever enabled event is there asks for the SCI.

use crate::machine::timer::{Nanoseconds, SECOND};

/// PM1 status and enable registers: the same bits (4.8.3.1).
mod pm1 {
    pub(super) const TMR: u16 = 1 << 0;
    pub(super) const GBL: u16 = 1 << 5;
    pub(super) const PWRBTN: u16 = 1 << 8;
    pub(super) const SLPBTN: u16 = 1 << 9;
    pub(super) const RTC: u16 = 1 << 10;
    /// What can be enabled.
    pub(super) const EVENTS: u16 = TMR | GBL | PWRBTN | SLPBTN | RTC;
}

/// PM1 control (4.8.3.2).
mod control {
    pub(super) const SCI_EN: u16 = 1 << 0;
    pub(super) const BM_RLD: u16 = 1 << 1;
    pub(super) const SLP_TYP_SHIFT: u16 = 10;
    pub(super) const SLP_TYP: u16 = 0b111 << SLP_TYP_SHIFT;
    pub(super) const SLP_EN: u16 = 1 << 13;
    /// What is read as it was written.
    pub(super) const KEPT: u16 = BM_RLD | SLP_TYP;
}

/// The timer's frequency (4.8.3.3).
const HERTZ: Nanoseconds = 3_579_545;
/// TMR_STS is set whenever the highest of its 32 bits changes.
const HALF: Nanoseconds = 1 << 31;

/// Bytes of the fixed registers: PM1 events (4), PM1 control (2 and 2 that are reserved), timer (4).
pub(super) const FIXED: usize = 12;
/// Bytes of the status, and of the enable half, of the general-purpose events.
const GENERAL: usize = 4;

/// What a guest has asked for with SLP_EN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sleep {
    /// SLP_TYP.
    pub(super) kind: u8,
}

/// The registers.
#[derive(Debug, Default)]
pub(super) struct Model {
    status: u16,
    enable: u16,
    control: u16,
    general_status: u32,
    general_enable: u32,
    /// When TMR_STS was last worked out.
    seen: Nanoseconds,
}

impl Model {
    /// The machine is reset. The timer goes on.
    pub(super) fn reset(&mut self) {
        *self = Self { seen: self.seen, ..Self::default() };
    }

    pub(super) fn press_power_button(&mut self) {
        self.status |= pm1::PWRBTN;
    }

    /// Sets the status of a general-purpose event; those beyond the last are none.
    pub(super) fn raise(&mut self, event: u8) {
        self.general_status |= 1u32.checked_shl(event.into()).unwrap_or(0);
    }

    /// Reads fixed registers, all at the same instant.
    pub(super) fn read_fixed(&mut self, offset: u64, data: &mut [u8], now: Nanoseconds) {
        self.work_out(now);
        let control = self.control | control::SCI_EN;
        let (status, enable) = (self.status.to_le_bytes(), self.enable.to_le_bytes());
        let (control, timer) = (control.to_le_bytes(), ticks(now).to_le_bytes());
        let all = status.into_iter().chain(enable).chain(control).chain([0; 2]);
        copy(all.chain(timer.into_iter().take(4)), offset, data);
    }

    /// Writes fixed registers. A guest may choose to sleep so.
    pub(super) fn write_fixed(
        &mut self,
        offset: u64,
        data: &[u8],
        now: Nanoseconds,
    ) -> Option<Sleep> {
        self.work_out(now);
        let mut sleep = None;
        for (offset, byte) in (offset..).zip(data) {
            let low = u16::from(*byte);
            let high = low << 8;
            match offset {
                0 => self.status &= !low,
                1 => self.status &= !high,
                2 => self.enable = (self.enable & 0xff00 | low) & pm1::EVENTS,
                3 => self.enable = (self.enable & 0x00ff | high) & pm1::EVENTS,
                4 => self.control = (self.control & 0xff00 | low) & control::KEPT,
                5 => {
                    self.control = (self.control & 0x00ff | high) & control::KEPT;
                    let kind = u8::try_from((high & control::SLP_TYP) >> control::SLP_TYP_SHIFT);
                    sleep = kind.ok().filter(|_| high & control::SLP_EN != 0);
                }
                _ => {}
            }
        }
        sleep.map(|kind| Sleep { kind })
    }

    /// Reads general-purpose event registers.
    pub(super) fn read_general(&self, offset: u64, data: &mut [u8]) {
        let status = self.general_status.to_le_bytes();
        copy(status.into_iter().chain(self.general_enable.to_le_bytes()), offset, data);
    }

    /// Writes them.
    pub(super) fn write_general(&mut self, offset: u64, data: &[u8]) {
        let mut clear = [0; GENERAL];
        let mut enable = self.general_enable.to_le_bytes();
        let all = clear.iter_mut().chain(&mut enable);
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (register, byte) in all.skip(skip).zip(data) {
            *register = *byte;
        }
        self.general_status &= !u32::from_le_bytes(clear);
        self.general_enable = u32::from_le_bytes(enable);
    }

    /// Works out whether TMR_STS is set by now.
    pub(super) fn work_out(&mut self, now: Nanoseconds) {
        if half(now) != half(std::mem::replace(&mut self.seen, now)) {
            self.status |= pm1::TMR;
        }
    }

    /// Whether the SCI is asked for, as was last worked out.
    pub(super) fn is_high(&self) -> bool {
        self.status & self.enable != 0 || self.general_status & self.general_enable != 0
    }

    /// When the timer next asks for the SCI: never, if it is not enabled, or the SCI asked for.
    pub(super) fn next_rise(&self, now: Nanoseconds) -> Option<Nanoseconds> {
        let waits = self.enable & pm1::TMR != 0 && !self.is_high();
        // The first nanosecond of the next half.
        waits.then(|| -((-(half(now) + 1) * HALF * SECOND).div_euclid(HERTZ)))
    }
}

/// Ticks of the timer; it counts up its lower half only.
fn ticks(now: Nanoseconds) -> Nanoseconds {
    (now * HERTZ).div_euclid(SECOND)
}

/// How often the timer's highest bit has changed.
fn half(now: Nanoseconds) -> Nanoseconds {
    ticks(now).div_euclid(HALF)
}

/// What lies at an offset.
fn copy(from: impl Iterator<Item = u8>, offset: u64, data: &mut [u8]) {
    let skip = usize::try_from(offset).unwrap_or(usize::MAX);
    for (byte, value) in data.iter_mut().zip(from.skip(skip)) {
        *byte = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Until the timer's highest bit changes, rounded up.
    const HALF_TIME: Nanoseconds = 599_932_015_941;

    fn read(model: &mut Model, offset: u64, now: Nanoseconds) -> u16 {
        let mut data = [0xff; 2];
        model.read_fixed(offset, &mut data, now);
        u16::from_le_bytes(data)
    }

    #[test]
    fn the_power_button_asks_for_the_sci_once_it_is_enabled_until_its_status_is_cleared() {
        let mut model = Model::default();
        model.press_power_button();
        assert!(!model.is_high());
        model.write_fixed(2, &pm1::PWRBTN.to_le_bytes(), 0);
        assert!(model.is_high());
        assert_eq!(read(&mut model, 0, 0), pm1::PWRBTN);
        model.write_fixed(0, &[0xff], 0);
        assert!(model.is_high(), "another byte");
        model.write_fixed(1, &[0x01], 0);
        assert!(!model.is_high());
        assert_eq!((read(&mut model, 0, 0), read(&mut model, 2, 0)), (0, pm1::PWRBTN));
    }

    #[test]
    fn acpi_is_always_on_and_sleep_is_told_by_its_type() {
        let mut model = Model::default();
        assert_eq!(model.write_fixed(4, &[0, 5 << 2], 0), None, "SLP_TYP without SLP_EN");
        assert_eq!(read(&mut model, 4, 0), control::SCI_EN | 5 << 10);
        let asked = model.write_fixed(4, &(control::SLP_EN | 5 << 10).to_le_bytes(), 0);
        assert_eq!(asked, Some(Sleep { kind: 5 }));
        assert_eq!(model.write_fixed(5, &[1 << 5 | 1 << 2], 0), Some(Sleep { kind: 1 }));
        assert_eq!(read(&mut model, 4, 0), control::SCI_EN | 1 << 10, "SLP_EN reads as zero");
    }

    #[test]
    fn the_timer_counts_32_bits_and_sets_its_status_when_the_highest_changes() {
        let mut model = Model::default();
        let mut timer = |now| {
            let mut data = [0; 4];
            model.read_fixed(8, &mut data, now);
            (u32::from_le_bytes(data), read(&mut model, 0, now))
        };
        assert_eq!(timer(SECOND), (3_579_545, 0));
        assert_eq!(timer(HALF_TIME - 1), (0x7fff_ffff, 0));
        assert_eq!(timer(HALF_TIME), (0x8000_0000, pm1::TMR));
        assert_eq!(timer(2 * HALF_TIME).0, 0);
    }

    #[test]
    fn the_timer_waits_for_its_status_only_if_that_is_enabled() {
        let mut model = Model::default();
        assert_eq!(model.next_rise(0), None);
        model.write_fixed(2, &[0x01, 0], 0);
        assert_eq!(model.next_rise(0), Some(HALF_TIME));
        model.work_out(HALF_TIME);
        assert!(model.is_high());
        assert_eq!(model.next_rise(HALF_TIME), None, "the SCI is asked for");
    }

    #[test]
    fn general_events_are_told_one_by_one() {
        let mut model = Model::default();
        for event in [0, 9, 31, 32, 255] {
            model.raise(event);
        }
        let mut data = [0xff; 8];
        model.read_general(0, &mut data);
        assert_eq!(data, [1, 2, 0, 0x80, 0, 0, 0, 0]);
        model.write_general(5, &[2]);
        assert!(model.is_high());
        model.write_general(1, &[2, 0, 0]);
        assert!(!model.is_high());
        model.read_general(0, &mut data);
        assert_eq!(data, [1, 0, 0, 0x80, 0, 2, 0, 0]);
    }

    proptest! {
        #[test]
        fn an_interrupt_comes_when_it_is_due(
            writes in prop::collection::vec((0..16u64, 1..9usize, any::<u64>(), 0..HALF_TIME), 0..64)
        ) {
            let mut model = Model::default();
            let mut now = 0;
            for (offset, width, value, wait) in writes {
                now += wait;
                model.write_fixed(offset, &value.to_le_bytes()[..width], now);
                model.write_general(offset, &value.to_be_bytes()[..width]);
                if let Some(due) = model.next_rise(now) {
                    prop_assert!(due > now);
                    model.work_out(due - 1);
                    prop_assert!(!model.is_high());
                    model.work_out(due);
                    prop_assert!(model.is_high());
                    now = due;
                }
            }
        }
    }
}
