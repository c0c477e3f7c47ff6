//! Root ports: what is plugged in, and which controller has it.

use crate::device::Device;
use crate::usb::Speed;

/// Who has a port (EHCI 1.0, 4.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Owner {
    /// The EHCI controller.
    #[default]
    Ehci,
    /// The port's companion.
    Companion,
}

/// A port.
#[derive(Default)]
struct Port {
    device: Option<Box<dyn Device>>,
    owner: Owner,
    /// What is plugged in has changed since its owner saw it last.
    changed: bool,
}

impl Port {
    /// What is there now.
    fn present(&self) -> Option<&dyn Device> {
        self.device.as_deref().filter(|device| device.is_present())
    }

    /// Sees whether what is plugged in has come or gone by itself.
    fn look(&mut self) {
        self.changed |= self.device.as_mut().is_some_and(|device| device.take_change());
    }
}

/// All ports of a controller and its companions.
#[derive(Default)]
pub struct Ports {
    ports: Vec<Port>,
    /// How often a port has got another owner.
    routed: u64,
}

impl Ports {
    /// So many ports, with nothing plugged in.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self { ports: std::iter::repeat_with(Port::default).take(count).collect(), routed: 0 }
    }

    /// So many, that are the companions' from the start: there is no EHCI controller.
    #[must_use]
    pub fn for_companions(count: usize) -> Self {
        let mut this = Self::new(count);
        this.ports.iter_mut().for_each(|port| port.owner = Owner::Companion);
        this
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ports.len()
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    /// Plugs a device into a port; what was there before is taken out. `false`: there is no such port.
    pub fn plug(&mut self, port: usize, mut device: Box<dyn Device>) -> bool {
        let Some(port) = self.ports.get_mut(port) else { return false };
        device.set_high_speed(port.owner == Owner::Ehci);
        port.device = Some(device);
        port.changed = true;
        true
    }

    /// Takes the device out of a port.
    pub fn unplug(&mut self, port: usize) -> Option<Box<dyn Device>> {
        let port = self.ports.get_mut(port)?;
        let device = port.device.take()?;
        port.changed = true;
        Some(device)
    }

    /// The first port with nothing plugged in.
    #[must_use]
    pub fn free(&self) -> Option<usize> {
        self.ports.iter().position(|port| port.device.is_none())
    }

    /// What is plugged into a port, and is there.
    pub fn device(&mut self, port: usize) -> Option<&mut (dyn Device + 'static)> {
        self.ports.get_mut(port)?.device.as_deref_mut().filter(|device| device.is_present())
    }

    /// Something is plugged into a port, whether it is there now or not.
    #[must_use]
    pub fn is_taken(&self, port: usize) -> bool {
        self.ports.get(port).is_some_and(|port| port.device.is_some())
    }

    /// All that is plugged in, and where.
    pub fn each(&mut self) -> impl Iterator<Item = (usize, &mut Box<dyn Device>)> {
        let ports = self.ports.iter_mut().enumerate();
        ports.filter_map(|(number, port)| Some((number, port.device.as_mut()?)))
    }

    /// As [`Device::note`], of all that is plugged in.
    pub fn note(&self, words: &mut dyn FnMut(u32)) {
        let devices = self.ports.iter().filter_map(|port| port.device.as_ref());
        devices.for_each(|device| device.note(words));
    }

    /// How fast what is plugged into a port signals, if it is there.
    #[must_use]
    pub fn speed(&self, port: usize) -> Option<Speed> {
        self.ports.get(port)?.present().map(Device::speed)
    }

    /// Who has a port.
    #[must_use]
    pub fn owner(&self, port: usize) -> Owner {
        self.ports.get(port).map(|port| port.owner).unwrap_or_default()
    }

    /// Gives a port to its other owner, who finds what is plugged in as new.
    pub fn set_owner(&mut self, port: usize, owner: Owner) {
        let Some(port) = self.ports.get_mut(port) else { return };
        if std::mem::replace(&mut port.owner, owner) == owner {
            return;
        }
        self.routed = self.routed.wrapping_add(1);
        if let Some(device) = &mut port.device {
            device.set_high_speed(owner == Owner::Ehci);
            port.changed |= device.is_present();
        }
    }

    /// A companion's port goes back to EHCI once its companion has seen that nothing is there (EHCI 1.0,
    /// 4.2.2).
    pub fn give_back(&mut self, port: usize) {
        let is_left = |port: &mut Port| {
            port.look();
            port.owner == Owner::Companion && port.present().is_none() && !port.changed
        };
        if self.ports.get_mut(port).is_some_and(is_left) {
            self.set_owner(port, Owner::Ehci);
        }
    }

    /// Changes whenever a port gets another owner: what one controller does changes another's registers.
    #[must_use]
    pub fn routed(&self) -> u64 {
        self.routed
    }

    /// Whether what is plugged in has changed, and who asks has the port: it is told once.
    pub fn take_change(&mut self, port: usize, owner: Owner) -> bool {
        let Some(port) = self.ports.get_mut(port) else { return false };
        port.look();
        port.owner == owner && std::mem::take(&mut port.changed)
    }
}
