//! What software resets a PC with: the reset register, and what is left of the keyboard controller.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};

use super::bus::Registers;
use super::power::{OnPower, PowerEvent};

/// The reset register at 0xCF9: one port, which lies inside those of PCI's mechanism #1 and is
/// reached by one-byte accesses alone.
pub struct ResetRegister {
    value: AtomicU8,
    tell: OnPower,
}

/// SYS_RST, and FULL_RST: which kind of reset is meant. All are the same here.
const KINDS: u8 = 1 << 1 | 1 << 3;
/// RST_CPU: now.
const RST_CPU: u8 = 1 << 2;

impl ResetRegister {
    /// One that tells of resets.
    #[must_use]
    pub fn new(tell: OnPower) -> Self {
        Self { value: AtomicU8::new(0), tell }
    }
}

impl Registers for ResetRegister {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(self.value.load(Ordering::Relaxed));
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        let Some(value) = data.first() else { return };
        self.value.store(value & KINDS, Ordering::Relaxed);
        if value & RST_CPU != 0 {
            (self.tell)(PowerEvent::Reset);
        }
    }
}

impl fmt::Debug for ResetRegister {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ResetRegister").field(&self.value).finish()
    }
}

/// The command and status port of a keyboard controller (i8042) that has no keyboard and does one
/// thing: it resets the processor. Port 0x64; at 0x60 there is nothing.
pub struct KeyboardController {
    tell: OnPower,
}

/// "Pulse output port": its low bits are zero for the lines that are pulsed, and line 0 is the
/// processor's reset.
const PULSE: u8 = 0xf0;
const NO_RESET: u8 = 1 << 0;

impl KeyboardController {
    /// One that tells of resets.
    #[must_use]
    pub fn new(tell: OnPower) -> Self {
        Self { tell }
    }
}

impl Registers for KeyboardController {
    /// It has nothing to be read, and is ready for a command: who resets waits for that.
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        if data.first().is_some_and(|command| command & (PULSE | NO_RESET) == PULSE) {
            (self.tell)(PowerEvent::Reset);
        }
    }
}

impl fmt::Debug for KeyboardController {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyboardController").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    use proptest::prelude::*;

    use super::*;

    /// How many resets the writes to a register are.
    fn resets<R: Registers>(make: impl Fn(OnPower) -> R, writes: &[u8]) -> u32 {
        let count = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&count);
        let register = make(Arc::new(move |event| {
            assert_eq!(event, PowerEvent::Reset);
            counted.fetch_add(1, Ordering::Relaxed);
        }));
        for value in writes {
            register.write(0, &[*value]);
        }
        count.load(Ordering::Relaxed)
    }

    #[test]
    fn the_reset_register_resets_when_it_is_told_to_do_it_now() {
        assert_eq!(resets(ResetRegister::new, &[0x00, 0x02, 0x08, 0x0a]), 0);
        assert_eq!(resets(ResetRegister::new, &[0x02, 0x06]), 1);
        assert_eq!(resets(ResetRegister::new, &[0x0e, 0x04]), 2);
        let register = ResetRegister::new(Arc::new(|_| {}));
        register.write(0, &[0x0e]);
        let mut value = [0];
        register.read(0, &mut value);
        assert_eq!(value, [0x0a]);
    }

    #[test]
    fn the_keyboard_controller_pulses_the_reset_line() {
        assert_eq!(resets(KeyboardController::new, &[0x20, 0x60, 0xaa, 0xd1, 0xff, 0xf1]), 0);
        assert_eq!(resets(KeyboardController::new, &[0xfe, 0xf0]), 2);
        let mut status = [0xff];
        KeyboardController::new(Arc::new(|_| {})).read(0, &mut status);
        assert_eq!(status, [0]);
    }

    proptest! {
        #[test]
        fn no_access_panics(accesses in prop::collection::vec((1..9usize, any::<u64>()), 0..64)) {
            let tell: OnPower = Arc::new(|_| {});
            let devices: [Box<dyn Registers>; 2] =
                [Box::new(ResetRegister::new(tell.clone())), Box::new(KeyboardController::new(tell))];
            for (width, value) in accesses {
                let mut data = value.to_le_bytes();
                for device in &devices {
                    device.write(0, &data[..width]);
                    device.read(0, &mut data[..width]);
                }
            }
        }
    }
}
