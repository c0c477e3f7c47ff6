//! `vmm-frontend`: a thin virtual machine whose devices are processes of their own.

use std::process::ExitCode;

use vhost_runtime::arguments::{self, ArgumentError};
use vhost_runtime::program;
use vmm_frontend::boot::Kernel;
use vmm_frontend::cpu::selection::Selection;
use vmm_frontend::machine::vm;
use vmm_frontend::options::Options;
use vmm_frontend::virtio::vhost_user::{self, VhostUser};
use vmm_frontend::vmm::{self, Settings, Vmm, VmmError};

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Arguments(#[from] ArgumentError),
    #[error(transparent)]
    Vmm(#[from] VmmError),
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
    let device = vm::open().map_err(VmmError::from)?;
    let memory = vmm::memory(settings.memory, settings.pages)?;
    let mut machine = Vmm::new(&device, &settings, memory, kernel)?;
    first_light(&machine);
    let processors = settings.topology.processors();
    for option in &options.vhost_user {
        let settings = vhost_user::Settings {
            kind: option.kind,
            path: option.socket.clone(),
            queues: option.queues,
            queue_size: option.queue_size,
            processors: u16::try_from(processors).unwrap_or(u16::MAX),
        };
        let device = VhostUser::connect(&settings, machine.memory()).map_err(VmmError::from)?;
        machine.add_virtio(Box::new(device))?;
    }
    machine.run()?;
    Ok(ExitCode::SUCCESS)
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
fn first_light(machine: &Vmm) {
    let event = vmm_sys_util::eventfd::EventFd::new(0).unwrap();
    machine.interrupts().edge(4, &event).unwrap();
    let serial = vm_superio::Serial::new(T(event), std::io::stdout());
    let temp = std::sync::Arc::new(Temp(std::sync::Mutex::new(serial)));
    machine.buses().ports.add(0x3f8, 8, temp).unwrap();
}
