//! The registers by which a guest learns of functions that come and go, without a bus: bitmaps with a
//! bit for each device of bus 0.
//!
//! | offset | register | read | write of ones |
//! |---|---|---|---|
//! | 0 | up | devices that were added | seen |
//! | 4 | down | devices that are asked for | seen |
//! | 8 | eject | 0 | takes them off the bus |

/// The bridge itself stays where it is.
const BRIDGE: u32 = 1 << 0;

/// Devices, a bit for each.
pub(super) type Devices = u32;

/// A device's bit; none for those that are not there.
pub(super) fn bit(device: u8) -> Devices {
    1u32.checked_shl(device.into()).unwrap_or(0) & !BRIDGE
}

/// The registers, and what is on the bus.
#[derive(Debug, Default)]
pub(super) struct Model {
    present: Devices,
    up: Devices,
    down: Devices,
    /// Asked for, and not ejected yet, whether the guest has seen that or not.
    leaving: Devices,
}

impl Model {
    /// A device is on the bus before the guest starts.
    pub(super) fn set(&mut self, device: u8) {
        self.present |= bit(device);
    }

    /// A device has come; the guest is to be told.
    pub(super) fn plug(&mut self, device: u8) {
        self.set(device);
        self.up |= bit(device);
    }

    /// The guest is asked to let a device go, once more if need be; the guest is to be told.
    pub(super) fn ask(&mut self, device: u8) {
        let asked = bit(device) & self.present;
        self.down |= asked;
        self.leaving |= asked;
    }

    /// The machine is reset. Returns the devices that go now: their guest does no more.
    pub(super) fn reset(&mut self) -> Devices {
        (self.up, self.down) = (0, 0);
        self.eject(self.leaving)
    }

    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        let registers = [self.up, self.down, 0];
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = registers.into_iter().flat_map(u32::to_le_bytes).skip(skip);
        for (byte, value) in data.iter_mut().zip(bytes) {
            *byte = value;
        }
    }

    /// Returns the devices that go.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> Devices {
        let mut registers = [[0u8; 4]; 3];
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (byte, value) in registers.as_flattened_mut().iter_mut().skip(skip).zip(data) {
            *byte = *value;
        }
        let [up, down, eject] = registers.map(u32::from_le_bytes);
        self.up &= !up;
        self.down &= !down;
        self.eject(eject)
    }

    fn eject(&mut self, devices: Devices) -> Devices {
        let gone = devices & self.present;
        for devices in [&mut self.present, &mut self.up, &mut self.down, &mut self.leaving] {
            *devices &= !gone;
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(model: &Model, offset: u64) -> u32 {
        let mut data = [0xff; 4];
        model.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn a_device_comes_is_asked_for_and_goes() {
        let mut model = Model::default();
        model.set(1);
        model.plug(3);
        assert_eq!((read(&model, 0), read(&model, 4)), (1 << 3, 0));
        assert_eq!(model.write(0, &(1u32 << 3).to_le_bytes()), 0);
        assert_eq!(read(&model, 0), 0, "seen");
        model.ask(3);
        assert_eq!(read(&model, 4), 1 << 3);
        model.write(4, &[0xff]);
        assert_eq!(read(&model, 4), 0, "seen");
        model.ask(3);
        assert_eq!(read(&model, 4), 1 << 3, "asked once more");
        assert_eq!(model.write(8, &[1 << 3 | 1 << 2]), 1 << 3, "of those that are there");
        assert_eq!(model.write(8, &[1 << 3]), 0, "once");
        assert_eq!(read(&model, 4), 0);
        assert_eq!(model.write(8, &[1 << 1]), 1 << 1, "nobody asked, but the guest may");
    }

    #[test]
    fn the_bridge_stays() {
        let mut model = Model::default();
        model.set(0);
        model.ask(0);
        assert_eq!((read(&model, 4), model.write(8, &[0xff; 4])), (0, 0));
    }

    #[test]
    fn a_reset_takes_what_was_asked_for() {
        let mut model = Model::default();
        model.set(1);
        model.set(2);
        model.plug(31);
        model.ask(2);
        model.write(4, &[0xff; 4]);
        assert_eq!(model.reset(), 1 << 2);
        assert_eq!((read(&model, 0), model.reset()), (0, 0));
        assert_eq!(model.write(8, &[0xff; 4]), 1 << 1 | 1 << 31);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Plug(u8),
        Ask(u8),
        Write(u64, Vec<u8>),
        Reset,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            any::<u8>().prop_map(Step::Plug),
            any::<u8>().prop_map(Step::Ask),
            (0..16u64, prop::collection::vec(any::<u8>(), 1..9))
                .prop_map(|(o, d)| Step::Write(o, d)),
            Just(Step::Reset),
        ]
    }

    proptest! {
        #[test]
        fn only_what_is_there_is_told_of_and_goes(steps in prop::collection::vec(step(), 0..64)) {
            let mut model = Model::default();
            let mut present = 0u32;
            for step in steps {
                let gone = match step {
                    Step::Plug(device) => {
                        present |= bit(device);
                        model.plug(device);
                        0
                    }
                    Step::Ask(device) => {
                        model.ask(device);
                        0
                    }
                    Step::Write(offset, data) => model.write(offset, &data),
                    Step::Reset => model.reset(),
                };
                prop_assert_eq!(gone & !present, 0);
                present &= !gone;
                prop_assert_eq!((read(&model, 0) | read(&model, 4)) & !present, 0);
                prop_assert_eq!(read(&model, 8), 0);
                prop_assert_eq!(model.present, present);
            }
        }
    }
}
