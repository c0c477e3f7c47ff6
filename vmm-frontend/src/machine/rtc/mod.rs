//! The real-time clock with its battery-backed memory (MC146818), as PCs have it at 0x70 and 0x71:
//! time of day of the host, in UTC, and what firmware wants to know of the machine.

mod calendar;
mod model;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::bus::{Bus, Occupied, Registers};
use super::layout;
use super::line::Line;
use super::timer::Timer;
use crate::lock::lock;
use crate::reactor::{Events, Reactor, Watch};
use model::Model;

/// Bit 7 of the index masks NMIs, which nothing here raises.
const NMI_MASK: u8 = 1 << 7;

/// How much memory the machine has, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Below 4 GiB.
    pub below: u64,
    /// From 4 GiB on.
    pub above: u64,
}

impl Memory {
    /// What the clock's memory says of it: where, and what.
    fn bytes(self) -> impl Iterator<Item = (u8, u8)> {
        let units = |bytes: u64, size: u64, most: u64| (bytes / size).min(most).to_le_bytes();
        let [base_low, base_high, ..] = units(self.below, 1 << 10, 640);
        let beyond = |start: u64| self.below.saturating_sub(start);
        let [kib_low, kib_high, ..] = units(beyond(1 << 20), 1 << 10, 0xffff);
        let [low, high, ..] = units(beyond(16 << 20), 64 << 10, 0xffff);
        let [above_low, above_middle, above_high, ..] = units(self.above, 64 << 10, 0xff_ffff);
        [
            // A coprocessor.
            (0x14, 0x02),
            (0x15, base_low),
            (0x16, base_high),
            (0x17, kib_low),
            (0x18, kib_high),
            (0x30, kib_low),
            (0x31, kib_high),
            (0x34, low),
            (0x35, high),
            (0x5b, above_low),
            (0x5c, above_middle),
            (0x5d, above_high),
        ]
        .into_iter()
    }
}

/// The clock, on the I/O bus.
pub struct Rtc {
    shared: Arc<Shared>,
    _watch: Watch,
}

struct Shared {
    state: Mutex<State>,
    line: Arc<dyn Line>,
}

struct State {
    index: u8,
    model: Model,
    timer: Timer,
    /// The line's level.
    high: bool,
}

impl Rtc {
    /// A clock that begins with the host's time.
    ///
    /// # Errors
    /// The host has no descriptor left.
    pub fn new(reactor: &Reactor, line: Arc<dyn Line>, memory: Memory) -> io::Result<Self> {
        let timer = Timer::of_day()?;
        let model = Model::new(timer.now(), memory);
        let shared = Arc::new(Shared {
            state: Mutex::new(State { index: 0, model, timer, high: false }),
            line,
        });
        let own = Arc::clone(&shared);
        let due = move || {
            let mut state = own.state();
            state.timer.take();
            own.update(&mut state);
        };
        let watch = reactor.watch(&shared.state().timer, Events::IN, Arc::new(due))?;
        Ok(Self { shared, _watch: watch })
    }

    /// Puts it where a PC has it.
    ///
    /// # Errors
    /// The ports are not free.
    pub fn add_to(self: &Arc<Self>, ports: &Bus) -> Result<(), Occupied> {
        ports.add(layout::RTC.into(), 2, Arc::clone(self) as Arc<dyn Registers>)
    }

    /// The machine is reset: interrupts are off, time and memory stay.
    pub fn reset(&self) {
        let mut state = self.shared.state();
        let now = state.timer.now();
        state.index = 0;
        state.model.reset(now);
        self.shared.update(&mut state);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Sets the line, and the timer for when that has to change.
    fn update(&self, state: &mut State) {
        // What register C's reader cleared goes low even if it is set again by now.
        self.drive(state);
        let now = state.timer.now();
        state.model.work_out(now);
        self.drive(state);
        let next = state.model.next_rise(now);
        state.timer.set(next);
    }

    fn drive(&self, state: &mut State) {
        let high = state.model.is_high();
        if std::mem::replace(&mut state.high, high) != high {
            self.line.set(high);
        }
    }
}

impl Registers for Rtc {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut state = self.shared.state();
        // The index can't be read.
        for (_, byte) in (offset..).zip(data).filter(|(port, _)| *port == 1) {
            let (index, now) = (state.index, state.timer.now());
            *byte = state.model.read(index, now);
            self.shared.update(&mut state);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut state = self.shared.state();
        for (port, value) in (offset..).zip(data) {
            match port {
                0 => state.index = value & !NMI_MASK,
                1 => {
                    let (index, now) = (state.index, state.timer.now());
                    state.model.write(index, *value, now);
                    self.shared.update(&mut state);
                }
                _ => {}
            }
        }
    }
}

impl fmt::Debug for Rtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rtc").field(&self.shared.state().model).finish()
    }
}

#[cfg(test)]
mod tests;
