//! A controller as a PCI function.

use std::sync::{Arc, Mutex};

use vhost_runtime::registers::{self, Access, Space};

use super::UsbHost;
use super::window::Window;
use crate::lock::lock;
use crate::machine::irq::Interrupts;
use crate::pci::Function;
use crate::pci::config::Config;
use crate::pci::intx::{IntxError, Request};
use crate::pci::msi::Msi;
use crate::reactor::Reactor;

/// A controller.
#[derive(Debug)]
pub struct UsbFunction {
    host: Arc<UsbHost>,
    /// Which of the process's functions.
    number: usize,
    bar: usize,
    /// For registers in memory.
    window: Option<Arc<Window>>,
    /// Offset of the register that changes at any time.
    live: Option<u16>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    config: Config,
    /// How the guest is interrupted: by a message, or by the pin.
    msi: Msi,
    request: Request,
}

impl UsbFunction {
    /// One of a process's functions, by its number among them. It has a pin, 1 to 4, and the input of
    /// the I/O APIC that this is wired to.
    ///
    /// # Errors
    /// Its interrupt pin can't be had.
    pub fn new(
        host: &Arc<UsbHost>,
        number: usize,
        interrupts: &Interrupts,
        reactor: &Reactor,
        (pin, input): (u8, u8),
    ) -> Result<Arc<Self>, IntxError> {
        let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let described = host.functions().get(number).copied().ok_or_else(missing)?;
        let mut config = described.config();
        config.set_pin(pin, input);
        if host.functions().len() > 1 {
            config.set_multifunction();
        }
        let event = host.request(number).ok_or_else(missing)?;
        let asks = Arc::clone(host);
        let pending = Arc::new(move || asks.is_pending(number));
        let msi = Msi::new(interrupts.clone(), &mut config, Arc::clone(&event));
        let msi = msi.ok_or_else(missing)?;
        let request = Request::new(interrupts, reactor, input.into(), event, pending)?;
        let state = Mutex::new(State { config, msi, request });
        let bar = described.bar.into();
        let is_page = usize::from(described.size) == registers::BYTES;
        let window = match described.space {
            Space::Memory if is_page => Some(Window::new(host, number, interrupts.vm(), reactor)?),
            _ => None,
        };
        let (host, live) = (Arc::clone(host), described.live);
        Ok(Arc::new(Self { host, number, bar, window, live, state }))
    }
}

impl State {
    /// Interrupts the guest as configuration space says. KVM takes an event for one purpose at a time,
    /// and what was written to it meanwhile counts.
    fn settle(&mut self) {
        let message = self.msi.wanted(&self.config);
        if message.is_some() || self.config.intx_disabled() {
            self.request.disconnect();
        }
        self.msi.set(message);
        if message.is_none()
            && !self.config.intx_disabled()
            && let Err(error) = self.request.connect()
        {
            log::error!("a USB controller's interrupt pin cannot be connected: {error}");
        }
    }
}

impl Function for UsbFunction {
    fn with_config(&self, use_it: &mut dyn FnMut(&mut Config)) {
        let mut state = lock(&self.state);
        state.config.set_interrupt_status(self.host.is_pending(self.number));
        use_it(&mut state.config);
        state.settle();
    }

    fn write_config(&self, offset: usize, data: &[u8]) {
        let mut state = lock(&self.state);
        state.config.write(offset, data);
        state.settle();
    }

    fn read_bar(&self, bar: usize, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Ok(offset) = u16::try_from(offset) else { return };
        if bar != self.bar {
            return;
        }
        let mut word = None;
        for (place, byte) in (offset..).zip(data) {
            let aligned = place & !3;
            let bytes = match word {
                Some((known, bytes)) if known == aligned => bytes,
                _ => self.host.read(self.number, aligned).to_le_bytes(),
            };
            word = Some((aligned, bytes));
            if place == aligned
                && let Some(window) = &self.window
            {
                window.was_read(self.live == Some(aligned));
            }
            *byte = bytes.get(usize::from(place % 4)).copied().unwrap_or(0);
        }
    }

    fn write_bar(&self, bar: usize, offset: u64, data: &[u8]) {
        let Ok(offset) = u16::try_from(offset) else { return };
        if bar != self.bar {
            return;
        }
        for access in Access::writes(offset, data) {
            self.host.send(self.number, access);
        }
        if let Some(window) = &self.window {
            window.was_written();
        }
    }

    fn moved(&self, bar: usize, address: Option<u64>) {
        if bar == self.bar
            && let Some(window) = &self.window
        {
            window.moved(address);
        }
    }

    fn reset(&self) {
        if let Some(window) = &self.window {
            window.hide();
        }
        self.host.send(self.number, Access::Reset);
    }

    fn pause(&self) {
        self.host.stop();
    }

    fn resume(&self) {
        self.host.start();
    }
}
