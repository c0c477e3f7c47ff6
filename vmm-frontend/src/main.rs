//! `vmm-frontend`: a thin virtual machine whose devices are processes of their own.

use std::process::ExitCode;

use vhost_runtime::arguments::{self, ArgumentError};
use vhost_runtime::control::Events;
use vhost_runtime::program::{self, ProgramError, Shutdown};
use vmm_frontend::boot::Kernel;
use vmm_frontend::cpu::selection::Selection;
use vmm_frontend::launcher::{LaunchError, Launcher};
use vmm_frontend::machine::vm;
use vmm_frontend::options::{Options, VhostUserOption};
use vmm_frontend::virtio::vhost_user::{Kind, VhostUser};
use vmm_frontend::vmm::{self, Event, Machine, Settings, VmmError};

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Arguments(#[from] ArgumentError),
    #[error(transparent)]
    Vmm(#[from] VmmError),
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("no guest: give --kernel FILE")]
    NoGuest,
}

fn main() -> ExitCode {
    start().unwrap_or_else(|failure| {
        eprintln!("vmm-frontend: {failure}");
        ExitCode::FAILURE
    })
}

fn start() -> Result<ExitCode, Failure> {
    let options: Options = arguments::read()?;
    program::start_logging(options.verbose);
    let cpu: Selection = options.cpu.parse().map_err(VmmError::from)?;
    let kernel = options.kernel.as_deref().ok_or(Failure::NoGuest)?;
    let kernel = Kernel::open(kernel, options.initrd.as_deref(), &options.append);
    let kernel = kernel.map_err(VmmError::from)?;
    let settings = Settings {
        memory: options.memory.size,
        pages: options.memory.pages,
        cpu,
        topology: options.cpus.0,
    };
    let programs = options.programs();
    let mut launcher = match programs.is_empty() {
        true => None,
        false => Some(Launcher::start(&programs)?),
    };
    let shutdown = Shutdown::new()?;
    let device = vm::open().map_err(VmmError::from)?;
    let memory = vmm::memory(settings.memory, settings.pages)?;
    let events = Events::default();
    let machine = Machine::new(&device, &settings, memory, kernel, events)?;
    first_light(&machine);
    add_devices(&machine, &options, launcher.as_ref())?;
    if let Some(launcher) = &mut launcher {
        launcher.all_serve()?;
    }
    end_by(shutdown, &machine)?;
    machine.run()?;
    Ok(ExitCode::SUCCESS)
}

/// Connects to all device processes.
fn add_devices(
    machine: &Machine,
    options: &Options,
    launcher: Option<&Launcher>,
) -> Result<(), VmmError> {
    let launched = launcher.map(Launcher::sockets).unwrap_or_default();
    let launched = launched.iter().map(|socket| VhostUserOption::of(Kind::Scsi, socket));
    let processors = u16::try_from(machine.topology().processors()).unwrap_or(u16::MAX);
    for option in launched.chain(options.vhost_user.iter().cloned()) {
        let settings = option.settings(processors);
        let device = VhostUser::connect(&settings, machine.memory())?;
        machine.add_virtio(Box::new(device))?;
    }
    Ok(())
}

/// Ends the machine when the program is asked to.
fn end_by(shutdown: Shutdown, machine: &Machine) -> Result<(), ProgramError> {
    let tell = machine.teller();
    let wait = move || {
        if let Err(error) = shutdown.wait() {
            log::error!("{error}");
        }
        let _ = tell.send(Event::Off { by_guest: false });
    };
    let thread = std::thread::Builder::new().name(String::from("signals"));
    let failed = |error| ProgramError::Host { what: "signals cannot be awaited", error };
    thread.spawn(wait).map(drop).map_err(failed)
}

struct Temp(std::sync::Mutex<vm_superio::Serial<T, vm_superio::serial::NoEvents, std::io::Stdout>>);
struct T(vmm_sys_util::eventfd::EventFd);
impl vm_superio::Trigger for T {
    type E = std::io::Error;
    fn trigger(&self) -> std::io::Result<()> {
        self.0.write(1)
    }
}
impl vmm_frontend::machine::bus::Registers for Temp {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data[0] = self.0.lock().unwrap().read(offset as u8);
    }
    fn write(&self, offset: u64, data: &[u8]) {
        let _ = self.0.lock().unwrap().write(offset as u8, data[0]);
    }
}
fn first_light(machine: &Machine) {
    let event = vmm_sys_util::eventfd::EventFd::new(0).unwrap();
    machine.interrupts().edge(4, &event).unwrap();
    let serial = vm_superio::Serial::new(T(event), std::io::stdout());
    let temp = std::sync::Arc::new(Temp(std::sync::Mutex::new(serial)));
    machine.buses().ports.add(0x3f8, 8, temp).unwrap();
}
