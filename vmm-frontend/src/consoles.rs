//! The guest's serial port, console, ports and randomness, as the command line wants them.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use vmm_frontend::console::{Endpoint, OpenError};
use vmm_frontend::machine::layout;
use vmm_frontend::machine::line::Edge;
use vmm_frontend::machine::serial::Serial;
use vmm_frontend::options::Options;
use vmm_frontend::virtio::console::{Console, Plug, TooManyPorts};
use vmm_frontend::virtio::queue;
use vmm_frontend::virtio::rng::Rng;
use vmm_frontend::vmm::{Event, Machine, VmmError};

/// Why there is no console.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConsoleError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("--port: {0}")]
    TooMany(#[from] TooManyPorts),
    #[error(transparent)]
    Vmm(#[from] VmmError),
    #[error("no console can be made: {0}")]
    Host(#[from] io::Error),
}

/// What they are connected to on the host.
pub(crate) struct Consoles {
    serial: Option<Endpoint>,
    console: Option<Endpoint>,
    ports: Vec<(String, Endpoint)>,
    rng: bool,
}

impl Consoles {
    /// Opens all of it, before there are threads. The escape key's x tells `tell` to end.
    pub(crate) fn open(options: &Options, tell: &Sender<Event>) -> Result<Self, ConsoleError> {
        let tell = tell.clone();
        let quit: vmm_frontend::reactor::Handler = Arc::new(move || {
            let _ = tell.send(Event::Off { by_guest: false });
        });
        let open = |option, spec| Endpoint::open(option, spec, Arc::clone(&quit));
        let mut ports = Vec::new();
        for port in &options.port {
            if let Some(endpoint) = open("--port", &port.spec)? {
                ports.push((port.name.clone(), endpoint));
            }
        }
        let console = open("--console", &options.console)?;
        Ok(Self { serial: open("--serial", &options.serial)?, console, ports, rng: options.rng })
    }

    /// Puts them into the machine.
    pub(crate) fn add_to(self, machine: &Machine) -> Result<(), ConsoleError> {
        let reactor = machine.reactor();
        if let Some(endpoint) = self.serial {
            let line = Arc::new(Edge::new(machine.edge(layout::SERIAL_IRQ)?));
            let serial = Serial::new(reactor, line, endpoint)?;
            serial.add_to(&machine.buses().ports, layout::SERIAL).map_err(VmmError::from)?;
        }
        if self.console.is_none() && self.ports.is_empty() && !self.rng {
            return Ok(());
        }
        let memory = queue::memory(machine.memory(), Arc::default());
        let memory = memory.map_err(io::Error::other)?;
        // Two devices: Linux takes a console's size from its configuration space only where there
        // are no ports.
        if let Some(endpoint) = self.console {
            let plug = Plug::new(endpoint);
            let end = Arc::clone(&plug) as Arc<_>;
            let device = Console::new(reactor.clone(), Arc::clone(&memory), Some(end), vec![])?;
            plug.connect(device.port(0), reactor)?;
            machine.add_virtio(Box::new(device))?;
        }
        if !self.ports.is_empty() {
            let plugs: Vec<(String, Arc<Plug>)> =
                self.ports.into_iter().map(|(name, end)| (name, Plug::new(end))).collect();
            let ends = plugs.iter().map(|(name, plug)| (name.clone(), Arc::clone(plug) as Arc<_>));
            let device = Console::new(reactor.clone(), Arc::clone(&memory), None, ends.collect())?;
            for (number, (_, plug)) in (1..).zip(&plugs) {
                plug.connect(device.port(number), reactor)?;
            }
            machine.add_virtio(Box::new(device))?;
        }
        if self.rng {
            machine.add_virtio(Box::new(Rng::new(reactor.clone(), memory)))?;
        }
        Ok(())
    }
}
