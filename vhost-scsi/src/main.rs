//! `vhost-scsi`: a SCSI controller in a process of its own.

mod ctl;

use std::process::ExitCode;
use std::sync::Arc;

use vhost_runtime::arguments::{self, ArgumentError};
use vhost_runtime::control::{self, Events};
use vhost_runtime::program::{self, Confinement, ProgramError, Shutdown, Socket};
use vhost_runtime::sandbox::Sandbox;
use vhost_runtime::supervisor::{self, Role};
use vhost_scsi::confinement;
use vhost_scsi::control::Manager;
use vhost_scsi::options::{Options, UnitArgs, Verb};
use vhost_scsi::units::{Texts, Unit, UnitError};
use vhost_scsi::virtio::controller::{Controller, ControllerOptions};

use ctl::CtlError;

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Arguments(#[from] ArgumentError),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Unit(#[from] UnitError),
    #[error(transparent)]
    Ctl(#[from] CtlError),
    #[error("the controller cannot be made: {0}")]
    Controller(std::io::Error),
}

fn main() -> ExitCode {
    program::device_main("vhost-scsi", "scsi", start)
}

fn start() -> Result<ExitCode, Failure> {
    let options: Options = arguments::read()?;
    match &options.verb {
        Some(Verb::Ctl(args)) => Ok(ctl::run(args).map(|()| ExitCode::SUCCESS)?),
        None => run(&options),
    }
}

fn run(options: &Options) -> Result<ExitCode, Failure> {
    let sandbox = Sandbox::new(options.program.fd);
    program::start_logging(options.program.verbose);
    program::raise_file_limit()?;
    let shutdown = Shutdown::new()?;
    let mut socket = Socket::from_args(&options.program)?;
    let mut clients = control::Listener::from_args(&options.program)?;
    let mut sockets = vec![&mut socket];
    sockets.extend(clients.as_mut().map(control::Listener::socket));
    let link = match supervisor::start(&mut sockets, &shutdown, options.program.sandbox, None)? {
        Role::Serve(link) => link,
        Role::Ended(code) => return Ok(ExitCode::from(code)),
    };

    let events = Events::default();
    let settings = ControllerOptions { queues: options.num_queues, engine: options.aio };
    let controller = Controller::new(settings).map_err(Failure::Controller)?;
    let controller = Arc::new(controller.with_events(events.clone()));
    let manager = Arc::new(Manager::new(Arc::clone(&controller), link.keeper()));
    add_units(&manager, &options.units)?;
    if options.program.sandbox == Confinement::On {
        confine(sandbox, options)?;
    }
    // Confined already: whoever had this kept may have been taken over by a guest.
    manager.restore(link.kept());
    link.ready(&mut sockets)?;
    if let Some(clients) = &clients {
        let program = control::Program { name: "vhost-scsi", version: env!("CARGO_PKG_VERSION") };
        clients.serve(program, manager, &events, &shutdown)?;
    }
    program::serve(&socket, &shutdown, &events, &link, &controller)?;
    Ok(ExitCode::SUCCESS)
}

fn add_units(manager: &Manager, units: &UnitArgs) -> Result<(), UnitError> {
    for (kind, text) in units.texts() {
        let mut texts = Texts::of(kind, text)?;
        let mut before = None;
        while let Some(text) = texts.next(before) {
            let opened = Unit::parse(kind, &text)?.open(None)?;
            before = Some(manager.add(opened)?);
        }
    }
    Ok(())
}

fn confine(mut sandbox: Sandbox, options: &Options) -> Result<(), ProgramError> {
    let pass_through = options.units.pass_through();
    let control = options.program.control.is_some();
    confinement::allow(&mut sandbox, options.aio, pass_through, control);
    Ok(sandbox.enter()?)
}
