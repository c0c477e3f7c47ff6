//! `vmm-frontend`: a thin virtual machine whose devices are processes of their own.

mod consoles;

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use consoles::{ConsoleError, Consoles};
use vhost_runtime::arguments::{self, ArgumentError};
use vhost_runtime::control::{self, Events};
use vhost_runtime::program::{self, Confinement, PrintError, ProgramError, Shutdown};
use vhost_runtime::sandbox::Sandbox;
use vmm_frontend::boot::{Firmware, Kernel, Payload};
use vmm_frontend::confinement::{self, Role};
use vmm_frontend::control::Control;
use vmm_frontend::cpu::help;
use vmm_frontend::cpu::selection::Selection;
use vmm_frontend::launcher::{LaunchError, Launcher};
use vmm_frontend::machine::vm;
use vmm_frontend::options::{
    Conflict, Options, VHOST_NET, VHOST_SOUND, VHOST_USB, VhostUserOption,
};
use vmm_frontend::usb::UsbHost;
use vmm_frontend::virtio::vhost_user::{Kind, VhostUser};
use vmm_frontend::vmm::{self, Event, Machine, Settings, VmmError};

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Arguments(#[from] ArgumentError),
    #[error(transparent)]
    Conflict(#[from] Conflict),
    #[error(transparent)]
    Vmm(#[from] VmmError),
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error(transparent)]
    Console(#[from] ConsoleError),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("the list cannot be written: {0}")]
    List(#[from] serde_json::Error),
    #[error(transparent)]
    Print(#[from] PrintError),
    #[error("{0} does not serve: {1}")]
    Process(&'static str, Box<dyn Error>),
    #[error("a device process does not serve, and has said why")]
    Refused,
    #[error("no guest: give --kernel FILE, or --disk FILE to boot from")]
    NoGuest,
}

fn main() -> ExitCode {
    start().unwrap_or_else(|failure| {
        // One sentence is enough.
        if !matches!(failure, Failure::Refused) {
            // The status tells it, where nobody can be told why: `eprintln!` would panic.
            let _ = writeln!(std::io::stderr(), "vmm-frontend: {failure}");
        }
        ExitCode::FAILURE
    })
}

fn start() -> Result<ExitCode, Failure> {
    let options: Options = arguments::read()?;
    options.check()?;
    let sandbox = Sandbox::new(None);
    program::start_logging(options.verbose);
    if options.cpu == "help" {
        return list_models(options.json);
    }
    let cpu: Selection = options.cpu.parse().map_err(VmmError::from)?;
    let payload = payload(&options)?;
    let settings = Settings {
        memory: options.memory.size,
        pages: options.memory.pages,
        cpu,
        topology: options.cpus.0,
    };
    let mut launcher = Launcher::start(&options.programs(), options.places())?;
    let shutdown = Arc::new(Shutdown::new()?);
    let qmp = options.qmp.as_deref().map(|path| control::Listener::new("--qmp", path));
    let mut qmp = qmp.transpose()?;
    let (tell, told) = mpsc::channel();
    let consoles = Consoles::open(&options, &tell)?;
    let device = vm::open().map_err(VmmError::from)?;
    let memory = vmm::memory(settings.memory, settings.pages)?;
    if let Some(qmp) = &mut qmp {
        // Who connects now waits until the machine is made.
        qmp.socket().publish()?;
    }
    if options.sandbox == Confinement::On {
        confinement::enter(sandbox).map_err(ProgramError::from)?;
    }
    let events = Events::default();
    let machine = Machine::new(&device, &settings, memory, payload, events.clone(), (tell, told))?;
    let machine = Arc::new(machine);
    let started = Arc::new(AtomicBool::new(false));
    end_by(Arc::clone(&shutdown), &machine, Arc::clone(&started))?;
    consoles.add_to(&machine)?;
    add_devices(&machine, &options, &mut launcher)?;
    launcher.all_serve()?;
    if let Some(qmp) = &qmp {
        let commands = Arc::new(Control::new(&machine));
        qmp.serve(PROGRAM, commands, &events, &shutdown)?;
    }
    started.store(true, Ordering::Relaxed);
    let ended = machine.run();
    events.flush(PATIENCE);
    if options.stats {
        match machine.summary() {
            Ok(summary) => eprint!("{summary}"),
            Err(error) => log::warn!("--stats: {error}"),
        }
    }
    Ok(ended.map(|()| ExitCode::SUCCESS)?)
}

/// Prints the processor models, and which of them this host can run.
fn list_models(json: bool) -> Result<ExitCode, Failure> {
    let device = vm::open().map_err(VmmError::from)?;
    let definitions = help::definitions(&vmm::host(&device).map_err(VmmError::from)?);
    let text = match json {
        true => serde_json::to_string_pretty(&definitions)? + "\n",
        false => help::table(&definitions),
    };
    program::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// What the machine starts with.
fn payload(options: &Options) -> Result<Payload, Failure> {
    let opened = match (&options.kernel, &options.firmware) {
        (Some(kernel), _) => {
            let initrd = options.initrd.as_deref();
            Kernel::open(kernel, initrd, &options.append).map(Payload::Kernel)
        }
        (None, None) if !options.has_disks() => return Err(Failure::NoGuest),
        (None, firmware) => Firmware::open(firmware.as_deref()).map(Payload::Firmware),
    };
    Ok(opened.map_err(VmmError::from)?)
}

const PROGRAM: control::Program =
    control::Program { name: "vmm-frontend", version: env!("CARGO_PKG_VERSION") };
/// How long a control client may take to hear that the machine has ended.
const PATIENCE: Duration = Duration::from_secs(2);

/// Connects to all device processes.
fn add_devices(
    machine: &Machine,
    options: &Options,
    launcher: &mut Launcher,
) -> Result<(), Failure> {
    let processors = u16::try_from(machine.topology().processors()).unwrap_or(u16::MAX);
    let connect = |option: VhostUserOption| {
        VhostUser::connect(&option.settings(processors), machine.memory()).map(Box::new)
    };
    // Units are the first controller's, and are there in the order of the options, disks first.
    for (name, socket) in launcher.sockets().to_vec() {
        let failed = |launcher: &mut Launcher, error: Box<dyn Error>| match launcher.has_refused() {
            true => Failure::Refused,
            false => Failure::Process(name, error),
        };
        if name == VHOST_USB {
            let host = UsbHost::connect(&socket, machine.memory());
            machine.add_usb(&host.map_err(|error| failed(launcher, error.into()))?)?;
            continue;
        }
        let kind = match name {
            VHOST_NET => Kind::Net,
            VHOST_SOUND => Kind::Sound,
            _ => Kind::Scsi,
        };
        let device = connect(VhostUserOption::of(kind, &socket));
        let device = device.map_err(|error| failed(launcher, error.into()))?;
        let place = machine.add_virtio(device)?;
        if kind == Kind::Scsi {
            machine.boot_from(place);
        }
    }
    for option in &options.vhost_user {
        let device = connect(option.clone()).map_err(VmmError::from)?;
        machine.add_virtio(device)?;
    }
    Ok(())
}

/// Ends the machine when the program is asked to; or the program, while it waits for device processes.
fn end_by(
    shutdown: Arc<Shutdown>,
    machine: &Machine,
    started: Arc<AtomicBool>,
) -> Result<(), ProgramError> {
    let tell = machine.teller();
    let wait = move || {
        confinement::restrict(Role::Messenger);
        if let Err(error) = shutdown.wait() {
            log::error!("{error}");
        }
        if !started.load(Ordering::Relaxed) {
            // The launcher tidies up.
            std::process::exit(0);
        }
        let _ = tell.send(Event::Off { by_guest: false });
    };
    let thread = std::thread::Builder::new().name(String::from("signals"));
    let failed = |error| ProgramError::Host { what: "signals cannot be awaited", error };
    thread.spawn(wait).map(drop).map_err(failed)
}
