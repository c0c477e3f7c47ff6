//! Power management (ACPI 6.5, 4.8): what a guest asks of the machine, and what it is told.

mod model;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::bus::{Bus, Occupied, Registers};
use super::layout::pm;
use super::line::Line;
use super::timer::{Nanoseconds, Timer};
use crate::lock::lock;
use crate::reactor::{Events, Reactor, Watch};
use model::{FIXED, Model, Sleep};

/// What a guest does to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerEvent {
    /// It turned it off (S5).
    Off,
    /// It resets it.
    Reset,
}

/// Where to tell. It is called by the virtual processor that does so, and may not block.
pub type OnPower = Arc<dyn Fn(PowerEvent) + Send + Sync>;

/// The registers of power management, on the I/O bus.
pub struct Power {
    shared: Arc<Shared>,
    _watch: Watch,
}

struct Shared {
    state: Mutex<State>,
    sci: Arc<dyn Line>,
    tell: OnPower,
}

struct State {
    model: Model,
    timer: Timer,
    /// When the timer of 3.579545 MHz was zero.
    start: Nanoseconds,
    /// The SCI's level.
    high: bool,
}

impl Power {
    /// Power management whose timer begins now.
    ///
    /// # Errors
    /// The host has no descriptor left.
    pub fn new(reactor: &Reactor, sci: Arc<dyn Line>, tell: OnPower) -> io::Result<Self> {
        let timer = Timer::monotonic()?;
        let start = timer.now();
        let state = State { model: Model::default(), timer, start, high: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), sci, tell });
        let own = Arc::clone(&shared);
        let due = move || {
            let mut state = own.state();
            state.timer.take();
            own.update(&mut state);
        };
        let watch = reactor.watch(&shared.state().timer, Events::IN, Arc::new(due))?;
        Ok(Self { shared, _watch: watch })
    }

    /// Puts its registers where the ACPI tables say that they are.
    ///
    /// # Errors
    /// The ports are not free.
    pub fn add_to(&self, ports: &Bus) -> Result<(), Occupied> {
        let fixed = Fixed(Arc::clone(&self.shared));
        ports.add(pm::EVENT.into(), FIXED as u64, Arc::new(fixed))?;
        let general = General(Arc::clone(&self.shared));
        ports.add(pm::GPE0.into(), pm::GPE0_LEN.into(), Arc::new(general))
    }

    /// Somebody pressed the power button.
    pub fn press_power_button(&self) {
        self.shared.change(Model::press_power_button);
    }

    /// A general-purpose event has come, of 0 to 31.
    pub fn raise_gpe(&self, event: u8) {
        self.shared.change(|model| model.raise(event));
    }

    /// The machine is reset.
    pub fn reset(&self) {
        self.shared.change(Model::reset);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn change(&self, change: impl FnOnce(&mut Model)) {
        let mut state = self.state();
        change(&mut state.model);
        self.update(&mut state);
    }

    /// Sets the SCI, and the timer for when that has to change.
    fn update(&self, state: &mut State) {
        let now = state.now();
        state.model.work_out(now);
        let high = state.model.is_high();
        if std::mem::replace(&mut state.high, high) != high {
            self.sci.set(high);
        }
        let next = state.model.next_rise(now).map(|next| next.saturating_add(state.start));
        state.timer.set(next);
    }
}

impl State {
    fn now(&self) -> Nanoseconds {
        self.timer.now().saturating_sub(self.start)
    }
}

/// PM1 events, PM1 control, timer: one after the other.
struct Fixed(Arc<Shared>);

impl Registers for Fixed {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut state = self.0.state();
        let now = state.now();
        state.model.read_fixed(offset, data, now);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let sleep = {
            let mut state = self.0.state();
            let now = state.now();
            let sleep = state.model.write_fixed(offset, data, now);
            self.0.update(&mut state);
            sleep
        };
        if sleep == Some(Sleep { kind: pm::S5 }) {
            (self.0.tell)(PowerEvent::Off);
        }
    }
}

/// GPE0.
struct General(Arc<Shared>);

impl Registers for General {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.0.state().model.read_general(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.0.change(|model| model.write_general(offset, data));
    }
}

impl fmt::Debug for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Power").field(&self.shared.state().model).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::line::tests::Probe;
    use proptest::prelude::*;

    struct Machine {
        power: Power,
        ports: Bus,
        sci: Arc<Probe>,
        told: Arc<Mutex<Vec<PowerEvent>>>,
        _reactor: Reactor,
    }

    fn machine() -> Machine {
        let reactor = Reactor::new().unwrap();
        let sci = Arc::new(Probe::default());
        let told = Arc::new(Mutex::new(Vec::new()));
        let events = Arc::clone(&told);
        let tell: OnPower = Arc::new(move |event| events.lock().unwrap().push(event));
        let power = Power::new(&reactor, Arc::clone(&sci) as Arc<dyn Line>, tell).unwrap();
        let ports = Bus::default();
        power.add_to(&ports).unwrap();
        Machine { power, ports, sci, told, _reactor: reactor }
    }

    #[test]
    fn a_guest_turns_the_machine_off() {
        let machine = machine();
        machine.ports.write(0x604, &0x2400u16.to_le_bytes());
        assert!(machine.told.lock().unwrap().is_empty(), "S1 is not there");
        machine.ports.write(0x604, &0x3400u16.to_le_bytes());
        assert_eq!(*machine.told.lock().unwrap(), [PowerEvent::Off]);
    }

    #[test]
    fn the_sci_is_high_until_every_event_is_cleared() {
        let machine = machine();
        machine.ports.write(0x602, &0x0100u16.to_le_bytes());
        machine.ports.write(0x624, &[0x04]);
        machine.power.press_power_button();
        machine.power.raise_gpe(2);
        assert!(machine.sci.is_high());
        machine.ports.write(0x600, &0x0100u16.to_le_bytes());
        assert!(machine.sci.is_high());
        machine.ports.write(0x620, &[0x04]);
        assert!(!machine.sci.is_high());
        machine.power.press_power_button();
        machine.power.reset();
        assert!(!machine.sci.is_high());
    }

    proptest! {
        #[test]
        fn no_access_panics(accesses in prop::collection::vec((0..0x30u64, 1..9usize, any::<u64>()), 0..64)) {
            let machine = machine();
            for (offset, width, value) in accesses {
                let mut data = value.to_le_bytes();
                machine.ports.write(0x600 + offset, &data[..width]);
                machine.ports.read(0x600 + offset, &mut data[..width]);
            }
        }
    }
}
