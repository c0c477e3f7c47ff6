//! Who has an address, among what the controller serves.

use super::root_port::RootPort;
use crate::controller::ports::Ports;
use crate::device::Device;

/// What the controller serves.
pub(super) struct Found<'a> {
    pub(super) ports: &'a mut Ports,
    pub(super) first_port: usize,
    pub(super) registers: &'a [RootPort],
}

impl Found<'_> {
    fn served(&mut self) -> impl Iterator<Item = &mut Box<dyn Device>> {
        let Self { ports, first_port, registers } = self;
        let serves = |port: usize| {
            let number = port.checked_sub(*first_port);
            number.and_then(|it| registers.get(it)).is_some_and(RootPort::is_served)
        };
        ports.each().filter(move |(port, _)| serves(*port)).map(|(_, device)| device)
    }

    /// There is somebody.
    pub(super) fn any(&mut self) -> bool {
        self.served().next().is_some()
    }

    /// Who has an address.
    pub(super) fn device(&mut self, address: u8) -> Option<&mut dyn Device> {
        self.served().find_map(|device| device.find(address))
    }
}
